/**
 * ChatGPT's backend for coding: OpenAI's Responses dialect with rules of its own, and answers in streams only. The token of a login stands in `api_key`;
 * who renews it is a plugin's business. We say who we are: `originator` and other clients' names are not sent.
 */
import { createHash } from "node:crypto";
import type { AdaptedRequest, Credential, QuotaReading, Verdict } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { fromUsedPercent } from "../../core/quota-reading.ts";
import { resetTime } from "../../core/reset-time.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { bearer } from "./openai.ts";
import { MINUTE_MS } from "./readings.ts";
import { CAPACITY, errorFields, REQUEST, startOf, usualVerdict, verdict, type Headers } from "./verdicts.ts";
import { decimal, plausibleWait, usualWait } from "./waits.ts";

type Fields = Readonly<Record<string, unknown>>;

/** What the backend refuses. */
const REFUSED = new Set([
  "max_output_tokens",
  "max_completion_tokens",
  "temperature",
  "top_p",
  "truncation",
  "user",
  "context_management",
  "prompt_cache_options",
  "prompt_cache_retention",
  "prompt_cache_breakpoint",
  "safety_identifier",
  "stream_options",
]);
const THOUGHTS = "reasoning.encrypted_content";
const MAX_CALL_ID = 64;
/** Codes of faults that are the caller's, whatever the status. */
const CALLERS_FAULT = new Set([
  "context_length_exceeded",
  "invalid_encrypted_content",
  "previous_response_not_found",
  "cyber_policy",
  "invalid_prompt",
]);
const DAY_MINUTES = 24 * 60;

const listOf = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** Both ends of a call get the same shorter id. */
const callId = (id: string): string => (id.length <= MAX_CALL_ID ? id : `call_${createHash("sha256").update(id).digest("hex").slice(0, 59)}`);

function adaptedItem(value: unknown): unknown {
  const item = fieldsOf(value);
  if (!item) return value;
  const { prompt_cache_breakpoint: _breakpoint, ...rest } = item;
  const adapted: Record<string, unknown> = rest;
  if (item.role === "system") adapted.role = "developer";
  if (typeof item.call_id === "string") adapted.call_id = callId(item.call_id);
  if (Array.isArray(item.content)) adapted.content = item.content.map((part: unknown) => withoutBreakpoint(part));
  return adapted;
}

function withoutBreakpoint(part: unknown): unknown {
  const fields = fieldsOf(part);
  if (fields?.prompt_cache_breakpoint === undefined) return part;
  const { prompt_cache_breakpoint: _breakpoint, ...rest } = fields;
  return rest;
}

function adaptedTool(value: unknown): unknown {
  const tool = fieldsOf(value);
  return tool && typeof tool.type === "string" && tool.type.startsWith("web_search_preview") ? { ...tool, type: "web_search" } : value;
}

function adapt(body: Fields): Fields {
  const kept = Object.fromEntries(Object.entries(body).filter(([name]) => !REFUSED.has(name)));
  const { input, tools, service_tier: tier, parallel_tool_calls: parallel, include, instructions, ...rest } = kept;
  const hasTools = listOf(tools).length > 0;
  return {
    ...rest,
    instructions: instructions ?? "",
    input:
      typeof input === "string"
        ? [{ type: "message", role: "user", content: [{ type: "input_text", text: input }] }]
        : listOf(input).map(adaptedItem),
    ...(hasTools ? { tools: listOf(tools).map(adaptedTool) } : {}),
    ...(hasTools && parallel !== undefined ? { parallel_tool_calls: parallel } : {}),
    ...(tier === "priority" ? { service_tier: tier } : {}),
    include: [...new Set([...listOf(include), THOUGHTS])],
    store: false,
    stream: true,
  };
}

/** The account that a token of a login was made for. Its signature is the provider's business. */
function accountOf(token: string): string | null {
  const [, claims = ""] = token.split(".");
  try {
    const id = fieldsOf(fieldsOf(JSON.parse(Buffer.from(claims, "base64url").toString()))?.["https://api.openai.com/auth"])?.chatgpt_account_id;
    return typeof id === "string" && /^[\x21-\x7e]{1,128}$/.test(id) ? id : null;
  } catch {
    return null;
  }
}

function authorize(headers: Record<string, string>, credential: Credential): void {
  bearer(headers, credential);
  const account = credential.accountId ?? accountOf(credential.apiKey?.reveal() ?? "");
  if (account !== null) headers["chatgpt-account-id"] = account;
  headers.accept = "text/event-stream";
}

/** Requests of one conversation find the same cache. */
function requestHeaders(body: Fields, _request: AdaptedRequest): Readonly<Record<string, string>> {
  const { prompt_cache_key: key } = body;
  return typeof key === "string" && /^[\x21-\x7e]{1,256}$/.test(key) ? { "session-id": key } : {};
}

function classify(status: number, headers: Headers, body: Buffer | string, nowMs: number): Verdict {
  const start = startOf(body);
  const fields = errorFields(start);
  const error = fieldsOf(fields?.error) ?? fieldsOf(fields?.detail) ?? fields ?? {};
  const codes = [error.type, error.code];
  if (codes.includes("usage_limit_reached")) {
    const at = resetTime(error.resets_at, nowMs);
    const seconds = Number(error.resets_in_seconds);
    const waitMs = at === null ? (Number.isFinite(seconds) ? seconds * 1_000 : null) : at - nowMs;
    return verdict("capacity", true, plausibleWait(waitMs));
  }
  if (typeof error.message === "string" && /selected model is at capacity/i.test(error.message)) return CAPACITY;
  if (codes.some((code) => typeof code === "string" && CALLERS_FAULT.has(code))) return REQUEST;
  return usualVerdict(status, headers, body);
}

/** Which window comes first is not fixed, so its length names it. */
function quotas(headers: Headers, nowMs: number): readonly QuotaReading[] {
  const readings = new Map<string, QuotaReading>();
  for (const [place, otherwise] of [
    ["primary", "session"],
    ["secondary", "weekly"],
  ] as const) {
    const remainingRatio = fromUsedPercent(headers[`x-codex-${place}-used-percent`]);
    if (remainingRatio === null) continue;
    const minutes = decimal(headers[`x-codex-${place}-window-minutes`]);
    const named = minutes === null ? otherwise : minutes >= 6 * DAY_MINUTES ? "weekly" : minutes <= DAY_MINUTES ? "session" : otherwise;
    const group = readings.has(named) ? place : named;
    const resetsAt = resetTime(headers[`x-codex-${place}-reset-at`], nowMs) ?? resetTime(headers[`x-codex-${place}-reset-after-seconds`], nowMs);
    readings.set(group, { group, remainingRatio, resetsAt, ...(minutes ? { windowMs: minutes * MINUTE_MS } : {}) });
  }
  return [...readings.values()];
}

export const codex: ProviderRow = {
  id: "codex",
  dialect: "responses",
  family: "openai",
  baseUrl: "https://chatgpt.com/backend-api/codex",
  paths: { chat: "/responses" },
  account: { takes: ["accountId"], needs: [["apiKey"]] },
  streamsOnly: true,
  capField: "max_tokens",
  forwardedHeaders: [],
  authorize,
  adapt,
  requestHeaders,
  classify,
  retryAfterMs: usualWait,
  quotas,
  models: [
    "gpt-5",
    "gpt-5-codex",
    "gpt-5-codex-mini",
    "gpt-5.1",
    "gpt-5.1-codex",
    "gpt-5.1-codex-mini",
    "gpt-5.1-codex-max",
    "gpt-5.2",
    "gpt-5.2-codex",
  ],
};
