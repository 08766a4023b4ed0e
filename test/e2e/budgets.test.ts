// Every kind of limit, through HTTP, with time that a test moves.
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { testClock, type TestClock } from "quotaguard/testing";
import { chat, KEY, OTHER_KEY, testGateway, type TestGateway } from "../helpers/app.ts";

type LimitInput = NonNullable<GuardOptions["limits"]>[number];

/** A chat without messages is expected to take 7 tokens of input, and its ceiling is 17; output is what it asks for. */
const EMPTY = { messages: [] };
const INPUT = 7;

let gateway: TestGateway;
let clock: TestClock;
afterEach(() => gateway.close());

async function start(limits: readonly LimitInput[], more: GuardOptions = {}, now = Date.UTC(2026, 0, 1)): Promise<void> {
  clock = testClock({ now });
  gateway = await testGateway({ limits, clock, ...more });
}

const ask = (body: Record<string, unknown> = {}, key = KEY, headers: Record<string, string> = {}) =>
  chat(gateway.url, { ...EMPTY, max_tokens: 50, ...body }, { key, headers });
const statuses = async (pending: readonly Promise<Response>[]): Promise<number[]> => Promise.all(pending.map(async (each) => (await each).status));
const errorOf = async (response: Response) => ((await response.json()) as { error: Record<string, unknown> }).error;
const settled = async (): Promise<void> => {
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
};

/** The fake bills exactly what was held. */
const exactly = (outputTokens: number) =>
  gateway.upstream.script({ usage: { prompt_tokens: INPUT, completion_tokens: outputTokens, total_tokens: INPUT + outputTokens } });

describe("every unit in every kind", () => {
  const kinds = {
    bucket: (limit: number) => ({ bucket: { capacity: limit, refillPerSec: 0 } }),
    "sliding window": (limit: number) => ({ window: { limit, per: "hour" } }),
    "calendar window": (limit: number) => ({ window: { limit, per: "month" } }),
  };
  const units = [
    ["requests", 3],
    ["tokens", 3 * (INPUT + 50)],
    ["input_tokens", 3 * INPUT],
    ["output_tokens", 3 * 50],
    // 7 x 1,000 + 50 x 2,000 nano-USD each.
    ["usd", 0.000321],
  ] as const;
  const cases = units.flatMap(([unit, limit]) => Object.entries(kinds).map(([kind, make]) => [unit, kind, make(limit)] as const));

  test.each(cases)("%s in a %s: three fit, the fourth does not, and another user is not touched", async (unit, _kind, kind) => {
    await start([{ name: "user-limit", scope: "user", unit, estimate: "expected", ...kind }], {
      models: [{ name: "gpt-4o-mini", price: { inputPerMtok: 1, outputPerMtok: 2 } }],
    });
    exactly(50);
    for (let i = 0; i < 3; i += 1) expect((await ask()).status).toBe(200);
    await settled();
    const refused = await ask();
    expect(refused.status).toBe(429);
    expect(await errorOf(refused)).toMatchObject({ code: "budget_exhausted", limit: "user-limit", scope: "user", available: 0 });
    expect((await ask({}, OTHER_KEY)).status).toBe(200);
  });

  test("concurrent: as many as allowed at one time, the next one when one ends", async () => {
    await start([{ name: "user-parallel", scope: "user", unit: "concurrent", concurrency: { limit: 2 } }]);
    const answers = Array.from({ length: 2 }, () => Promise.withResolvers<void>());
    gateway.upstream.script(({ id }) => (id <= 2 ? { hold: answers[id - 1]?.promise as Promise<void> } : {}));
    const open = [ask(), ask()];
    await gateway.upstream.received(2);
    const refused = await ask();
    expect(refused.status).toBe(429);
    expect(await errorOf(refused)).toMatchObject({ limit: "user-parallel", needed: 1, available: 0 });
    expect((await ask({}, OTHER_KEY)).status).toBe(200);
    answers[0]?.resolve();
    await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(1);
    expect((await ask()).status).toBe(200);
    answers[1]?.resolve();
    expect(await statuses(open)).toEqual([200, 200]);
  });
});

describe("time", () => {
  test("a sliding window is free again when Retry-After says so, and not before", async () => {
    await start([{ name: "user-minute", scope: "user", unit: "requests", window: { limit: 2, per: "minute" } }]);
    expect((await ask()).status).toBe(200);
    clock.advance(30_000);
    expect((await ask()).status).toBe(200);
    const refused = await ask();
    const waitS = Number(refused.headers.get("retry-after"));
    expect(waitS).toBeGreaterThan(29);
    expect(waitS).toBeLessThanOrEqual(31);
    clock.advance((waitS - 2) * 1_000);
    expect((await ask()).status).toBe(429);
    clock.advance(2_000);
    expect((await ask()).status).toBe(200);
    // The second one is still inside.
    expect((await ask()).status).toBe(429);
  });

  test("a day ends at midnight of its time zone, also when the clocks change", async () => {
    // 23:30 in Berlin, on the evening before the 23-hour day of 2026.
    await start(
      [{ name: "user-day", scope: "user", unit: "requests", window: { limit: 1, per: "day", timeZone: "Europe/Berlin" } }],
      {},
      Date.UTC(2026, 2, 28, 22, 30),
    );
    const first = await ask();
    expect(first.headers.get("ratelimit-policy")).toBe('"user-day";q=1;w=86400;qu="requests"');
    const refused = await ask();
    expect(refused.headers.get("retry-after")).toBe("1800");
    expect(refused.headers.get("x-should-retry")).toBe("false");
    clock.advance(1_800_000 - 1);
    expect((await ask()).status).toBe(429);
    clock.advance(1);
    const next = await ask();
    expect(next.status).toBe(200);
    expect(next.headers.get("ratelimit-policy")).toContain("w=82800");
    expect((await ask()).headers.get("retry-after")).toBe("82800");
    clock.advance(23 * 3_600_000);
    expect((await ask()).status).toBe(200);
  });

  test("a week begins on Monday and a month on the first", async () => {
    // Sunday, 31 May 2026, 23:59 UTC.
    await start(
      [
        { name: "week", scope: "user", unit: "requests", window: { limit: 1, per: "week" } },
        { name: "month", scope: "user", unit: "requests", window: { limit: 2, per: "month" } },
      ],
      {},
      Date.UTC(2026, 4, 31, 23, 59),
    );
    expect((await ask()).status).toBe(200);
    expect(await errorOf(await ask())).toMatchObject({ limit: "week", retry_after_ms: 60_000 });
    clock.advance(60_000);
    expect((await ask()).status).toBe(200);
    clock.advance(7 * 86_400_000);
    expect((await ask()).status).toBe(200);
    clock.advance(7 * 86_400_000);
    expect(await errorOf(await ask())).toMatchObject({ limit: "month" });
  });

  test("a bucket refills to its capacity and not beyond", async () => {
    await start([{ name: "user-bucket", scope: "user", unit: "requests", bucket: { capacity: 2, refillPerSec: 0.5 } }]);
    expect(await statuses([ask(), ask(), ask()])).toEqual(expect.arrayContaining([200, 200, 429]));
    const refused = await ask();
    expect(refused.headers.get("retry-after")).toBe("2");
    expect(refused.headers.get("x-should-retry")).toBeNull();
    clock.advance(3_600_000);
    const answers = await statuses([ask(), ask(), ask()]);
    expect(answers.filter((status) => status === 200)).toHaveLength(2);
  });
});

describe("many at once", () => {
  test("200 parallel requests on a bucket for 37: 37", async () => {
    await start([{ name: "user-bucket", scope: "user", unit: "requests", bucket: { capacity: 37, refillPerSec: 0 } }]);
    const answers = await statuses(Array.from({ length: 200 }, (_, i) => ask({ stream: i % 3 === 0 })));
    expect(answers.filter((status) => status === 200)).toHaveLength(37);
    expect(answers.filter((status) => status === 429)).toHaveLength(163);
    expect(gateway.upstream.log).toHaveLength(37);
  });

  test("200 parallel requests on tokens for 37: 37, while none of them has ended", async () => {
    await start([{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 37 * (INPUT + 50), refillPerSec: 0 } }]);
    const answered = Promise.withResolvers<void>();
    gateway.upstream.script({ hold: answered.promise });
    let refusals = 0;
    const pending = Array.from({ length: 200 }, async () => {
      const response = await ask();
      if (response.status === 429 && (refusals += 1) === 163) answered.resolve();
      return response;
    });
    expect((await statuses(pending)).filter((status) => status === 200)).toHaveLength(37);
    await settled();
    // Each gave back what it did not use.
    const { inputTokens, outputTokens } = gateway.upstream.totals();
    expect((await gateway.guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(37 * (INPUT + 50) - inputTokens - outputTokens);
  });
});

describe("several limits on one request", () => {
  const SCOPES = ["global", "team", "rolegroup", "role", "user"] as const;
  const scopes = { team: "data", rolegroup: "analysts", role: "dev", user: "alice" };
  const values: Readonly<Record<string, string>> = scopes;
  const left = async () =>
    Object.fromEntries(
      await Promise.all(
        SCOPES.map(
          async (scope) =>
            [scope, (await gateway.guard.admin.bucket({ scope, ...(scope === "global" ? {} : { id: values[scope] }) })).tokens] as const,
        ),
      ),
    );

  test.each(SCOPES)("a refusal by %s, one of five, takes nothing from the other four", async (short) => {
    await start(
      SCOPES.map((scope) => ({
        name: `${scope}-tokens`,
        scope,
        unit: "tokens" as const,
        bucket: { capacity: scope === short ? 100 : 1_000, refillPerSec: 0 },
      })),
      { auth: { keys: [{ name: "alice", key: KEY, scopes }] } },
    );
    exactly(50);
    expect((await ask()).status).toBe(200);
    await settled();
    const before = await left();
    expect(before).toEqual(Object.fromEntries(SCOPES.map((scope) => [scope, (scope === short ? 100 : 1_000) - 57])));
    const refused = await ask();
    expect(refused.status).toBe(429);
    expect(await errorOf(refused)).toMatchObject({ limit: `${short}-tokens`, scope: short, needed: 57, available: 43 });
    expect(await left()).toEqual(before);
  });

  test("the refusal names the one with the longest wait", async () => {
    await start([
      { name: "minute", scope: "user", unit: "requests", window: { limit: 1, per: "minute" } },
      { name: "day", scope: "user", unit: "requests", window: { limit: 1, per: "day" } },
      { name: "hour", scope: "team", unit: "requests", window: { limit: 1, per: "hour" } },
    ]);
    await ask();
    expect(await errorOf(await ask())).toMatchObject({ limit: "day", retry_after_ms: 86_400_000 });
  });

  test("headers: one member per limit, the tightest in the dialect's own names, on success and on refusal", async () => {
    await start([
      { name: "user-requests", scope: "user", unit: "requests", window: { limit: 5, per: "minute" } },
      { name: "team-requests", scope: "team", unit: "requests", window: { limit: 2, per: "hour" } },
      { name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 10 } },
      { name: "user-parallel", scope: "user", unit: "concurrent", concurrency: { limit: 4 } },
    ]);
    exactly(50);
    const passed = await ask();
    expect(passed.headers.get("ratelimit-policy")).toBe(
      '"user-requests";q=5;w=60;qu="requests", "team-requests";q=2;w=3600;qu="requests", "user-tokens";q=1000;w=100;qu="tokens", "user-parallel";q=4;qu="concurrent"',
    );
    expect(passed.headers.get("ratelimit")).toMatch(
      /^"user-requests";r=4;t=\d+, "team-requests";r=1;t=\d+, "user-tokens";r=943;t=6, "user-parallel";r=3(;t=\d+)?$/,
    );
    expect(Object.fromEntries([...passed.headers].filter(([name]) => /^x-ratelimit-(?:limit|remaining)/.test(name)))).toEqual({
      "x-ratelimit-limit-requests": "2",
      "x-ratelimit-remaining-requests": "1",
      "x-ratelimit-limit-tokens": "1000",
      "x-ratelimit-remaining-tokens": "943",
    });
    await ask();
    const refused = await ask();
    expect(refused.status).toBe(429);
    expect(refused.headers.get("ratelimit-policy")).toBe(passed.headers.get("ratelimit-policy"));
    expect(refused.headers.get("ratelimit")).toContain('"team-requests";r=0;t=');
    expect(refused.headers.get("x-ratelimit-remaining-requests")).toBe("0");
  });
});

describe("whose limit it is", () => {
  const requests = (name: string, scope: string | readonly string[], limit = 1, more: object = {}): LimitInput => ({
    name,
    scope,
    unit: "requests",
    window: { limit, per: "hour" },
    ...more,
  });

  test("two organisations may both have an alice, and share no counter", async () => {
    await start([requests("user-hour", "user")], {
      auth: {
        keys: [
          { name: "a", key: KEY, scopes: { org: "acme", user: "alice" } },
          { name: "g", key: OTHER_KEY, scopes: { org: "globex", user: "alice" } },
        ],
      },
    });
    expect(await statuses([ask()])).toEqual([200]);
    expect(await statuses([ask()])).toEqual([429]);
    expect(await statuses([ask({}, OTHER_KEY)])).toEqual([200]);
  });

  test("an override for one of them does not count for the other", async () => {
    await start([requests("user-hour", "user", 1, { overrides: { "acme/alice": 2 } })], {
      auth: {
        keys: [
          { name: "a", key: KEY, scopes: { org: "acme", user: "alice" } },
          { name: "g", key: OTHER_KEY, scopes: { org: "globex", user: "alice" } },
        ],
      },
    });
    for (const status of [200, 200, 429]) expect((await ask()).status).toBe(status);
    for (const status of [200, 429]) expect((await ask({}, OTHER_KEY)).status).toBe(status);
  });

  test("a composite counts each pair apart", async () => {
    await start([requests("user-model", ["user", "model"])]);
    for (const [model, key, status] of [
      ["gpt-4o", KEY, 200],
      ["gpt-4o", KEY, 429],
      ["gpt-4o-mini", KEY, 200],
      ["gpt-4o", OTHER_KEY, 200],
      ["gpt-4o-mini", OTHER_KEY, 200],
      ["gpt-4o-mini", OTHER_KEY, 429],
    ] as const) {
      expect((await ask({ model }, key)).status).toBe(status);
    }
    expect(await errorOf(await ask({ model: "gpt-4o" }))).toMatchObject({ limit: "user-model", scope: "user+model" });
  });

  test("a model counts under the name that it stands for, whatever the client calls it", async () => {
    await start([requests("model-hour", "model", 2)], { modelAlias: { fast: "gpt-4o-mini" } });
    expect(await statuses([ask({ model: "fast" })])).toEqual([200]);
    expect(await statuses([ask({ model: "openai:gpt-4o-mini" })])).toEqual([200]);
    expect(await statuses([ask({ model: "gpt-4o-mini" })])).toEqual([429]);
    expect(await statuses([ask({ model: "gpt-4o" })])).toEqual([200]);
  });

  test("a key counts apart from its user", async () => {
    await start([requests("key-hour", "key")], {
      auth: {
        keys: [
          { name: "laptop", key: KEY, scopes: { user: "alice" } },
          { name: "phone", key: OTHER_KEY, scopes: { user: "alice" } },
        ],
      },
    });
    expect(await statuses([ask()])).toEqual([200]);
    expect(await statuses([ask()])).toEqual([429]);
    expect(await statuses([ask({}, OTHER_KEY)])).toEqual([200]);
  });

  test("a route counts the operation, a global limit everybody", async () => {
    await start([requests("route-hour", "route"), requests("global-hour", "global", 3)]);
    expect(await statuses([ask()])).toEqual([200]);
    expect(await statuses([ask({}, OTHER_KEY)])).toEqual([429]);
    const embed = () =>
      fetch(`${gateway.url}/llm/v1/embeddings`, {
        method: "POST",
        headers: { authorization: `Bearer ${KEY}` },
        body: '{"model":"text-embedding-3-small","input":"x"}',
      });
    expect(await statuses([embed()])).toEqual([200]);
    expect(await statuses([embed()])).toEqual([429]);
  });

  test("an absent scope: not limited, unless the limit is required", async () => {
    await start([requests("org-hour", "org")]);
    for (let i = 0; i < 3; i += 1) expect((await ask()).status).toBe(200);
    await gateway.close();
    await start([requests("org-hour", "org", 1, { required: true })]);
    const refused = await ask();
    expect(refused.status).toBe(400);
    expect(await errorOf(refused)).toMatchObject({ code: "scope_invalid", limit: "org-hour", scope: "org" });
    expect(gateway.upstream.log).toHaveLength(0);
  });

  test("overrides: more, less, and none at all", async () => {
    await start([requests("user-hour", "user", 1, { overrides: { alice: 3, bob: -1 } })], {
      auth: {
        keys: [
          { name: "alice", key: KEY, scopes: { user: "alice" } },
          { name: "bob", key: OTHER_KEY, scopes: { user: "bob" } },
        ],
        masterKey: "master-key-for-tests-1",
      },
    });
    for (const status of [200, 200, 200, 429]) expect((await ask()).status).toBe(status);
    for (let i = 0; i < 6; i += 1) expect((await ask({}, OTHER_KEY)).status).toBe(200);
    for (const status of [200, 429]) expect((await ask({}, "master-key-for-tests-1", { "x-user-id": "carol" })).status).toBe(status);
  });
});

describe("shadow", () => {
  const shadow = (more: object): LimitInput => ({ name: "user-hour", scope: "user", unit: "requests", window: { limit: 1, per: "hour" }, ...more });

  test("refuses nobody, and tells whom it would have refused", async () => {
    await start([shadow({ mode: "shadow" }), { name: "team-hour", scope: "team", unit: "requests", window: { limit: 3, per: "hour" } }], {
      monitoring: { prometheusEnabled: true },
    });
    const events: unknown[] = [];
    gateway.guard.events.on("would-refuse", (event) => events.push(event));
    for (let i = 0; i < 3; i += 1) expect((await ask()).status).toBe(200);
    expect(events).toEqual(
      [1, 2].map(() => ({
        requestId: expect.any(String),
        scopes: { team: "data", role: "dev", user: "alice" },
        limit: "user-hour",
        needed: 1,
        available: 0,
      })),
    );
    const text = (await gateway.guard.metrics())?.text;
    expect(text).toContain('quotaguard_decisions_total{limit="user-hour",outcome="would_refuse"} 2');
    // An enforcing limit beside it still refuses.
    expect(await errorOf(await ask())).toMatchObject({ limit: "team-hour" });
  });

  test("enforce_from: shadow until then", async () => {
    await start([shadow({ enforceFrom: new Date(Date.UTC(2026, 0, 1, 0, 10)) })]);
    const events: unknown[] = [];
    gateway.guard.events.on("would-refuse", (event) => events.push(event));
    expect(await statuses([ask()])).toEqual([200]);
    expect(await statuses([ask()])).toEqual([200]);
    expect(events).toHaveLength(1);
    clock.advance(600_000);
    expect(await statuses([ask()])).toEqual([429]);
  });
});

describe("limits that are functions", () => {
  const byPlan = (of: (plan: string | undefined) => number | Promise<number>): LimitInput => ({
    name: "user-hour",
    scope: "user",
    unit: "requests",
    window: { limit: ({ req }) => of(req.headers["x-plan"] as string | undefined), per: "hour" },
  });

  test.each([
    ["at once", (plan: string | undefined) => (plan === "pro" ? 3 : plan === "all" ? -1 : 1)],
    ["later", async (plan: string | undefined) => (plan === "pro" ? 3 : plan === "all" ? -1 : 1)],
  ])("answer %s, for each request", async (_when, of) => {
    await start([byPlan(of)]);
    expect((await ask()).status).toBe(200);
    expect((await ask()).status).toBe(429);
    expect((await ask({}, KEY, { "x-plan": "pro" })).status).toBe(200);
    expect((await ask({}, KEY, { "x-plan": "pro" })).status).toBe(200);
    expect((await ask({}, KEY, { "x-plan": "pro" })).status).toBe(429);
    expect((await ask({}, KEY, { "x-plan": "all" })).status).toBe(200);
  });

  test("get the scopes and the principal", async () => {
    const seen: unknown[] = [];
    await start([
      {
        name: "user-hour",
        scope: "user",
        unit: "requests",
        window: { limit: ({ scopes, principal }) => seen.push({ user: scopes.user, who: principal?.name }) && 1, per: "hour" },
      },
    ]);
    await ask({}, OTHER_KEY);
    expect(seen).toEqual([{ user: "bob", who: "bob" }]);
  });

  test.each([
    [
      "throws",
      () => {
        throw new Error("the plan server said: secret detail");
      },
    ],
    [
      "rejects",
      async () => {
        throw new Error("the plan server said: secret detail");
      },
    ],
    ["returns no number", () => Number.NaN],
  ])("one that %s fails the request closed, with nothing sent and nothing shown", async (_how, of) => {
    const logged: object[] = [];
    const log = (fields: object): void => void logged.push(fields);
    await start([byPlan(of)], { logger: { debug: log, info: log, warn: log, error: log } });
    const response = await ask();
    expect(response.status).toBe(500);
    const text = await response.text();
    expect(text).toContain('"internal"');
    expect(text).not.toContain("secret detail");
    expect(gateway.upstream.log).toHaveLength(0);
    expect(logged.length).toBeGreaterThan(0);
  });
});

test("no limits configured = none exist", async () => {
  await start([]);
  const response = await ask();
  expect(response.status).toBe(200);
  expect([...response.headers.keys()].filter((name) => name.includes("ratelimit-policy"))).toEqual([]);
  await settled();
  expect(await gateway.guard.ledger.list({})).toMatchObject([{ state: "settled", held: {} }]);
});
