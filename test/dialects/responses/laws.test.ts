import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { anthropicCodec } from "../../../src/dialects/anthropic/index.ts";
import type { Codec } from "../../../src/dialects/codec.ts";
import { geminiCodec } from "../../../src/dialects/gemini/index.ts";
import type { ChatAnswer, ChatRequest } from "../../../src/dialects/message.ts";
import { openaiCodec } from "../../../src/dialects/openai/codec.ts";
import { responsesCodec as codec } from "../../../src/dialects/responses/index.ts";
import { answering, collected, decoded, encoding, eventsOf, read, same, sse } from "../codec-kit.ts";
import { answers, requests, thinkingBlock, turns } from "../generators.ts";
import { toClient, toldIn } from "./stream-kit.ts";

/** Ids are made up anew each time. */
const withoutIds = (value: unknown): unknown => JSON.parse(JSON.stringify(value, (key, each: unknown) => (key === "id" ? undefined : each)));

describe("laws", () => {
  const family = thinkingBlock("openai");
  /** What the dialect has no place for, or says in its own way. */
  const own = (request: ChatRequest): ChatRequest => ({
    ...request,
    stop: [],
    tools: request.tools.map((tool) => (tool.kind === "function" ? { ...tool, strict: false } : tool)),
  });

  test("a request that is written and read again is the same: texts, calls, signatures", () => {
    fc.assert(
      fc.property(requests({ turns: turns([family]) }), (given) => {
        const request = own(given);
        const { body } = codec.encodeRequest(request, encoding());
        const again = read(codec, body, { stream: request.stream });
        expect(again.request).toEqual(request);
        expect(again.dropped).toEqual([]);
      }),
      { numRuns: 1_000 },
    );
  });

  test("an answer that is written and read again is the same, whole and as a stream: stream-and-non-stream-parity", () => {
    fc.assert(
      fc.property(answers([family]), (answer) => {
        const told = codec.encodeAnswer(answer, answering());
        const text = codec.encoder(answering()).push(eventsOf(answer));
        for (const one of [codec.decodeAnswer(told, same), collected(codec, text)]) {
          expect(one?.choices).toEqual(answer.choices);
          expect(one?.usage).toMatchObject(answer.usage as object);
          expect(one?.id).toBe(answer.id);
        }
        expect(withoutIds(toldIn(text).at(-1)?.response)).toEqual(withoutIds(told));
      }),
      { numRuns: 1_000 },
    );
  });

  test("a stream that is cut anywhere gives the same: SSE frame split across network chunks, UTF-8 split across chunks", () => {
    const [sample] = fc.sample(answers([family]), { numRuns: 1, seed: 7 }) as [ChatAnswer];
    const blocks = [{ type: "text" as const, text: "ä€\u{1F600}\r\n" }, ...(sample.choices[0]?.blocks ?? [])];
    const text = codec.encoder(answering()).push(eventsOf({ ...sample, choices: [{ index: 0, blocks, stop: "stop", stopSequence: null }] }));
    const whole = collected(codec, text);
    expect(whole?.choices[0]?.blocks[0]).toEqual(blocks[0]);
    const bytes = Buffer.from(text);
    const encoded = (pieces: readonly Buffer[]): string => {
      const decoder = codec.decoder({ toolName: same, unwrap: undefined });
      const encoder = openaiCodec.encoder(answering());
      return [...pieces.map((piece) => encoder.push(decoder.push(piece))), encoder.push(decoder.end())].join("");
    };
    const expected = encoded([bytes]);
    for (let at = 0; at <= bytes.length; at += 1) expect(encoded([bytes.subarray(0, at), bytes.subarray(at)])).toBe(expected);
    for (const step of [1, 2, 3, 5, 7, 64]) expect(collected(codec, text, step)).toEqual(whole);
  });

  test.each<[string, Codec]>([
    ["openai", openaiCodec],
    ["anthropic", anthropicCodec],
    ["gemini", geminiCodec],
  ])("what goes to a client of %s and comes from there keeps texts, tools and usage", (_name, other) => {
    fc.assert(
      fc.property(answers(), (answer) => {
        const there = toClient(other, codec.encoder(answering()).push(eventsOf(answer)));
        const back = codec.encoder(answering()).push(decoded(other, there).flat());
        const told = collected(codec, back);
        expect(told?.choices[0]?.blocks).toEqual(answer.choices[0]?.blocks);
        expect(told?.choices[0]?.stop).toBe(answer.choices[0]?.stop);
        const { usage } = answer;
        expect(codec.encodeUsage(told?.usage ?? NO_USAGE)).toMatchObject({
          input_tokens: (usage?.inputTokens ?? 0) + (usage?.cacheReadTokens ?? 0),
          input_tokens_details: { cached_tokens: usage?.cacheReadTokens },
          output_tokens: (usage?.outputTokens ?? 0) + (usage?.reasoningTokens ?? 0),
        });
        const ends = toldIn(back).filter(({ type }) => /completed|incomplete|failed|error/.test(type));
        expect(ends).toHaveLength(1);
      }),
      { numRuns: 1_000 },
    );
  });

  test("usage-merges-message_start-and-delta: what Claude tells in two events is told whole", () => {
    const claude = [
      { type: "message_start", message: { id: "m", usage: { input_tokens: 60, cache_read_input_tokens: 40, output_tokens: 1 } } },
      { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 7 } },
      { type: "message_stop" },
    ];
    const text = codec.encoder(answering()).push(decoded(anthropicCodec, sse(...claude)).flat());
    expect(toldIn(text).at(-1)?.response?.usage).toMatchObject({ input_tokens: 100, input_tokens_details: { cached_tokens: 40 }, output_tokens: 7 });
  });
});
