import { TOKEN_CLASSES } from "../core/usage.ts";
import { RATE_NAMES, type Price, type RateName, type Rates } from "../metering/price.ts";

/** USD per million tokens, and per request and image. What the provider bills: a markup comes on top. */
type ShownRates = { readonly [name in `${RateName}PerMtok` | "perRequest" | "perImage"]: number };

export type ShownPrice = ShownRates & {
  /** For requests whose whole input is larger; absent = there are none. */
  readonly tiers?: readonly (ShownRates & { readonly aboveInputTokens: number })[];
  /** Absent = a tier is for all of such a request. */
  readonly tiersApplyTo?: "excess";
};

export function shownPrice({ bands: [first, ...more], isExcess }: Price): ShownPrice {
  const base = shownRates((first as Price["bands"][number]).rates);
  if (more.length === 0) return base;
  const tiers = more.map(({ above, rates }) => ({ aboveInputTokens: above, ...shownRates(rates) }));
  return { ...base, tiers, ...(isExcess ? { tiersApplyTo: "excess" } : {}) };
}

/** Prices are kept in nano-USD per token, times the divisor. */
function shownRates({ divisor, perRequest, perImage, ...price }: Rates): ShownRates {
  const usd = ({ near }: { readonly near: number }, nanoPerUnit: number): number => rounded(near / divisor / nanoPerUnit);
  return {
    ...(Object.fromEntries(TOKEN_CLASSES.map((name, i) => [`${RATE_NAMES[i]}PerMtok`, usd(price[name], 1_000)])) as {
      [name in `${RateName}PerMtok`]: number;
    }),
    perRequest: usd(perRequest, 1e9),
    perImage: usd(perImage, 1e9),
  };
}

/** Without the noise of a binary fraction. */
const rounded = (usd: number): number => Number(usd.toPrecision(12));
