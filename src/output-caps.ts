/** What a request's output is capped at where several models may serve it: each gets a cap that it takes, and none writes more than is held. */
import type { Call } from "./core/call.ts";
import type { Context } from "./core/context.ts";
import type { Lease } from "./core/credential.ts";
import type { CostParts } from "./costs.ts";
import type { Offers } from "./pool/offers.ts";

/** The cap to send with an attempt; undefined = leave the client's. */
export type OutputCapOf = (ctx: Context, call: Call, lease: Lease) => number | undefined;

type Parts = Pick<CostParts, "prices" | "maxOutputTokensOf" | "defaultMaxOutputTokens" | "capOutput">;

export function outputCaps(parts: Parts, offers: Pick<Offers, "forRequest">): OutputCapOf {
  /** The most that any of these writes; null = nobody knows. */
  function mostOf(ctx: Context, name: string, leases: readonly { readonly name: string; readonly credential: { readonly name: string } }[]) {
    const pairs = leases.map((each) => ({ model: each.name, credential: each.credential.name }));
    return parts.maxOutputTokensOf(name) ?? parts.prices.of(ctx).maxOutputTokens(pairs, parts.defaultMaxOutputTokens);
  }

  return (ctx, call, lease) => {
    const { outputCap } = ctx;
    const offer = offers.forRequest(ctx, call.model);
    if (offer.fallbacks.length === 0 || call.operation === "embeddings") return outputCap;
    if (call.maxOutputTokens !== null) {
      // What the client asks of the model that it named is between the two.
      const known = lease.isFallback ? mostOf(ctx, lease.name, [lease]) : null;
      return known !== null && known < Math.min(call.maxOutputTokens, outputCap ?? Infinity) ? known : outputCap;
    }
    // What the entry of the model that was asked for says is held and not sent, because it knows its end. Others do not.
    const held = outputCap ?? (lease.isFallback && ctx.reservations && parts.capOutput ? parts.maxOutputTokensOf(offer.name) : null);
    if (held === null) return undefined;
    return Math.min(held, mostOf(ctx, lease.name, lease.isFallback ? [lease] : offer.own) ?? parts.defaultMaxOutputTokens);
  };
}
