/**
 * Anthropic's API. Headers, limits and errors: https://docs.anthropic.com/en/api/overview, /rate-limits, /errors; the `unified` headers are those of
 * subscriptions, and come with each answer.
 */
import type { Credential, QuotaReading, Verdict } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { ACCOUNT, ACCOUNT_CAPACITY, REQUEST, startOf, usualVerdict, type Headers } from "./verdicts.ts";
import { atMostADay, decimal, momentMs, saidWait } from "./waits.ts";

const BASE_URL = "https://api.anthropic.com";
const VERSION = "2023-06-01";
/** What a login's token starts with; it goes as a bearer, and the API wants to be told. */
const LOGIN_TOKEN = "sk-ant-oat";
const LOGIN_BETA = "oauth-2025-04-20";

/** Windows of a subscription. The last one is of some models only. */
const WINDOWS = ["5h", "7d", "7d_oi"] as const;
const ACCOUNT_WINDOWS = ["5h", "7d"] as const;
const LIMITS = ["requests", "tokens", "input-tokens", "output-tokens"] as const;

/** Servers that copy this API take the key in either place. */
function anthropicKey(headers: Record<string, string>, { apiKey, origin }: Credential): void {
  headers["anthropic-version"] = VERSION;
  const key = apiKey?.reveal();
  if (key === undefined) return;
  const isLogin = key.startsWith(LOGIN_TOKEN);
  if (isLogin) headers["anthropic-beta"] = LOGIN_BETA;
  else headers["x-api-key"] = key;
  if (isLogin || origin !== BASE_URL) headers.authorization = `Bearer ${key}`;
}

const isRejected = (headers: Headers, window: string): boolean => headers[`anthropic-ratelimit-unified-${window}-status`] === "rejected";

function anthropicVerdict(status: number, headers: Headers, body: Buffer | string): Verdict {
  const start = startOf(body);
  // A balance that has run out comes as a fault of the request.
  if (status === 400 && /credit balance is too low/i.test(start)) return ACCOUNT;
  if (status === 429) {
    if (ACCOUNT_WINDOWS.some((window) => isRejected(headers, window))) return ACCOUNT_CAPACITY;
    if (/fast mode/i.test(start) && /usage credits/i.test(start)) return REQUEST;
  }
  return usualVerdict(status, headers, body);
}

function anthropicWait(headers: Headers, nowMs: number, isRateLimit: boolean): number | null {
  if (!isRateLimit) return atMostADay(saidWait(headers, nowMs));
  const rejected = WINDOWS.filter((window) => isRejected(headers, window)).map((window) =>
    momentMs(headers[`anthropic-ratelimit-unified-${window}-reset`]),
  );
  return atMostADay(latest(rejected, nowMs) ?? saidWait(headers, nowMs) ?? untilUnified(headers, nowMs) ?? latest(exhausted(headers), nowMs));
}

/** The wait until the last of these moments. */
function latest(moments: readonly (number | null)[], nowMs: number): number | null {
  const known = moments.filter((at) => at !== null);
  return known.length === 0 ? null : Math.max(...known) - nowMs;
}

const untilUnified = (headers: Headers, nowMs: number): number | null => latest([momentMs(headers["anthropic-ratelimit-unified-reset"])], nowMs);

const exhausted = (headers: Headers): readonly (number | null)[] =>
  LIMITS.filter((limit) => decimal(headers[`anthropic-ratelimit-${limit}-remaining`]) === 0).map((limit) =>
    momentMs(headers[`anthropic-ratelimit-${limit}-reset`]),
  );

function anthropicQuotas(headers: Headers): readonly QuotaReading[] {
  const windows = WINDOWS.flatMap((group): readonly QuotaReading[] => {
    const used = decimal(headers[`anthropic-ratelimit-unified-${group}-utilization`]);
    if (used === null) return isRejected(headers, group) ? [reading(group, 0, headers[`anthropic-ratelimit-unified-${group}-reset`])] : [];
    return [reading(group, 1 - used, headers[`anthropic-ratelimit-unified-${group}-reset`])];
  });
  const limits = LIMITS.flatMap((group): readonly QuotaReading[] => {
    const limit = decimal(headers[`anthropic-ratelimit-${group}-limit`]);
    const remaining = decimal(headers[`anthropic-ratelimit-${group}-remaining`]);
    if (limit === null || remaining === null || limit <= 0) return [];
    return [reading(group, remaining / limit, headers[`anthropic-ratelimit-${group}-reset`])];
  });
  return [...windows, ...limits];
}

const reading = (group: string, ratio: number, reset: Headers[string]): QuotaReading => ({
  group,
  remainingRatio: Math.min(Math.max(ratio, 0), 1),
  resetsAt: momentMs(reset),
});

export const anthropic: ProviderRow = {
  id: "anthropic",
  dialect: "anthropic",
  baseUrl: BASE_URL,
  paths: { chat: "/v1/messages", count_tokens: "/v1/messages/count_tokens", models: "/v1/models?limit=1000" },
  account: { needs: [["apiKey"]] },
  capField: "max_tokens",
  forwardedHeaders: ["accept", "anthropic-beta"],
  authorize: anthropicKey,
  classify: anthropicVerdict,
  retryAfterMs: anthropicWait,
  quotas: anthropicQuotas,
};
