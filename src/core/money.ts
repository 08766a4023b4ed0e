/** Money is an integer number of nano-USD inside and USD outside. One US dollar is 10^9 nano-USD. */

export const NANO_PER_USD = 1_000_000_000;

/** The largest amount a limit or a row may hold: exact in a double. */
export const MAX_AMOUNT = 9_000_000_000_000_000;

/** USD (a number, as written in config) to nano-USD, rounded up, so that a price or a hold is never understated. */
export function usdToNano(usd: number): number {
  // 0.1 * 1e9 is exact after rounding, but e.g. 0.0000000011 * 1e9 is 1.1000000000000001: the tolerance keeps binary noise from adding a unit.
  const exact = usd * NANO_PER_USD;
  const nearest = Math.round(exact);
  return Math.abs(exact - nearest) < 1e-6 ? nearest : Math.ceil(exact);
}

export const nanoToUsd = (nanoUsd: number): number => nanoUsd / NANO_PER_USD;
