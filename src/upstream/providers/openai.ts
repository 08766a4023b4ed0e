import type { Credential, QuotaReading } from "../../core/credential.ts";
import type { ProviderRow } from "../../core/provider.ts";
import { usualVerdict, type Headers } from "./verdicts.ts";
import { decimal, durationMs, usualWait } from "./waits.ts";

export function bearer(headers: Record<string, string>, { apiKey }: Credential): void {
  if (apiKey) headers.authorization = `Bearer ${apiKey.reveal()}`;
}

/** `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, as OpenAI writes them and most of its kind do too. */
function openAiQuotas(headers: Headers, nowMs: number): readonly QuotaReading[] {
  return ["requests", "tokens"].flatMap((group): readonly QuotaReading[] => {
    const limit = decimal(headers[`x-ratelimit-limit-${group}`]);
    const remaining = decimal(headers[`x-ratelimit-remaining-${group}`]);
    if (limit === null || remaining === null || limit <= 0) return [];
    const resetMs = durationMs(headers[`x-ratelimit-reset-${group}`]);
    return [{ group, remainingRatio: Math.min(remaining / limit, 1), resetsAt: resetMs === null ? null : nowMs + resetMs }];
  });
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
