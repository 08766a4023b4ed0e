/** How much of a quota is left, from whatever a provider tells. 0 to 1; null = it did not say: unknown is never 0. */

const share = (value: number): number | null => (Number.isNaN(value) ? null : Math.min(Math.max(value, 0), 1));

/** From the part that is used, 0 to 100. */
export const fromUsedPercent = (used: number | null | undefined): number | null =>
  used === null || used === undefined ? null : share(1 - used / 100);

/** From the part that is left, 0 to 1. */
export const fromRemainingFraction = (left: number | null | undefined): number | null => (left === null || left === undefined ? null : share(left));

/** From what is left and what the whole is. */
export const fromRemaining = (left: number | null | undefined, limit: number | null | undefined): number | null =>
  left === null || left === undefined || limit === null || limit === undefined || !(limit > 0) ? null : share(left / limit);
