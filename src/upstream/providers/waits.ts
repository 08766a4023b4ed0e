/** When a provider says to come back, in the forms in which providers say it. */
import type { Headers } from "./verdicts.ts";

/** Nobody is believed about more than a day. */
const MAX_WAIT_MS = 24 * 60 * 60 * 1000;

export const atMostADay = (ms: number | null): number | null => (ms === null ? null : Math.min(Math.ceil(Math.max(ms, 0)), MAX_WAIT_MS));

/**
 * When a refusal may be repeated, from `retry-after-ms`, `retry-after` (seconds or HTTP date, RFC 9110 10.2.3) or OpenAI's
 * `x-ratelimit-reset-*` durations, in this order. Ms, at most 24 h; null when nothing usable was said. The durations come with any answer, so they tell
 * when to come back only where a rate limit stands in the way.
 */
export function usualWait(headers: Headers, nowMs: number, isRateLimit: boolean): number | null {
  return atMostADay(saidWait(headers, nowMs) ?? (isRateLimit ? resetHeaders(headers) : null));
}

/** What `retry-after-ms` or `retry-after` says, ms. */
export const saidWait = (headers: Headers, nowMs: number): number | null =>
  decimal(headers["retry-after-ms"]) ?? afterHeader(headers["retry-after"], nowMs);

export function decimal(value: Headers[string]): number | null {
  return typeof value === "string" && /^\d{1,20}(?:\.\d{1,9})?$/.test(value.trim()) ? Number(value) : null;
}

/** All three HTTP date formats begin with the day's name; Date.parse alone would take far stranger texts. */
const HTTP_DATE = /^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .*\d\d:\d\d:\d\d/;
const RFC_3339 = /^\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)$/;

function afterHeader(value: Headers[string], nowMs: number): number | null {
  const seconds = decimal(value);
  if (seconds !== null) return seconds * 1_000;
  if (typeof value !== "string" || value.length > 40 || !HTTP_DATE.test(value)) return null;
  const atMs = Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
  return atMs >= nowMs ? atMs - nowMs : null;
}

/** A moment as providers write it: epoch seconds or ms, RFC 3339, an HTTP date. Wall clock, ms; null = it is none. */
export function momentMs(value: unknown): number | null {
  if (typeof value === "number") return Number.isFinite(value) && value > 0 ? (value < 1e11 ? value * 1_000 : value) : null;
  if (typeof value !== "string" || value.length > 40) return null;
  const epoch = decimal(value);
  if (epoch !== null) return momentMs(epoch);
  if (!RFC_3339.test(value) && !HTTP_DATE.test(value)) return null;
  const atMs = Date.parse(value);
  return Number.isNaN(atMs) ? null : atMs;
}

/**
 * `x-ratelimit-reset-…: 6m0s` says when that limit is whole again. Of the exhausted limits the last one counts; when none says it is exhausted,
 * the first to be whole, because a longer wait would idle the credential for nothing.
 */
function resetHeaders(headers: Headers): number | null {
  let exhausted: number | null = null;
  let first: number | null = null;
  for (const unit of ["requests", "tokens"]) {
    const resetMs = durationMs(headers[`x-ratelimit-reset-${unit}`]);
    if (resetMs === null) continue;
    if (decimal(headers[`x-ratelimit-remaining-${unit}`]) === 0) exhausted = Math.max(exhausted ?? 0, resetMs);
    first = Math.min(first ?? resetMs, resetMs);
  }
  return exhausted ?? first;
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `1h2m3.5s`, `20ms`; null = it is no duration. */
export function durationMs(value: unknown): number | null {
  if (typeof value !== "string" || !/^(?:\d{1,12}(?:\.\d{1,9})?(?:ms|[smhd])){1,5}$/.test(value)) return null;
  let total = 0;
  for (const [, amount, unit = "s"] of value.matchAll(/([\d.]+)(ms|[smhd])/g)) total += Number(amount) * (UNIT_MS[unit] ?? 0);
  return total;
}
