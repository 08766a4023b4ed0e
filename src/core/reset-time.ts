/** When a quota is whole again, in all the forms in which providers say it. */

/** A moment that has just passed is the provider's clock being a little behind ours; one that passed long ago was misread. */
const A_LITTLE_MS = 60_000;
/** A quota that is whole again later than this was misread. */
export const MOST_AHEAD_MS = 400 * 24 * 60 * 60_000;

/** From here on a number is a moment in epoch seconds (2001), and then in epoch ms; as a wait either would be decades. */
const FIRST_EPOCH_S = 1e9;
const FIRST_EPOCH_MS = 1e11;

/** Longer texts say nothing of time. */
const MAX_TEXT = 40;
const NUMBER = /^\d{1,20}(?:\.\d{1,9})?$/;
/** All three HTTP date formats begin with the day's name; Date.parse alone would take far stranger texts. */
const HTTP_DATE = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .*\d\d:\d\d:\d\d/;
const RFC_3339 = /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$/;
const DURATION = /^(?:\d{1,12}(?:\.\d{1,9})?(?:ns|us|µs|ms|[smhd])){1,6}$/;
const UNIT_MS: Readonly<Record<string, number>> = { ns: 1e-6, us: 1e-3, µs: 1e-3, ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/**
 * The moment that a provider names: RFC 3339, an HTTP date, epoch seconds or ms, seconds from now, or a duration (`6m0s`, `120ms`); numbers as numbers or as
 * text. Wall clock, ms; null = nothing usable was said, or nothing that can be true.
 */
export function resetTime(value: unknown, nowMs: number): number | null {
  const at = momentOf(typeof value === "string" ? value.trim() : value, nowMs);
  return at === null || Number.isNaN(at) || at < nowMs - A_LITTLE_MS || at > nowMs + MOST_AHEAD_MS ? null : at;
}

function momentOf(value: unknown, nowMs: number): number | null {
  if (typeof value === "number") {
    if (!(value >= 0)) return null;
    return value >= FIRST_EPOCH_MS ? value : value >= FIRST_EPOCH_S ? value * 1_000 : nowMs + value * 1_000;
  }
  if (typeof value !== "string" || value.length > MAX_TEXT) return null;
  if (NUMBER.test(value)) return momentOf(Number(value), nowMs);
  if (RFC_3339.test(value)) return Date.parse(value);
  // The oldest of its formats names no zone, and means GMT.
  if (HTTP_DATE.test(value)) return Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
  const waitMs = durationMs(value);
  return waitMs === null ? null : nowMs + waitMs;
}

/** `1h2m3.5s`, `20ms`; ms, null = it is no duration. */
export function durationMs(value: unknown): number | null {
  if (typeof value !== "string" || value.length > MAX_TEXT || !DURATION.test(value)) return null;
  let total = 0;
  for (const [, amount, unit = "s"] of value.matchAll(/([\d.]+)(ns|us|µs|ms|[smhd])/g)) total += Number(amount) * (UNIT_MS[unit] ?? 0);
  return total;
}
