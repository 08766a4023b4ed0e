import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { anthropic } from "../../../src/dialects/anthropic/index.ts";
import { matchPath } from "../../../src/dialects/index.ts";
import { refusalOf } from "../../core/context-kit.ts";

const BODY = { model: "claude", max_tokens: 100, messages: [{ role: "user", content: "hi" }] };

function read(body: object, operation: "chat" | "count_tokens" = "chat") {
  const bytes = Buffer.from(JSON.stringify(body));
  return anthropic.read({ operation, model: null, stream: null }, bytes, body as never);
}

describe("a Messages request", () => {
  test("its paths", () => {
    expect(matchPath("/v1/messages", false)).toMatchObject({ kind: "call", dialect: "anthropic", path: { operation: "chat" } });
    expect(matchPath("/messages/count_tokens", true)).toMatchObject({ dialect: "anthropic", path: { operation: "count_tokens" } });
  });

  test("what the gateway reads", () => {
    expect(read({ ...BODY, stream: true })).toMatchObject({ dialect: "anthropic", model: "claude", stream: true, maxOutputTokens: 100, choices: 1 });
    expect(read({ ...BODY, max_tokens: undefined }).maxOutputTokens).toBeNull();
    expect(read({ model: "claude", messages: [] }, "count_tokens")).toMatchObject({ stream: false, maxOutputTokens: 0 });
  });

  test.each([
    ["model", { model: 5 }],
    ["messages", { messages: "hi" }],
    ["max_tokens", { max_tokens: 0 }],
    ["max_tokens", { max_tokens: "many" }],
    ["stream", { stream: 1 }],
  ])("%s is refused by its name", (field, more) => {
    expect(refusalOf(() => read({ ...BODY, ...more }))).toMatchObject({ code: "body_invalid", param: field });
  });

  test("bytes pass untouched, but for a model's name and a lower cap", () => {
    const text = '{ "model" : "claude","max_tokens":1e2, "messages":[] }';
    const call = anthropic.read({ operation: "chat", model: null, stream: null }, Buffer.from(text), JSON.parse(text) as never);
    expect(anthropic.rewrite(call, {})).toBe(call.bytes);
    expect(anthropic.rewrite(call, { outputCap: 200 })).toBe(call.bytes);
    expect(anthropic.rewrite(call, { model: "real", outputCap: 50 }).toString()).toBe('{ "model" : "real","max_tokens":50, "messages":[] }');
  });
});

const event = (body: { readonly type: string }): string => `event: ${body.type}\ndata: ${JSON.stringify(body)}\n\n`;
const START = event({
  type: "message_start",
  message: { id: "m", usage: { input_tokens: 60, cache_read_input_tokens: 40, output_tokens: 1 } },
} as never);
const delta = (text: string) => event({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } } as never);
const OPEN = event({ type: "content_block_start", index: 0, content_block: { type: "text", text: "" } } as never);
const END =
  event({ type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 7 } } as never) + event({ type: "message_stop" });

function observed(text: string, step = text.length) {
  const observer = anthropic.observer({ hideUsage: false, countTokens: (piece) => Math.ceil(piece.length / 4) });
  const bytes = Buffer.from(text);
  const forwarded: Buffer[] = [];
  for (let from = 0; from < bytes.length; from += step) forwarded.push(observer.push(bytes.subarray(from, from + step)) as Buffer);
  return { ...observer.end(), forwarded: Buffer.concat(forwarded).toString(), usage: observer.usage(), tokens: observer.deliveredTokens() };
}

describe("a stream that is forwarded", () => {
  test.each([1, 7, 10_000])("passes byte for byte, and tells its usage, in chunks of %i", (step) => {
    const text = START + OPEN + delta("hello there") + END;
    const seen = observed(text, step);
    expect(seen.forwarded).toBe(text);
    expect(seen).toMatchObject({ complete: true, usage: { ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 7 } });
  });

  test("one that is too long to be kept is read on the way", () => {
    const text = START + OPEN + delta("word ".repeat(20)).repeat(1_000) + END;
    expect(observed(text, 1_000)).toMatchObject({ complete: true, usage: { inputTokens: 60, outputTokens: 7 } });
  });

  test("without its end it is not complete, and what was delivered is counted", () => {
    const seen = observed(START + OPEN + delta("hello there") + delta(" again"));
    expect(seen.complete).toBe(false);
    expect(seen.tokens).toBe(5);
    expect(seen.usage).toMatchObject({ inputTokens: 60, cacheReadTokens: 40 });
  });

  test("a text that speaks of usage does not fool it", () => {
    const text = START + OPEN + delta('data: {"type":"message_stop"} "usage":{"output_tokens":99999}') + END;
    expect(observed(text).usage).toMatchObject({ outputTokens: 7 });
  });
});

describe("a whole answer", () => {
  test("tells its usage, or its text", () => {
    expect(anthropic.readResponse(Buffer.from(JSON.stringify({ content: [], usage: { input_tokens: 3, output_tokens: 0 } })))).toMatchObject({
      usage: { inputTokens: 3, outputTokens: 0 },
    });
    expect(anthropic.readResponse(Buffer.from(JSON.stringify({ content: [{ type: "text", text: "a" }] })))).toEqual({ text: "a" });
    expect(anthropic.readResponse(Buffer.from("<html>"))).toBeNull();
  });
});

test.each([
  [401, "authentication_error"],
  [403, "permission_error"],
  [404, "not_found_error"],
  [413, "request_too_large"],
  [429, "rate_limit_error"],
  [503, "overloaded_error"],
  [504, "timeout_error"],
  [500, "api_error"],
  [400, "invalid_request_error"],
])("an error of status %i is a %s", (status, type) => {
  const error = new GuardError("upstream_refused", "no", { status, retryAfterMs: 5 });
  expect(anthropic.errorBody(error)).toMatchObject({ type: "error", error: { type, message: "no", code: "upstream_refused", retry_after_ms: 5 } });
  expect(anthropic.errorEvent(error).toString()).toMatch(/^event: error\ndata: \{"type":"error"/);
});
