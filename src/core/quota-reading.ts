/**
 * What is left of a quota, out of whatever a provider tells: the part that is used or the part that is left, in hundredths or as a fraction, or in numbers. The
 * name of the field says which; nothing is guessed from the value. Each returns the part that is left, 0 to 1, or null where nothing was said: unknown is
 * never 0.
 */

const NUMBER = /^[+-]?\d{1,20}(?:\.\d{1,20})?$/;

/** A number, or a text that is one; null = it is none. */
function numberOf(value: unknown): number | null {
  const number = typeof value === "string" && NUMBER.test(value.trim()) ? Number(value) : value;
  return typeof number === "number" && Number.isFinite(number) ? number : null;
}

/** Hundredths may have their sign: `60%`. */
const percentOf = (value: unknown): number | null => numberOf(typeof value === "string" ? value.trim().replace(/\s*%$/, "") : value);

const clamped = (ratio: number): number => Math.min(Math.max(ratio, 0), 1);

/** 0 to 100, used. */
export function fromUsedPercent(value: unknown): number | null {
  const used = percentOf(value);
  return used === null ? null : clamped((100 - used) / 100);
}

/** 0 to 1, used. */
export function fromUsedFraction(value: unknown): number | null {
  const used = numberOf(value);
  return used === null ? null : clamped(1 - used);
}

/** 0 to 100, left. */
export function fromRemainingPercent(value: unknown): number | null {
  const left = percentOf(value);
  return left === null ? null : clamped(left / 100);
}

/** 0 to 1, left. */
export function fromRemainingFraction(value: unknown): number | null {
  const left = numberOf(value);
  return left === null ? null : clamped(left);
}

/** So many left of so many. A whole of nothing tells no part: some servers write 0 where they do not limit. */
export function fromRemaining(remaining: unknown, limit: unknown): number | null {
  const [left, whole] = [numberOf(remaining), numberOf(limit)];
  return left === null || whole === null || whole <= 0 ? null : clamped(left / whole);
}
