import type { Credential, Fault } from "../core/credential.ts";
import { nearest } from "../core/nearest.ts";
import type { ProviderRow, Verdict } from "../core/provider.ts";
import { fieldsOf } from "../dialects/usage.ts";

type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** Nobody is believed about more than a day. */
const MAX_WAIT_MS = 24 * 60 * 60 * 1000;
const BODY_START = 8_192;
const CHALLENGE_WAIT_MS = 10_000;

/** Codes of an account that cannot serve, whatever the status and the model. */
const ACCOUNT_CODE = /^(?:insufficient_quota|invalid_api_key|account_deactivated|access_terminated(?:_error)?|invalid_grant|billing_\w+)$/;

/** A refusal of this very call, although its status may speak of access: providers tell it in words only. */
const REQUEST_WORDS =
  /content policy|content management policy|policy violation|requires moderation|input was flagged|model not found|model does not exist|unsupported model/i;

const verdict = (fault: Fault, isAccountWide = false, waitMs: number | null = null): Verdict => Object.freeze({ fault, isAccountWide, waitMs });

const REQUEST = verdict("request");
const CREDENTIAL = verdict("credential");
const ACCOUNT = verdict("credential", true);
const CAPACITY = verdict("capacity");
const CHALLENGE = verdict("capacity", false, CHALLENGE_WAIT_MS);

const textIn = (value: Headers[string], part: string): boolean => typeof value === "string" && value.toLowerCase().includes(part);

/** Cloudflare stands in front of the provider and takes us for a robot. The credential was not looked at. */
function isChallenge(status: number, headers: Headers): boolean {
  if (textIn(headers["cf-mitigated"], "challenge")) return true;
  return (status === 403 || status === 503) && textIn(headers.server, "cloudflare") && textIn(headers["content-type"], "text/html");
}

/**
 * The error codes of a JSON answer. Only where providers put them: a server that repeats the client's request in its refusal must not let the client
 * speak for it.
 */
function codesOf(text: string): readonly unknown[] {
  let body: Readonly<Record<string, unknown>> | null;
  try {
    body = fieldsOf(JSON.parse(text));
  } catch {
    return [];
  }
  const error = fieldsOf(body?.error);
  return [error?.code, error?.type, body?.error, body?.code, body?.type];
}

function openAiVerdict(status: number, headers: Headers, body: Buffer | string): Verdict {
  if (isChallenge(status, headers)) return CHALLENGE;
  if (status >= 500 || status < 400) return CAPACITY;
  const start = typeof body === "string" ? body.slice(0, BODY_START) : body.toString("latin1", 0, BODY_START);
  const codes = codesOf(start);
  if (codes.some((code) => typeof code === "string" && ACCOUNT_CODE.test(code))) return ACCOUNT;
  if (status === 401 || status === 402 || codes.includes("authentication_error")) return CREDENTIAL;
  if (status === 429) return CAPACITY;
  if (REQUEST_WORDS.test(start)) return REQUEST;
  if (status === 403) return CREDENTIAL;
  return status === 408 ? CAPACITY : REQUEST;
}

function bearer(headers: Record<string, string>, credential: Credential): void {
  if (credential.apiKey) headers.authorization = `Bearer ${credential.apiKey.reveal()}`;
}

/** Any server that speaks OpenAI's HTTP dialect: vLLM, Ollama, LM Studio, another gateway. */
const openAiCompatible: ProviderRow = {
  id: "openai-compatible",
  dialect: "openai",
  baseUrl: null,
  paths: { chat: "/v1/chat/completions", completions: "/v1/completions", embeddings: "/v1/embeddings", models: "/v1/models" },
  capField: "max_tokens",
  forwardedHeaders: ["accept", "openai-beta"],
  authorize: bearer,
  classify: openAiVerdict,
  retryAfterMs,
};

/** Reasoning models of OpenAI refuse `max_tokens`, which their API reference marks as deprecated. */
const openAi: ProviderRow = { ...openAiCompatible, id: "openai", baseUrl: "https://api.openai.com", capField: "max_completion_tokens" };

const ROWS: ReadonlyMap<string, ProviderRow> = new Map([openAi, openAiCompatible].map((row) => [row.id, Object.freeze(row)]));

/** The rows that are built in, in the order in which they are told. */
export const PROVIDER_IDS: readonly string[] = [...ROWS.keys()];

/**
 * A provider's path below the credential's base. A base that names a version itself (`https://open.example/api/paas/v4`) has it in place of the
 * path's own.
 */
export function upstreamPath({ basePath }: Credential, path: string): string {
  return VERSIONED_BASE.test(basePath) && VERSIONED_PATH.test(path) ? basePath + path.replace(VERSIONED_PATH, "") : basePath + path;
}

const VERSIONED_BASE = /\/v\d+(?:beta\d*)?$/;
const VERSIONED_PATH = /^\/v\d+(?=\/)/;

/** The built-in row of a provider. Throws an Error that names the nearest id when there is none. */
export function providerRow(id: string): ProviderRow {
  const row = ROWS.get(id);
  if (row) return row;
  const meant = nearest(id, PROVIDER_IDS);
  const advice = meant ? `did you mean "${meant}"?` : 'use "openai-compatible" with a base_url for any server that speaks the OpenAI API.';
  throw new Error(`unknown provider "${id.slice(0, 64)}"; ${advice} Known: ${PROVIDER_IDS.join(", ")}`);
}

/** What is particular about a credential's provider. */
export const rowOf = (credential: Credential): ProviderRow => credential.row ?? providerRow(credential.provider);

/**
 * When a refusal may be repeated, from `retry-after-ms`, `retry-after` (seconds or HTTP date, RFC 9110 10.2.3) or OpenAI's
 * `x-ratelimit-reset-*` durations, in this order. Ms, at most 24 h; null when nothing usable was said. The durations come with any answer, so they tell
 * when to come back only where a rate limit stands in the way.
 */
function retryAfterMs(headers: Headers, nowMs: number, isRateLimit: boolean): number | null {
  const exact = decimal(headers["retry-after-ms"]) ?? afterHeader(headers["retry-after"], nowMs) ?? (isRateLimit ? resetHeaders(headers) : null);
  return exact === null ? null : Math.min(Math.ceil(exact), MAX_WAIT_MS);
}

function decimal(value: Headers[string]): number | null {
  return typeof value === "string" && /^\d{1,20}(?:\.\d{1,9})?$/.test(value.trim()) ? Number(value) : null;
}

function afterHeader(value: Headers[string], nowMs: number): number | null {
  const seconds = decimal(value);
  if (seconds !== null) return seconds * 1_000;
  // All three HTTP date formats begin with the day's name; Date.parse alone would take far stranger texts.
  if (typeof value !== "string" || value.length > 40 || !/^(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*,? .*\d\d:\d\d:\d\d/.test(value)) return null;
  const atMs = Date.parse(value.endsWith("GMT") ? value : `${value} GMT`);
  return atMs >= nowMs ? atMs - nowMs : null;
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

/** `1h2m3.5s`, `20ms`. */
function durationMs(value: Headers[string]): number | null {
  if (typeof value !== "string" || !/^(?:\d{1,12}(?:\.\d{1,9})?(?:ms|[smhd])){1,5}$/.test(value)) return null;
  let total = 0;
  for (const [, amount, unit = "s"] of value.matchAll(/([\d.]+)(ms|[smhd])/g)) total += Number(amount) * (UNIT_MS[unit] ?? 0);
  return total;
}
