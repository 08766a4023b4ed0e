import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NO_USAGE, TOKEN_CLASSES, totalInputTokens, totalOutputTokens, type Usage } from "../../src/core/usage.ts";
import { anthropicUsage, findUsage, geminiUsage, openaiUsage, usageIn } from "../../src/dialects/usage.ts";

const of = (usage: Partial<Usage>): Usage => ({ ...NO_USAGE, ...usage });

/** With the provider's own object kept beside it. */
const kept = (object: object, expected: Usage): Usage => ({ ...expected, raw: [object as Readonly<Record<string, unknown>>] });

describe("OpenAI's usage", () => {
  test.each<[string, object, Usage]>([
    ["chat", { prompt_tokens: 9, completion_tokens: 12, total_tokens: 21 }, of({ inputTokens: 9, outputTokens: 12 })],
    [
      "chat, cached and reasoned",
      {
        prompt_tokens: 2_006,
        completion_tokens: 300,
        total_tokens: 2_306,
        prompt_tokens_details: { cached_tokens: 1_920, audio_tokens: 0 },
        completion_tokens_details: { reasoning_tokens: 192, audio_tokens: 0, accepted_prediction_tokens: 0, rejected_prediction_tokens: 0 },
      },
      of({ inputTokens: 86, cacheReadTokens: 1_920, outputTokens: 108, reasoningTokens: 192 }),
    ],
    [
      "chat with audio, which is part of the totals",
      {
        prompt_tokens: 100,
        completion_tokens: 50,
        prompt_tokens_details: { audio_tokens: 40, cached_tokens: 0 },
        completion_tokens_details: { audio_tokens: 30 },
      },
      of({ inputTokens: 60, audioInputTokens: 40, outputTokens: 20, audioOutputTokens: 30 }),
    ],
    [
      "realtime, where cached audio is part of both figures",
      {
        total_tokens: 253,
        input_tokens: 132,
        output_tokens: 121,
        input_token_details: { text_tokens: 119, audio_tokens: 13, cached_tokens: 64, cached_tokens_details: { text_tokens: 60, audio_tokens: 4 } },
        output_token_details: { text_tokens: 30, audio_tokens: 91 },
      },
      of({ inputTokens: 59, audioInputTokens: 9, cacheReadTokens: 64, outputTokens: 30, audioOutputTokens: 91 }),
    ],
    [
      "stored in a cache, in the words of one provider",
      { prompt_tokens: 100, completion_tokens: 1, prompt_tokens_details: { cached_tokens: 10, cached_creation_tokens: 30 } },
      of({ inputTokens: 60, cacheReadTokens: 10, cacheWriteTokens: 30, outputTokens: 1 }),
    ],
    [
      "and in those of another",
      { input_tokens: 100, output_tokens: 1, input_tokens_details: { cached_tokens: 10, cache_write_tokens: 30 } },
      of({ inputTokens: 60, cacheReadTokens: 10, cacheWriteTokens: 30, outputTokens: 1 }),
    ],
    [
      "predictions that came true; those that did not are output",
      { prompt_tokens: 1, completion_tokens: 100, completion_tokens_details: { accepted_prediction_tokens: 20, rejected_prediction_tokens: 5 } },
      of({ inputTokens: 1, outputTokens: 80, predictionTokens: 20 }),
    ],
    [
      "responses",
      {
        input_tokens: 36,
        input_tokens_details: { cached_tokens: 6 },
        output_tokens: 87,
        output_tokens_details: { reasoning_tokens: 7 },
        total_tokens: 123,
      },
      of({ inputTokens: 30, cacheReadTokens: 6, outputTokens: 80, reasoningTokens: 7 }),
    ],
    ["embeddings", { prompt_tokens: 8, total_tokens: 8 }, of({ inputTokens: 8 })],
    [
      "details that are null",
      { prompt_tokens: 1, completion_tokens: 2, prompt_tokens_details: null, completion_tokens_details: null },
      of({ inputTokens: 1, outputTokens: 2 }),
    ],
    ["nothing used", { prompt_tokens: 0, completion_tokens: 0 }, NO_USAGE],
    ["output without input", { prompt_tokens: 0, completion_tokens: 75 }, of({ outputTokens: 75 })],
    [
      "a part above its total",
      { prompt_tokens: 5, completion_tokens: 2, prompt_tokens_details: { cached_tokens: 9 }, completion_tokens_details: { reasoning_tokens: 9 } },
      of({ cacheReadTokens: 5, reasoningTokens: 2 }),
    ],
    [
      "parts that are together above their total: the dearest come first",
      {
        prompt_tokens: 100,
        completion_tokens: 50,
        prompt_tokens_details: { audio_tokens: 60, cached_tokens: 80 },
        completion_tokens_details: { audio_tokens: 30, reasoning_tokens: 40 },
      },
      of({ audioInputTokens: 60, cacheReadTokens: 40, audioOutputTokens: 30, reasoningTokens: 20 }),
    ],
    [
      "reasoning that only the total counts",
      { prompt_tokens: 10, completion_tokens: 20, total_tokens: 60, completion_tokens_details: { reasoning_tokens: 30 } },
      of({ inputTokens: 10, outputTokens: 20, reasoningTokens: 30 }),
    ],
    [
      "a total with more than anybody explains: it is output",
      { prompt_tokens: 10, completion_tokens: 20, total_tokens: 35 },
      of({ inputTokens: 10, outputTokens: 25 }),
    ],
    ["a total below its parts", { prompt_tokens: 10, completion_tokens: 20, total_tokens: 25 }, of({ inputTokens: 10, outputTokens: 20 })],
    ["a total that cannot be", { prompt_tokens: 10, completion_tokens: 20, total_tokens: -1 }, of({ inputTokens: 10, outputTokens: 20 })],
    ["a cost of its own", { prompt_tokens: 5, completion_tokens: 2, cost: 0.00014 }, of({ inputTokens: 5, outputTokens: 2, reportedUsd: 0.00014 })],
    ["a cost that is an object", { prompt_tokens: 5, completion_tokens: 2, cost: { total_cost: 1 } }, of({ inputTokens: 5, outputTokens: 2 })],
    ["a negative cost", { prompt_tokens: 5, completion_tokens: 2, cost: -1 }, of({ inputTokens: 5, outputTokens: 2 })],
  ])("%s", (_name, usage, expected) => {
    expect(openaiUsage(usage)).toEqual(kept(usage, expected));
  });

  test.each<[string, unknown]>([
    ["none", undefined],
    ["null", null],
    ["a list", [1]],
    ["text", "9"],
    ["an empty object", {}],
    ["only a total", { total_tokens: 100 }],
    ["input null", { prompt_tokens: null, completion_tokens: 3 }],
    ["input null in the shape of responses", { input_tokens: null, output_tokens: null }],
    ["a negative count", { prompt_tokens: -1, completion_tokens: 3 }],
    ["NaN", { prompt_tokens: NaN, completion_tokens: 3 }],
    ["an infinite count", { prompt_tokens: 1, completion_tokens: Infinity }],
    ["a fraction", { prompt_tokens: 1.5, completion_tokens: 3 }],
    ["1e18", { prompt_tokens: 1e18, completion_tokens: 3 }],
    ["a count as text", { prompt_tokens: "9", completion_tokens: 3 }],
    ["output as text", { prompt_tokens: 9, completion_tokens: "3" }],
    ["a count that is true", { prompt_tokens: true, completion_tokens: 3 }],
    ["a negative detail", { prompt_tokens: 9, completion_tokens: 3, prompt_tokens_details: { cached_tokens: -1 } }],
    ["a reasoning count of 1e18", { prompt_tokens: 9, completion_tokens: 3, completion_tokens_details: { reasoning_tokens: 1e18 } }],
  ])("%s is no usage, never zero", (_name, usage) => {
    expect(openaiUsage(usage)).toBeNull();
  });
});

describe("Anthropic's usage", () => {
  test.each<[string, object, Usage]>([
    ["a message", { input_tokens: 10, output_tokens: 5 }, of({ inputTokens: 10, outputTokens: 5 })],
    [
      "a message with a cache, whose classes are disjoint already",
      { input_tokens: 21, cache_creation_input_tokens: 188_086, cache_read_input_tokens: 4, output_tokens: 393, service_tier: "standard" },
      of({ inputTokens: 21, cacheWriteTokens: 188_086, cacheReadTokens: 4, outputTokens: 393 }),
    ],
    [
      "classes that are null",
      { input_tokens: 1, cache_creation_input_tokens: null, cache_read_input_tokens: null, output_tokens: 2 },
      of({ inputTokens: 1, outputTokens: 2 }),
    ],
    [
      "caches for minutes and for an hour, and thoughts inside the output",
      {
        input_tokens: 21,
        cache_creation_input_tokens: 556,
        cache_creation: { ephemeral_5m_input_tokens: 456, ephemeral_1h_input_tokens: 100 },
        cache_read_input_tokens: 7,
        output_tokens: 393,
        output_tokens_details: { thinking_tokens: 93 },
      },
      of({ inputTokens: 21, cacheWriteTokens: 456, cacheWriteLongTokens: 100, cacheReadTokens: 7, outputTokens: 300, reasoningTokens: 93 }),
    ],
    [
      "caches whose total is not said",
      { input_tokens: 1, cache_creation: { ephemeral_5m_input_tokens: 4, ephemeral_1h_input_tokens: 5 }, output_tokens: 2 },
      of({ inputTokens: 1, cacheWriteTokens: 4, cacheWriteLongTokens: 5, outputTokens: 2 }),
    ],
    [
      "an hour that is more than all that was stored: the total stands, at the dearer price",
      { input_tokens: 1, cache_creation_input_tokens: 4, cache_creation: { ephemeral_1h_input_tokens: 9 }, output_tokens: 2 },
      of({ inputTokens: 1, cacheWriteLongTokens: 4, outputTokens: 2 }),
    ],
    ["an end of which only the output is known", { output_tokens: 15 }, of({ outputTokens: 15 })],
  ])("%s", (_name, usage, expected) => {
    expect(anthropicUsage(usage)).toEqual(kept(usage, expected));
  });

  test.each<[string, unknown]>([
    ["none", undefined],
    ["an empty object", {}],
    ["all null", { input_tokens: null, output_tokens: null }],
    ["negative", { input_tokens: -5, output_tokens: 1 }],
    ["text", { input_tokens: 5, output_tokens: "1" }],
    ["1e18", { input_tokens: 5, output_tokens: 1, cache_read_input_tokens: 1e18 }],
  ])("%s is no usage, never zero", (_name, usage) => {
    expect(anthropicUsage(usage)).toBeNull();
  });
});

describe("Gemini's usage", () => {
  test.each<[string, object, Usage]>([
    ["plain", { promptTokenCount: 4, candidatesTokenCount: 6, totalTokenCount: 10 }, of({ inputTokens: 4, outputTokens: 6 })],
    [
      "thoughts beside, cache inside, tools beside",
      {
        promptTokenCount: 100,
        cachedContentTokenCount: 60,
        toolUsePromptTokenCount: 7,
        candidatesTokenCount: 20,
        thoughtsTokenCount: 30,
        totalTokenCount: 157,
      },
      of({ inputTokens: 47, cacheReadTokens: 60, outputTokens: 20, reasoningTokens: 30 }),
    ],
    [
      "modalities, of the prompt, its cached part, tools and candidates",
      {
        promptTokenCount: 1_000,
        promptTokensDetails: [
          { modality: "TEXT", tokenCount: 100 },
          { modality: "AUDIO", tokenCount: 300 },
          { modality: "IMAGE", tokenCount: 258 },
          { modality: "VIDEO", tokenCount: 342 },
        ],
        cachedContentTokenCount: 110,
        cacheTokensDetails: [
          { modality: "TEXT", tokenCount: 10 },
          { modality: "AUDIO", tokenCount: 100 },
        ],
        toolUsePromptTokenCount: 50,
        toolUsePromptTokensDetails: [{ modality: "IMAGE", tokenCount: 42 }],
        candidatesTokenCount: 1_300,
        candidatesTokensDetails: [
          { modality: "TEXT", tokenCount: 10 },
          { modality: "IMAGE", tokenCount: 1_290 },
        ],
        totalTokenCount: 2_350,
      },
      of({
        inputTokens: 440,
        cacheReadTokens: 110,
        audioInputTokens: 200,
        imageInputTokens: 300,
        outputTokens: 10,
        imageOutputTokens: 1_290,
      }),
    ],
    [
      "cached content of which nobody says what it is: nothing is taken from the dearer audio",
      { promptTokenCount: 100, promptTokensDetails: [{ modality: "AUDIO", tokenCount: 60 }], cachedContentTokenCount: 80, candidatesTokenCount: 1 },
      of({ audioInputTokens: 60, cacheReadTokens: 40, outputTokens: 1 }),
    ],
    ["a total with more than anybody explains: it is output", { promptTokenCount: 4, totalTokenCount: 10 }, of({ inputTokens: 4, outputTokens: 6 })],
    ["a chunk before any candidate", { promptTokenCount: 4, totalTokenCount: 4 }, of({ inputTokens: 4 })],
  ])("%s", (_name, usage, expected) => {
    expect(geminiUsage(usage)).toEqual(kept(usage, expected));
  });

  test.each<[string, unknown]>([
    ["none", null],
    ["no prompt", { candidatesTokenCount: 5 }],
    ["the placeholder of an early chunk", { promptTokenCount: 0, candidatesTokenCount: 0, totalTokenCount: 0 }],
    ["a modality that cannot be", { promptTokenCount: 9, promptTokensDetails: [{ modality: "AUDIO", tokenCount: -1 }] }],
    ["negative", { promptTokenCount: -1 }],
    ["1e18", { promptTokenCount: 1, thoughtsTokenCount: 1e18 }],
    ["text", { promptTokenCount: "1" }],
    ["a prompt that is null", { promptTokenCount: null, candidatesTokenCount: null }],
  ])("%s is no usage, never zero", (_name, usage) => {
    expect(geminiUsage(usage)).toBeNull();
  });
});

describe("the AI SDK's usage", () => {
  test.each<[string, object, Usage]>([
    [
      "with its details",
      {
        inputTokens: 100,
        inputTokenDetails: { noCacheTokens: 60, cacheReadTokens: 30, cacheWriteTokens: 10 },
        outputTokens: 50,
        outputTokenDetails: { textTokens: 30, reasoningTokens: 20 },
        totalTokens: 150,
      },
      of({ inputTokens: 60, cacheReadTokens: 30, cacheWriteTokens: 10, outputTokens: 30, reasoningTokens: 20 }),
    ],
    [
      "of its older versions",
      { inputTokens: 100, outputTokens: 50, totalTokens: 150, reasoningTokens: 20, cachedInputTokens: 30 },
      of({ inputTokens: 70, cacheReadTokens: 30, outputTokens: 30, reasoningTokens: 20 }),
    ],
  ])("has parts inside its totals: %s", (_name, object, expected) => {
    expect(usageIn(object)).toEqual(kept(object, expected));
    expect(usageIn({ text: "hi", usage: object, response: { id: "r", modelId: "gpt-4o" } })).toEqual(kept(object, expected));
  });
});

describe("the provider's own object", () => {
  const figures = { prompt_tokens: 9, completion_tokens: 12 };
  test("is kept as it is, not as a copy", () => {
    expect(usageIn({ id: "chatcmpl-1", usage: figures })?.raw?.[0]).toBe(figures);
  });

  let nested: object = {};
  for (let i = 0; i < 9; i += 1) nested = { nested };
  test.each<[string, object]>([
    ["a long text", { note: "x".repeat(2_048) }],
    ["many texts", { notes: Array.from({ length: 300 }, (_, i) => `${i} and more`) }],
    ["many fields", Object.fromEntries(Array.from({ length: 300 }, (_, i) => [`field_${i}`, i]))],
    ["depth", nested],
    ["what JSON cannot write", { big: 1n }],
    ["what writes itself", { when: new Date(0) }],
  ])("is left out when it is too large to keep: %s", (_name, more) => {
    expect(usageIn({ usage: { ...figures, ...more } })).toEqual(of({ inputTokens: 9, outputTokens: 12 }));
  });
});

const plain = fc.nat(3_000);
const odd = fc.oneof(plain, plain, fc.constant(undefined), fc.constant(null));
const modalities = fc.option(
  fc.array(fc.record({ modality: fc.constantFrom("TEXT", "AUDIO", "IMAGE", "VIDEO"), tokenCount: plain }), { maxLength: 4 }),
  { nil: undefined },
);
const total = ({ prompt_tokens = 0, completion_tokens = 0, total_tokens }: Readonly<Record<string, number>>): number =>
  Math.max(prompt_tokens + completion_tokens, total_tokens ?? 0);

describe("whatever the parts say, the classes sum up to the total", () => {
  const sum = (used: Usage): number => totalInputTokens(used) + totalOutputTokens(used);
  const isWhole = (used: Usage): boolean => TOKEN_CLASSES.every((name) => Number.isInteger(used[name] ?? 0) && (used[name] ?? 0) >= 0);

  test("of OpenAI", () => {
    const object = fc.record({
      prompt_tokens: plain,
      completion_tokens: plain,
      total_tokens: fc.option(plain, { nil: undefined }),
      prompt_tokens_details: fc.record({ cached_tokens: odd, cached_creation_tokens: odd, audio_tokens: odd, image_tokens: odd }),
      completion_tokens_details: fc.record({ reasoning_tokens: odd, audio_tokens: odd, image_tokens: odd, accepted_prediction_tokens: odd }),
    });
    fc.assert(
      fc.property(object, (each) => {
        const used = openaiUsage(each) as Usage;
        expect(isWhole(used)).toBe(true);
        expect(sum(used)).toBe(total(each as never));
      }),
    );
  });

  test("of Anthropic", () => {
    const object = fc.record({
      input_tokens: plain,
      output_tokens: plain,
      cache_read_input_tokens: odd,
      cache_creation_input_tokens: plain,
      cache_creation: fc.option(fc.record({ ephemeral_5m_input_tokens: odd, ephemeral_1h_input_tokens: odd })),
    });
    fc.assert(
      fc.property(object, (each) => {
        const used = anthropicUsage(each) as Usage;
        expect(isWhole(used)).toBe(true);
        expect(sum(used)).toBe(each.input_tokens + each.output_tokens + (each.cache_read_input_tokens ?? 0) + each.cache_creation_input_tokens);
      }),
    );
  });

  test("of Gemini", () => {
    const object = fc.record({
      promptTokenCount: fc.integer({ min: 1, max: 3_000 }),
      toolUsePromptTokenCount: odd,
      candidatesTokenCount: odd,
      thoughtsTokenCount: odd,
      cachedContentTokenCount: odd,
      promptTokensDetails: modalities,
      cacheTokensDetails: modalities,
      toolUsePromptTokensDetails: modalities,
      candidatesTokensDetails: modalities,
    });
    fc.assert(
      fc.property(object, (each) => {
        const used = geminiUsage(each) as Usage;
        expect(isWhole(used)).toBe(true);
        expect(sum(used)).toBe(
          each.promptTokenCount + (each.toolUsePromptTokenCount ?? 0) + (each.candidatesTokenCount ?? 0) + (each.thoughtsTokenCount ?? 0),
        );
      }),
    );
  });
});

describe("usage in whatever a host hands over", () => {
  const openai = { prompt_tokens: 9, completion_tokens: 12 };
  test.each<[string, object, object]>([
    [
      "a chat completion",
      { id: "chatcmpl-1", object: "chat.completion", model: "gpt-4o", usage: openai },
      { id: "chatcmpl-1", model: "gpt-4o", usage: of({ inputTokens: 9, outputTokens: 12 }), outputOnly: false },
    ],
    [
      "a chat chunk",
      { id: "chatcmpl-1", object: "chat.completion.chunk", model: "gpt-4o", choices: [], usage: openai },
      { id: "chatcmpl-1", outputOnly: false },
    ],
    [
      "a response",
      { id: "resp_1", object: "response", model: "gpt-5", usage: { input_tokens: 3, output_tokens: 4 } },
      { id: "resp_1", usage: of({ inputTokens: 3, outputTokens: 4 }) },
    ],
    [
      "a response's last event",
      { type: "response.completed", response: { id: "resp_1", model: "gpt-5", usage: { input_tokens: 3, output_tokens: 4 } } },
      { id: "resp_1", model: "gpt-5" },
    ],
    [
      "an Anthropic message",
      { id: "msg_1", type: "message", model: "claude", usage: { input_tokens: 3, cache_read_input_tokens: 8, output_tokens: 4 } },
      { id: "msg_1", usage: of({ inputTokens: 3, cacheReadTokens: 8, outputTokens: 4 }) },
    ],
    [
      "message_start",
      { type: "message_start", message: { id: "msg_1", type: "message", model: "claude", usage: { input_tokens: 25, output_tokens: 1 } } },
      { id: "msg_1", model: "claude", usage: of({ inputTokens: 25, outputTokens: 1 }), outputOnly: false },
    ],
    [
      "message_delta",
      { type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 15 } },
      { id: null, model: null, usage: of({ outputTokens: 15 }), outputOnly: true },
    ],
    [
      "a Gemini response",
      { responseId: "r1", modelVersion: "gemini-2.5-pro", candidates: [], usageMetadata: { promptTokenCount: 4, candidatesTokenCount: 6 } },
      { id: "r1", model: "gemini-2.5-pro", usage: of({ inputTokens: 4, outputTokens: 6 }) },
    ],
    [
      "a Gemini response inside its assistant's envelope",
      { response: { responseId: "r1", usageMetadata: { promptTokenCount: 4, candidatesTokenCount: 6 } }, traceId: "t" },
      { id: "r1", usage: of({ inputTokens: 4, outputTokens: 6 }), isBare: false },
    ],
    ["a usage object of OpenAI's", openai, { id: null, usage: of({ inputTokens: 9, outputTokens: 12 }), isBare: true }],
    ["one of embeddings", { prompt_tokens: 8, total_tokens: 8 }, { usage: of({ inputTokens: 8 }), isBare: true }],
    [
      "one of Anthropic's",
      { input_tokens: 3, cache_read_input_tokens: 8, output_tokens: 4 },
      { usage: of({ inputTokens: 3, cacheReadTokens: 8, outputTokens: 4 }), isBare: true },
    ],
    [
      "one of responses, where what was cached is part of the input",
      { input_tokens: 11, input_tokens_details: { cached_tokens: 8 }, output_tokens: 4, total_tokens: 15 },
      { usage: of({ inputTokens: 3, cacheReadTokens: 8, outputTokens: 4 }), isBare: true },
    ],
    ["one of Gemini's", { promptTokenCount: 4, candidatesTokenCount: 6 }, { usage: of({ inputTokens: 4, outputTokens: 6 }), isBare: true }],
  ])("%s", (_name, body, expected) => {
    expect(findUsage(body)).toMatchObject(expected);
    expect(usageIn(body)).toEqual(findUsage(body)?.usage);
  });

  test.each<[string, unknown]>([
    ["a chunk without usage", { id: "chatcmpl-1", choices: [{ delta: { content: "hi" } }], usage: null }],
    ["an Anthropic delta of text", { type: "content_block_delta", delta: { text: "hi" } }],
    ["message_stop", { type: "message_stop" }],
    ["a usage nobody can have", { id: "x", usage: { prompt_tokens: -4 } }],
    ["text", "hello"],
    ["null", null],
    ["a list", [{ usage: openai }]],
    ["a transcription that is billed by its length", { text: "hi", usage: { type: "duration", seconds: 9 } }],
    ["Anthropic's answer to a question for a count", { input_tokens: 2_095 }],
    ["Gemini's", { totalTokens: 31, promptTokensDetails: [{ modality: "TEXT", tokenCount: 31 }] }],
  ])("%s has none", (_name, body) => {
    expect(findUsage(body)).toBeNull();
    expect(usageIn(body)).toBeNull();
  });
});
