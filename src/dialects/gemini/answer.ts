/** Whole answers of generateContent, from and to the neutral form. */
import { totalInputTokens, totalOutputTokens, type Usage } from "../../core/usage.ts";
import type { AnswerOptions } from "../codec.ts";
import { losses } from "../losses.ts";
import { settledStop, type AssistantBlock, type ChatAnswer, type JsonObject, type StopReason } from "../message.ts";
import { fieldsOf, geminiUsage } from "../usage.ts";
import { argsOf, mediumPart } from "./encode-request.ts";
import { member } from "./names.ts";
import { modelPart } from "./parts.ts";

const text = (value: unknown): string => (typeof value === "string" ? value : "");

const STOPS: Readonly<Record<string, StopReason>> = {
  STOP: "stop",
  MAX_TOKENS: "length",
  SAFETY: "content_filter",
  RECITATION: "content_filter",
  BLOCKLIST: "content_filter",
  PROHIBITED_CONTENT: "content_filter",
  SPII: "content_filter",
  LANGUAGE: "content_filter",
  IMAGE_SAFETY: "content_filter",
  IMAGE_PROHIBITED_CONTENT: "content_filter",
};

export const stopOf = (reason: unknown): StopReason =>
  typeof reason === "string" && Object.hasOwn(STOPS, reason) ? (STOPS[reason] as StopReason) : "stop";

export const FINISH: Readonly<Record<StopReason, string>> = {
  stop: "STOP",
  stop_sequence: "STOP",
  length: "MAX_TOKENS",
  tool_calls: "STOP",
  content_filter: "SAFETY",
};

/** The parts of an answer, read into blocks. A part that nobody knows is passed over: the provider has done its work. */
export function answerBlocks(part: JsonObject, toolName: (sent: string) => string): readonly AssistantBlock[] {
  try {
    const call = fieldsOf(member(part, "functionCall"));
    // A call's arguments may be anything on the wire.
    const tame = call ? { ...part, functionCall: { ...call, args: fieldsOf(call.args) ?? {} } } : part;
    return modelPart(tame, "parts", losses(true)).map((block) => (block.type === "tool_call" ? { ...block, name: toolName(block.name) } : block));
  } catch {
    return [];
  }
}

/** Zeros that Google sends ahead of the real figures are none. */
export function usageIn(body: JsonObject): Usage | null {
  const usage = geminiUsage(member(body, "usageMetadata"));
  return usage && totalInputTokens(usage) + totalOutputTokens(usage) > 0 ? usage : null;
}

/** Whether a prompt was refused as a whole: then there is no candidate. */
export const isBlocked = (body: JsonObject): boolean => text(member(fieldsOf(member(body, "promptFeedback")), "blockReason")) !== "";

export function decodeAnswer(body: JsonObject, toolName: (sent: string) => string): ChatAnswer | null {
  const { candidates } = body;
  if (!Array.isArray(candidates) && !isBlocked(body)) return null;
  const choices = (Array.isArray(candidates) ? candidates : []).flatMap((value, i) => {
    const candidate = fieldsOf(value);
    if (!candidate) return [];
    const parts = fieldsOf(candidate.content)?.parts;
    const blocks = joined(
      (Array.isArray(parts) ? parts : []).flatMap((part) => answerBlocks(fieldsOf(part) ?? {}, toolName)),
      i,
    );
    const hasCall = blocks.some(({ type }) => type === "tool_call");
    return [
      {
        index: typeof candidate.index === "number" ? candidate.index : i,
        blocks,
        stop: settledStop(stopOf(member(candidate, "finishReason")), hasCall),
        stopSequence: null,
      },
    ];
  });
  const blocked = { index: 0, blocks: [], stop: "content_filter" as const, stopSequence: null };
  return {
    id: text(member(body, "responseId")) || null,
    model: text(member(body, "modelVersion")) || null,
    usage: usageIn(body),
    choices: choices.length > 0 ? choices : [blocked],
  };
}

/** Parts are cut anywhere: texts that stand side by side are one; calls without an id have one of their own. */
function joined(blocks: readonly AssistantBlock[], choice: number): readonly AssistantBlock[] {
  const all: AssistantBlock[] = [];
  for (const [i, block] of blocks.entries()) {
    const last = all.at(-1);
    if (block.type === "text" && last?.type === "text") all[all.length - 1] = { ...last, text: last.text + block.text };
    else if (block.type === "thinking" && last?.type === "thinking" && last.signature === null)
      all[all.length - 1] = { ...last, text: last.text + block.text, signature: block.signature };
    else all.push(block.type === "tool_call" && block.id === "" ? { ...block, id: `call_${choice}_${i}` } : block);
  }
  return all;
}

export function encodeUsage(usage: Usage): JsonObject {
  const prompt = totalInputTokens(usage);
  const output = totalOutputTokens(usage);
  return {
    promptTokenCount: prompt,
    candidatesTokenCount: output - usage.reasoningTokens,
    totalTokenCount: prompt + output,
    ...(usage.cacheReadTokens > 0 ? { cachedContentTokenCount: usage.cacheReadTokens } : {}),
    ...(usage.reasoningTokens > 0 ? { thoughtsTokenCount: usage.reasoningTokens } : {}),
  };
}

export function encodeAnswer(answer: ChatAnswer, options: AnswerOptions): JsonObject {
  return {
    candidates: answer.choices.map(({ index, blocks, stop }) => ({
      content: { role: "model", parts: blocks.flatMap(encodeBlock) },
      finishReason: FINISH[stop],
      index,
    })),
    ...(answer.usage ? { usageMetadata: encodeUsage(answer.usage) } : {}),
    modelVersion: options.model,
    responseId: answer.id ?? options.nextId(),
  };
}

function encodeBlock(block: AssistantBlock): readonly JsonObject[] {
  switch (block.type) {
    case "text":
      return [{ text: block.text }];
    case "thinking":
      return [{ text: block.text, thought: true, ...signatureOf(block.signature) }];
    case "tool_call":
      return [callPart(block.id, block.name, block.input, block.signature)];
    case "image":
    case "media":
      return [mediumPart(block.source, null)];
    case "redacted_thinking":
      return [];
  }
}

/** That of another family would be a forgery. */
export const signatureOf = (signature: { readonly family: string; readonly value: string } | null | undefined): JsonObject =>
  signature?.family === "gemini" ? { thoughtSignature: signature.value } : {};

export function callPart(id: string, name: string, input: string, signature?: { readonly family: string; readonly value: string }): JsonObject {
  return { functionCall: { id, name, args: argsOf(input) }, ...signatureOf(signature) };
}

export function decodeError(body: JsonObject): { readonly message: string; readonly kind: string | null } | null {
  // Some of Google's services answer errors as a list of one.
  const error = fieldsOf((Array.isArray(body) ? fieldsOf(body[0]) : body)?.error);
  if (!error) return null;
  return { message: text(error.message), kind: typeof error.status === "string" ? error.status : null };
}
