/**
 * Anthropic's API. Headers, limits and errors: https://docs.anthropic.com/en/api/overview, /rate-limits, /errors; the `unified` headers are those of
 * subscriptions, and come with each answer.
 */
import type { Credential, QuotaReading, Verdict } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { fromUsedFraction } from "../../core/quota-reading.ts";
import { resetTime } from "../../core/reset-time.ts";
import { DAY_MS, HOUR_MS, MINUTE_MS, numbersOf, ofModel } from "./readings.ts";
import { ACCOUNT, ACCOUNT_CAPACITY, REQUEST, startOf, usualVerdict, type Headers } from "./verdicts.ts";
import { decimal, plausibleWait, saidWait } from "./waits.ts";

const BASE_URL = "https://api.anthropic.com";
const VERSION = "2023-06-01";
/** What a login's token starts with; it goes as a bearer, and the API wants to be told. */
const LOGIN_TOKEN = "sk-ant-oat";
const LOGIN_BETA = "oauth-2025-04-20";

/** Windows of a subscription; one with a word behind it is of some models only. */
const WINDOW = /^anthropic-ratelimit-unified-((\d{1,3})([mhd])(?:_([a-z0-9_]{1,32}))?)-(?:status|utilization)$/;
const UNIT_MS: Readonly<Record<string, number>> = { m: MINUTE_MS, h: HOUR_MS, d: DAY_MS };
/** Words that name a family of models. */
const FAMILIES: ReadonlySet<string> = new Set(["opus", "sonnet", "haiku"]);

interface UnifiedWindow {
  readonly name: string;
  readonly windowMs: number;
  /** Null = of all models. */
  readonly of: string | null;
  readonly isRejected: boolean;
  readonly utilization: Headers[string];
  readonly reset: Headers[string];
}

const LIMITS = [
  ["requests", "requests"],
  ["tokens", "tokens"],
  ["input-tokens", "input_tokens"],
  ["output-tokens", "output_tokens"],
] as const;

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

function unifiedWindows(headers: Headers): readonly UnifiedWindow[] {
  const windows = new Map<string, UnifiedWindow>();
  for (const header of Object.keys(headers)) {
    const [, name, length, unit, of] = WINDOW.exec(header) ?? [];
    if (name === undefined || windows.has(name)) continue;
    windows.set(name, {
      name,
      windowMs: Number(length) * (UNIT_MS[unit as string] as number),
      of: of ?? null,
      isRejected: headers[`anthropic-ratelimit-unified-${name}-status`] === "rejected",
      utilization: headers[`anthropic-ratelimit-unified-${name}-utilization`],
      reset: headers[`anthropic-ratelimit-unified-${name}-reset`],
    });
  }
  return [...windows.values()];
}

function anthropicVerdict(status: number, headers: Headers, body: Buffer | string): Verdict {
  const start = startOf(body);
  // A balance that has run out comes as a fault of the request.
  if (status === 400 && /credit balance is too low/i.test(start)) return ACCOUNT;
  if (status === 429) {
    if (unifiedWindows(headers).some(({ of, isRejected }) => of === null && isRejected)) return ACCOUNT_CAPACITY;
    if (/fast mode/i.test(start) && /usage credits/i.test(start)) return REQUEST;
  }
  return usualVerdict(status, headers, body);
}

function anthropicWait(headers: Headers, nowMs: number, isRateLimit: boolean): number | null {
  if (!isRateLimit) return plausibleWait(saidWait(headers, nowMs));
  const rejected = unifiedWindows(headers).flatMap(({ isRejected, reset }) => (isRejected ? [reset] : []));
  return plausibleWait(
    latest(rejected, nowMs) ??
      saidWait(headers, nowMs) ??
      latest([headers["anthropic-ratelimit-unified-reset"]], nowMs) ??
      latest(exhausted(headers), nowMs),
  );
}

/** The wait until the last of these moments. */
function latest(resets: readonly Headers[string][], nowMs: number): number | null {
  const known = resets.map((reset) => resetTime(reset, nowMs)).filter((at) => at !== null);
  return known.length === 0 ? null : Math.max(...known) - nowMs;
}

const exhausted = (headers: Headers): readonly Headers[string][] =>
  LIMITS.filter(([limit]) => decimal(headers[`anthropic-ratelimit-${limit}-remaining`]) === 0).map(
    ([limit]) => headers[`anthropic-ratelimit-${limit}-reset`],
  );

/** Its limits are of a minute, and of each model; its windows are of the account, or of a family. */
function anthropicQuotas(headers: Headers, nowMs: number, model: string): readonly QuotaReading[] {
  const limits = LIMITS.flatMap(([name, unit]) =>
    numbersOf(name, model, nowMs, {
      remaining: headers[`anthropic-ratelimit-${name}-remaining`],
      limit: headers[`anthropic-ratelimit-${name}-limit`],
      reset: headers[`anthropic-ratelimit-${name}-reset`],
      unit,
      windowMs: MINUTE_MS,
    }),
  );
  return [...unifiedWindows(headers).flatMap((window) => windowQuota(window, nowMs, model)), ...limits];
}

/** A word that we do not know names models that we do not know; that the one that was asked is among them, only its refusal says. */
function windowQuota(window: UnifiedWindow, nowMs: number, model: string): readonly QuotaReading[] {
  const isKnown = window.of === null || FAMILIES.has(window.of);
  if (!isKnown && window.isRejected) return [];
  const models = isKnown && window.of !== null ? { models: [`*${window.of}*`] } : {};
  return windowReading(window, nowMs, isKnown ? { group: window.name, ...models } : ofModel(window.name, model));
}

function windowReading(
  { isRejected, utilization, reset, windowMs }: UnifiedWindow,
  nowMs: number,
  scope: Pick<QuotaReading, "group" | "models">,
): readonly QuotaReading[] {
  const remainingRatio = isRejected ? 0 : fromUsedFraction(utilization);
  return remainingRatio === null ? [] : [{ ...scope, remainingRatio, resetsAt: resetTime(reset, nowMs), windowMs }];
}

function anthropicFaultQuotas(status: number, headers: Headers, _body: Buffer | string, nowMs: number, model: string): readonly QuotaReading[] {
  if (status !== 429) return [];
  const refusing = unifiedWindows(headers).filter(({ of, isRejected }) => isRejected && of !== null && !FAMILIES.has(of));
  return refusing.flatMap((window) => windowReading(window, nowMs, ofModel(window.name, model)));
}

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
  faultQuotas: anthropicFaultQuotas,
};
