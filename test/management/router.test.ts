import { describe, expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import { HEALTH, LIMIT, management } from "./management-kit.ts";

describe("what operators see", () => {
  test("health, life and limits", async () => {
    const { ask } = await management();
    expect((await ask("/health")).body).toEqual(HEALTH);
    expect((await ask("/live")).body).toEqual({ status: "ok" });
    const { body, headers } = await ask("/limits");
    expect([body, headers.get("cache-control")]).toEqual([
      { limits: [{ ...LIMIT, values: [{ value: "acme/alice", limit: 20, until: "2026-02-01T00:00:00.000Z" }] }] },
      "no-store",
    ]);
  });

  test("counters that were lost are opened by hand", async () => {
    const { ask, admin } = await management();
    expect(await ask("/counters/open", { method: "POST" })).toMatchObject({ status: 200, body: { opened: true } });
    expect(admin.calls).toEqual([{ name: "openCounters", args: [] }]);
  });

  test.each([
    ["ok", 200],
    ["starting", 503],
    ["closing", 503],
    ["unavailable", 503],
  ] as const)("ready is %s with %i", async (state, status) => {
    const { ask, admin } = await management();
    admin.status = state;
    expect(await ask("/ready")).toMatchObject({ status, body: { status: state } });
  });
});

describe("refusals are problems", () => {
  test.each<[string, string, object, number, string]>([
    ["an unknown route", "/nothing", {}, 404, "not_found"],
    ["another method", "/health", { method: "DELETE" }, 404, "not_found"],
    ["no key", "/health", { key: null }, 401, "unauthenticated"],
    ["a wrong key", "/health", { key: "wrong" }, 401, "unauthenticated"],
    ["broken JSON", "/config/budget", { body: "{" }, 400, "body_invalid"],
    [
      "an odd charset",
      "/config/budget",
      { body: "{}", headers: { "content-type": "application/json; charset=klingon" } },
      415,
      "unsupported_encoding",
    ],
    ["a large body", "/config/budget", { body: JSON.stringify({ scope: "x".repeat(200_000) }) }, 413, "body_too_large"],
  ])("%s", async (_name, path, more, status, code) => {
    const { ask } = await management();
    const answered = await ask(path, more);
    expect([answered.status, answered.headers.get("content-type"), answered.headers.get("cache-control")]).toEqual([
      status,
      "application/problem+json; charset=utf-8",
      "no-store",
    ]);
    expect(answered.body).toEqual(
      expect.objectContaining({
        type: "about:blank",
        status,
        code,
        title: code.replaceAll("_", " "),
        detail: expect.any(String) as string,
        request_id: expect.any(String) as string,
      }),
    );
  });

  test("of the admin itself keep their code", async () => {
    const { ask, admin } = await management();
    admin.fails = new GuardError("store_unavailable", "the store is away", { retryAfterMs: 2_000, cause: new Error("canary") });
    const { status, body, headers } = await ask("/buckets/global");
    expect([status, body.code, headers.get("retry-after"), JSON.stringify(body).includes("canary")]).toEqual([503, "store_unavailable", "2", false]);
  });

  test("of ours are logged and not shown", async () => {
    const { ask, admin, logger } = await management();
    admin.fails = new TypeError("canary is not a function");
    const { status, body } = await ask("/buckets/global");
    expect([status, body.code, JSON.stringify(body).includes("canary")]).toEqual([500, "internal", false]);
    expect(logger.lines).toMatchObject([{ level: "error", fields: { err: admin.fails } }]);
  });

  test("a path that cannot be decoded is the client's mistake, and is not called JSON", async () => {
    const { ask } = await management();
    const { status, body } = await ask("/buckets/user/%E0%A4%A");
    expect([status, body.code]).toEqual([400, "body_invalid"]);
    expect(body.detail).not.toContain("JSON");
  });
});
