import { APIConnectionError, APIError } from "openai";
import { describe, expect, test } from "vitest";
import { ConfigError, GuardError, type ErrorCode } from "../../src/core/errors.ts";
import { errorBody } from "../../src/dialects/openai/response.ts";
import { problemRefusal } from "../../src/http/render.ts";

/** The table of the HTTP surface, written down a second time. */
const STATUS: Readonly<Record<ErrorCode, number>> = {
  unauthenticated: 401,
  forbidden: 403,
  model_not_allowed: 403,
  banned: 403,
  body_invalid: 400,
  auth_conflict: 400,
  scope_invalid: 400,
  model_not_found: 400,
  budget_too_small: 400,
  model_not_priced: 400,
  not_found: 404,
  method_not_allowed: 405,
  body_too_large: 413,
  unsupported_encoding: 415,
  budget_exhausted: 429,
  all_credentials_limited: 429,
  internal: 500,
  plugin_failed: 500,
  idempotency_in_progress: 409,
  idempotency_mismatch: 422,
  untranslatable: 422,
  no_credential: 503,
  store_unavailable: 503,
  overloaded: 503,
  upstream_unreachable: 502,
  upstream_protocol: 502,
  upstream_timeout: 504,
  upstream_refused: 502,
};

/** What the OpenAI client throws for an answer with this body. */
function sdkError(status: number, body: object): APIError {
  return APIError.generate(status, body, undefined, new Headers());
}

const ours = (code: ErrorCode, details: ConstructorParameters<typeof GuardError>[2] = {}): GuardError =>
  new GuardError(code, "limit user-day has 0 USD left", { requestId: "req-7", ...details });

describe("a refusal", () => {
  test.each(Object.entries(STATUS) as [ErrorCode, number][])("%s is %i", (code, status) => {
    const error = new GuardError(code, "why");
    expect(error).toMatchObject({ code, status, statusCode: status, expose: true, message: "why", name: "GuardError" });
    expect(error).toBeInstanceOf(Error);
  });

  test("may carry another status than its code's own", () => {
    expect(new GuardError("upstream_refused", "no", { status: 418 })).toMatchObject({ status: 418, statusCode: 418 });
  });

  test("keeps its own copy of the headers", () => {
    const headers = { allow: "POST" };
    const error = new GuardError("method_not_allowed", "no", { headers });
    error.headers["x-more"] = "1";
    expect(headers).toEqual({ allow: "POST" });
  });

  test("is JSON without its cause and its stack", () => {
    const cause = new Error("connect ECONNREFUSED to sk-canary-77");
    const error = ours("budget_exhausted", {
      cause,
      limit: "user-day",
      scope: "user",
      needed: 2,
      available: 0,
      retryAfterMs: 5_000,
      param: "max_tokens",
    });
    expect(error.cause).toBe(cause);
    expect(JSON.parse(JSON.stringify(error))).toEqual({
      code: "budget_exhausted",
      message: "limit user-day has 0 USD left",
      status: 429,
      param: "max_tokens",
      limit: "user-day",
      scope: "user",
      needed: 2,
      available: 0,
      retryAfterMs: 5_000,
      requestId: "req-7",
    });
    expect(JSON.stringify({ nested: [error] })).not.toContain("canary");
  });

  test("without a cause has none at all", () => {
    expect(Object.hasOwn(new GuardError("internal", "x"), "cause")).toBe(false);
  });
});

describe("GuardError.is", () => {
  test("knows the error of another installed copy", async () => {
    // The query makes a second module instance, as a second installed copy would be.
    const path = "../../src/core/errors.ts?second-copy";
    const copy = (await import(/* @vite-ignore */ path)) as { GuardError: typeof GuardError };
    expect(copy.GuardError).not.toBe(GuardError);
    const error = new copy.GuardError("banned", "no");
    expect(error).not.toBeInstanceOf(GuardError);
    expect(GuardError.is(error)).toBe(true);
    expect(GuardError.from(new Error("wrapped", { cause: error }))).toBe(error);
  });

  test.each([
    [null],
    [undefined],
    ["budget_exhausted"],
    [{ code: "budget_exhausted", status: 429 }],
    [new Error("x")],
    [Object.assign(new Error("x"), { name: "GuardError" })],
  ])("is false for %s", (value) => {
    expect(GuardError.is(value)).toBe(false);
  });
});

describe("GuardError.from", () => {
  test("finds the error itself and one among causes", () => {
    const error = ours("overloaded");
    expect(GuardError.from(error)).toBe(error);
    expect(GuardError.from(new APIConnectionError({ message: "Connection error.", cause: error }))).toBe(error);
    expect(GuardError.from(new Error("a", { cause: new Error("b", { cause: error }) }))).toBe(error);
  });

  test("finds ours inside what the OpenAI client throws", () => {
    const sent = ours("budget_exhausted", { limit: "user-day", scope: "user", needed: 1.5, available: 0, retryAfterMs: 61_000 });
    const found = GuardError.from(sdkError(429, errorBody(sent)));
    expect(found?.toJSON()).toEqual(sent.toJSON());
  });

  test("finds ours inside what Vercel's AI SDK throws, also after it tried again", () => {
    const sent = ours("budget_exhausted", { limit: "user-day" });
    const error = { statusCode: 429, responseBody: JSON.stringify(errorBody(sent)) };
    expect(GuardError.from(error)).toMatchObject({ code: "budget_exhausted", limit: "user-day", status: 429 });
    expect(GuardError.from({ reason: "maxRetriesExceeded", lastError: error })).toMatchObject({ limit: "user-day" });
    expect(GuardError.from({ statusCode: 502, responseBody: "<html>" })).toBeUndefined();
  });

  test("keeps the status of an answer that differs from its code's own", () => {
    const unknownModel = ours("model_not_found", { status: 404 });
    expect(GuardError.from(sdkError(404, errorBody(unknownModel)))?.status).toBe(404);
    const teapot = ours("upstream_refused", { status: 418 });
    expect(GuardError.from(sdkError(418, errorBody(teapot)))?.status).toBe(418);
  });

  test("finds ours in a problem that a fetch client keeps in `error`", () => {
    const sent = ours("scope_invalid", { scope: "user" });
    const body = JSON.parse((problemRefusal(sent).body as Buffer).toString()) as object;
    expect(GuardError.from({ error: body })).toMatchObject({ code: "scope_invalid", scope: "user", requestId: "req-7" });
  });

  test.each([
    [
      "OpenAI's unknown model",
      404,
      { error: { message: "The model `x` does not exist", type: "invalid_request_error", param: null, code: "model_not_found" } },
    ],
    ["OpenAI's rate limit", 429, { error: { message: "Rate limit reached", type: "tokens", param: null, code: "rate_limit_exceeded" } }],
    ["a code of ours without our request id", 500, { error: { message: "x", type: "server_error", code: "internal" } }],
    ["Anthropic's envelope", 400, { type: "error", error: { type: "invalid_request_error", message: "x" }, request_id: "req_011" }],
    ["a request id beside the error", 404, { error: { message: "no", code: "model_not_found" }, request_id: "abc" }],
    ["a code from the prototype", 500, { error: { message: "x", code: "constructor", request_id: "r" } }],
    ["a code that is no text", 500, { error: { message: "x", code: 400, request_id: "r" } }],
    ["an error that is text", 500, { error: "nope" }],
    ["no error", 500, {}],
  ])("never takes %s for ours", (_name, status, body) => {
    expect(GuardError.from(sdkError(status, body))).toBeUndefined();
  });

  test.each([[null], [undefined], ["text"], [42], [new Error("x")], [{ error: null }]])("is undefined for %s", (value) => {
    expect(GuardError.from(value)).toBeUndefined();
  });

  test("gives up on a chain of causes that never ends", () => {
    const loop = new Error("a");
    loop.cause = loop;
    expect(GuardError.from(loop)).toBeUndefined();
  });
});

describe("a mistake in the configuration", () => {
  test("alone is its own message", () => {
    expect(new ConfigError(["limits: a"])).toMatchObject({ message: "limits: a", problems: ["limits: a"], code: "config_invalid" });
  });

  test("among others is one line of a list", () => {
    expect(new ConfigError(["one", "two"]).message).toBe("2 problems in the configuration:\n  - one\n  - two");
  });
});
