import { NO_SOURCES } from "../../src/metering/price-source.ts";
import { priceBook as realBook, type PriceBook, type PriceBookOptions } from "../../src/metering/prices.ts";
import { patternMatcher } from "../../src/pool/patterns.ts";

/** A price book of which a test says only what it is about. */
export const priceBook = (options: Partial<PriceBookOptions>): PriceBook =>
  realBook({
    rules: [],
    models: [],
    sources: NO_SOURCES,
    markupPct: 0,
    credentials: { version: 0, find: () => undefined },
    matcherOf: patternMatcher,
    clock: { now: () => 0 },
    ...options,
  });
