// What guard.explain says, and what becomes of the very same request.
import express from "express";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { createGuard, type GuardError, type GuardOptions } from "quotaguard";
import { fakeUpstream, testClock, type FakeUpstream, type TestClock } from "quotaguard/testing";
import { seededRandom } from "../../src/testing/seeded-random.ts";
import { rejectionOf } from "../core/context-kit.ts";
import { chat, KEY, listen, OTHER_KEY, testGateway, type TestGateway } from "../helpers/app.ts";
import { onSqlite } from "../helpers/place.ts";

const MODEL = "gpt-4o-mini";
const WORLDS = 200;
const REQUESTS = 8;

let upstream: FakeUpstream;
beforeAll(async () => {
  upstream = await fakeUpstream();
});
afterAll(() => upstream.close());

let ends: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const end of ends.toReversed()) await end();
  ends = [];
});

async function gateway(more: Parameters<typeof testGateway>[0], prepare?: Parameters<typeof testGateway>[1]): Promise<TestGateway> {
  const made = await testGateway(more, prepare);
  ends.push(() => made.close());
  return made;
}

type LimitInput = NonNullable<GuardOptions["limits"]>[number];
type CredentialInput = NonNullable<GuardOptions["credentials"]>[number];

function randomOptions(random: () => number, clock: TestClock): GuardOptions {
  const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
  const some = <T>(values: readonly T[]): T[] => values.filter(() => random() < 0.4);
  const limits: LimitInput[] = some<LimitInput>([
    { name: "user-requests", scope: "user", unit: "requests", window: { limit: pick([2, 5]), per: "minute" } },
    { name: "user-day", scope: "user", unit: "usd", window: { limit: pick([0.01, 0.1]), per: "day" }, whenShort: pick(["refuse", "shorten"]) },
    {
      name: "team-tokens",
      scope: "team",
      unit: "tokens",
      bucket: { capacity: pick([500, 5_000]), refillPerSec: pick([0, 10]) },
      estimate: "expected",
    },
    {
      name: "model-output",
      scope: ["user", "model"],
      unit: "output_tokens",
      window: { limit: 3_000, per: "hour" },
      mode: pick(["enforce", "shadow"]),
    },
    { name: "never", scope: "global", unit: "requests", bucket: { capacity: 6, refillPerSec: 0 } },
    { name: "parallel", scope: "user", unit: "concurrent", concurrency: { limit: pick([1, 0]) } },
  ]);
  const credentials: CredentialInput[] = Array.from({ length: 1 + Math.floor(random() * 3) }, (_, i) => ({
    name: `c${i}`,
    provider: pick(["openai", "openai", "anthropic"]),
    apiKey: `sk-upstream-${i}`,
    baseUrl: upstream.url,
    rpm: pick([-1, -1, 2]),
    priority: pick([0, 0, 1]),
    isFallback: random() < 0.2,
    ...(random() < 0.3 ? { models: pick([["other"], [MODEL], [MODEL, "third"]]) } : {}),
  }));
  return {
    auth: {
      keys: [
        { name: "alice", key: KEY, scopes: { team: "data", user: "alice" }, ...(random() < 0.1 ? { models: ["other"] } : {}) },
        { name: "bob", key: OTHER_KEY, scopes: { user: "bob", org: "acme" } },
      ],
    },
    credentials,
    limits,
    models: [{ name: MODEL, price: { inputPerMtok: 1, outputPerMtok: 10 } }],
    prices: { book: false },
    router: {
      strategy: pick(["round-robin", "fill-first", "weighted", "least-cost", "quota", "quota"]),
      fallbackChains: pick<Record<string, string[]>>([{}, { [MODEL]: ["other", "third"] }, { [MODEL]: ["c1", "other"], best: ["third", MODEL] }]),
      sticky: pick<false | { by: string[] }>([false, { by: ["session", "user"] }]),
    },
    // A client's address is known to the gateway, and not to who describes a call.
    fail2ban: { clients: false },
    resilience: { maxRetries: 0 },
    monitoring: { prometheusEnabled: false },
    clock,
  };
}

/** What an account says of its quotas, in the words of its provider. */
function quotaHeaders(random: () => number): Record<string, string> {
  const left = String(Math.floor(random() * random() * 1_000));
  return {
    "x-ratelimit-limit-tokens": "1000",
    "x-ratelimit-remaining-tokens": left,
    "x-ratelimit-reset-tokens": "40s",
    "anthropic-ratelimit-requests-limit": "100",
    "anthropic-ratelimit-requests-remaining": String(Math.floor(Number(left) / 50)),
    "anthropic-ratelimit-requests-reset": new Date(Date.UTC(2026, 0, 1, 0, 5)).toISOString(),
  };
}

/** What a client can tell of what it got. */
async function seenBy(response: Response, credential: string | null): Promise<unknown> {
  const { error } = (await response.json()) as { error?: { code?: string; message?: string } };
  // What a provider says is not ours to know beforehand.
  if (credential !== null) return { credential };
  return { status: response.status, code: error?.code, message: error?.message, retryAfter: response.headers.get("retry-after") };
}

describe("in random gateways", () => {
  test("what is explained is what then happens", async () => {
    const seen = new Map<string, number>();
    for (let seed = 1; seed <= WORLDS; seed += 1) {
      const random = seededRandom(seed);
      const pick = <T>(values: readonly T[]): T => values[Math.floor(random() * values.length)] as T;
      const clock = testClock();
      const guard = createGuard(randomOptions(random, clock));
      const app = express();
      app.use("/llm", guard.handler());
      await guard.ready();
      const listening = await listen(app);
      try {
        const attempts: string[] = [];
        guard.events.on("attempt", ({ credential, model }) => attempts.push(`${credential}/${model}`));
        upstream.script(() => {
          const chance = random();
          if (chance < 0.15) return { status: 429, headers: { "retry-after": "7" } };
          return chance < 0.3 ? { status: 500 } : { headers: chance < 0.7 ? quotaHeaders(random) : {} };
        });
        for (let i = 0; i < REQUESTS; i += 1) {
          const at = `seed ${seed}, request ${i}`;
          if (random() < 0.4) clock.advance(Math.floor(random() * 30_000));
          if (random() < 0.05) await guard.admin.pause("c0", { reason: "for a test", until: clock.now() + 10_000 });
          const key = pick([KEY, KEY, KEY, OTHER_KEY, "nobodys-key"]);
          const body = {
            model: pick([MODEL, MODEL, MODEL, MODEL, "other", "best"]),
            ...(random() < 0.3 ? { prompt_cache_key: pick(["s", "t"]) } : {}),
            ...(random() < 0.25 ? { n: 2 } : {}),
            messages: [{ role: "user", content: "x".repeat(40 * i) }],
            max_tokens: pick([50, 400, 4_000]),
          };
          const explained = await guard.explain({ key, body });
          expect({ ...(await guard.explain({ key, body })), at: 0 }, at).toEqual({ ...explained, at: 0 });
          attempts.length = 0;
          const response = await chat(listening.url, body, { key });
          const { served, status, code, message, retryAfterMs } = explained.outcome;
          const expected = served
            ? { credential: `${served.credential}/${served.model}` }
            : { status, code, message, retryAfter: retryAfterMs === null ? null : String(Math.max(1, Math.ceil(retryAfterMs / 1_000))) };
          expect(await seenBy(response, attempts[0] ?? null), at).toEqual(expected);
          const refusing = explained.limits.filter(({ refuses }) => refuses).length;
          expect(refusing > 0, at).toBe(code === "budget_exhausted" || code === "budget_too_small");
          if (served && explained.candidates.find(({ place }) => place === 1)?.fallbackFor) seen.set("a fallback", (seen.get("a fallback") ?? 0) + 1);
          seen.set(code ?? "served", (seen.get(code ?? "served") ?? 0) + 1);
        }
      } finally {
        await listening.close();
        await guard.close();
      }
    }
    for (const what of [
      "served",
      "budget_exhausted",
      "budget_too_small",
      "unauthenticated",
      "model_not_allowed",
      "all_credentials_limited",
      "model_not_found",
      "untranslatable",
      "a fallback",
    ])
      expect(seen.get(what) ?? 0, what).toBeGreaterThan(2);
  }, 120_000);
});

const messages = [{ role: "user", content: "hello" }];

describe("a call to come", () => {
  test("names who asks, each limit before and after, every candidate, the price, and who would serve it", async () => {
    const clock = testClock();
    const { guard } = await gateway(({ url }) => ({
      auth: { keys: [{ name: "alice", key: KEY, scopes: { org: "acme", user: "alice" }, models: ["gpt-*"] }] },
      credentials: [
        { name: "main", provider: "openai", apiKey: "sk-1", baseUrl: url, priority: 1 },
        { name: "spare", provider: "openai", apiKey: "sk-2", baseUrl: url, isFallback: true },
        { name: "resting", provider: "openai", apiKey: "sk-3", baseUrl: url },
      ],
      models: [{ name: MODEL, price: { inputPerMtok: 1, outputPerMtok: 10 } }],
      modelAlias: { "gpt-fast": MODEL },
      limits: [
        { name: "user-hour", scope: "user", unit: "requests", window: { limit: 5, per: "hour" } },
        { name: "org-day", scope: "org", unit: "usd", window: { limit: 1, per: "day" } },
        { name: "free", scope: "user", unit: "tokens", window: { limit: -1, per: "day" } },
        { name: "watched", scope: "user", unit: "output_tokens", window: { limit: 10, per: "day" }, mode: "shadow" },
      ],
      prices: { book: false },
      clock,
    }));
    await guard.admin.pause("resting", { reason: "key is being replaced", until: clock.now() + 60_000 });
    const explained = await guard.explain({ key: "alice", model: "gpt-fast", maxTokens: 100, messages });
    expect(explained).toMatchObject({
      kind: "call",
      identity: { kind: "key", key: "alice", org: "acme", models: ["gpt-*"] },
      scopes: { org: "acme", user: "alice" },
      call: { dialect: "openai", operation: "chat", model: "gpt-fast", resolved: MODEL, maxTokens: 100, sentMaxTokens: null },
      outcome: { served: { credential: "main", provider: "openai", model: MODEL }, status: 200, code: null, retryAfterMs: null },
    });
    const { limits, candidates, price } = explained;
    expect(limits.map(({ name, value, before, needed, after, fits, refuses }) => [name, value, before, needed, after, fits, refuses])).toEqual([
      ["user-hour", "acme/alice", 5, 1, 4, true, false],
      ["org-day", "acme", 1, price?.ceilingUsd, 1 - (price?.ceilingUsd ?? 0), true, false],
      ["free", "acme/alice", null, null, null, true, false],
      ["watched", "acme/alice", 10, 100, null, false, false],
    ]);
    expect(limits[1]?.resetsAt).toBe(Date.UTC(2026, 0, 2));
    expect(candidates.map(({ credential, place, reason }) => [credential, place, reason])).toEqual([
      ["main", 1, null],
      ["spare", 2, null],
      ["resting", null, { code: "paused", message: "key is being replaced", until: clock.now() + 60_000 }],
    ]);
    expect(price?.ceilingUsd).toBeCloseTo((price?.inputTokens ?? 0) * 1e-6 + 100 * 1e-5, 9);
    expect(JSON.stringify(explained)).not.toMatch(/sk-|qg-test/);
  });

  test("a limit that is short says so although somebody could serve it, and a cap that would be lowered is told", async () => {
    const { guard, url } = await gateway({
      limits: [
        { name: "user-hour", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } },
        { name: "user-output", scope: "user", unit: "output_tokens", window: { limit: 60, per: "hour" }, whenShort: "shorten" },
        { name: "team-hour", scope: "team", unit: "requests", window: { limit: 9, per: "hour" } },
      ],
    });
    expect(await guard.explain({ key: KEY, model: MODEL, maxTokens: 100, messages })).toMatchObject({ call: { maxTokens: 100, sentMaxTokens: 60 } });
    expect((await chat(url)).status).toBe(200);
    const { limits, outcome, candidates } = await guard.explain({ key: KEY, model: MODEL, maxTokens: 10, messages });
    expect(outcome).toMatchObject({ served: null, status: 429, code: "budget_exhausted" });
    expect(limits[0]).toMatchObject({ name: "user-hour", before: 0, after: null, fits: false, refuses: true, waitMs: outcome.retryAfterMs });
    // All or nothing: what has room is not charged either.
    expect(limits[2]).toMatchObject({ name: "team-hour", before: 8, after: null, fits: true, refuses: false });
    expect(candidates.map(({ place }) => place)).toEqual([1]);
  });

  test("changes nothing: no counter, turn, use of a key or strike, and nobody hears of it", async () => {
    const clock = testClock();
    const { guard, url } = await gateway(({ url: at }) => ({
      credentials: ["a", "b"].map((name) => ({ name, provider: "openai", apiKey: `sk-${name}`, baseUrl: at, rpm: 2 })),
      limits: [{ name: "user-hour", scope: "user", unit: "requests", window: { limit: 9, per: "hour" } }],
      secrets: { key: "a-secret-key-for-tests-000001" },
      fail2ban: { clients: { maxAttempts: 2 } },
      clock,
    }));
    const { key } = await guard.admin.keys.create({ name: "carol", scopes: { user: "carol" } });
    const heard: string[] = [];
    guard.events.on("request", () => heard.push("request"));
    guard.events.on("refused", () => heard.push("refused"));
    const before = [await guard.remaining({ user: "carol" }), guard.admin.credentials()];
    for (let i = 0; i < 6; i += 1) {
      expect((await guard.explain({ key, model: MODEL, messages })).outcome.served?.credential).toBe("a");
      expect((await guard.explain({ key: "wrong", model: MODEL })).outcome).toMatchObject({ status: 401, code: "unauthenticated", served: null });
    }
    expect([await guard.remaining({ user: "carol" }), guard.admin.credentials()]).toEqual(before);
    expect([heard, guard.admin.clientBans(), (await guard.admin.keys.list())[0]?.lastUsedAt]).toEqual([[], [], null]);
    expect((await chat(url, {}, { key })).status).toBe(200);
    expect((await guard.explain({ key, model: MODEL, messages })).outcome.served?.credential).toBe("b");
    await guard.admin.keys.revoke("carol");
    expect((await guard.explain({ key: "carol", model: MODEL })).outcome.code).toBe("unauthenticated");
  });

  test("a key that has ended, or may not use the model, is told what its client would be", async () => {
    const { guard } = await gateway({
      auth: {
        keys: [
          { name: "ended", key: KEY, expires: "2020-01-01" },
          { name: "small", key: OTHER_KEY, models: ["gpt-4o-mini"] },
        ],
      },
    });
    const ended = await guard.explain({ key: "ended", model: MODEL });
    expect([ended.outcome.code, ended.identity, ended.candidates]).toEqual(["unauthenticated", null, []]);
    const small = await guard.explain({ key: "small", model: "o3" });
    expect([small.outcome.code, small.identity?.key]).toEqual(["model_not_allowed", "small"]);
  });

  test("by scopes, in any dialect; a provider that cannot be asked this is no candidate", async () => {
    const { guard } = await gateway(({ url }) => ({
      auth: false,
      credentials: [
        { name: "claude", provider: "anthropic", apiKey: "sk-1", baseUrl: url, priority: 1 },
        { name: "gpt", provider: "openai", apiKey: "sk-2", baseUrl: url },
      ],
      limits: [{ name: "user-hour", scope: "user", unit: "requests", window: { limit: 2, per: "hour" }, required: true }],
    }));
    const { candidates, outcome } = await guard.explain({ scopes: { user: 7n }, body: { model: MODEL, messages, n: 3 } });
    expect(outcome.served?.credential).toBe("gpt");
    expect(candidates.map(({ credential, place, reason }) => [credential, place, reason?.code])).toEqual([
      ["claude", null, "untranslatable"],
      ["gpt", 1, undefined],
    ]);
    for (const dialect of ["openai", "anthropic", "responses", "gemini"] as const)
      expect((await guard.explain({ scopes: { user: "u" }, model: MODEL, maxTokens: 9, dialect })).call).toMatchObject({
        dialect,
        model: MODEL,
        maxTokens: 9,
        stream: false,
      });
    expect((await guard.explain({ scopes: { user: "u" }, model: MODEL, dialect: "gemini", stream: true })).call?.stream).toBe(true);
    expect((await guard.explain({ model: MODEL })).outcome).toMatchObject({ code: "scope_invalid", status: 400 });
    await expect(guard.explain({ scopes: { usr: "u" } as never, model: MODEL })).rejects.toMatchObject({ code: "scope_invalid" });
    await expect(guard.explain({ key: "k", model: MODEL })).rejects.toMatchObject({ code: "body_invalid", param: "key" });
    await expect(guard.explain({ key: "k", scopes: { user: "u" }, model: MODEL })).rejects.toMatchObject({ code: "body_invalid" });
    await expect(guard.explain({ modle: MODEL } as never)).rejects.toMatchObject({ code: "body_invalid" });
    await expect(guard.explain({ scopes: {} })).rejects.toMatchObject({ code: "body_invalid", param: "model" });
  });
});

test("what none of the model's own accounts can be asked goes to no fallback; where one could and is closed, it does", async () => {
  const { guard } = await gateway(({ url }) => ({
    auth: false,
    credentials: [
      { name: "claude", provider: "anthropic", apiKey: "sk-1", baseUrl: url, models: ["alone", "shared"] },
      { name: "gpt", provider: "openai", apiKey: "sk-2", baseUrl: url, models: ["shared"] },
      { name: "spare", provider: "openai", apiKey: "sk-3", baseUrl: url, models: [MODEL] },
    ],
    router: { fallbackChains: { alone: [MODEL], shared: [MODEL] } },
  }));
  const asked = (model: string) => guard.explain({ body: { model, messages, n: 2 } });
  const alone = await asked("alone");
  expect(alone.outcome).toMatchObject({ served: null, status: 422, code: "untranslatable" });
  expect(alone.candidates.map(({ credential, fallbackFor, place, reason }) => [credential, fallbackFor, place, reason?.code])).toEqual([
    ["claude", null, null, "untranslatable"],
    ["spare", "alone", null, "untranslatable"],
  ]);
  await guard.admin.pause("gpt", { reason: "for a test" });
  const shared = await asked("shared");
  expect(shared.outcome.served).toMatchObject({ credential: "spare", model: MODEL });
  expect(shared.candidates.find(({ place }) => place === 1)).toMatchObject({ credential: "spare", fallbackFor: "shared" });
});

describe("a request", () => {
  test("of Express, once its body is read; of fetch, which stays whole; and never by taking its body away", async () => {
    const made = await gateway({ limits: [{ name: "user-hour", scope: "user", unit: "requests", window: { limit: 5, per: "hour" } }] }, (app) => {
      app.post("/raw/v1/chat/completions", (req, res, next) => {
        made.guard.explain(req).then(
          () => res.json("?"),
          (error: unknown) => {
            expect((error as GuardError).code).toBe("body_invalid");
            express.json()(req, res, (fault?: unknown) => (fault === undefined ? res.json(req.body) : next(fault)));
          },
        );
      });
      app.post("/asked/v1/chat/completions", express.json(), (req, res, next) => {
        made.guard.explain(req).then((explained) => res.json(explained), next);
      });
    });
    const init = {
      method: "POST",
      headers: { "content-type": "application/json", authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ model: MODEL, messages }),
    };
    const asked = (await (await fetch(`${made.url}/asked/v1/chat/completions`, init)).json()) as {
      identity: unknown;
      outcome: unknown;
      limits: unknown;
    };
    expect(asked).toMatchObject({
      identity: { key: "alice" },
      outcome: { status: 200, served: { credential: "main" } },
      limits: [{ before: 5, after: 4 }],
    });
    expect(await (await fetch(`${made.url}/raw/v1/chat/completions`, init)).json()).toEqual({ model: MODEL, messages });
    const request = new Request("http://localhost/llm/v1/chat/completions", init);
    expect((await made.guard.explain(request)).outcome.served?.credential).toBe("main");
    expect(await request.json()).toEqual({ model: MODEL, messages });
    await expect(made.guard.explain(new Request("http://localhost/v1/files"))).rejects.toMatchObject({ code: "body_invalid" });
  });
});

describe("a past request", () => {
  const idOf = (response: Response): string => response.headers.get("x-request-id") as string;

  test("that was served, with what was tried before", async () => {
    const {
      guard,
      url,
      upstream: provider,
    } = await gateway(({ url: at }) => ({
      credentials: ["a", "b"].map((name) => ({ name, provider: "openai", apiKey: `sk-${name}`, baseUrl: at })),
      models: [{ name: MODEL, price: { inputPerMtok: 1, outputPerMtok: 10 } }],
      ...onSqlite(),
    }));
    provider.script([{ status: 429 }]);
    const response = await chat(url, {}, { headers: { "x-request-id": "mine-1" } });
    await response.text();
    await expect.poll(async () => (await guard.explain("mine-1")).state).toBe("settled");
    const explained = await guard.explain(idOf(response));
    expect(explained).toMatchObject({
      kind: "request",
      requestId: "mine-1",
      identity: { key: "alice" },
      attempts: [
        { credential: "a", status: 429, code: "upstream_refused" },
        { credential: "b", status: 200, code: null },
      ],
      outcome: { served: { credential: "b", provider: "openai" }, status: 200, code: null },
    });
    expect(explained.billedUsd).toBeGreaterThan(0);
  });

  test.each([
    ["a limit", "budget_exhausted", {}, KEY],
    ["its key's models", "model_not_allowed", { model: "o3" }, OTHER_KEY],
    ["its model", "model_not_found", { model: "gone" }, KEY],
    ["its credentials", "no_credential", {}, KEY],
  ] as const)("that was refused by %s has a row, too", async (_what, code, body, key) => {
    const { guard, url } = await gateway(({ url: at }) => ({
      auth: {
        keys: [
          { name: "alice", key: KEY, scopes: { user: "alice" } },
          { name: "bob", key: OTHER_KEY, models: [MODEL] },
        ],
      },
      credentials: [{ name: "main", provider: "openai", apiKey: "sk-1", baseUrl: at, models: [MODEL, "o3"] }],
      limits: [{ name: "user-hour", scope: "user", unit: "requests", window: { limit: code === "budget_exhausted" ? 0 : 5, per: "hour" } }],
      ...onSqlite(),
    }));
    if (code === "no_credential") await guard.admin.pause("main", { reason: "for a test" });
    const response = await chat(url, body, { key });
    await response.text();
    const expected = code === "budget_exhausted" ? "budget_too_small" : code;
    expect(response.status).toBeGreaterThanOrEqual(400);
    await expect.poll(async () => (await guard.explain(idOf(response)).catch(() => null))?.state).toBe("refused");
    const explained = await guard.explain(idOf(response));
    expect(explained.outcome).toMatchObject({ code: expected, served: null, status: response.status });
    expect([explained.limit, explained.attempts]).toEqual([code === "budget_exhausted" ? "user-hour" : null, []]);
  });

  test("that nobody knows, or whose client had no right key, is not found", async () => {
    const { guard, url } = await gateway({});
    const stranger = await chat(url, {}, { key: "wrong" });
    await stranger.text();
    for (const id of [idOf(stranger), "nothing", "", "x".repeat(10_000)]) {
      const error = await rejectionOf(guard.explain(id));
      expect([error.code, error.message]).toEqual(["not_found", expect.stringContaining("x-request-id")]);
    }
  });
});
