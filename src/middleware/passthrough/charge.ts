/** What an exchange came to: by the usage in its answer if there is one, else as it was held. */
import type { Charged, Context } from "../../core/context.ts";
import type { Lease } from "../../core/credential.ts";
import { NO_USAGE, totalInputTokens, totalOutputTokens, type Usage } from "../../core/usage.ts";
import type { FoundUsage } from "../../dialects/usage.ts";
import type { LaneOperation } from "./operations.ts";

/** `nothing`: no provider can have billed it · `estimate`: it may have. */
export type Ending = "nothing" | "estimate";

/** Settles the reservation at nothing but the request itself. */
export const FREE_OF_CHARGE: Charged = { kind: "usage", usage: NO_USAGE, provenance: "exact", rawNanoUsd: 0, billedNanoUsd: 0, priceVersion: null };

/** What the budgets hold in money; null = no limit of money applies. */
function heldNanoUsd(ctx: Context): number | null {
  const held = (ctx.reservations ?? []).flatMap(({ held: { usd } }) => (usd === undefined ? [] : [usd]));
  return held.length === 0 ? null : Math.max(...held);
}

/** By the price of the model; where it has none, what the operator said that the request costs. */
function metered(ctx: Context, lease: Lease, models: readonly (string | null)[], usage: Usage): Charged {
  const prices = ctx.services.pricer.of(ctx);
  for (const model of models) {
    const cost = model === null ? null : prices.cost(model, lease.credential.name, usage);
    if (cost) return { kind: "usage", usage, provenance: "exact", ...cost };
  }
  const held = heldNanoUsd(ctx);
  return { kind: "usage", usage, provenance: "exact", rawNanoUsd: held, billedNanoUsd: held, priceVersion: null };
}

export interface Worth {
  readonly charged: Charged;
  /** For the credential's own limits. */
  readonly tokens: number;
}

export function chargeFor(
  ctx: Context,
  lease: Lease,
  operation: LaneOperation,
  model: string | null,
  ending: Ending,
  found: FoundUsage | null,
): Worth {
  if (ending === "nothing") return { charged: { kind: "nothing" }, tokens: 0 };
  if (found) {
    const { usage } = found;
    return { charged: metered(ctx, lease, [model, lease.model, found.model], usage), tokens: totalInputTokens(usage) + totalOutputTokens(usage) };
  }
  return { charged: operation.isFree ? FREE_OF_CHARGE : { kind: "estimate" }, tokens: 0 };
}
