import { describe, expect, test } from "vitest";
import { GuardError, type ErrorCode } from "../../../src/core/errors.ts";
import { openai } from "../../../src/dialects/openai/index.ts";

const read = (body: unknown) => openai.readResponse(Buffer.from(typeof body === "string" ? body : JSON.stringify(body)));
const FIVE_SIX = { inputTokens: 5, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 6, reasoningTokens: 0 };
const USAGE = { prompt_tokens: 5, completion_tokens: 6 };
const message = (fields: object) => [{ index: 0, message: { role: "assistant", ...fields }, finish_reason: "stop" }];

describe("a whole response", () => {
  test.each<[string, unknown]>([
    ["usage last", { choices: message({ content: "hi" }), usage: USAGE }],
    ["usage first", { usage: USAGE, choices: message({ content: "hi" }) }],
    [
      "usage with details",
      {
        choices: [],
        usage: { ...USAGE, prompt_tokens_details: { cached_tokens: 0 }, completion_tokens_details: { reasoning_tokens: 0 } },
        system_fingerprint: "fp",
      },
    ],
    ["pretty-printed", JSON.stringify({ choices: message({ content: "hi" }), usage: USAGE }, null, 2)],
    ["text that looks like usage", { usage: USAGE, choices: message({ content: '"usage":{"prompt_tokens":1,"completion_tokens":1}}' }) }],
    [
      "a tool call with usage in its arguments",
      { usage: USAGE, choices: message({ tool_calls: [{ function: { name: "f", arguments: '{"usage":{"prompt_tokens":1}}' } }] }) },
    ],
    ["a usage object deeper down, behind it", { usage: USAGE, choices: [], x_debug: { usage: { prompt_tokens: 0, completion_tokens: 0 } } }],
    ["a usage object deeper down, before it", { x_debug: { usage: { prompt_tokens: 0, completion_tokens: 0 } }, choices: [], usage: USAGE }],
    ["braces in text within usage", { choices: [], usage: { ...USAGE, service_tier: "}é{" } }],
  ])("%s", (_name, body) => {
    const { usage } = (typeof body === "string" ? JSON.parse(body) : body) as { usage: object };
    expect(read(body)).toEqual({ usage: { ...FIVE_SIX, raw: [usage] } });
  });

  test.each<[string, unknown, string]>([
    ["text", { choices: message({ content: "hello" }) }, "hello"],
    ["usage null", { choices: message({ content: "hello" }), usage: null }, "hello"],
    [
      "usage null, and an object behind it that looks like one",
      { choices: message({ content: "hello" }), usage: null, echo: { prompt_tokens: 0, completion_tokens: 0 } },
      "hello",
    ],
    ["usage that nobody can have", { choices: message({ content: "hello" }), usage: { prompt_tokens: -1, completion_tokens: 2 } }, "hello"],
    ["two choices", { choices: [...message({ content: "a" }), ...message({ content: "b" })] }, "ab"],
    ["reasoning under both of its names", { choices: message({ content: "so", reasoning_content: "think", reasoning: "think" }) }, "sothink"],
    ["reasoning in two parts", { choices: message({ content: "so", reasoning_content: "think", reasoning: "hard" }) }, "sothinkhard"],
    ["reasoning and refusal", { choices: message({ content: null, reasoning_content: "think", refusal: "no" }) }, "thinkno"],
    [
      "tool calls",
      {
        choices: message({ content: "x", tool_calls: [{ function: { name: "f", arguments: "{}" } }, { function: { name: "g", arguments: "[]" } }] }),
      },
      "xf{}g[]",
    ],
    ["a function call of old", { choices: message({ content: null, function_call: { name: "f", arguments: "{}" } }) }, "f{}"],
    ["completions", { choices: [{ text: "one" }, { text: "two" }] }, "onetwo"],
    ["choices of the wrong kind", { choices: [null, 3, "x", { message: "m" }, { message: { content: 5 } }] }, ""],
    ["no choices", { object: "list", data: [] }, ""],
    ["choices that are no list", { choices: "x" }, ""],
  ])("without usage is its text: %s", (_name, body, text) => {
    expect(read(body)).toEqual({ text });
  });

  test.each([
    [""],
    ["not json"],
    ["[1]"],
    ['"text"'],
    ["null"],
    ['{"choices":['],
    ["<html>"],
    ['{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":6}'],
  ])("%s is no response", (text) => {
    expect(read(text)).toBeNull();
  });
});

describe("a refusal in OpenAI's words", () => {
  test.each<[ErrorCode, string]>([
    ["unauthenticated", "authentication_error"],
    ["forbidden", "permission_error"],
    ["not_found", "not_found_error"],
    ["idempotency_in_progress", "conflict_error"],
    ["budget_exhausted", "rate_limit_error"],
    ["body_invalid", "invalid_request_error"],
    ["internal", "api_error"],
    ["store_unavailable", "api_error"],
  ])("%s has type %s", (code, type) => {
    expect(openai.errorBody(new GuardError(code, "why", { param: "model" }))).toMatchObject({
      error: { message: "why", type, param: "model", code },
    });
  });

  test("has exactly the members that it knows, and never the cause", () => {
    const error = new GuardError("budget_exhausted", "why", {
      limit: "l",
      scope: "user",
      needed: 2,
      available: 1,
      retryAfterMs: 3,
      requestId: "r",
      cause: new Error("secret"),
    });
    const text = JSON.stringify(openai.errorBody(error));
    expect(JSON.parse(text)).toEqual({
      error: {
        message: "why",
        type: "rate_limit_error",
        param: null,
        code: "budget_exhausted",
        limit: "l",
        scope: "user",
        needed: 2,
        available: 1,
        retry_after_ms: 3,
        request_id: "r",
      },
    });
  });

  test("in mid-stream is one event", () => {
    const event = String(openai.errorEvent(new GuardError("upstream_timeout", "line\nbreak", { requestId: "r" })));
    expect(event).toMatch(/^data: [^\n]+\n\n$/);
    expect(JSON.parse(event.slice(6))).toMatchObject({ error: { code: "upstream_timeout", message: "line\nbreak" } });
  });
});
