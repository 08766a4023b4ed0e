import type { Usage } from "../core/usage.ts";

/** Reads the usage objects of the providers. What is not a plausible count is treated as absent, never as zero. */

/** No call of today's models comes near it; a larger figure is a provider's mistake. */
const MOST_TOKENS = 1_000_000_000;

type Fields = Readonly<Record<string, unknown>>;

export const fieldsOf = (value: unknown): Fields | null =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : null;

/** A count, 0 when absent, null when it is not plausible. */
function count(value: unknown): number | null {
  if (value === undefined || value === null) return 0;
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MOST_TOKENS ? value : null;
}

function usageFrom(
  input: unknown,
  output: unknown,
  cacheRead: unknown,
  cacheWrite: unknown,
  reasoning: unknown,
  reportedUsd?: unknown,
): Usage | null {
  const all = [count(input), count(output), count(cacheRead), count(cacheWrite), count(reasoning)] as const;
  const [inputTokens, outputTokens, cacheReadTokens, cacheWriteTokens, reasoningTokens] = all;
  if (inputTokens === null || outputTokens === null || cacheReadTokens === null || cacheWriteTokens === null || reasoningTokens === null) return null;
  const usage: Usage = { inputTokens, cacheReadTokens, cacheWriteTokens, outputTokens, reasoningTokens };
  return typeof reportedUsd === "number" && reportedUsd > 0 && Number.isFinite(reportedUsd) ? { ...usage, reportedUsd } : usage;
}

/** OpenAI's `usage` of chat, completions, embeddings (`prompt_tokens …`) and responses (`input_tokens …`). */
export function openaiUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (!usage) return null;
  const input = usage.prompt_tokens ?? usage.input_tokens;
  if (input === undefined || input === null) return null;
  const output = count(usage.completion_tokens ?? usage.output_tokens);
  const inputDetails = fieldsOf(usage.prompt_tokens_details ?? usage.input_tokens_details);
  const outputDetails = fieldsOf(usage.completion_tokens_details ?? usage.output_tokens_details);
  const total = count(input);
  const cached = count(inputDetails?.cached_tokens);
  const reasoning = count(outputDetails?.reasoning_tokens);
  if (total === null || output === null || cached === null || reasoning === null) return null;
  // The details are parts of the totals. A part larger than its total is a provider's slip: the total stands.
  const cacheRead = Math.min(cached, total);
  const reasoned = Math.min(reasoning, output);
  return usageFrom(total - cacheRead, output - reasoned, cacheRead, 0, reasoned, usage.cost);
}

/** Anthropic's `usage`: the input classes are disjoint already. */
export function anthropicUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (!usage || ((usage.input_tokens ?? null) === null && (usage.output_tokens ?? null) === null)) return null;
  return usageFrom(usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens, usage.cache_creation_input_tokens, 0);
}

/** Gemini's `usageMetadata`: thoughts stand beside the candidates, cached content inside the prompt. */
export function geminiUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (usage?.promptTokenCount === undefined || usage.promptTokenCount === null) return null;
  const prompt = count(usage.promptTokenCount);
  const tool = count(usage.toolUsePromptTokenCount);
  const cached = count(usage.cachedContentTokenCount);
  if (prompt === null || tool === null || cached === null) return null;
  const cacheRead = Math.min(cached, prompt);
  return usageFrom(prompt - cacheRead + tool, usage.candidatesTokenCount, cacheRead, 0, usage.thoughtsTokenCount);
}

/** What a host handed to `meter`: the usage in any response, chunk or event, with the id and model that say whose it is. */
export interface FoundUsage {
  readonly id: string | null;
  readonly model: string | null;
  readonly usage: Usage;
  /** The event carries only the output (Anthropic's `message_delta`): input known before stays. */
  readonly outputOnly: boolean;
  /** The event only begins a response (Anthropic's `message_start`): its output is still to come. */
  readonly isBeginning: boolean;
}

const text = (value: unknown): string | null => (typeof value === "string" ? value : null);

/** Finds the usage in an OpenAI, Anthropic or Gemini response, chunk or event; null when it has none. */
export function findUsage(value: unknown): FoundUsage | null {
  const body = fieldsOf(value);
  if (!body) return null;
  const gemini = geminiUsage(body.usageMetadata);
  if (gemini) return { id: text(body.responseId), model: text(body.modelVersion), usage: gemini, outputOnly: false, isBeginning: false };
  const inner = fieldsOf(body.message) ?? fieldsOf(body.response) ?? body;
  const isAnthropic = inner.type === "message" || body.type === "message_delta" || body.type === "message_start";
  const usage = isAnthropic ? anthropicUsage(inner.usage ?? body.usage) : openaiUsage(inner.usage);
  if (!usage) return null;
  return {
    id: text(inner.id),
    model: text(inner.model),
    usage,
    outputOnly: body.type === "message_delta",
    isBeginning: body.type === "message_start",
  };
}
