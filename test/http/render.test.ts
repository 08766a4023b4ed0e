import { describe, expect, test } from "vitest";
import { GuardError, type ErrorCode, type GuardErrorDetails } from "../../src/core/errors.ts";
import { asProblem } from "../../src/http/problem.ts";
import { asGuardError, dialectRefusal, problemRefusal, refusalHeaders } from "../../src/http/render.ts";
import { contextWith, kit } from "../core/context-kit.ts";
import { serve } from "./server-kit.ts";

const pairs = (headers: readonly string[]): Record<string, string> =>
  Object.fromEntries(headers.flatMap((name, i) => (i % 2 === 0 ? [[name, headers[i + 1]]] : [])) as [string, string][]);
const headersOf = (code: ErrorCode, details: GuardErrorDetails, final = false): Record<string, string> =>
  pairs(refusalHeaders(new GuardError(code, "why", details), final));

describe("how long to wait", () => {
  test.each<[number, string]>([
    [0, "1"],
    [1, "1"],
    [999, "1"],
    [1_000, "1"],
    [1_001, "2"],
    [9_999.5, "10"],
    [60_000, "60"],
    [86_399_995, "86400"],
  ])("%d ms are Retry-After: %s, never before the reset", (retryAfterMs, seconds) => {
    expect(headersOf("budget_exhausted", { retryAfterMs })["retry-after"]).toBe(seconds);
  });

  test("is not said when waiting does not help", () => {
    expect(headersOf("budget_exhausted", {})["retry-after"]).toBeUndefined();
  });
});

describe("x-should-retry", () => {
  test.each<[ErrorCode, GuardErrorDetails, boolean, string | undefined]>([
    ["budget_exhausted", { retryAfterMs: 10_000 }, false, undefined],
    ["budget_exhausted", { retryAfterMs: 10_001 }, false, "false"],
    ["budget_exhausted", {}, false, "false"],
    ["all_credentials_limited", {}, false, "false"],
    ["overloaded", { retryAfterMs: 1_000 }, false, undefined],
    ["overloaded", { retryAfterMs: 60_000 }, false, "false"],
    ["banned", { retryAfterMs: 900_000 }, false, "false"],
    ["store_unavailable", {}, false, undefined],
    ["body_invalid", {}, false, undefined],
    ["body_invalid", {}, true, "false"],
    ["store_unavailable", {}, true, "false"],
    ["budget_exhausted", { retryAfterMs: 1_000 }, true, "false"],
  ])("of %s %j (final: %s) is %s", (code, details, final, expected) => {
    expect(headersOf(code, details, final)["x-should-retry"]).toBe(expected);
  });

  test("is said once, also of an error that says it itself", () => {
    const error = new GuardError("all_credentials_limited", "x", { headers: { "x-should-retry": "false" } });
    for (const final of [false, true]) expect(refusalHeaders(error, final)).toEqual(["x-should-retry", "false"]);
  });
});

test("an error's own headers go along", () => {
  expect(headersOf("method_not_allowed", { headers: { allow: "POST" } })).toEqual({ allow: "POST" });
});

describe("a refusal", () => {
  const error = new GuardError("budget_exhausted", "limit user-day has 0 left", {
    limit: "user-day",
    scope: "user",
    needed: 2,
    available: 0,
    retryAfterMs: 61_000,
    requestId: "req-1",
    cause: new Error("canary"),
  });

  test("in the caller's dialect", () => {
    const { status, headers, body } = dialectRefusal(error, "openai", false);
    expect([status, pairs(headers)]).toEqual([
      429,
      { "content-type": "application/json; charset=utf-8", "retry-after": "61", "x-should-retry": "false" },
    ]);
    expect(JSON.parse((body as Buffer).toString())).toMatchObject({ error: { code: "budget_exhausted", request_id: "req-1" } });
    expect((body as Buffer).toString()).not.toContain("canary");
  });

  test("as a problem", () => {
    const { status, headers, body } = problemRefusal(error);
    expect([status, pairs(headers)["content-type"], pairs(headers)["retry-after"]]).toEqual([429, "application/problem+json; charset=utf-8", "61"]);
    expect(JSON.parse((body as Buffer).toString())).toEqual({
      type: "about:blank",
      title: "budget exhausted",
      status: 429,
      detail: "limit user-day has 0 left",
      code: "budget_exhausted",
      limit: "user-day",
      scope: "user",
      needed: 2,
      available: 0,
      retry_after_ms: 61_000,
      request_id: "req-1",
    });
  });

  test("outside of any step is answered whole", async () => {
    const { url } = await serve((_req, res) => asProblem(error, res));
    const response = await fetch(url);
    expect([response.status, response.headers.get("retry-after"), response.headers.get("cache-control")]).toEqual([429, "61", "no-store"]);
    expect(await response.json()).toMatchObject({ code: "budget_exhausted" });
  });
});

describe("whatever else was thrown", () => {
  test.each([[new TypeError("x is not a function")], ["text"], [null], [undefined], [{ status: 200, message: "spoofed" }]])(
    "is an internal error: %s",
    (thrown) => {
      const { services, logger } = kit();
      const error = asGuardError(thrown, contextWith(services));
      expect(error).toMatchObject({ code: "internal", status: 500 });
      expect(error.message).not.toContain("not a function");
      expect(logger.lines).toMatchObject([{ level: "error", fields: { err: thrown, requestId: "req-1" } }]);
    },
  );

  test("a refusal stays what it is; its cause is logged and not shown", () => {
    const { services, logger } = kit();
    const cause = new Error("ECONNREFUSED");
    const error = new GuardError("store_unavailable", "away", { cause });
    expect(asGuardError(error, contextWith(services))).toBe(error);
    expect(logger.lines).toMatchObject([{ level: "warn", fields: { err: cause, code: "store_unavailable" } }]);
    expect(asGuardError(new GuardError("banned", "no"), contextWith(services)).code).toBe("banned");
    expect(logger.lines).toHaveLength(1);
  });
});
