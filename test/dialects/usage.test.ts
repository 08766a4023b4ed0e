import { describe, expect, test } from "vitest";
import { NO_USAGE, type Usage } from "../../src/core/usage.ts";
import { anthropicUsage, findUsage, geminiUsage, openaiUsage } from "../../src/dialects/usage.ts";

const of = (usage: Partial<Usage>): Usage => ({ ...NO_USAGE, ...usage });

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
      of({ inputTokens: 100, outputTokens: 50 }),
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
    ["a cost of its own", { prompt_tokens: 5, completion_tokens: 2, cost: 0.00014 }, of({ inputTokens: 5, outputTokens: 2, reportedUsd: 0.00014 })],
    ["a cost that is an object", { prompt_tokens: 5, completion_tokens: 2, cost: { total_cost: 1 } }, of({ inputTokens: 5, outputTokens: 2 })],
    ["a negative cost", { prompt_tokens: 5, completion_tokens: 2, cost: -1 }, of({ inputTokens: 5, outputTokens: 2 })],
  ])("%s", (_name, usage, expected) => {
    expect(openaiUsage(usage)).toEqual(expected);
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
    ["an end of which only the output is known", { output_tokens: 15 }, of({ outputTokens: 15 })],
  ])("%s", (_name, usage, expected) => {
    expect(anthropicUsage(usage)).toEqual(expected);
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
    ["a chunk before any candidate", { promptTokenCount: 4, totalTokenCount: 4 }, of({ inputTokens: 4 })],
  ])("%s", (_name, usage, expected) => {
    expect(geminiUsage(usage)).toEqual(expected);
  });

  test.each<[string, unknown]>([
    ["none", null],
    ["no prompt", { candidatesTokenCount: 5 }],
    ["negative", { promptTokenCount: -1 }],
    ["1e18", { promptTokenCount: 1, thoughtsTokenCount: 1e18 }],
    ["text", { promptTokenCount: "1" }],
    ["a prompt that is null", { promptTokenCount: null, candidatesTokenCount: null }],
  ])("%s is no usage, never zero", (_name, usage) => {
    expect(geminiUsage(usage)).toBeNull();
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
  ])("%s", (_name, body, expected) => {
    expect(findUsage(body)).toMatchObject(expected);
  });

  test.each<[string, unknown]>([
    ["a chunk without usage", { id: "chatcmpl-1", choices: [{ delta: { content: "hi" } }], usage: null }],
    ["an Anthropic delta of text", { type: "content_block_delta", delta: { text: "hi" } }],
    ["message_stop", { type: "message_stop" }],
    ["a usage nobody can have", { id: "x", usage: { prompt_tokens: -4 } }],
    ["text", "hello"],
    ["null", null],
    ["a list", [{ usage: openai }]],
  ])("%s has none", (_name, body) => {
    expect(findUsage(body)).toBeNull();
  });
});
