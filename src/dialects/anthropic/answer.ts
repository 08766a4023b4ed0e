/** Whole answers of the Messages API, from and to the neutral form. */
import { totalOutputTokens, type Usage } from "../../core/usage.ts";
import type { AnswerOptions } from "../codec.ts";
import { settledStop, type AssistantBlock, type ChatAnswer, type JsonObject, type StopReason } from "../message.ts";
import { anthropicUsage, fieldsOf } from "../usage.ts";
import { toolId } from "./encode-request.ts";
import { parsedObject } from "../parsed-object.ts";

const text = (value: unknown): string => (typeof value === "string" ? value : "");

const STOPS: Readonly<Record<string, StopReason>> = {
  end_turn: "stop",
  pause_turn: "stop",
  stop_sequence: "stop_sequence",
  max_tokens: "length",
  model_context_window_exceeded: "length",
  tool_use: "tool_calls",
  refusal: "content_filter",
};

export const stopOf = (reason: unknown): StopReason =>
  typeof reason === "string" && Object.hasOwn(STOPS, reason) ? (STOPS[reason] as StopReason) : "stop";

export const STOP_REASONS: Readonly<Record<StopReason, string>> = {
  stop: "end_turn",
  stop_sequence: "stop_sequence",
  length: "max_tokens",
  tool_calls: "tool_use",
  content_filter: "refusal",
};

export function decodeAnswer(body: JsonObject, toolName: (sent: string) => string): ChatAnswer | null {
  if (!Array.isArray(body.content)) return null;
  const blocks = body.content.flatMap((value) => decodeBlock(fieldsOf(value) ?? {}, toolName));
  const hasCall = blocks.some(({ type }) => type === "tool_call");
  const stopSequence = typeof body.stop_sequence === "string" ? body.stop_sequence : null;
  return {
    id: typeof body.id === "string" ? body.id : null,
    model: typeof body.model === "string" ? body.model : null,
    usage: anthropicUsage(body.usage),
    choices: [{ index: 0, blocks, stop: settledStop(stopOf(body.stop_reason), hasCall), stopSequence }],
  };
}

function decodeBlock(block: JsonObject, toolName: (sent: string) => string): readonly AssistantBlock[] {
  switch (block.type) {
    case "text":
      return text(block.text) === "" ? [] : [{ type: "text", text: text(block.text) }];
    case "thinking": {
      const value = text(block.signature);
      if (text(block.thinking) === "" && value === "") return [];
      return [{ type: "thinking", text: text(block.thinking), signature: value === "" ? null : { family: "anthropic", value } }];
    }
    case "redacted_thinking":
      return [{ type: "redacted_thinking", signature: { family: "anthropic", value: text(block.data) } }];
    case "tool_use":
      return [{ type: "tool_call", id: text(block.id), name: toolName(text(block.name)), input: JSON.stringify(block.input ?? {}) }];
    // What Anthropic's own tools did is told in the text.
    default:
      return [];
  }
}

export function encodeUsage(usage: Usage): JsonObject {
  const long = usage.cacheWriteLongTokens ?? 0;
  return {
    input_tokens: usage.inputTokens + (usage.audioInputTokens ?? 0) + (usage.imageInputTokens ?? 0),
    cache_creation_input_tokens: usage.cacheWriteTokens + long,
    cache_read_input_tokens: usage.cacheReadTokens,
    ...(long > 0 ? { cache_creation: { ephemeral_5m_input_tokens: usage.cacheWriteTokens, ephemeral_1h_input_tokens: long } } : {}),
    output_tokens: totalOutputTokens(usage),
  };
}

export const EMPTY_USAGE: JsonObject = { input_tokens: 0, cache_creation_input_tokens: 0, cache_read_input_tokens: 0, output_tokens: 0 };

/** An answer is one here; of several the first. */
export function encodeAnswer(answer: ChatAnswer, options: AnswerOptions): JsonObject {
  const choice = answer.choices[0];
  return {
    id: messageId(answer.id, options),
    type: "message",
    role: "assistant",
    model: options.model,
    content: (choice?.blocks ?? []).flatMap(encodeBlock),
    stop_reason: STOP_REASONS[choice?.stop ?? "stop"],
    stop_sequence: choice?.stopSequence ?? null,
    usage: answer.usage ? encodeUsage(answer.usage) : EMPTY_USAGE,
  };
}

export const messageId = (id: string | null, options: AnswerOptions): string => (id === null || id === "" ? `msg_${options.nextId()}` : id);

function encodeBlock(block: AssistantBlock): readonly JsonObject[] {
  switch (block.type) {
    case "text":
      return [{ type: "text", text: block.text }];
    case "thinking":
      // A signature of another family would be a forgery; without one the caller knows that nobody vouches for it.
      return [{ type: "thinking", thinking: block.text, signature: block.signature?.family === "anthropic" ? block.signature.value : "" }];
    case "redacted_thinking":
      return block.signature.family === "anthropic" ? [{ type: "redacted_thinking", data: block.signature.value }] : [];
    case "tool_call":
      return [{ type: "tool_use", id: toolId(block.id), name: block.name, input: parsedObject(block.input) ?? {} }];
    // An answer holds no images here.
    default:
      return [];
  }
}

export function decodeError(body: JsonObject): { readonly message: string; readonly kind: string | null } | null {
  const error = fieldsOf(body.error);
  if (!error) return null;
  return { message: text(error.message), kind: typeof error.type === "string" ? error.type : null };
}
