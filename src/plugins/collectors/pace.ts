/** How often accounts are asked about: more often when little is left, less often when asking does not help. */
import type { Outcome } from "./outcome.ts";

const LEAST_MS = 5_000;
const MOST_MS = 5 * 60_000;

const MINUTE_MS = 60_000;
/** A login is renewed by a person, and a change of the credential is noticed at once. */
const LOGIN_MS = 15 * MINUTE_MS;
const UNKNOWN_MS = 15 * MINUTE_MS;
/** An endpoint that is not there does not come back by the minute. */
const MISSING_MS = 6 * 60 * MINUTE_MS;
const FIRST_BACKOFF_MS = 30_000;
const MOST_BACKOFF_MS = 15 * MINUTE_MS;
/** Nobody is believed about more. */
const MOST_RETRY_AFTER_MS = 60 * MINUTE_MS;

/**
 * The time between two questions when `meanLeft` (0 to 1) is left of a provider's accounts in the mean; null = nobody knows. At a base of a minute: 10 % 15 s,
 * 30 % 30 s, 60 % a minute, 90 % two minutes; from 5 s to 5 min, unless the base itself lies beyond.
 */
export function adaptiveIntervalMs(baseMs: number, meanLeft: number | null): number {
  const factor = meanLeft === null ? 1 : meanLeft < 0.2 ? 1 / 4 : meanLeft < 0.5 ? 1 / 2 : meanLeft < 0.8 ? 1 : 2;
  return Math.min(Math.max(baseMs * factor, Math.min(LEAST_MS, baseMs)), Math.max(MOST_MS, baseMs));
}

/** Ms until an account is asked about again. `failures` = in a row, the last one included. */
export function waitMs(outcome: Outcome, intervalMs: number, failures: number): number {
  const backoff = Math.min(FIRST_BACKOFF_MS * 2 ** Math.max(failures - 1, 0), MOST_BACKOFF_MS);
  switch (outcome.kind) {
    case "ok":
      return intervalMs;
    case "needs-login":
      return Math.max(intervalMs, LOGIN_MS);
    case "unknown":
      return Math.max(intervalMs, outcome.isMissing ? MISSING_MS : UNKNOWN_MS);
    case "limited":
      return Math.max(intervalMs, outcome.waitMs ?? backoff);
    case "failed":
      return Math.max(intervalMs, backoff);
  }
}

/** `retry-after-ms`, or `retry-after` in seconds or as a date; at most an hour; null = not said. */
export function retryAfterMs(headers: Headers, nowMs: number): number | null {
  const said = numberIn(headers.get("retry-after-ms")) ?? inMs(headers.get("retry-after"), nowMs);
  return said === null ? null : Math.min(Math.max(said, 0), MOST_RETRY_AFTER_MS);
}

const numberIn = (text: string | null): number | null => (text !== null && /^\d{1,12}(?:\.\d{1,9})?$/.test(text.trim()) ? Number(text) : null);

function inMs(text: string | null, nowMs: number): number | null {
  const seconds = numberIn(text);
  if (seconds !== null) return seconds * 1_000;
  const at = text === null || text.length > 40 ? Number.NaN : Date.parse(text);
  return Number.isNaN(at) ? null : at - nowMs;
}
