/** When a quota is whole again, in the forms in which providers tell it. */

const PAST_MS = 60_000;
const MOST_AHEAD_MS = 400 * 24 * 60 * 60_000;
const RFC_3339 = /^\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:?\d\d)$/;
const DATE = /^\d{4}-\d\d-\d\d$/;

/** A moment: epoch seconds or ms (number or text), RFC 3339, a date (UTC). Wall clock, ms; null = it is none, or not a plausible one. */
export function resetTime(value: unknown, nowMs: number): number | null {
  const at = momentOf(value);
  return at === null || at < nowMs - PAST_MS || at > nowMs + MOST_AHEAD_MS ? null : at;
}

function momentOf(value: unknown): number | null {
  if (typeof value === "number") return Number.isFinite(value) && value > 0 ? (value < 1e11 ? value * 1_000 : value) : null;
  if (typeof value !== "string" || value.length > 40) return null;
  if (/^\d{1,16}(?:\.\d{1,9})?$/.test(value)) return momentOf(Number(value));
  if (!RFC_3339.test(value) && !DATE.test(value)) return null;
  const at = Date.parse(value);
  return Number.isNaN(at) ? null : at;
}
