import type { Price } from "../metering/price.ts";

type Rates = Price["bands"][number]["rates"];

/** USD per million tokens, and per request. What the provider bills: a markup comes on top. */
interface ShownRates {
  readonly inputPerMtok: number;
  readonly cacheReadPerMtok: number;
  readonly cacheWritePerMtok: number;
  readonly outputPerMtok: number;
  readonly reasoningPerMtok: number;
  readonly perRequest: number;
}

export interface ShownPrice extends ShownRates {
  /** For requests whose whole input is larger; absent = there are none. */
  readonly tiers?: readonly (ShownRates & { readonly aboveInputTokens: number })[];
}

export function shownPrice({ bands: [first, ...more] }: Price): ShownPrice {
  const base = shownRates((first as Price["bands"][number]).rates);
  return more.length === 0 ? base : { ...base, tiers: more.map(({ above, rates }) => ({ aboveInputTokens: above, ...shownRates(rates) })) };
}

/** Prices are kept in nano-USD per token, times the divisor. */
function shownRates({ divisor, perRequest, ...price }: Rates): ShownRates {
  const perMtok = ({ near }: { readonly near: number }): number => rounded(near / divisor / 1_000);
  return {
    inputPerMtok: perMtok(price.inputTokens),
    cacheReadPerMtok: perMtok(price.cacheReadTokens),
    cacheWritePerMtok: perMtok(price.cacheWriteTokens),
    outputPerMtok: perMtok(price.outputTokens),
    reasoningPerMtok: perMtok(price.reasoningTokens),
    perRequest: rounded(perRequest.near / divisor / 1e9),
  };
}

/** Without the noise of a binary fraction. */
const rounded = (usd: number): number => Number(usd.toPrecision(12));
