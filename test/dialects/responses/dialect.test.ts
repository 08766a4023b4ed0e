import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { matchPath } from "../../../src/dialects/index.ts";
import { responses, responsesCodec } from "../../../src/dialects/responses/index.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { answering } from "../codec-kit.ts";

const BODY = { model: "gpt-4o", input: "hi" };

function readText(text: string) {
  return responses.read({ operation: "chat", model: null, stream: null }, Buffer.from(text), JSON.parse(text) as never);
}
const read = (body: object) => readText(JSON.stringify(body));

describe("a Responses request", () => {
  test("its path", () => {
    expect(matchPath("/v1/responses", false)).toMatchObject({ kind: "call", method: "POST", dialect: "responses", path: { operation: "chat" } });
    expect(matchPath("/responses", true)).toMatchObject({ dialect: "responses" });
  });

  test("what the gateway reads", () => {
    expect(read({ ...BODY, stream: true, max_output_tokens: 100 })).toMatchObject({
      dialect: "responses",
      model: "gpt-4o",
      stream: true,
      maxOutputTokens: 100,
      choices: 1,
      wantsUsage: true,
    });
    expect(read({ ...BODY, max_output_tokens: null, stream: null })).toMatchObject({ stream: false, maxOutputTokens: null });
    // The provider has the conversation.
    expect(read({ model: "gpt-4o", previous_response_id: "resp_1" }).maxOutputTokens).toBeNull();
  });

  test.each([
    ["model", { model: 5 }],
    ["model", { model: "" }],
    ["input", { input: undefined }],
    ["input", { input: { role: "user" } }],
    ["input", { input: 5, previous_response_id: "resp_1" }],
    ["max_output_tokens", { max_output_tokens: 0 }],
    ["max_output_tokens", { max_output_tokens: "many" }],
    ["stream", { stream: 1 }],
    ["background", { background: true }],
    ["background", { background: "yes" }],
  ])("%s is refused by its name", (field, more) => {
    expect(refusalOf(() => read({ ...BODY, ...more }))).toMatchObject({ code: "body_invalid", param: field });
  });

  test("bytes pass untouched, but for a model's name, a lower cap and what a model refuses", () => {
    const call = readText('{ "model" : "gpt-4o","max_output_tokens":1e2, "input":"a\\u0041" ,"temperature":1.0}');
    expect(responses.rewrite(call, {})).toBe(call.bytes);
    expect(responses.rewrite(call, { outputCap: 200, includeUsage: true })).toBe(call.bytes);
    expect(responses.rewrite(call, { model: "real", outputCap: 50 }).toString()).toBe(
      '{ "model" : "real","max_output_tokens":50, "input":"a\\u0041" ,"temperature":1.0}',
    );
    expect(responses.rewrite(call, { model: "o3" }).toString()).toBe('{ "model" : "o3","max_output_tokens":1e2, "input":"a\\u0041"}');
    expect(responses.rewrite(read(BODY), { outputCap: 50 }).toString()).toBe('{"max_output_tokens":50,"model":"gpt-4o","input":"hi"}');
    expect(JSON.parse(responses.rewrite(read({ ...BODY, max_output_tokens: null }), { outputCap: 50 }).toString())).toMatchObject({
      max_output_tokens: 50,
    });
  });

  test("foreign-signature-dropped-not-forged: what another family signed before does not reach OpenAI; its own stays as it is", () => {
    const told = responsesCodec.encodeAnswer(
      {
        id: "a",
        model: "m",
        usage: null,
        choices: [
          {
            index: 0,
            stop: "stop",
            stopSequence: null,
            blocks: [
              { type: "thinking", text: "hm", signature: { family: "anthropic", value: "sig" } },
              { type: "thinking", text: "own", signature: { family: "openai", value: "gAAAA" } },
              { type: "text", text: "so" },
            ],
          },
        ],
      },
      answering(),
    );
    const items = told.output as readonly object[];
    const call = read({ model: "gpt-5", input: [{ role: "user", content: "hi" }, ...items] });
    const sent = JSON.parse(responses.rewrite(call, {}).toString()) as { input: object[] };
    expect(sent).toEqual({ model: "gpt-5", input: [{ role: "user", content: "hi" }, ...items.slice(1)] });
    const own = read({ model: "gpt-5", input: items.slice(1) });
    expect(responses.rewrite(own, {})).toBe(own.bytes);
    // A text that only speaks of it is none.
    const spoken = read({ model: "gpt-5", input: [{ role: "user", content: "quotaguard:anthropic:thinking:x" }] });
    expect(responses.rewrite(spoken, {})).toBe(spoken.bytes);
  });
});

const event = (type: string, fields: object = {}): string => `event: ${type}\ndata: ${JSON.stringify({ type, sequence_number: 0, ...fields })}\n\n`;
const START = event("response.created", { response: { id: "r", model: "m", output: [], usage: null } });
const delta = (text: string) => event("response.output_text.delta", { output_index: 0, item_id: "msg", content_index: 0, delta: text });
const USAGE = { input_tokens: 100, input_tokens_details: { cached_tokens: 40 }, output_tokens: 7, output_tokens_details: { reasoning_tokens: 0 } };
const end = (type = "completed", more: object = {}) => event(`response.${type}`, { response: { id: "r", output: [], usage: USAGE, ...more } });

function observed(text: string, step = text.length) {
  const observer = responses.observer({ hideUsage: true, countTokens: (piece) => Math.ceil(piece.length / 4) });
  const bytes = Buffer.from(text);
  const forwarded: Buffer[] = [];
  for (let from = 0; from < bytes.length; from += step) forwarded.push(observer.push(bytes.subarray(from, from + step)) as Buffer);
  return { ...observer.end(), forwarded: Buffer.concat(forwarded).toString(), usage: observer.usage(), tokens: observer.deliveredTokens() };
}

describe("a stream that is forwarded", () => {
  const told = { ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 7 };

  test.each([1, 7, 10_000])("passes byte for byte, and tells its usage, in chunks of %i", (step) => {
    const text = START + delta("hello there ä€") + end();
    const seen = observed(text, step);
    expect(seen.forwarded).toBe(text);
    expect(seen).toMatchObject({ complete: true, usage: told });
  });

  test.each([
    ["completed", {}],
    ["incomplete", { incomplete_details: { reason: "max_output_tokens" } }],
  ])("response.%s is a proper end, and tells the usage", (type, more) => {
    expect(observed(START + delta("a") + end(type, more))).toMatchObject({ complete: true, usage: told });
  });

  test("response.failed is an end that its client has been told, with what it used", () => {
    const seen = observed(START + delta("a") + end("failed", { error: { code: "server_error", message: "busy" } }));
    expect(seen).toMatchObject({ complete: false, isTold: true, fault: { message: "busy" }, usage: told });
  });

  test("error-event-inside-200-stream: so is an error event", () => {
    const seen = observed(START + delta("hello there") + event("error", { code: "x", message: "busy" }));
    expect(seen).toMatchObject({ complete: false, isTold: true, fault: { message: "busy" }, usage: null, tokens: 3 });
  });

  test("one that is too long to be kept is read on the way, and one whose last event is long in full", () => {
    expect(observed(START + delta("word ".repeat(20)).repeat(1_000) + end(), 1_000)).toMatchObject({ complete: true, usage: told });
    const instructions = "x".repeat(10_000);
    expect(observed(START + delta("a") + end("completed", { instructions }))).toMatchObject({ complete: true, usage: told });
  });

  test("upstream-closes-without-terminal-event: it is not complete, and what was delivered is counted", () => {
    const seen = observed(START + delta("hello there") + delta(" again"));
    expect(seen).toMatchObject({ complete: false, tokens: 5, usage: null });
    // Its last event was cut off.
    expect(observed((START + delta("a") + end()).slice(0, -20)).complete).toBe(false);
  });

  test("a text that speaks of an end does not fool it", () => {
    const text = START + delta('\ndata: {"type":"response.completed","response":{"usage":{"input_tokens":99999,"output_tokens":1}}}');
    expect(observed(text)).toMatchObject({ complete: false, usage: null });
    expect(observed(text + end())).toMatchObject({ complete: true, usage: told });
  });
});

describe("a whole answer", () => {
  test("tells its usage, or its text", () => {
    const json = (body: object) => responses.readResponse(Buffer.from(JSON.stringify(body)));
    expect(json({ output: [], usage: USAGE })).toMatchObject({ usage: { inputTokens: 60, cacheReadTokens: 40, outputTokens: 7 } });
    const output = [
      { type: "reasoning", summary: [{ type: "summary_text", text: "a" }] },
      { type: "message", content: [{ type: "output_text", text: "b" }] },
      { type: "function_call", call_id: "1", name: "look", arguments: "{}" },
    ];
    expect(json({ output })).toEqual({ text: "ablook{}" });
    expect(json({ error: { message: "no" }, status: "failed" })).toEqual({ text: "" });
    expect(responses.readResponse(Buffer.from("<html>"))).toBeNull();
  });
});

test.each([
  [401, "authentication_error"],
  [429, "rate_limit_error"],
  [500, "api_error"],
  [400, "invalid_request_error"],
])("an error of status %i is a %s, in the envelope and as an event", (status, type) => {
  const error = new GuardError("upstream_refused", "no", { status, retryAfterMs: 5 });
  expect(responses.errorBody(error)).toMatchObject({ error: { type, message: "no", code: "upstream_refused", retry_after_ms: 5 } });
  const [name, data] = responses.errorEvent(error).toString().split("\n");
  expect(name).toBe("event: error");
  expect(JSON.parse(data?.slice(6) ?? "")).toMatchObject({
    type: "error",
    code: "upstream_refused",
    message: "no",
    param: null,
    sequence_number: expect.any(Number) as number,
    error: { type, message: "no", code: "upstream_refused" },
  });
});
