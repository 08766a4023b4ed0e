import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { gemini } from "../../../src/dialects/gemini/index.ts";
import { matchPath } from "../../../src/dialects/index.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { sse } from "../codec-kit.ts";

function read(body: object, model: string | null = "gemini-2.5-flash", stream = false) {
  const bytes = Buffer.from(JSON.stringify(body));
  return gemini.read({ operation: "chat", model, stream }, bytes, body as never);
}

describe("a generateContent request", () => {
  test.each([
    ["/v1beta/models/gemini-2.5-flash:generateContent", { operation: "chat", model: "gemini-2.5-flash", stream: false }],
    ["/v1/models/gemini-2.5-flash:streamGenerateContent", { operation: "chat", model: "gemini-2.5-flash", stream: true }],
    ["/v1beta/models/google%2Fgemini:countTokens", { operation: "count_tokens", model: "google/gemini", stream: false }],
    ["/v1beta/models/qwen:qwen-flash:generateContent", { operation: "chat", model: "qwen:qwen-flash", stream: false }],
  ])("%s", (path, told) => expect(matchPath(path, false)).toMatchObject({ kind: "call", dialect: "gemini", path: told }));

  test("a model's name that cannot be is no path of ours", () => expect(matchPath("/v1beta/models/%E0%A4%A:generateContent", false)).toBeUndefined());

  test("what the gateway reads", () => {
    const body = { contents: [], generation_config: { max_output_tokens: 9, candidateCount: 3 } };
    expect(read(body, "m", true)).toMatchObject({ model: "m", stream: true, maxOutputTokens: 9, choices: 3 });
  });

  test.each([
    ["contents", { contents: "hi" }],
    ["generationConfig.maxOutputTokens", { contents: [], generationConfig: { maxOutputTokens: 0 } }],
    ["generationConfig.candidateCount", { contents: [], generationConfig: { candidateCount: "2" } }],
    ["generationConfig", { contents: [], generationConfig: [] }],
  ])("%s is refused by its name", (field, body) => expect(refusalOf(() => read(body))).toMatchObject({ code: "body_invalid", param: field }));

  test("bytes pass untouched, but for a lower cap", () => {
    const rewritten = (text: string, outputCap?: number) => {
      const call = gemini.read({ operation: "chat", model: "m", stream: false }, Buffer.from(text), JSON.parse(text) as never);
      return gemini.rewrite(call, outputCap === undefined ? {} : { outputCap }).toString();
    };
    const text = '{ "contents":[] , "generationConfig":{"maxOutputTokens":100,"temperature":1}}';
    expect(rewritten(text)).toBe(text);
    expect(rewritten(text, 200)).toBe(text);
    expect(rewritten(text, 50)).toBe('{ "contents":[] , "generationConfig":{"maxOutputTokens":50,"temperature":1}}');
    expect(rewritten('{"contents":[]}', 50)).toBe('{"generationConfig":{"maxOutputTokens":50},"contents":[]}');
    expect(rewritten('{"contents":[],"generation_config":{"max_output_tokens":100}}', 50)).toBe(
      '{"contents":[],"generation_config":{"maxOutputTokens":50}}',
    );
  });
});

const fragment = (text: string, more: object = {}, rest: object = {}) => ({
  candidates: [{ content: { parts: [{ text }], role: "model" }, ...more }],
  ...rest,
});
const USAGE = { usageMetadata: { promptTokenCount: 9, candidatesTokenCount: 7, totalTokenCount: 16 } };

function observed(text: string, step = text.length) {
  const observer = gemini.observer({ hideUsage: false, countTokens: (piece) => Math.ceil(piece.length / 4) });
  const bytes = Buffer.from(text);
  const forwarded: Buffer[] = [];
  for (let from = 0; from < bytes.length; from += step) forwarded.push(observer.push(bytes.subarray(from, from + step)) as Buffer);
  return { ...observer.end(), forwarded: Buffer.concat(forwarded).toString(), usage: observer.usage(), tokens: observer.deliveredTokens() };
}

describe("a stream that is forwarded", () => {
  test.each([1, 7, 10_000])("passes byte for byte, and tells its usage, in chunks of %i", (step) => {
    const text = sse(fragment("hello"), fragment(" there", { finishReason: "STOP" }, USAGE));
    const seen = observed(text, step);
    expect(seen.forwarded).toBe(text);
    expect(seen).toMatchObject({ complete: true, usage: { inputTokens: 9, outputTokens: 7 } });
  });

  test("one that is too long to be kept is read on the way", () => {
    const text = sse(...Array.from({ length: 1_000 }, () => fragment("word ".repeat(20)))) + sse(fragment("", { finishReason: "STOP" }, USAGE));
    expect(observed(text, 1_000)).toMatchObject({ complete: true, usage: { inputTokens: 9, outputTokens: 7 } });
  });

  test("without its end it is not complete, and what was delivered is counted", () => {
    expect(observed(sse(fragment("hello there"), fragment(" again")))).toMatchObject({ complete: false, usage: null, tokens: 5 });
  });
});

test("a whole answer tells its usage, or its text", () => {
  expect(gemini.readResponse(Buffer.from(JSON.stringify({ ...fragment("a"), ...USAGE })))).toMatchObject({
    usage: { inputTokens: 9, outputTokens: 7 },
  });
  expect(gemini.readResponse(Buffer.from(JSON.stringify(fragment("a"))))).toEqual({ text: "a" });
  expect(gemini.readResponse(Buffer.from("<html>"))).toBeNull();
});

test("an error in Google's envelope, with what else there is to say", () => {
  const error = new GuardError("budget_exhausted", "no", { limit: "user-day", retryAfterMs: 2_500 });
  const metadata = { limit: "user-day", retry_after_ms: "2500" };
  expect(gemini.errorBody(error)).toEqual({
    error: {
      code: 429,
      message: "no",
      status: "RESOURCE_EXHAUSTED",
      details: [
        { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "BUDGET_EXHAUSTED", domain: "quotaguard", metadata },
        { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "3s" },
      ],
    },
  });
  expect(gemini.errorEvent(error).toString()).toMatch(/^data: \{"error":\{"code":429/);
});
