import type { Clock } from "./core/time.ts";
import { NO_SOURCES, type PriceSources } from "./metering/price-source.ts";
import { priceBook, type PriceBook, type PricedCredentials } from "./metering/prices.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { patternMatcher } from "./pool/patterns.ts";

export interface GuardPricesParts {
  readonly clock: Pick<Clock, "now">;
  readonly credentials: PricedCredentials;
  readonly sources?: PriceSources;
}

/** The prices of a guard: one book for what is held, what is settled and what is shown. Throws ConfigError. */
export function guardPrices({ models, prices }: ResolvedOptions, { clock, credentials, sources = NO_SOURCES }: GuardPricesParts): PriceBook {
  return priceBook({ ...prices, models, sources, credentials, matcherOf: patternMatcher, clock });
}
