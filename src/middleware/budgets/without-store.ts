/** What each limit's own policy says when the store cannot decide. */
import { GuardError } from "../../core/errors.ts";
import type { Charge, Shortfall } from "../../core/store.ts";
import type { PlannedLimit } from "../../limits/plan.ts";
import { shareOf, sizeOf } from "../../limits/share.ts";
import type { Charges } from "./charges.ts";

/** Money that nobody counts together is let through for so long at most. */
const MOST_UNCOUNTED_MS = 15 * 60_000;
const RETRY_AFTER_MS = 1_000;
const LONG_RETRY_AFTER_MS = 5_000;

/** `deny` refuses; else what is to be counted in this process, which may be nothing. */
export type Decision = { readonly mode: "deny"; readonly error: GuardError } | { readonly mode: "allow" | "local"; readonly kept: Charges };

/**
 * One limit that must not be guessed refuses the whole request. What is counted here is this process's share of each limit with the policy `local`;
 * money is metered where it is let through unasked, too, and neither goes on for ever.
 */
export function withoutStore({ cost, charges, used }: Charges, unavailable: GuardError, nodes: number, outageMs: number): Decision {
  const kept: Charge[] = [];
  const keptBy: PlannedLimit[] = [];
  let mode: "allow" | "local" = "allow";
  for (let i = 0; i < charges.length; i += 1) {
    const charge = charges[i] as Charge;
    const planned = used[i] as PlannedLimit;
    const { onStoreError, unit } = planned.limit.definition;
    if (charge.enforce && onStoreError === "deny") return { mode: "deny", error: closed(planned, unavailable) };
    if (charge.enforce && unit === "usd" && outageMs >= MOST_UNCOUNTED_MS) return { mode: "deny", error: overspent(planned) };
    if (onStoreError === "local") mode = "local";
    else if (onStoreError !== "allow" || unit !== "usd") continue;
    kept.push({ ...charge, rule: shareOf(charge.rule, nodes), enforce: charge.enforce && onStoreError === "local" });
    keptBy.push(planned);
  }
  return { mode, kept: { cost, charges: kept, used: keptBy } };
}

function closed({ limit }: PlannedLimit, { message, retryAfterMs }: GuardError): GuardError {
  return new GuardError("store_unavailable", message, {
    limit: limit.name,
    scope: limit.scopeLabel,
    retryAfterMs: retryAfterMs ?? RETRY_AFTER_MS,
  });
}

function overspent({ limit }: PlannedLimit): GuardError {
  return new GuardError("store_unavailable", `limit ${limit.name} could not be counted for 15 minutes and is closed until the store is back`, {
    limit: limit.name,
    scope: limit.scopeLabel,
    retryAfterMs: LONG_RETRY_AFTER_MS,
  });
}

/**
 * A refusal by a share of `whole`: when an amount could pass by the limit but never by the share, it is the store that is missing, and not budget.
 * Undefined = it is a refusal like any other.
 */
export function shareRefusal(kept: Charges, whole: Charges, failing: readonly Shortfall[]): GuardError | undefined {
  let missing: PlannedLimit | undefined;
  for (const { index, needed, tooSmall } of failing) {
    if (!tooSmall) continue;
    const rule = whole.charges.find(({ key }) => key === kept.charges[index]?.key)?.rule;
    // This one can never pass, with the store or without.
    if (!rule || needed > sizeOf(rule)) return undefined;
    missing ??= kept.used[index];
  }
  if (!missing) return undefined;
  const { name, scopeLabel } = missing.limit;
  return new GuardError(
    "store_unavailable",
    `limit ${name} cannot be decided for a request of this size while the store is away; try again shortly`,
    {
      limit: name,
      scope: scopeLabel,
      retryAfterMs: RETRY_AFTER_MS,
    },
  );
}
