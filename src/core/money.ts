/** Money is an integer number of nano-USD inside and USD outside. One US dollar is 10^9 nano-USD. */

export const NANO_PER_USD = 1_000_000_000;

/** The largest amount a limit or a row may hold: exact in a double. */
export const MAX_AMOUNT = 9_000_000_000_000_000;

/** USD (a number, as written in config) to nano-USD, rounded up, so that a price or a hold is never understated. */
export function usdToNano(usd: number): number {
  // Neither the decimal nor the product is exact in binary: the tolerance (an absolute part for tiny amounts, two units in the last place for large
  // ones) keeps that noise from adding a unit.
  const exact = usd * NANO_PER_USD;
  const nearest = Math.round(exact);
  return Math.abs(exact - nearest) <= 1e-6 + exact * 2 ** -51 ? nearest : Math.ceil(exact);
}

/** Exact, with all nine places: `1.650000000`. */
export function usdText(nanoUsd: bigint): string {
  const digits = String(nanoUsd < 0n ? -nanoUsd : nanoUsd).padStart(10, "0");
  return `${nanoUsd < 0n ? "-" : ""}${digits.slice(0, -9)}.${digits.slice(-9)}`;
}

export const nanoToUsd = (nanoUsd: number): number => nanoUsd / NANO_PER_USD;
