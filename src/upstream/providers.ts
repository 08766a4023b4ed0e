import type { DialectId, Operation } from "../core/call.ts";
import type { Credential } from "../core/credential.ts";
import { nearest } from "../core/nearest.ts";

/**
 * Whose fault an error answer is. `request`: the call itself, no other credential would help · `credential`: this account may not or cannot
 * pay · `capacity`: the account or the provider has no room now.
 */
export type Fault = "request" | "credential" | "capacity";

type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** What is particular about a provider. A row, not a class: other rows are made by spreading one and changing what differs. */
export interface ProviderRow {
  readonly id: string;
  readonly dialect: DialectId;
  /** Where it lives unless the credential says otherwise; null = the credential must say. */
  readonly baseUrl: string | null;
  /** Below the base URL's path. */
  readonly paths: Readonly<Record<Operation | "models", string>>;
  /** The field that caps a chat answer's length. */
  readonly capField: "max_tokens" | "max_completion_tokens";
  /** Adds the credential's proof to lower-case headers. Called once per credential, so it must depend on nothing else. */
  authorize(headers: Record<string, string>, credential: Credential): void;
  /** For a status outside 2xx. `body` is the answer's start; it is only read for the codes that a status alone does not tell. */
  classify(status: number, headers: Headers, body: Buffer | string): Fault;
  /** Ms until the provider says to come back; null = it did not say. */
  retryAfterMs(headers: Headers, nowMs: number): number | null;
}

/** Nobody is believed about more than a day. */
const MAX_WAIT_MS = 24 * 60 * 60 * 1000;
const BODY_START = 4_096;

/** Error codes of an account that cannot serve, whatever the status. In valid JSON a client's own text cannot forge them: its quotes are escaped. */
const ACCOUNT_FAULT =
  /"(?:code|type)"\s*:\s*"(?:insufficient_quota|invalid_api_key|billing_hard_limit_reached|billing_not_active|account_deactivated|access_terminated|invalid_grant|authentication_error)"/;

function openAiFault(status: number, _headers: Headers, body: Buffer | string): Fault {
  if (status === 401 || status === 402 || status === 403) return "credential";
  if (status === 408 || status >= 500 || status < 400) return "capacity";
  const start = typeof body === "string" ? body.slice(0, BODY_START) : body.toString("latin1", 0, BODY_START);
  if (ACCOUNT_FAULT.test(start)) return "credential";
  return status === 429 ? "capacity" : "request";
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
  authorize: bearer,
  classify: openAiFault,
  retryAfterMs,
};

/** Reasoning models of OpenAI refuse `max_tokens`, which their API reference marks as deprecated. */
const openAi: ProviderRow = { ...openAiCompatible, id: "openai", baseUrl: "https://api.openai.com", capField: "max_completion_tokens" };

const ROWS: ReadonlyMap<string, ProviderRow> = new Map([openAi, openAiCompatible].map((row) => [row.id, row]));

/** The row of a provider. Throws an Error that names the nearest id when there is none. */
export function providerRow(id: string): ProviderRow {
  const row = ROWS.get(id);
  if (row) return row;
  const known = [...ROWS.keys()];
  const meant = nearest(id, known);
  const advice = meant ? `did you mean "${meant}"?` : 'use "openai-compatible" with a base_url for any server that speaks the OpenAI API.';
  throw new Error(`unknown provider "${id.slice(0, 64)}"; ${advice} Known: ${known.join(", ")}`);
}

/**
 * When a refusal may be repeated, from `retry-after-ms`, `retry-after` (seconds or HTTP date, RFC 9110 10.2.3) or OpenAI's
 * `x-ratelimit-reset-*` durations, in this order. Ms, at most 24 h; null when nothing usable was said.
 */
export function retryAfterMs(headers: Headers, nowMs: number): number | null {
  const exact = decimal(headers["retry-after-ms"]) ?? afterHeader(headers["retry-after"], nowMs) ?? resetHeaders(headers);
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
