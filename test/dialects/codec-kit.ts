/** What the laws of all codecs are checked with. */
import type { Family } from "../../src/core/call.ts";
import type { AnswerOptions, Codec, EncodeOptions } from "../../src/dialects/codec.ts";
import { collectedAnswer } from "../../src/dialects/collected-answer.ts";
import { losses } from "../../src/dialects/losses.ts";
import type { ChatAnswer, ChatEvent, ChatRequest, JsonObject } from "../../src/dialects/message.ts";

export const same = (name: string): string => name;

export const encoding = (family: Family = "openai", more: Partial<EncodeOptions> = {}): EncodeOptions => ({ losses: losses(false), family, ...more });

export const REQUEST: ChatRequest = {
  model: "some-model",
  system: [],
  turns: [{ role: "user", blocks: [{ type: "text", text: "hi" }] }],
  tools: [],
  toolChoice: null,
  parallelToolCalls: null,
  maxOutputTokens: null,
  stop: [],
  temperature: null,
  topP: null,
  topK: null,
  seed: null,
  format: null,
  reasoning: null,
  promptCacheKey: null,
  user: null,
  stream: false,
};

export function answering(more: Partial<AnswerOptions> = {}): AnswerOptions {
  let made = 0;
  return { request: REQUEST, model: "some-model", nextId: () => `made${(made += 1)}`, created: 1_767_225_600, wantsUsage: true, ...more };
}

/** A caller's request, read. */
export const read = (codec: Codec, body: JsonObject, more: { readonly model?: string; readonly stream?: boolean; readonly lossy?: boolean } = {}) => {
  const lost = losses(more.lossy ?? false);
  const request = codec.decodeRequest(body, { model: more.model ?? "some-model", stream: more.stream ?? false }, lost);
  return { request, dropped: lost.dropped };
};

/** An answer as a stream of neutral events, its texts in pieces. */
export function eventsOf(answer: ChatAnswer): readonly ChatEvent[] {
  const events: ChatEvent[] = [{ type: "start", id: answer.id, model: answer.model }];
  let key = 0;
  for (const { index: choice, blocks } of answer.choices) {
    for (const block of blocks) {
      key += 1;
      const pieces = (text: string): ChatEvent[] => (text.match(/.{1,7}/gsu) ?? []).map((piece) => ({ type: "delta", key, text: piece }));
      switch (block.type) {
        case "text":
          events.push({ type: "open", choice, key, block: { type: "text" } }, ...pieces(block.text));
          break;
        case "thinking":
          events.push({ type: "open", choice, key, block: { type: "thinking" } }, ...pieces(block.text));
          if (block.signature) events.push({ type: "signature", key, signature: block.signature });
          break;
        case "redacted_thinking":
          events.push({ type: "open", choice, key, block });
          break;
        case "tool_call": {
          const { input, ...start } = block;
          events.push({ type: "open", choice, key, block: start }, ...pieces(input));
          break;
        }
        default:
          events.push({ type: "open", choice, key, block: { type: "media", block } });
      }
      events.push({ type: "close", key });
    }
  }
  if (answer.usage) events.push({ type: "usage", usage: answer.usage });
  for (const { index: choice, stop: reason, stopSequence } of answer.choices) events.push({ type: "stop", choice, reason, stopSequence });
  events.push({ type: "end" });
  return events;
}

/** What a codec makes of a stream, put together. Cut after every `step` bytes; 0 = in one piece. */
export function collected(codec: Codec, text: string | Buffer, step = 0): ChatAnswer | null {
  const answer = collectedAnswer();
  for (const events of decoded(codec, text, step)) answer.push(events);
  return answer.answer();
}

export function decoded(codec: Codec, text: string | Buffer, step = 0): (readonly ChatEvent[])[] {
  const decoder = codec.decoder({ toolName: same, unwrap: undefined });
  const bytes = Buffer.from(text as string);
  const out: (readonly ChatEvent[])[] = [];
  const width = step || bytes.length || 1;
  for (let from = 0; from < bytes.length; from += width) out.push(decoder.push(bytes.subarray(from, from + width)));
  out.push(decoder.end());
  return out;
}

/** Data lines, as providers stream them. */
export const sse = (...events: readonly unknown[]): string =>
  events.map((event) => `data: ${typeof event === "string" ? event : JSON.stringify(event)}\n\n`).join("");
