/** When a provider says to come back, in the forms in which providers say it. */
import { MOST_AHEAD_MS, resetTime } from "../../core/reset-time.ts";
import type { Headers } from "./verdicts.ts";

/** Ms that can be waited for: how long somebody does is the cooldown's business. */
export const plausibleWait = (ms: number | null): number | null => (ms === null ? null : Math.min(Math.ceil(Math.max(ms, 0)), MOST_AHEAD_MS));

/**
 * When a refusal may be repeated, from `retry-after-ms`, `retry-after` (seconds or HTTP date, RFC 9110 10.2.3) or OpenAI's
 * `x-ratelimit-reset-*`, in this order. Ms; null when nothing usable was said. The last ones come with any answer, so they tell when to come back only where
 * a rate limit stands in the way.
 */
export function usualWait(headers: Headers, nowMs: number, isRateLimit: boolean): number | null {
  return plausibleWait(saidWait(headers, nowMs) ?? (isRateLimit ? resetHeaders(headers, nowMs) : null));
}

/** What `retry-after-ms` or `retry-after` says, ms. */
export const saidWait = (headers: Headers, nowMs: number): number | null =>
  decimal(headers["retry-after-ms"]) ?? afterHeader(headers["retry-after"], nowMs);

export function decimal(value: Headers[string]): number | null {
  return typeof value === "string" && /^\d{1,20}(?:\.\d{1,9})?$/.test(value.trim()) ? Number(value) : null;
}

/** Any moment or duration; of seconds that nobody would wait, those that are no moment either. */
function afterHeader(value: Headers[string], nowMs: number): number | null {
  const at = resetTime(value, nowMs);
  if (at !== null) return Math.max(0, at - nowMs);
  const seconds = decimal(value);
  return seconds === null ? null : seconds * 1_000;
}

/**
 * `x-ratelimit-reset-…: 6m0s` says when that limit is whole again. Of the exhausted limits the last one counts; when none says it is exhausted,
 * the first to be whole, because a longer wait would idle the credential for nothing.
 */
function resetHeaders(headers: Headers, nowMs: number): number | null {
  let exhausted: number | null = null;
  let first: number | null = null;
  for (const unit of ["requests", "tokens"]) {
    const resetsAt = resetTime(headers[`x-ratelimit-reset-${unit}`], nowMs);
    if (resetsAt === null) continue;
    const resetMs = Math.max(0, resetsAt - nowMs);
    if (decimal(headers[`x-ratelimit-remaining-${unit}`]) === 0) exhausted = Math.max(exhausted ?? 0, resetMs);
    first = Math.min(first ?? resetMs, resetMs);
  }
  return exhausted ?? first;
}
