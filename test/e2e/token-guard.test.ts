/**
 * TokenGuard's acceptance numbers, over HTTP. Overruled on purpose, with the reason:
 * - costs are ten times as large where they were below 12: a request's own frame (4 + 4 + 3 tokens) is never free, and a client cannot name its
 *   own price (`requestedTokens`), because then it would be the client who sets it;
 * - a missing user is not "anonymous": scopes come from a key, and identity headers count only when that key may assert them;
 * - a refusal is OpenAI's error body with the limit named and the real wait, not `{"detail":{"error":"rate_limited"}}` with a constant "1";
 * - answers are the provider's own bytes, not wrapped in `{success, data, buckets}`;
 * - the first budget of an unseen id starts full at its own capacity, not at the default's.
 */
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { createGuard, type GuardOptions } from "quotaguard";
import { fakeUpstream, testClock, type FakeUpstream, type TestClock } from "quotaguard/testing";
import { gatewayServer, type GatewayServer } from "../../src/cli/server.ts";
import { resolveOptions } from "../../src/options.ts";
import { silentLogger } from "../../src/core/logger.ts";

const MASTER = "sk-master-key-for-tests-1";
const ADMIN = "admin-key-for-tests-0001";
/** Tokens of an empty message: what every request costs besides its output. */
const FRAME = 11;

let upstream: FakeUpstream;
let server: GatewayServer;
let clock: TestClock;

async function start(options: GuardOptions = {}): Promise<void> {
  upstream = await fakeUpstream();
  clock = testClock({ now: Date.UTC(2026, 0, 1) });
  const all: GuardOptions = {
    server: { port: 0, masterKey: MASTER },
    management: { key: ADMIN },
    credentials: [{ name: "main", apiKey: "sk-upstream", baseUrl: upstream.url }],
    clock,
    ...options,
  };
  server = await gatewayServer({ guard: createGuard(all), options: resolveOptions(all), logger: silentLogger });
}

beforeEach(() => start());
afterEach(async () => {
  await server.close();
  await upstream.close();
});

async function admin(method: string, path: string, body?: unknown, key: string | null = ADMIN) {
  const response = await fetch(server.url + path, {
    method,
    headers: { "content-type": "application/json", ...(key === null ? {} : { authorization: `Bearer ${key}` }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  return {
    status: response.status,
    body: (await response.json()) as Record<string, unknown> & { bucket: { tokens: number; capacity: number; refillPerSec: number } },
  };
}

const budget = (scope: string, id: string | undefined, capacity: number, refillPerSec: number) =>
  admin("POST", "/config/budget", { scope, ...(id === undefined ? {} : { id }), capacity, refillPerSec });
const tokens = async (path: string) => (await admin("GET", `/buckets/${path}`)).body.bucket.tokens;

/** A request that is estimated at, and uses, exactly `cost` tokens. */
async function spend(cost: number, scopes: Record<string, string>): Promise<Response> {
  upstream.script({ usage: { prompt_tokens: FRAME, completion_tokens: cost - FRAME, total_tokens: cost } });
  const names: Record<string, string> = { user: "x-user-id", team: "x-team-id", role: "x-role", rolegroup: "x-llm-rolegroup" };
  const headers = Object.fromEntries(Object.entries(scopes).map(([scope, value]) => [names[scope] as string, value]));
  const response = await fetch(`${server.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${MASTER}`, ...headers },
    body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "" }], max_tokens: cost - FRAME }),
  });
  await response.clone().text();
  return response;
}

describe("buckets over HTTP", () => {
  test("capacity 100, rate 0: 50 and 50 pass, the third is refused", async () => {
    await budget("user", "u1", 100, 0);
    expect((await spend(50, { user: "u1" })).status).toBe(200);
    expect((await spend(50, { user: "u1" })).status).toBe(200);
    const refused = await spend(50, { user: "u1" });
    expect(refused.status).toBe(429);
    expect(refused.headers.get("retry-after")).toBeNull();
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(refused.headers.get("x-ratelimit-limit-tokens")).toBe("100");
    expect(refused.headers.get("x-ratelimit-remaining-tokens")).toBe("0");
    expect(await refused.json()).toMatchObject({
      error: { code: "budget_exhausted", limit: "budget-user", scope: "user", needed: 50, available: 0 },
    });
  });

  test("rate 100: a drained bucket passes a call of 100 after 1.2 s, and tells when before", async () => {
    await budget("user", "u1", 100, 100);
    expect((await spend(100, { user: "u1" })).status).toBe(200);
    const refused = await spend(100, { user: "u1" });
    expect(refused.status).toBe(429);
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(refused.headers.get("x-ratelimit-reset-tokens")).toBe("1s");
    clock.advance(1_200);
    expect((await spend(100, { user: "u1" })).status).toBe(200);
  });

  test("users do not touch each other, and ids are case-sensitive", async () => {
    await budget("user", "special", 100, 0);
    await budget("user", "Special", 100, 0);
    await spend(80, { user: "special" });
    expect(await tokens("user/special")).toBe(20);
    expect(await tokens("user/Special")).toBe(100);
  });

  test("rolegroup 100: 50 and 40 pass, 20 is refused, another rolegroup is not affected", async () => {
    await budget("rolegroup", "analysts", 100, 0);
    await budget("rolegroup", "writers", 100, 0);
    expect((await spend(50, { rolegroup: "analysts" })).status).toBe(200);
    expect((await spend(40, { rolegroup: "analysts" })).status).toBe(200);
    expect((await spend(20, { rolegroup: "analysts" })).status).toBe(429);
    expect((await spend(20, { rolegroup: "writers" })).status).toBe(200);
  });

  test("rolegroup 100 beats role 200: 40, then 70 is refused and names the rolegroup", async () => {
    await budget("rolegroup", "analysts", 100, 0);
    await budget("role", "senior", 200, 0);
    expect((await spend(40, { rolegroup: "analysts", role: "senior" })).status).toBe(200);
    const refused = await spend(70, { rolegroup: "analysts", role: "senior" });
    expect(await refused.json()).toMatchObject({ error: { scope: "rolegroup", limit: "budget-rolegroup" } });
    expect(await tokens("role/senior")).toBe(160);
  });

  test("global 200, team 150, user 100, one call of 80: 120, 70, 20", async () => {
    await budget("global", undefined, 200, 0);
    await budget("team", "t", 150, 0);
    await budget("user", "u", 100, 0);
    expect((await spend(80, { team: "t", user: "u" })).status).toBe(200);
    expect([await tokens("global"), await tokens("team/t"), await tokens("user/u")]).toEqual([120, 70, 20]);
  });

  test("20 per second, drained: after 2.1 s 35 pass, then 20 are refused", async () => {
    await budget("user", "u", 100, 20);
    await spend(100, { user: "u" });
    clock.advance(2_100);
    expect((await spend(35, { user: "u" })).status).toBe(200);
    expect((await spend(20, { user: "u" })).status).toBe(429);
  });

  test("a cost above the capacity can never pass: 400, and no hint to retry", async () => {
    await budget("user", "u", 100, 10);
    const refused = await spend(101, { user: "u" });
    expect(refused.status).toBe(400);
    expect(refused.headers.get("retry-after")).toBeNull();
    expect(await refused.json()).toMatchObject({ error: { code: "budget_too_small", limit: "budget-user", needed: 101 } });
  });

  test("the wall clock set back does not freeze the refill", async () => {
    await budget("user", "u", 100, 100);
    await spend(100, { user: "u" });
    clock.set(Date.UTC(2025, 0, 1));
    clock.advance(1_000);
    expect((await spend(100, { user: "u" })).status).toBe(200);
  });

  test("a failed call is neither doubled nor kept", async () => {
    await budget("user", "u", 100, 0);
    upstream.script({ status: 400 });
    const response = await fetch(`${server.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${MASTER}`, "x-user-id": "u" },
      body: JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "" }], max_tokens: 50 }),
    });
    expect(response.status).toBe(400);
    expect(upstream.log).toHaveLength(1);
    expect(await tokens("user/u")).toBe(100);
  });

  test("an underestimate is collected as debt", async () => {
    await budget("user", "u", 100, 10);
    upstream.script({ usage: { prompt_tokens: FRAME, completion_tokens: 139, total_tokens: 150 } });
    const init = { method: "POST", headers: { authorization: `Bearer ${MASTER}`, "x-user-id": "u" } };
    const body = JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "" }], max_tokens: 50 });
    await (await fetch(`${server.url}/v1/chat/completions`, { ...init, body })).text();
    expect(await tokens("user/u")).toBe(-50);
    clock.advance(5_000);
    expect(await tokens("user/u")).toBe(0);
  });

  test("requestedTokens, userId and unsigned identity headers change nothing", async () => {
    await server.close();
    await upstream.close();
    await start({ auth: { keys: [{ name: "k", key: "qg-key-of-user-u", scopes: { user: "u" } }] } });
    await budget("user", "u", 100, 0);
    upstream.script({ usage: { prompt_tokens: 40, completion_tokens: 10, total_tokens: 50 } });
    const init = { method: "POST", headers: { authorization: "Bearer qg-key-of-user-u", "x-user-id": "other" } };
    const body = JSON.stringify({
      model: "gpt-4o-mini",
      messages: [{ role: "user", content: "" }],
      max_tokens: 39,
      requestedTokens: 1,
      userId: "fresh",
    });
    await (await fetch(`${server.url}/v1/chat/completions`, { ...init, body })).text();
    expect(await tokens("user/u")).toBe(50);
  });
});

describe("the budget API", () => {
  test("answers with TokenGuard's shapes", async () => {
    expect(await budget("user", "a:b", 500, 5)).toEqual({
      status: 200,
      body: { ok: true, scope: "user:a:b", bucket: { tokens: 500, capacity: 500, refillPerSec: 5 } },
    });
    expect((await budget("global", undefined, 900, 0)).body).toEqual({
      ok: true,
      scope: "global",
      bucket: { tokens: 900, capacity: 900, refillPerSec: 0 },
    });
    expect((await admin("GET", "/buckets/global")).body).toEqual({ scope: "global", bucket: { tokens: 900, capacity: 900, refillPerSec: 0 } });
    expect((await admin("POST", "/config/refill-rate", { userId: "a:b", refillPerSec: 7 })).body).toEqual({
      ok: true,
      userId: "a:b",
      refillPerSec: 7,
      bucket: { tokens: 500, capacity: 500, refillPerSec: 7 },
    });
  });

  test("a lower capacity clips, a higher one adds nothing, and the count stays", async () => {
    await budget("user", "u", 100, 0);
    await spend(50, { user: "u" });
    expect((await budget("user", "u", 150, 0)).body.bucket).toEqual({ tokens: 50, capacity: 150, refillPerSec: 0 });
    expect((await budget("user", "u", 30, 0)).body.bucket).toEqual({ tokens: 30, capacity: 30, refillPerSec: 0 });
    expect((await budget("user", "u", 1_000, 0)).body.bucket).toEqual({ tokens: 30, capacity: 1_000, refillPerSec: 0 });
  });

  test("two organisations may both have an alice", async () => {
    await admin("POST", "/config/budget", { scope: "user", id: "alice", org: "acme", capacity: 100, refillPerSec: 0 });
    expect((await admin("GET", "/buckets/user/alice?org=acme")).body.bucket.capacity).toBe(100);
    expect((await admin("GET", "/buckets/user/alice")).status).toBe(404);
  });

  test.each([
    [{ scope: "planet", id: "x", capacity: 1 }, "invalid scope"],
    [{ scope: "user", capacity: 1 }, "id required for non-global scope"],
    [{ scope: "user", id: "u", capacity: -1 }, "capacity must be non-negative"],
    [{ scope: "user", id: "u", refillPerSec: -0.5 }, "refillPerSec must be non-negative"],
    [{ scope: "user", id: "u" }, "give capacity, refillPerSec or both"],
    [{ scope: "user", id: "../x", capacity: 1 }, "id must be 1 to 128 characters of A-Z a-z 0-9 . _ @ : -"],
  ])("%o: 400 %s", async (body, detail) => {
    expect(await admin("POST", "/config/budget", body)).toMatchObject({ status: 400, body: { detail, code: "body_invalid" } });
  });

  test("scope global has no id", async () => {
    expect((await admin("GET", "/buckets/global/x")).status).toBe(400);
  });

  test("needs the management key; the master key does not open it", async () => {
    expect((await admin("GET", "/buckets/global", undefined, null)).status).toBe(401);
    expect((await admin("GET", "/buckets/global", undefined, MASTER)).status).toBe(401);
  });
});

describe("OpenAI limit sync", () => {
  const headers = (limit: number, remaining: number, reset: string) => ({
    "x-ratelimit-limit-tokens": String(limit),
    "x-ratelimit-remaining-tokens": String(remaining),
    "x-ratelimit-reset-tokens": reset,
  });

  test("100000/95000/5m0s are echoed and set the global bucket", async () => {
    upstream.script({ headers: headers(100_000, 95_000, "5m0s") });
    const { status, body } = await admin("POST", "/sync/openai-limits");
    expect(status).toBe(200);
    expect(body).toMatchObject({
      status: "success",
      "x-ratelimit-limit-tokens": "100000",
      "x-ratelimit-remaining-tokens": "95000",
      "x-ratelimit-reset-tokens": "5m0s",
      global_bucket: { tokens: 95_000, capacity: 100_000 },
    });
    expect(await tokens("global")).toBe(95_000);
  });

  test("what the answer tells is known of the account, as after any request; a refusal's, too", async () => {
    const quotas = async () => {
      const { body } = await admin("GET", "/v0/management/credentials/main");
      return body.quotas;
    };
    upstream.script({ headers: { ...headers(100_000, 95_000, "1m0s"), "x-ratelimit-limit-requests": "" } });
    await admin("POST", "/sync/openai-limits");
    expect(await quotas()).toEqual([
      expect.objectContaining({ group: "tokens/gpt-4o-mini", models: ["gpt-4o-mini"], remainingRatio: 0.95, limit: 100_000, source: "headers" }),
    ]);
    clock.advance(1_000);
    upstream.script({ status: 429, headers: { ...headers(100_000, 0, "30s"), "x-ratelimit-limit-requests": "" } });
    expect((await admin("POST", "/sync/openai-limits")).status).toBe(502);
    expect(await quotas()).toContainEqual(expect.objectContaining({ group: "tokens/gpt-4o-mini", remainingRatio: 0, source: "error" }));
  });

  test("only a sync that was asked for sets the global bucket, not whichever model answered last", async () => {
    await budget("global", undefined, 1_000, 0);
    for (const limit of [60_000, 200_000]) {
      upstream.script({ headers: headers(limit, 700, "5m0s"), usage: "zero" });
      const init = { method: "POST", headers: { authorization: `Bearer ${MASTER}` } };
      const body = JSON.stringify({ model: "gpt-4o-mini", messages: [], max_tokens: 10 });
      expect((await fetch(`${server.url}/v1/chat/completions`, { ...init, body })).status).toBe(200);
    }
    expect((await admin("GET", "/buckets/global")).body.bucket).toEqual({ tokens: 1_000, capacity: 1_000, refillPerSec: 0 });
  });

  test("a fresh window never means a refill of 0", async () => {
    upstream.script({ headers: headers(60_000, 60_000, "0s") });
    const { body } = await admin("GET", "/sync/openai-limits");
    expect((body.global_bucket as { refill_per_sec: number }).refill_per_sec).toBeGreaterThan(0);
  });

  test("20ms is not 20 minutes", async () => {
    upstream.script({ headers: headers(60_000, 59_980, "20ms") });
    const { body } = await admin("GET", "/sync/openai-limits");
    expect((body.global_bucket as { refill_per_sec: number }).refill_per_sec).toBeCloseTo(1_000, 6);
  });

  test("a provider that refuses is an error with its status, not half a sync", async () => {
    upstream.script({ status: 401 });
    expect((await admin("POST", "/sync/openai-limits")).status).toBe(502);
    expect((await admin("GET", "/buckets/global")).status).toBe(404);
  });
});

test("/, /health, /metrics and an unknown path", async () => {
  expect(await (await fetch(server.url)).json()).toMatchObject({ name: "quotaguard", status: "ok", backend: "memory" });
  expect(await (await fetch(`${server.url}/health`)).json()).toMatchObject({ status: "healthy", total_credentials: 1 });
  expect((await fetch(`${server.url}/nothing`)).status).toBe(404);
  expect((await fetch(`${server.url}/v0/management/health`)).status).toBe(401);
  expect((await admin("GET", "/v0/management/health")).body).toMatchObject({ status: "ok" });
});
