/**
 * The `x-ratelimit-*` headers of OpenAI and of those who copy it. `requests` and `tokens` each have a limit per minute, what remains of it, and the time
 * until it is whole again, such as `6m0s` or `20ms`.
 */

export type RateLimitHeaders = Readonly<Record<string, string | readonly string[] | undefined>>;

export interface ProviderLimit {
  readonly limit: number;
  readonly remaining: number;
  /** Ms until it is whole; null = the header is absent or not a duration. */
  readonly resetMs: number | null;
}

/** What is known of each; null = the provider did not say. */
export interface ProviderLimits {
  readonly requests: ProviderLimit | null;
  readonly tokens: ProviderLimit | null;
}

const MS_PER_UNIT: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };
/** Numbers with a unit each, nothing between them. `ms` stands before `m`: `20ms` is no twenty minutes. */
const DURATION = /^(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+$/;
const PART = /(\d+(?:\.\d+)?)(ms|s|m|h|d)/g;
/** Providers' limits are per minute. */
const PERIOD_SEC = 60;

/** A duration as these headers have it, in ms, rounded up; null when it is none. `durationMs("1m30.5s")` is 90,500. */
export function parseDuration(text: string): number | null {
  const trimmed = text.trim();
  if (!DURATION.test(trimmed)) return null;
  let ms = 0;
  for (const [, amount, unit] of trimmed.matchAll(PART)) ms += Number(amount) * (MS_PER_UNIT[unit as string] as number);
  // 16.1 s is 16100.000000000002 ms in binary: the noise must not add one.
  return Number.isFinite(ms) ? Math.ceil(Number(ms.toFixed(6))) : null;
}

/** The same with 0 for what is empty or no duration, as TokenGuard has it. Use {@link parseDuration} where "not said" must differ from "now". */
export const durationMs = (text: string): number => parseDuration(text) ?? 0;

/** Reads the headers of an answer. Names are lower-case. A limit without both its numbers is not known. */
export function openaiLimits(headers: RateLimitHeaders): ProviderLimits {
  return { requests: limitOf(headers, "requests"), tokens: limitOf(headers, "tokens") };
}

function limitOf(headers: RateLimitHeaders, what: "requests" | "tokens"): ProviderLimit | null {
  const limit = countOf(headers[`x-ratelimit-limit-${what}`]);
  const remaining = countOf(headers[`x-ratelimit-remaining-${what}`]);
  if (limit === null || remaining === null) return null;
  const reset = textOf(headers[`x-ratelimit-reset-${what}`]);
  return { limit, remaining: Math.min(remaining, limit), resetMs: reset === null ? null : parseDuration(reset) };
}

/** A header that came twice is not to be trusted in either form. */
function textOf(value: RateLimitHeaders[string]): string | null {
  if (typeof value === "string") return value;
  return value?.length === 1 ? (value[0] as string) : null;
}

function countOf(value: RateLimitHeaders[string]): number | null {
  const text = textOf(value)?.trim();
  if (text === undefined || !/^\d{1,15}$/.test(text)) return null;
  return Number(text);
}

/**
 * The bucket that mirrors a provider's token limit, or null when its answer says nothing usable. What was spent comes back by the reset, which gives the
 * rate; a fresh window (nothing spent, or no reset to wait for) tells no rate, so the limit per minute does; only a limit of nothing takes the
 * fallback. So the rate is never 0 and a mirrored bucket never stays empty for good.
 */
export function limitSync(
  headers: RateLimitHeaders,
  options: { readonly fallbackRefillPerSec: number },
): { readonly capacity: number; readonly refillPerSec: number; readonly tokens: number } | null {
  const { tokens } = openaiLimits(headers);
  if (!tokens) return null;
  const { limit, remaining, resetMs } = tokens;
  const spent = limit - remaining;
  const refill = spent > 0 && resetMs !== null && resetMs > 0 ? (spent * 1000) / resetMs : limit / PERIOD_SEC;
  return { capacity: limit, refillPerSec: refill > 0 ? refill : options.fallbackRefillPerSec, tokens: remaining };
}
