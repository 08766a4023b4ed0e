/** Whole answers of chat completions, from and to the neutral form. */
import { totalInputTokens, totalOutputTokens, type Usage } from "../../core/usage.ts";
import type { AnswerOptions } from "../codec.ts";
import { restoredInput } from "../custom-tools.ts";
import { mediaFrom } from "../fields.ts";
import { settledStop, type AssistantBlock, type ChatAnswer, type ChatChoice, type ImageBlock, type JsonObject, type StopReason } from "../message.ts";
import { fieldsOf, openaiUsage } from "../usage.ts";
import { urlOf } from "./encode-request.ts";

const text = (value: unknown): string => (typeof value === "string" ? value : "");
const items = (value: unknown): readonly unknown[] => (Array.isArray(value) ? value : []);

const STOPS: Readonly<Record<string, StopReason>> = {
  stop: "stop",
  length: "length",
  tool_calls: "tool_calls",
  function_call: "tool_calls",
  content_filter: "content_filter",
};

export const stopOf = (reason: unknown): StopReason =>
  typeof reason === "string" && Object.hasOwn(STOPS, reason) ? (STOPS[reason] as StopReason) : "stop";

export const FINISH: Readonly<Record<StopReason, string>> = {
  stop: "stop",
  stop_sequence: "stop",
  length: "length",
  tool_calls: "tool_calls",
  content_filter: "content_filter",
};

/** An image in an answer, as some providers of this dialect send it. Null = it is none that can be shown. */
export function imageFrom(value: unknown): ImageBlock | null {
  const url = text(fieldsOf(fieldsOf(value)?.image_url)?.url);
  if (url === "") return null;
  try {
    return { type: "image", source: mediaFrom(url, "image_url.url") };
  } catch {
    return null;
  }
}

export function decodeAnswer(body: JsonObject, toolName: (sent: string) => string): ChatAnswer | null {
  if (!Array.isArray(body.choices)) return null;
  return {
    id: typeof body.id === "string" ? body.id : null,
    model: typeof body.model === "string" ? body.model : null,
    usage: openaiUsage(body.usage),
    choices: body.choices.flatMap((value, i) => {
      const choice = fieldsOf(value);
      return choice ? [decodeChoice(choice, i, toolName)] : [];
    }),
  };
}

function decodeChoice(choice: JsonObject, i: number, toolName: (sent: string) => string): ChatChoice {
  const message = fieldsOf(choice.message) ?? {};
  const blocks: AssistantBlock[] = [];
  const thoughts = text(message.reasoning_content) || text(message.reasoning);
  if (thoughts !== "") blocks.push({ type: "thinking", text: thoughts, signature: null });
  const said = contentText(message.content) + text(message.refusal);
  if (said !== "") blocks.push({ type: "text", text: said });
  for (const value of items(message.images)) {
    const image = imageFrom(value);
    if (image) blocks.push(image);
  }
  const legacy = fieldsOf(message.function_call);
  const calls = [...items(message.tool_calls).map(fieldsOf), ...(legacy ? [{ function: legacy }] : [])];
  for (const [n, call] of calls.entries()) {
    const fn = fieldsOf(call?.function);
    if (!call || !fn) continue;
    const name = toolName(text(fn.name)) || PLACEHOLDER;
    blocks.push({ type: "tool_call", id: text(call.id) || `call_${i}_${n}`, name, input: text(fn.arguments) || "{}" });
  }
  const stop = text(message.refusal) === "" ? stopOf(choice.finish_reason) : "content_filter";
  const hasCall = blocks.some(({ type }) => type === "tool_call");
  return { index: i, blocks, stop: settledStop(stop, hasCall), stopSequence: null };
}

/** The name of a call that its provider never named. */
export const PLACEHOLDER = "unnamed_tool";

/** Some providers answer in parts. */
function contentText(content: unknown): string {
  if (!Array.isArray(content)) return text(content);
  return content.map((part) => text(fieldsOf(part)?.text)).join("");
}

export function encodeUsage(usage: Usage): JsonObject {
  const prompt = totalInputTokens(usage);
  const completion = totalOutputTokens(usage);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: usage.cacheReadTokens, audio_tokens: usage.audioInputTokens ?? 0 },
    completion_tokens_details: { reasoning_tokens: usage.reasoningTokens, audio_tokens: usage.audioOutputTokens ?? 0 },
  };
}

/** Which of the caller's tools take text instead of JSON. */
export const customNames = ({ request }: AnswerOptions): ReadonlySet<string> =>
  new Set(request.tools.flatMap((tool) => (tool.kind === "custom" ? [tool.name] : [])));

export function encodeAnswer(answer: ChatAnswer, options: AnswerOptions): JsonObject {
  const custom = customNames(options);
  return {
    id: answer.id ?? `chatcmpl-${options.nextId()}`,
    object: "chat.completion",
    created: options.created,
    model: options.model,
    choices: answer.choices.map((choice) => encodeChoice(choice, custom)),
    ...(answer.usage ? { usage: encodeUsage(answer.usage) } : {}),
  };
}

function encodeChoice({ index, blocks, stop }: ChatChoice, custom: ReadonlySet<string>): JsonObject {
  const said = blocks.flatMap((block) => (block.type === "text" ? [block.text] : [])).join("");
  const thoughts = blocks.flatMap((block) => (block.type === "thinking" ? [block.text] : [])).join("");
  const images = blocks.flatMap((block) => (block.type === "image" ? [{ type: "image_url", image_url: { url: urlOf(block.source) } }] : []));
  const calls = blocks.flatMap((block) => (block.type === "tool_call" ? [encodeCall(block, custom)] : []));
  return {
    index,
    message: {
      role: "assistant",
      content: said === "" && calls.length > 0 ? null : said,
      refusal: null,
      ...(thoughts === "" ? {} : { reasoning_content: thoughts }),
      ...(images.length === 0 ? {} : { images }),
      ...(calls.length === 0 ? {} : { tool_calls: calls }),
    },
    logprobs: null,
    finish_reason: FINISH[stop],
  };
}

const encodeCall = ({ id, name, input }: Extract<AssistantBlock, { type: "tool_call" }>, custom: ReadonlySet<string>): JsonObject =>
  custom.has(name)
    ? { id, type: "custom", custom: { name, input: restoredInput(input) } }
    : { id, type: "function", function: { name, arguments: input === "" ? "{}" : input } };

export function decodeError(body: JsonObject): { readonly message: string; readonly kind: string | null } | null {
  const error = fieldsOf(body.error);
  if (!error) return typeof body.error === "string" ? { message: body.error, kind: null } : null;
  // A relay may put the provider's own error, as text, into the message of its own.
  const message = text(error.message);
  const kind = [error.code, error.type].find((each): each is string => typeof each === "string") ?? null;
  return { message: innerMessage(message) ?? message, kind };
}

function innerMessage(message: string): string | null {
  if (!message.startsWith("{") || message.length > 64 * 1024) return null;
  try {
    const inner = fieldsOf(JSON.parse(message));
    const error = fieldsOf(inner?.error) ?? inner;
    return typeof error?.message === "string" ? error.message : null;
  } catch {
    return null;
  }
}
