import { GuardError } from "../../core/errors.ts";
import { nanoToUsd } from "../../core/money.ts";
import type { ReserveResult, Unit } from "../../core/store.ts";
import { rateLimitHeaders, type HeaderStyle } from "../../http/rate-limit-headers.ts";
import type { PlannedLimit } from "../../limits/plan.ts";
import type { Charges } from "./charges.ts";

const UNIT_NAMES: Readonly<Record<Unit, string>> = {
  requests: "requests",
  tokens: "tokens",
  input_tokens: "input tokens",
  output_tokens: "output tokens",
  usd: "USD",
  concurrent: "concurrent requests",
};

/** An amount as people outside know it: money in USD. */
export const outside = (unit: Unit, amount: number): number => (unit === "usd" ? nanoToUsd(amount) : amount);

/** What a client is told when limits have no room, with the headers that say how all of them stand. */
export function refusalOf({ used, charges }: Charges, result: Extract<ReserveResult, { kind: "limited" }>, style?: HeaderStyle): GuardError {
  const headers: Record<string, string> = {};
  const pairs = rateLimitHeaders(used, charges, result.standings, style);
  for (let i = 0; i < pairs.length; i += 2) headers[pairs[i] as string] = pairs[i + 1] as string;
  const { worst } = result;
  const { limit } = used[worst.index] as PlannedLimit;
  const { unit } = limit.definition;
  const needed = outside(unit, worst.needed);
  const available = outside(unit, Math.max(0, worst.available));
  const facts = { limit: limit.name, scope: limit.scopeLabel, needed, available, headers };
  const what = `limit ${limit.name} (per ${limit.scopeLabel})`;
  if (worst.tooSmall) {
    return new GuardError(
      "budget_too_small",
      `${what} is smaller than this request: it needs ${needed} ${UNIT_NAMES[unit]}; ask for less output or send less input`,
      facts,
    );
  }
  const stuck = result.failing.some(({ waitMs }) => waitMs === null);
  const hint = stuck ? "it does not refill by itself" : `retry in ${Math.max(1, Math.ceil((worst.waitMs ?? 0) / 1_000))} s`;
  return new GuardError("budget_exhausted", `${what} has ${available} ${UNIT_NAMES[unit]} left and this request needs ${needed}; ${hint}`, {
    ...facts,
    retryAfterMs: stuck ? undefined : (worst.waitMs ?? undefined),
  });
}
