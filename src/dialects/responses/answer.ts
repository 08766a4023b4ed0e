/** Whole answers of the Responses API, from and to the neutral form. */
import { GuardError } from "../../core/errors.ts";
import { NO_USAGE, totalInputTokens, totalOutputTokens, type Usage } from "../../core/usage.ts";
import type { AnswerOptions } from "../codec.ts";
import { settledStop, type AssistantBlock, type ChatAnswer, type ImageBlock, type JsonObject, type Signature, type StopReason } from "../message.ts";
import { PLACEHOLDER } from "../openai/answer.ts";
import { fieldsOf, openaiUsage } from "../usage.ts";
import { decodeError } from "./errors.ts";
import { itemsOf } from "./items.ts";
import { responseBody, responseId } from "./response-body.ts";

export const text = (value: unknown): string => (typeof value === "string" ? value : "");
const list = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

/** Why an answer says that it ended. */
export function stopOf(response: JsonObject): StopReason {
  if (response.status !== "incomplete") return "stop";
  return fieldsOf(response.incomplete_details)?.reason === "content_filter" ? "content_filter" : "length";
}

export function decodeAnswer(body: JsonObject, toolName: (sent: string) => string): ChatAnswer | null {
  const error = decodeError(body);
  if (error) throw new GuardError("upstream_protocol", `the provider answered that it failed: ${error.message}`);
  if (!Array.isArray(body.output)) return null;
  const items = body.output.map((value) => fieldsOf(value) ?? {});
  const blocks = items.flatMap((item, i) => blocksIn(item, i, toolName));
  const stop = items.some(isRefusal) ? "content_filter" : stopOf(body);
  return {
    id: text(body.id) || null,
    model: text(body.model) || null,
    usage: openaiUsage(body.usage),
    choices: [{ index: 0, blocks, stop: settledStop(stop, blocks.some(isCall)), stopSequence: null }],
  };
}

const isCall = ({ type }: AssistantBlock): boolean => type === "tool_call";
const isRefusal = (item: JsonObject): boolean => list(item.content).some((part) => text(fieldsOf(part)?.refusal) !== "");

function blocksIn(item: JsonObject, i: number, toolName: (sent: string) => string): readonly AssistantBlock[] {
  switch (item.type) {
    case "message": {
      const said = messageParts(item).join("");
      return said === "" ? [] : [{ type: "text", text: said }];
    }
    case "reasoning": {
      const thoughts = thoughtParts(item)
        .filter((part) => part !== "")
        .join(BETWEEN_THOUGHTS);
      const signature = signatureIn(item);
      return thoughts === "" && signature === null ? [] : [{ type: "thinking", text: thoughts, signature }];
    }
    case "function_call":
    case "custom_tool_call": {
      const isCustom = item.type === "custom_tool_call";
      const input = isCustom ? text(item.input) : text(item.arguments) || "{}";
      return [{ ...callStart(item, `call_${i}`, toolName), input }];
    }
    case "image_generation_call": {
      const block = imageIn(item);
      return block ? [block] : [];
    }
    // What OpenAI's own tools did is told in the text.
    default:
      return [];
  }
}

/** Between the parts of one reasoning. */
export const BETWEEN_THOUGHTS = "\n\n";

/** The texts of a message, part by part. A refusal is what it says. */
export const messageParts = (item: JsonObject): readonly string[] =>
  list(item.content).map((value) => {
    const part = fieldsOf(value);
    return text(part?.text) || text(part?.refusal);
  });

/** The texts of a reasoning, part by part: first the summary, then, from open models, the thoughts themselves. */
export const thoughtParts = (item: JsonObject): readonly string[] =>
  [...list(item.summary), ...list(item.content)].map((part) => text(fieldsOf(part)?.text));

export function signatureIn(item: JsonObject): Signature | null {
  const content = text(item.encrypted_content);
  return content === "" ? null : { family: "openai", value: content };
}

export const callStart = (item: JsonObject, id: string, toolName: (sent: string) => string) => ({
  type: "tool_call" as const,
  id: text(item.call_id) || text(item.id) || id,
  name: toolName(text(item.name)) || PLACEHOLDER,
  ...(item.type === "custom_tool_call" ? { isCustom: true as const } : {}),
});

export function imageIn(item: JsonObject): ImageBlock | null {
  const data = text(item.result);
  if (data === "") return null;
  return { type: "image", source: { kind: "base64", mediaType: `image/${text(item.output_format) || "png"}`, data } };
}

export function encodeUsage(usage: Usage): JsonObject {
  const input = totalInputTokens(usage);
  const output = totalOutputTokens(usage);
  const written = usage.cacheWriteTokens + (usage.cacheWriteLongTokens ?? 0);
  return {
    input_tokens: input,
    input_tokens_details: { cached_tokens: usage.cacheReadTokens, ...(written > 0 ? { cache_write_tokens: written } : {}) },
    output_tokens: output,
    output_tokens_details: { reasoning_tokens: usage.reasoningTokens },
    total_tokens: input + output,
  };
}

/** An answer is one here; of several the first. */
export function encodeAnswer(answer: ChatAnswer, options: AnswerOptions): JsonObject {
  const choice = answer.choices[0];
  const stop = choice?.stop ?? "stop";
  const body = responseBody(responseId(answer.id, options), options);
  return body({ stop, output: itemsOf(choice?.blocks ?? [], stop, options), usage: encodeUsage(answer.usage ?? NO_USAGE) });
}
