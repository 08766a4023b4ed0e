import type { Usage } from "../core/usage.ts";

/**
 * Reads the usage objects of the providers into disjoint classes. What is not a plausible count is treated as absent, never as zero. Where the figures of
 * one object contradict each other nothing is undercharged: a part is at most its total, the dearest parts come first, and of the totals the larger counts.
 */

/** No call of today's models comes near it; a larger figure is a provider's mistake. */
const MOST_TOKENS = 1_000_000_000;
/** How much of a provider's own object is kept: about as many characters of its JSON. */
const MOST_RAW_CHARS = 2_048;
const MOST_RAW_DEPTH = 4;

type Fields = Readonly<Record<string, unknown>>;

export const fieldsOf = (value: unknown): Fields | null =>
  typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : null;

const isSaid = (value: unknown): boolean => value !== undefined && value !== null;

/** A count, 0 when absent, NaN when it is not plausible: every sum with it is NaN, too. */
function count(value: unknown): number {
  if (value === undefined || value === null) return 0;
  return typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= MOST_TOKENS ? value : NaN;
}

/** How much output there is when a whole total may say more than the output does: some providers count what the model thought only there. */
const outputWithin = (total: unknown, input: number, output: number): number => Math.max(output, (count(total) || 0) - input);

type Parts = {
  readonly [
    name in "audioInput" | "imageInput" | "cacheWriteLong" | "cacheWrite" | "cacheRead" | "audioOutput" | "imageOutput" | "reasoning" | "prediction"
  ]?: number;
};

/** Splits totals into classes. Of parts that are more than their total the dearest are taken first; the plain text is what is left. */
function usageFrom(object: Fields, input: number, output: number, parts: Parts, reportedUsd?: unknown): Usage | null {
  let rest = input;
  const take = (part = 0): number => {
    const taken = Math.min(part, rest);
    rest -= taken;
    return taken;
  };
  const audioInput = take(parts.audioInput);
  const imageInput = take(parts.imageInput);
  const cacheWriteLong = take(parts.cacheWriteLong);
  const cacheWriteTokens = take(parts.cacheWrite);
  const cacheReadTokens = take(parts.cacheRead);
  const inputTokens = rest;
  rest = output;
  const audioOutput = take(parts.audioOutput);
  const imageOutput = take(parts.imageOutput);
  const reasoningTokens = take(parts.reasoning);
  const prediction = take(parts.prediction);
  if (Number.isNaN(inputTokens) || Number.isNaN(rest)) return null;
  const usage: { -readonly [field in keyof Usage]: Usage[field] } = {
    inputTokens,
    cacheReadTokens,
    cacheWriteTokens,
    outputTokens: rest,
    reasoningTokens,
  };
  if (cacheWriteLong > 0) usage.cacheWriteLongTokens = cacheWriteLong;
  if (audioInput > 0) usage.audioInputTokens = audioInput;
  if (imageInput > 0) usage.imageInputTokens = imageInput;
  if (audioOutput > 0) usage.audioOutputTokens = audioOutput;
  if (imageOutput > 0) usage.imageOutputTokens = imageOutput;
  if (prediction > 0) usage.predictionTokens = prediction;
  if (typeof reportedUsd === "number" && reportedUsd > 0 && Number.isFinite(reportedUsd)) usage.reportedUsd = reportedUsd;
  if (charsLeft(object, MOST_RAW_CHARS, MOST_RAW_DEPTH) >= 0) usage.raw = [object];
  return usage;
}

/** What is left of so many characters once a value's JSON is written, about; negative = it is too large, or too deep. Nothing is written for it. */
function charsLeft(value: unknown, most: number, depth: number): number {
  if (typeof value === "string") return most - value.length - 2;
  if (typeof value !== "object" || value === null) return typeof value === "bigint" ? -1 : most - 8;
  if (depth === 0 || "toJSON" in value) return -1;
  let left = most - 2;
  const fields = value as Fields;
  for (const key in fields) {
    left = charsLeft(fields[key], left - key.length - 4, depth - 1);
    if (left < 0) return left;
  }
  return left;
}

/** OpenAI's `usage` of chat, completions, embeddings (`prompt_tokens …`), responses, images and realtime (`input_tokens …`). */
export function openaiUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (!usage) return null;
  const said = usage.prompt_tokens ?? usage.input_tokens;
  if (!isSaid(said)) return null;
  const input = count(said);
  const output = outputWithin(usage.total_tokens, input, count(usage.completion_tokens ?? usage.output_tokens));
  const read = fieldsOf(usage.prompt_tokens_details ?? usage.input_tokens_details ?? usage.input_token_details);
  const written = fieldsOf(usage.completion_tokens_details ?? usage.output_tokens_details ?? usage.output_token_details);
  // Cached audio is part of both figures.
  const cached = fieldsOf(read?.cached_tokens_details);
  const parts: Parts = {
    audioInput: less(count(read?.audio_tokens), count(cached?.audio_tokens)),
    imageInput: less(count(read?.image_tokens), count(cached?.image_tokens)),
    cacheWrite: count(read?.cached_creation_tokens ?? read?.cache_write_tokens),
    cacheRead: count(read?.cached_tokens),
    audioOutput: count(written?.audio_tokens),
    imageOutput: count(written?.image_tokens),
    reasoning: count(written?.reasoning_tokens ?? written?.thinking_tokens),
    // What was predicted and did not come true is billed as output, and stays there.
    prediction: count(written?.accepted_prediction_tokens),
  };
  return usageFrom(usage, input, output, parts, usage.cost);
}

const less = (whole: number, part: number): number => Math.max(0, whole - part);

/** Anthropic's `usage`: the input classes are disjoint already. */
export function anthropicUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (!usage || !(isSaid(usage.input_tokens) || isSaid(usage.output_tokens))) return null;
  const cacheRead = count(usage.cache_read_input_tokens);
  const stored = fieldsOf(usage.cache_creation);
  const long = count(stored?.ephemeral_1h_input_tokens);
  const written = isSaid(usage.cache_creation_input_tokens)
    ? count(usage.cache_creation_input_tokens)
    : count(stored?.ephemeral_5m_input_tokens) + long;
  const cacheWriteLong = Math.min(long, written);
  const parts: Parts = {
    cacheWriteLong,
    cacheWrite: written - cacheWriteLong,
    cacheRead,
    reasoning: count(fieldsOf(usage.output_tokens_details)?.thinking_tokens),
  };
  return usageFrom(usage, count(usage.input_tokens) + written + cacheRead, count(usage.output_tokens), parts);
}

/** Gemini's `usageMetadata`: thoughts and tools stand beside the candidates and the prompt, cached content inside the prompt. */
export function geminiUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (!usage || !isSaid(usage.promptTokenCount)) return null;
  const input = count(usage.promptTokenCount) + count(usage.toolUsePromptTokenCount);
  const reasoning = count(usage.thoughtsTokenCount);
  const output = outputWithin(usage.totalTokenCount, input, count(usage.candidatesTokenCount ?? usage.responseTokenCount) + reasoning);
  // No prompt is empty: early chunks may carry a figure that is not there yet.
  if (input === 0 && output === 0) return null;
  const prompt = usage.promptTokensDetails;
  const tools = usage.toolUsePromptTokensDetails;
  const cached = usage.cacheTokensDetails;
  const candidates = usage.candidatesTokensDetails ?? usage.responseTokensDetails;
  const inputOf = (name: string): number => less(modality(prompt, name) + modality(tools, name), modality(cached, name));
  const parts: Parts = {
    audioInput: inputOf("AUDIO"),
    imageInput: inputOf("IMAGE"),
    cacheRead: count(usage.cachedContentTokenCount),
    audioOutput: modality(candidates, "AUDIO"),
    imageOutput: modality(candidates, "IMAGE"),
    reasoning,
  };
  return usageFrom(usage, input, output, parts);
}

/** Kiro's `tokenUsage`: the input classes are disjoint already. */
export function kiroUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (!usage || !isSaid(usage.outputTokens)) return null;
  const cacheRead = count(usage.cacheReadInputTokens);
  const cacheWrite = count(usage.cacheWriteInputTokens);
  const input = count(usage.uncachedInputTokens) + cacheRead + cacheWrite;
  return usageFrom(usage, input, outputWithin(usage.totalTokens, input, count(usage.outputTokens)), { cacheRead, cacheWrite });
}

function modality(details: unknown, name: string): number {
  if (!Array.isArray(details)) return 0;
  let tokens = 0;
  for (const each of details) {
    const detail = fieldsOf(each);
    if (detail?.modality === name) tokens += count(detail.tokenCount);
  }
  return tokens;
}

/** The `usage` of the AI SDK's results: named as our classes are, but reasoning and caches are parts of the totals. */
export function aiSdkUsage(value: unknown): Usage | null {
  const usage = fieldsOf(value);
  if (!usage || !isAiSdk(usage)) return null;
  const input = count(usage.inputTokens);
  const read = fieldsOf(usage.inputTokenDetails);
  const parts: Parts = {
    cacheWrite: count(read?.cacheWriteTokens),
    cacheRead: count(read?.cacheReadTokens ?? usage.cachedInputTokens),
    reasoning: count(fieldsOf(usage.outputTokenDetails)?.reasoningTokens ?? usage.reasoningTokens),
  };
  return usageFrom(usage, input, outputWithin(usage.totalTokens, input, count(usage.outputTokens)), parts);
}

const isAiSdk = (usage: Fields): boolean =>
  (isSaid(usage.inputTokens) || isSaid(usage.outputTokens)) && (isSaid(usage.totalTokens) || isSaid(usage.inputTokenDetails));

const isAnthropic = (usage: Fields): boolean =>
  !isSaid(usage.prompt_tokens) &&
  !isSaid(usage.total_tokens) &&
  ("cache_read_input_tokens" in usage || "cache_creation_input_tokens" in usage || "cache_creation" in usage);

/** What a host handed to `meter`: the usage in any response, chunk or event, with the id and model that say whose it is. */
export interface FoundUsage {
  readonly id: string | null;
  readonly model: string | null;
  readonly usage: Usage;
  /** The provider's own object. */
  readonly object: Fields;
  /** The event may carry only the output (Anthropic's `message_delta`): input known before stays. */
  readonly outputOnly: boolean;
  /** The event only begins a response (Anthropic's `message_start`): its output is still to come. */
  readonly isBeginning: boolean;
  /** A usage object without a response around it: nobody can say whether it was seen before. */
  readonly isBare: boolean;
}

const text = (value: unknown): string | null => (typeof value === "string" ? value : null);

const isEventOf = (body: Fields, name: string): boolean => body.type === name;

/** Finds the usage in an OpenAI, Anthropic or Gemini response, chunk or event, or in a usage object itself; null when it has none. */
export function findUsage(value: unknown): FoundUsage | null {
  const body = fieldsOf(value);
  if (!body) return null;
  const inner = fieldsOf(body.message) ?? fieldsOf(body.response) ?? body;
  const isDelta = isEventOf(body, "message_delta");
  const isBeginning = isEventOf(body, "message_start");
  const metadata = fieldsOf(inner.usageMetadata) ?? fieldsOf(body.usageMetadata);
  const around = metadata ?? fieldsOf(inner.usage) ?? fieldsOf(body.usage);
  const object = around ?? (isUsage(body) ? body : null);
  if (!object) return null;
  const isMessage = isDelta || isBeginning || inner.type === "message" || isAnthropic(object);
  const usage = metadata
    ? geminiUsage(object)
    : isMessage
      ? anthropicUsage(object)
      : (geminiUsage(object) ?? aiSdkUsage(object) ?? openaiUsage(object));
  if (!usage) return null;
  return {
    id: text(inner.id) ?? text(inner.responseId),
    model: text(inner.model) ?? text(inner.modelVersion) ?? text(inner.modelId),
    usage,
    object,
    outputOnly: isDelta,
    isBeginning,
    isBare: around === null,
  };
}

/** An answer to a question for a count of tokens has an input, too: only one with output or a total was a call. */
const isUsage = (body: Fields): boolean =>
  isSaid(body.output_tokens) || isSaid(body.completion_tokens) || isSaid(body.total_tokens) || isSaid(body.promptTokenCount) || isAiSdk(body);

/** A response's usage after a later event of it. What the event does not say is as before. */
export function laterUsage(before: FoundUsage, found: FoundUsage): FoundUsage {
  if (!found.outputOnly) return { ...found, model: found.model ?? before.model };
  const later = Object.fromEntries(Object.entries(found.object).filter(([, figure]) => isSaid(figure)));
  const object = { ...before.object, ...later };
  return { ...before, object, usage: anthropicUsage(object) ?? found.usage, isBeginning: false };
}

/**
 * The usage in any OpenAI (chat, completions, embeddings, responses), Anthropic, Gemini or AI SDK response, chunk or event, or in a usage object
 * itself, as disjoint token classes whose sum is the call's total: nothing is in two of them. It is what `meter()` reads. `raw` is the
 * provider's own object, if it is small. An event tells what it tells: Anthropic's `message_delta` usually only the output.
 *
 * Null when there is none, or when a figure in it cannot be true.
 *
 * @example usage(await openai.chat.completions.create({ … }))?.cacheReadTokens
 */
export const usageIn = (value: unknown): Usage | null => findUsage(value)?.usage ?? null;
