import type { Credential, QuotaReading } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { DAY_MS, HOUR_MS, MINUTE_MS, numbersOf, ofModel } from "./readings.ts";
import { errorFields, startOf, usualVerdict, type Headers } from "./verdicts.ts";
import { usualWait } from "./waits.ts";

export function bearer(headers: Record<string, string>, { apiKey }: Credential): void {
  if (apiKey) headers.authorization = `Bearer ${apiKey.reveal()}`;
}

const LIMITS = ["requests", "tokens"] as const;

/** They are limits of a minute, or of whatever is long enough to be whole again only then. */
const windowOf = (untilResetMs: number): number =>
  untilResetMs <= MINUTE_MS ? MINUTE_MS : untilResetMs <= HOUR_MS ? HOUR_MS : Math.max(DAY_MS, untilResetMs);

/** `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, as OpenAI writes them and most of its kind do too: those of the model that was asked. */
function openAiQuotas(headers: Headers, nowMs: number, model: string): readonly QuotaReading[] {
  return LIMITS.flatMap((unit) =>
    numbersOf(unit, model, nowMs, {
      remaining: headers[`x-ratelimit-remaining-${unit}`],
      limit: headers[`x-ratelimit-limit-${unit}`],
      reset: headers[`x-ratelimit-reset-${unit}`],
      unit,
      windowMs: windowOf,
    }),
  );
}

/** A refusal names what has run out in its type, and when it may be tried again in its headers. */
function openAiFaultQuotas(status: number, headers: Headers, body: Buffer | string, nowMs: number, model: string): readonly QuotaReading[] {
  if (status !== 429) return [];
  const type = fieldsOf(errorFields(startOf(body))?.error)?.type;
  const unit = LIMITS.find((known) => known === type);
  const waitMs = unit && usualWait(headers, nowMs, true);
  return unit && waitMs ? [{ ...ofModel(unit, model), remainingRatio: 0, resetsAt: nowMs + waitMs, unit }] : [];
}

/** Any server that speaks OpenAI's HTTP dialect: vLLM, Ollama, LM Studio, another gateway. */
export const openAiCompatible: ProviderRow = {
  id: "openai-compatible",
  dialect: "openai",
  baseUrl: null,
  paths: { chat: "/v1/chat/completions", completions: "/v1/completions", embeddings: "/v1/embeddings", models: "/v1/models" },
  capField: "max_tokens",
  forwardedHeaders: ["accept", "openai-beta"],
  authorize: bearer,
  classify: usualVerdict,
  retryAfterMs: usualWait,
  quotas: openAiQuotas,
  faultQuotas: openAiFaultQuotas,
};

/** Reasoning models of OpenAI refuse `max_tokens`, which their API reference marks as deprecated. */
export const openAi: ProviderRow = {
  ...openAiCompatible,
  id: "openai",
  baseUrl: "https://api.openai.com",
  account: { needs: [["apiKey"]] },
  also: { responses: { chat: "/v1/responses" } },
  capField: "max_completion_tokens",
};
