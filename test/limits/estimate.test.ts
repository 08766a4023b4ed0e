import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Call, Operation } from "../../src/core/call.ts";
import { readRequest } from "../../src/dialects/openai/request.ts";
import { amountsOf, estimator } from "../../src/limits/estimate.ts";
import { exactTokenizer, fastTokenizer } from "../../src/limits/tokenizer.ts";

/** One token a character, so that every figure can be added up by hand. */
const byLength = (text: string): number => text.length;
const estimate = estimator({ tokenizer: byLength, defaultMaxOutputTokens: 4096 });

function callOf(operation: Operation, body: Record<string, unknown>): Call {
  const whole = { model: "gpt-4o", ...body };
  return readRequest({ operation, model: null, stream: null }, Buffer.from(JSON.stringify(whole)), whole);
}
const chat = (body: Record<string, unknown>): Call => callOf("chat", body);
const user = (content: unknown): Record<string, unknown> => ({ role: "user", content });

describe("the expected estimate of a chat", () => {
  test("is 4 + the sum of (4 + tokens) + 3 + max_tokens", () => {
    const known = estimate(chat({ messages: [{ role: "system", content: "12345" }, user("1234567890")], max_tokens: 50 }), null);
    expect(amountsOf(known, "expected")).toEqual({ input_tokens: 4 + (4 + 5) + (4 + 10) + 3, output_tokens: 50, tokens: 30 + 50 });
  });

  test("takes 150 output tokens when the client says nothing", () => {
    expect(amountsOf(estimate(chat({ messages: [user("hi")] }), null), "expected").tokens).toBe(4 + (4 + 2) + 3 + 150);
    expect(estimate(chat({ messages: [] }), null).inputTokens).toBe(7);
  });

  test("grows one to one with max_tokens and with the choices", () => {
    const tokens = (body: object): number => amountsOf(estimate(chat({ messages: [user("hi")], ...body }), null), "expected").tokens;
    expect(tokens({ max_tokens: 1001 }) - tokens({ max_tokens: 1000 })).toBe(1);
    expect(tokens({ max_tokens: 200, n: 3 }) - tokens({ max_tokens: 200 })).toBe(400);
    expect(tokens({ max_completion_tokens: 300, max_tokens: 200 })).toBe(tokens({ max_tokens: 300 }));
  });

  test("adds names, refusals and the calls and results of tools", () => {
    const plain = estimate(chat({ messages: [user("hello")] }), null).inputTokens;
    const more = (message: object): number => estimate(chat({ messages: [{ ...user("hello"), ...message }] }), null).inputTokens - plain;
    expect(more({ name: "bob" })).toBe(3);
    expect(more({ refusal: null })).toBe(0);
    expect(more({ refusal: "no, sorry" })).toBe(9);
    expect(more({ tool_call_id: "call_123" })).toBe(0);
    const call = { id: "call_1", type: "function", function: { name: "weather", arguments: '{"city":"Paris"}' } };
    expect(more({ content: null, tool_calls: [call] })).toBeGreaterThan("weather".length + call.function.arguments.length - "hello".length);
  });

  test("counts tool definitions, schemas and predictions at no less than their own JSON", async () => {
    const exact = await exactTokenizer();
    const parameters = {
      type: "object",
      properties: {
        city: { type: "string", description: "The city to look up" },
        unit: { type: "string", enum: ["c", "f"] },
        days: { type: "integer", minimum: 1, maximum: 14 },
      },
      required: ["city"],
      additionalProperties: false,
    };
    const tools = [{ type: "function", function: { name: "get_weather", description: "Returns the weather forecast for a city", parameters } }];
    for (const tokenizer of [exact, fastTokenizer]) {
      const counted = estimator({ tokenizer, defaultMaxOutputTokens: 100 });
      const input = (body: object): number => counted(chat({ messages: [], ...body }), null).inputTokens - 7;
      expect(input({ tools })).toBeGreaterThanOrEqual(exact(JSON.stringify(tools)) * 0.95);
      expect(input({ tools })).toBeLessThan(exact(JSON.stringify(tools)) * 1.5);
      expect(input({ functions: tools })).toBe(input({ tools }));
      expect(input({ response_format: { type: "json_schema", json_schema: parameters } })).toBeGreaterThan(exact(JSON.stringify(parameters)) * 0.95);
      expect(input({ prediction: { type: "content", content: "const a = 1;" } })).toBeGreaterThanOrEqual(5);
    }
  });

  test("reads content in parts; images, audio and files never as text", () => {
    const input = (...parts: unknown[]): number => estimate(chat({ messages: [user(parts)] }), null).inputTokens - 11;
    const image = { type: "image_url", image_url: { url: `data:image/png;base64,${"A".repeat(100_000)}`, detail: "low" } };
    expect(input({ type: "text", text: "hello" }, { type: "text", text: "you" })).toBe(8);
    expect(input(image)).toBe(1000);
    expect(input(image, { type: "text", text: "what?" }, image)).toBe(2005);
    expect(input({ type: "input_audio", input_audio: { data: "A".repeat(4000), format: "mp3" } })).toBe(101);
    expect(input({ type: "file", file: { file_data: "A".repeat(4000) } })).toBe(2000);
    expect(input({ type: "file", file: { file_id: "file-1" } })).toBe(1000);
    // What is not known is counted as it stands, so that no invented type hides a text.
    expect(input({ type: "invented", text: "x".repeat(500) })).toBeGreaterThan(500);
    expect(input("just a text")).toBe(11);
  });
});

describe("the ceiling", () => {
  const ceiling = (body: object, ofModel: number | null = null): number =>
    estimate(chat({ messages: [user("hi")], ...body }), ofModel).ceilingOutputTokens;

  test("takes the client's cap, else the model's maximum, else the default, for each choice", () => {
    expect(ceiling({ max_tokens: 10 }, 16_384)).toBe(10);
    expect(ceiling({}, 16_384)).toBe(16_384);
    expect(ceiling({})).toBe(4096);
    expect(ceiling({ max_tokens: 10, n: 4 })).toBe(40);
    expect(ceiling({ n: 4 }, 1000)).toBe(4000);
  });

  test("says when it holds only with the default sent upstream as the cap", () => {
    const capped = (body: object, ofModel: number | null): boolean => estimate(chat({ messages: [], ...body }), ofModel).cappedByDefault;
    expect(capped({}, null)).toBe(true);
    expect(capped({}, 100)).toBe(false);
    expect(capped({ max_tokens: 5 }, null)).toBe(false);
  });

  test("adds a frame, the margin of the fast tokenizer and the preamble for tools", () => {
    const text = "x".repeat(400);
    const exact = estimate(chat({ messages: [user(text)] }), null);
    expect(exact.ceilingInputTokens).toBe(exact.inputTokens + 8);
    const fast = estimator({ tokenizer: fastTokenizer, defaultMaxOutputTokens: 1 })(chat({ messages: [user(text)] }), null);
    expect(fast.ceilingInputTokens).toBe(Math.ceil(fast.inputTokens * 1.25) + 8);
    const half = estimator({ tokenizer: byLength, defaultMaxOutputTokens: 1, inputMarginPct: 50 })(chat({ messages: [user(text)] }), null);
    expect(half.ceilingInputTokens).toBe(Math.ceil(411 * 1.5) + 8);
    const tools = estimate(chat({ messages: [user(text)], tools: [{ type: "function", function: { name: "f" } }] }), null);
    expect(tools.ceilingInputTokens).toBe(tools.inputTokens + 8 + 350);
  });

  test("takes the flat figure for each image, which the operator may raise", () => {
    const image = user([{ type: "image_url", image_url: { url: "https://example.com/a.png" } }]);
    expect(estimate(chat({ messages: [image, image] }), null).ceilingInputTokens).toBe(7 + 8 + 8 + 2 * 5000);
    const dear = estimator({ tokenizer: byLength, defaultMaxOutputTokens: 1, imageTokens: 48_169 });
    expect(dear(chat({ messages: [image] }), null)).toMatchObject({ inputTokens: 11 + 1000, ceilingInputTokens: 11 + 8 + 48_169 });
    const cheap = estimator({ tokenizer: byLength, defaultMaxOutputTokens: 1, imageTokens: 85 });
    expect(cheap(chat({ messages: [image] }), null)).toMatchObject({ inputTokens: 11 + 85, ceilingInputTokens: 11 + 8 + 85 });
  });

  test("of the fast tokenizer covers the real count of ordinary requests", async () => {
    const exact = await exactTokenizer();
    const fast = estimator({ tokenizer: fastTokenizer, defaultMaxOutputTokens: 1 });
    const words = fc.constantFrom(
      "the",
      "committee",
      "will",
      "meet",
      "again",
      "on",
      "Thursday",
      "2026-04-01",
      "const",
      "x =>",
      "{}",
      "größer",
      "это",
      "слово",
      "中文",
      "です",
      "👍",
      "\n",
      ",",
    );
    fc.assert(
      fc.property(fc.array(words, { maxLength: 200 }), (picked) => {
        const text = picked.join(" ");
        // The provider's own formula: 3 a message, 3 for the answer's start, 1 for the role.
        expect(fast(chat({ messages: [user(text)] }), null).ceilingInputTokens).toBeGreaterThanOrEqual(exact(text) + 7);
      }),
    );
  });
});

test("no field of ours or of the client's lowers a price", () => {
  const body = { messages: [user("hello there")], max_tokens: 100 };
  const plain = estimate(chat(body), null);
  for (const field of ["requestedTokens", "requested_tokens", "estimate", "tokens", "cost", "userId"])
    expect(estimate(chat({ ...body, [field]: 1 }), null)).toEqual(plain);
});

describe("completions and embeddings", () => {
  const completion = (body: Record<string, unknown>): number => estimate(callOf("completions", body), null).inputTokens;
  const embedding = (input: unknown): number => estimate(callOf("embeddings", { input }), null).inputTokens;

  test("a prompt is a text, several, one list of token ids, or several", () => {
    expect(completion({ prompt: "hello" })).toBe(5);
    expect(completion({ prompt: "hello", suffix: "you" })).toBe(8);
    expect(completion({ prompt: ["hello", "you"] })).toBe(8);
    expect(completion({ prompt: [15, 16, 17] })).toBe(3);
    expect(completion({ prompt: [[1, 2], [3]] })).toBe(3);
    expect(completion({})).toBe(1);
    expect(completion({ prompt: null })).toBe(1);
  });

  test("completions pay for the best of, and have no frame of a chat", () => {
    expect(estimate(callOf("completions", { prompt: "hello", max_tokens: 20, n: 1, best_of: 3 }), null)).toEqual({
      inputTokens: 5,
      ceilingInputTokens: 13,
      ceilingOutputTokens: 60,
      expectedOutputTokens: 60,
      isText: true,
      cappedByDefault: false,
    });
  });

  test("embeddings have no output and need no cap", () => {
    expect(embedding("hello")).toBe(5);
    expect(embedding(["hello", "you"])).toBe(8);
    expect(embedding([1, 2, 3, 4])).toBe(4);
    expect(
      embedding([
        [1, 2],
        [3, 4, 5],
      ]),
    ).toBe(5);
    expect(embedding("")).toBe(1);
    expect(embedding({ text: "something else" })).toBeGreaterThan(14);
    const known = estimate(callOf("embeddings", { input: "hello", max_tokens: 500 }), 1000);
    expect(known).toMatchObject({ ceilingOutputTokens: 0, expectedOutputTokens: 0, cappedByDefault: false });
    expect(amountsOf(known, "ceiling")).toEqual({ input_tokens: 13, output_tokens: 0, tokens: 13 });
  });
});

describe("text only", () => {
  const said = (message: object): boolean => estimate(callOf("chat", { messages: [{ role: "user", content: "hi" }, message] }), null).isText;
  const part = (fields: object): object => ({ role: "user", content: [{ type: "text", text: "hi" }, fields] });

  test.each<[string, object]>([
    ["a text", { role: "user", content: "hi", name: "bob" }],
    ["parts of text", part({ type: "text", text: "more" })],
    ["a call of a tool", { role: "assistant", content: null, audio: null, tool_calls: [{ id: "c", function: { name: "f", arguments: "{}" } }] }],
    ["its answer", { role: "tool", tool_call_id: "c", content: "42" }],
  ])("is %s", (_name, message) => {
    expect(said(message)).toBe(true);
  });

  test.each<[string, object]>([
    ["audio", part({ type: "input_audio", input_audio: { data: "AAAA", format: "wav" } })],
    ["an image", part({ type: "image_url", image_url: { url: "https://example.com/a.png" } })],
    ["a file", part({ type: "file", file: { file_id: "f" } })],
    ["a part that nobody knows", part({ type: "video_url", video_url: {} })],
    ["a part without a type", part({})],
    ["a content that is an object", { role: "user", content: { audio: "AAAA" } }],
    ["audio that an earlier answer made", { role: "assistant", content: null, audio: { id: "audio_1" } }],
    ["a field that nobody knows", { role: "user", content: "hi", images: ["AAAA"] }],
  ])("is not %s", (_name, message) => {
    expect(said(message)).toBe(false);
    expect(said({ role: "user", content: "hi" })).toBe(true);
  });

  test("is a prompt or input of text and token ids", () => {
    const isText = (operation: Operation, body: Record<string, unknown>): boolean => estimate(callOf(operation, body), null).isText;
    expect([isText("completions", { prompt: ["a", [1, 2]] }), isText("embeddings", { input: "a" })]).toEqual([true, true]);
    expect(isText("embeddings", { input: [{ image: "AAAA" }] })).toBe(false);
  });
});

test("whatever JSON a client sends, the figures are positive integers and the ceiling is never below the expected input", () => {
  const fast = estimator({ tokenizer: fastTokenizer, defaultMaxOutputTokens: 100 });
  const operation = fc.constantFrom<Operation>("chat", "completions", "embeddings");
  fc.assert(
    fc.property(operation, fc.jsonValue(), fc.jsonValue(), (kind, value, other) => {
      const messages = Array.isArray(value) ? value : [value, { role: "user", content: value, other }];
      const body = { messages, prompt: value, input: value ?? "x", tools: other, functions: other, response_format: other };
      const known = fast(callOf(kind, body), null);
      for (const figure of [known.inputTokens, known.ceilingInputTokens]) {
        expect(Number.isSafeInteger(figure)).toBe(true);
        expect(figure).toBeGreaterThanOrEqual(1);
      }
      expect(known.ceilingInputTokens).toBeGreaterThan(known.inputTokens);
    }),
  );
});
