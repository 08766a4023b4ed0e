import { describe, expect, test } from "vitest";
import { BUCKET, management } from "./management-kit.ts";

describe("POST /config/budget", () => {
  test.each<[object, object, object, string]>([
    [{ scope: "global", capacity: 10 }, { scope: "global", id: undefined, org: undefined }, { capacity: 10 }, "global"],
    [
      { scope: "user", id: "alice", capacity: 10, refillPerSec: 0.5 },
      { scope: "user", id: "alice", org: undefined },
      { capacity: 10, refillPerSec: 0.5 },
      "user:alice",
    ],
    [{ scope: "rolegroup", id: "eng", refillPerSec: 0 }, { scope: "rolegroup", id: "eng", org: undefined }, { refillPerSec: 0 }, "rolegroup:eng"],
    [{ scope: "team", id: "a:b@c", org: "acme", capacity: 0 }, { scope: "team", id: "a:b@c", org: "acme" }, { capacity: 0 }, "team:a:b@c"],
  ])("%j", async (body, address, numbers, scope) => {
    const { ask, admin } = await management();
    const answered = await ask("/config/budget", { body });
    expect([answered.status, answered.body]).toEqual([200, { ok: true, scope, bucket: BUCKET }]);
    expect(admin.calls).toEqual([{ name: "setBucket", args: [address, numbers] }]);
  });

  const user = { scope: "user", id: "alice" };
  test.each<[string, unknown, string, string]>([
    ["an unknown scope", { scope: "planet", id: "x", capacity: 1 }, "invalid scope", "scope"],
    ["a scope in other case", { scope: "User", id: "x", capacity: 1 }, "invalid scope", "scope"],
    ["no scope", { id: "x", capacity: 1 }, "invalid scope", "scope"],
    ["a scope from the prototype", { scope: "__proto__", id: "x", capacity: 1 }, "invalid scope", "scope"],
    ["no id", { scope: "team", capacity: 1 }, "id required for non-global scope", "id"],
    ["an id for global", { scope: "global", id: "x", capacity: 1 }, "scope global has no id", "id"],
    ["a negative capacity", { ...user, capacity: -1 }, "capacity must be non-negative", "capacity"],
    ["a negative refill", { ...user, refillPerSec: -0.5 }, "refillPerSec must be non-negative", "refillPerSec"],
    ["a capacity that is text", { ...user, capacity: "10" }, "capacity must be a number", "capacity"],
    ["half a token", { ...user, capacity: 1.5 }, "capacity must be a whole number", "capacity"],
    ["a capacity that is not exact any more", { ...user, capacity: 5e15 }, "capacity is too large", "capacity"],
    ["an infinite refill", '{"scope":"user","id":"alice","refillPerSec":1e999}', "refillPerSec", "refillPerSec"],
    ["an id with a space", { scope: "user", id: "a b", capacity: 1 }, "id must be", "id"],
    ["an id that is a number", { scope: "user", id: 7, capacity: 1 }, "", "id"],
    ["an empty id", { scope: "user", id: "", capacity: 1 }, "id must be", "id"],
    ["a field that nobody knows", { ...user, capacity: 1, burst: 2 }, "burst", ""],
    ["a list", [], "", ""],
    ["null", "null", "", ""],
  ])("with %s is refused by name and changes nothing", async (_name, body, detail, param) => {
    const { ask, admin } = await management();
    const answered = await ask("/config/budget", { body });
    expect([answered.status, answered.body.code, admin.calls]).toEqual([400, "body_invalid", []]);
    expect(answered.body.detail).toContain(detail);
    expect(answered.body.param ?? "").toContain(param);
  });

  test("without a JSON body is refused", async () => {
    const { ask, admin } = await management();
    const answered = await ask("/config/budget", { body: "scope=user", headers: { "content-type": "text/plain" } });
    expect([answered.status, admin.calls]).toEqual([400, []]);
  });
});

describe("POST /config/refill-rate", () => {
  test("sets the rate of a user", async () => {
    const { ask, admin } = await management();
    const { body } = await ask("/config/refill-rate", { body: { userId: "alice", refillPerSec: 2.5 } });
    expect(body).toEqual({ ok: true, userId: "alice", refillPerSec: 2.5, bucket: BUCKET });
    expect(admin.calls).toEqual([{ name: "setBucket", args: [{ scope: "user", id: "alice" }, { refillPerSec: 2.5 }] }]);
  });

  test.each<[object, string]>([
    [{ userId: "alice", refillPerSec: -1 }, "refillPerSec must be non-negative"],
    [{ userId: "alice" }, "refillPerSec must be a number"],
    [{ refillPerSec: 1 }, ""],
    [{ userId: "a b", refillPerSec: 1 }, "id must be"],
    [{ userId: "alice", refillPerSec: 1, capacity: 1 }, "capacity"],
  ])("with %j is refused", async (given, detail) => {
    const { ask, admin } = await management();
    const { status, body } = await ask("/config/refill-rate", { body: given });
    expect([status, admin.calls]).toEqual([400, []]);
    expect(body.detail).toContain(detail);
  });
});

describe("GET /buckets", () => {
  test.each<[string, string, object]>([
    ["/buckets/global", "global", { scope: "global" }],
    ["/buckets/user/alice", "user:alice", { scope: "user", id: "alice", org: undefined }],
    ["/buckets/user/a%3Ab%40c", "user:a:b@c", { scope: "user", id: "a:b@c", org: undefined }],
    ["/buckets/team/data?org=acme", "team:data", { scope: "team", id: "data", org: "acme" }],
  ])("%s", async (path, scope, address) => {
    const { ask, admin } = await management();
    expect(await ask(path)).toMatchObject({ status: 200, body: { scope, bucket: BUCKET } });
    expect(admin.calls).toEqual([{ name: "bucket", args: [address] }]);
  });

  test.each([
    ["/buckets/planet/x", "invalid scope"],
    ["/buckets/global/x", "scope global has no id"],
    ["/buckets/user/a%20b", "id must be"],
    [`/buckets/user/${"x".repeat(129)}`, "id must be"],
    ["/buckets/user/a?org=b%2Fc", "must be"],
    ["/buckets/user/a?org=b&org=c", ""],
  ])("%s is refused", async (path, detail) => {
    const { ask, admin } = await management();
    const { status, body } = await ask(path);
    expect([status, body.code, admin.calls]).toEqual([400, "body_invalid", []]);
    expect(body.detail).toContain(detail);
  });
});

describe("/sync/openai-limits", () => {
  test.each([["GET"], ["POST"]])("%s says what the provider's headers were and what became of the global bucket", async (method) => {
    const { ask, admin } = await management();
    const { status, body } = await ask("/sync/openai-limits", { method });
    expect([status, body]).toEqual([
      200,
      {
        status: "success",
        message: "done",
        headers: { "x-ratelimit-limit-tokens": "1000" },
        "x-ratelimit-limit-tokens": "1000",
        global_bucket: { tokens: 7, capacity: 10, refill_per_sec: 0.5 },
      },
    ]);
    expect(admin.calls).toHaveLength(1);
  });

  test("that was skipped says why", async () => {
    const { ask, admin } = await management();
    admin.syncLimits = () => Promise.resolve({ status: "skipped", message: "test environment detected", headers: {}, bucket: null });
    expect((await ask("/sync/openai-limits")).body).toEqual({
      status: "skipped",
      message: "test environment detected",
      reason: "test environment detected",
      headers: {},
      global_bucket: null,
    });
  });
});
