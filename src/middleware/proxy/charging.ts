/** What an attempt is worth, in the request's own books. */
import type { Charged, Context } from "../../core/context.ts";
import type { Lease } from "../../core/credential.ts";
import { totalInputTokens, totalOutputTokens, type Usage } from "../../core/usage.ts";

const NOT_PRICED = { rawNanoUsd: null, billedNanoUsd: null, priceVersion: null };

/** Usage with its price: under the name that the config knows the model by, else under the provider's. */
export function usageCharged(ctx: Context, { credential, model, name }: Lease, usage: Usage, provenance: "exact" | "counted"): Charged {
  const prices = ctx.services.pricer.of(ctx);
  const cost = prices.cost(name, credential.name, usage) ?? prices.cost(model, credential.name, usage) ?? NOT_PRICED;
  return { kind: "usage", usage, provenance, ...cost };
}

/** Null = nothing is charged. */
export function tokensCharged({ charged }: Context, inputTokens: () => number): number | null {
  if (charged?.kind === "usage" && charged.usage) return totalInputTokens(charged.usage) + totalOutputTokens(charged.usage);
  return charged?.kind === "input" || charged?.kind === "estimate" ? inputTokens() : null;
}

/** A provider that reports as it goes may be behind what it delivered: the larger figure of each is what was used. */
export function larger(reported: Usage | null, counted: Usage): Usage {
  if (!reported) return counted;
  // All text is counted: what was thought aloud, and what came as predicted.
  const apart = reported.reasoningTokens + (reported.predictionTokens ?? 0);
  return { ...reported, outputTokens: Math.max(reported.outputTokens, counted.outputTokens - apart) };
}
