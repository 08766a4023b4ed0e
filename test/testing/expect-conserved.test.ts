import { afterEach, describe, expect, onTestFinished, test } from "vitest";
import { createGuard, type GuardOptions } from "quotaguard";
import {
  ConservationError,
  expectConserved,
  faultyStore,
  fakeUpstream,
  recordingStore,
  testClock,
  type ConservationOptions,
  type Conserved,
  type FakeUpstream,
} from "quotaguard/testing";
import type { LedgerRow } from "../../src/core/ledger.ts";
import type { LimitStore, Store } from "../../src/core/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";

const limits = [
  { name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 10_000, refillPerSec: 0 } },
  { name: "all-spend", scope: "global", unit: "usd", window: { limit: 5, per: "day" } },
  { name: "user-parallel", scope: "user", unit: "concurrent", concurrency: { limit: 2 } },
  { name: "user-rate", scope: "user", unit: "requests", window: { limit: 50, per: "hour" } },
] as const;

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

interface Scene {
  readonly upstream: FakeUpstream;
  readonly options: GuardOptions;
  /** A chat of alice, through the guard. */
  chat(body?: object, user?: string): Promise<Response>;
  /** Everything that can be looked at. */
  check(more?: Partial<ConservationOptions>): Promise<Conserved>;
}

/** A guard in front of a fake upstream; `inside` is what the recording records. */
async function scene(inside?: Store, more: GuardOptions = {}): Promise<Scene> {
  const upstream = await fakeUpstream();
  const store = recordingStore(inside ? { store: inside } : {});
  const options: GuardOptions = {
    limits,
    credentials: [{ name: "main", provider: "openai", apiKey: "sk-main", baseUrl: upstream.url }],
    models: [{ name: "gpt-4o", price: { inputPerMtok: 2.5, outputPerMtok: 10 } }],
    prices: { markupPct: 20 },
    ...more,
  };
  const guard = createGuard({ ...options, store });
  await guard.ready();
  opened.push(guard, upstream);
  return {
    upstream,
    options,
    async chat(body = {}, user = "alice") {
      const messages = [{ role: "user", content: "one two three" }];
      const response = await guard.fetch({ scopes: { user } })("https://api.openai.com/v1/chat/completions", {
        method: "POST",
        body: JSON.stringify({ model: "gpt-4o", max_tokens: 50, messages, ...body }),
      });
      await response.text();
      return response;
    },
    check: (others = {}) => expectConserved({ guard, store, upstreams: [upstream], options, ...others }),
  };
}

const violationOf = async (check: Promise<unknown>, invariant?: string): Promise<string> => {
  const error: unknown = await check.then(
    () => "nothing was found",
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(ConservationError);
  const { message, violations } = error as ConservationError;
  return invariant === undefined
    ? message
    : violations
        .filter((each) => each.invariant === invariant)
        .map((each) => each.message)
        .join("; ");
};

test("books that balance: what was looked at, and both sides of the bill", async () => {
  const { chat, check, upstream } = await scene();
  for (const user of ["alice", "bob"]) {
    expect((await chat({}, user)).status).toBe(200);
    expect((await chat({ stream: true }, user)).status).toBe(200);
  }
  const { inputTokens, outputTokens } = upstream.totals();
  expect(await check()).toEqual({
    checked: ["I1", "I2", "I3", "I4", "I5", "I6"],
    rows: 4,
    reservations: 4,
    exact: { requests: 4, settledTokens: inputTokens + outputTokens, billedTokens: inputTokens + outputTokens },
    apart: { requests: 0, settledTokens: 0, billedTokens: 0 },
  });
});

test("refusals, errors, broken streams and failover balance as well; what has no exact figure stands apart", async () => {
  const { chat, check, upstream } = await scene(undefined, { resilience: { maxRetries: 0, idleTimeout: 100 } });
  upstream.script([
    { status: 400 },
    { status: 429, headers: { "retry-after": "0" } },
    { fault: { at: 3, how: "reset" } },
    { fault: { at: 3, how: "error" } },
    { fault: { at: 3, how: "hang" } },
    { usage: "missing" },
    { usage: { prompt_tokens: 900, completion_tokens: 400 } },
  ]);
  for (let i = 0; i < 8; i += 1) await chat({ stream: i > 1, n: 1 + (i % 2) }).catch(() => {});
  expect((await chat({ max_tokens: 100_000 })).status).toBe(400);
  expect(await check()).toMatchObject({ apart: { requests: expect.any(Number) }, exact: { requests: 2, settledTokens: expect.any(Number) } });
});

test("a place is free from its end on, whatever its reservation is corrected to later", async () => {
  const store = recordingStore();
  const charges = [{ key: "c:t:alice", rule: { kind: "concurrency", limit: 1 }, unit: "concurrent", amount: 1, enforce: true }] as const;
  await store.limits.reserve("one", charges, 60_000);
  await store.limits.lapse("one");
  await store.limits.reserve("two", charges, 60_000);
  expect(await store.limits.settle("one", { usd: 1 })).toBe("late");
  await store.limits.release("two");
  expect(await expectConserved({ store })).toMatchObject({ reservations: 2 });
});

test("works with lost replies: a settle that is asked for twice is one", async () => {
  const clock = testClock();
  const upstream = await fakeUpstream();
  const store = faultyStore({ clock });
  const options: GuardOptions = {
    limits,
    credentials: [{ name: "main", provider: "openai", apiKey: "sk-main", baseUrl: upstream.url }],
    clock,
    models: [{ name: "gpt-4o", price: { inputPerMtok: 2.5, outputPerMtok: 10 } }],
  };
  const guard = createGuard({ ...options, store });
  await guard.ready();
  opened.push(guard, upstream);
  store.fail({ fault: "reply lost", call: 1 }, "limits.settle");
  const call = guard.fetch({ scopes: { user: "alice" } });
  await (
    await call("http://x/v1/chat/completions", { method: "POST", body: JSON.stringify({ model: "gpt-4o", messages: [], max_tokens: 5 }) })
  ).text();
  await expect(expectConserved({ guard, store, upstreams: [upstream], options, waitMs: 50 })).rejects.toThrow(
    "1 settlements still wait for the store",
  );
  await expect.poll(() => (clock.advance(1_000), guard.admin.health().waitingSettlements)).toBe(0);
  expect(store.asked.filter((name) => name === "limits.settle").length).toBeGreaterThan(1);
  await expectConserved({ guard, store, upstreams: [upstream], options });
});

/** A memory store with one mistake in its limits. */
function broken(mistake: (real: LimitStore) => Partial<LimitStore>): Store {
  const real = memoryStore();
  return { ...real, limits: { ...real.limits, ...mistake(real.limits) } };
}

/** A memory store whose ledger writes down something else. */
function forged(forge: (row: LedgerRow) => LedgerRow | null): Store {
  const real = memoryStore();
  return {
    ...real,
    ledger: {
      ...real.ledger,
      close(row) {
        const written = forge(row);
        if (written) real.ledger.close(written);
      },
    },
  };
}

describe("a planted bug is found and named", () => {
  test("I1: a counter loses a refund", async () => {
    const { chat, check } = await scene(
      broken((real) => ({ release: () => "applied", settle: (opId, actual) => real.settle(opId, { ...actual, tokens: 60 }) })),
    );
    await chat();
    expect(await violationOf(check())).toMatch(
      /^I1 b:user-tokens:alice: 10000 were available and 8 were charged, so 9992 must be left, and the counter says 9940/,
    );
  });

  test("I1: a counter forgets a charge", async () => {
    const { chat, check } = await scene(broken((real) => ({ settle: (opId, actual) => real.settle(opId, { ...actual, usd: 0 }) })));
    await chat();
    expect(await violationOf(check())).toMatch(
      /^I1 k\S*:all-spend:all: 5000000000 were available and 69000 were charged, so 4999931000 must be left, and the counter says 5000000000/,
    );
  });

  test("I1: a row is settled without usage", async () => {
    const { chat, check } = await scene(forged((row) => ({ ...row, usage: null })));
    await chat();
    expect(await violationOf(check())).toMatch(/^I1 user=alice: the row of request \S+ \(\S+\) is settled without usage/);
  });

  test.each(["inputTokens", "audioInputTokens", "images", "requests", "reportedUsd"])("I1: a row has %s below nothing", async (name) => {
    const { chat, check } = await scene(forged((row) => ({ ...row, usage: { ...row.usage, [name]: -1 } as never })));
    await chat();
    expect(await violationOf(check())).toMatch(/^I1 user=alice: the row of request \S+ \(\S+\) is settled with usage \{/);
  });

  test("I2: the counters were charged something else than the row says", async () => {
    const { chat, check } = await scene(forged((row) => ({ ...row, usage: { ...(row.usage as never as object), outputTokens: 4 } as never })));
    await chat();
    expect(await violationOf(check())).toMatch(/^I2 user=alice tokens: charged 8 at b:user-tokens:alice, the row says 7 \(request \S+, settled\)/);
  });

  test("I2: less was settled than the upstream billed", async () => {
    const { chat, check } = await scene(forged((row) => ({ ...row, usage: { ...(row.usage as never as object), outputTokens: 4 } as never })));
    await chat({}, "bob");
    expect(await violationOf(check({ store: [] }))).toMatch(
      /^I2 user=bob tokens: settled 3\+4, billed upstream 3\+5 \(its request 1, main\/gpt-4o\) \(request \S+, main\/gpt-4o\)/,
    );
  });

  test("I2: a cost that is not its usage's price", async () => {
    const { chat, check } = await scene(forged((row) => ({ ...row, billedNanoUsd: (row.billedNanoUsd ?? 0) - 1 })));
    await chat();
    expect(await violationOf(check({ store: [] }))).toMatch(
      /^I2 user=alice usd: settled 68999 nanoUSD \(raw 57500\), its usage costs 69000 \(raw 57500\)/,
    );
  });

  test("I2: a request that was billed and given back", async () => {
    const { chat, check } = await scene(
      forged((row) => ({ ...row, state: "released", usage: null, provenance: "void", rawNanoUsd: 0, billedNanoUsd: 0, priceVersion: null })),
    );
    await chat();
    expect(await violationOf(check({ store: [] }))).toMatch(/^I2 billed upstream 3\+5 .*, and the row of user=alice is released \(request \S+\)/);
  });

  test("I2: the wrong one of two credentials is charged", async () => {
    const upstream = await fakeUpstream();
    const rows: LedgerRow[] = [];
    opened.push(upstream);
    const options: GuardOptions = {
      credentials: [
        { name: "a", provider: "openai", apiKey: "sk-a", baseUrl: upstream.url },
        { name: "b", provider: "openai", apiKey: "sk-b", baseUrl: upstream.url },
      ],
    };
    const guard = createGuard({ ...options, store: forged((row) => (rows.push(row), { ...row, credential: "a" })) });
    await guard.ready();
    opened.push(guard);
    const call = guard.fetch();
    for (let i = 0; i < 2; i += 1)
      await (await call("http://x/v1/chat/completions", { method: "POST", body: JSON.stringify({ model: "gpt-4o", messages: [] }) })).text();
    expect(new Set(rows.map(({ credential }) => credential))).toEqual(new Set(["a", "b"]));
    await expectConserved({ rows, upstreams: [upstream], options });
    expect(await violationOf(expectConserved({ guard, upstreams: [upstream], options }))).toMatch(
      /^I2 nobody tokens: settled 1\+2, no upstream billed such a request \(request \S+, a\/gpt-4o\)/,
    );
  });

  test("I3: a bucket lets through more than it holds", async () => {
    const over = broken((real) => ({
      reserve(opId, charges, ttlMs) {
        const asked = charges.map((charge) =>
          charge.rule.kind === "bucket" ? { ...charge, rule: { ...charge.rule, capacity: charge.rule.capacity * 2 } } : charge,
        );
        return real.reserve(opId, asked, ttlMs);
      },
    }));
    const { chat, check } = await scene(over, { limits: [{ ...limits[0], bucket: { capacity: 100, refillPerSec: 0.001 } }] });
    for (let i = 0; i < 3; i += 1) expect((await chat({ max_tokens: 60 })).status).toBe(200);
    const [first, second] = await Promise.all([chat({ max_tokens: 60 }), chat({ max_tokens: 60 })]);
    expect([first.status, second.status]).toEqual([200, 200]);
    expect(await violationOf(check(), "I3")).toMatch(
      /^b:user-tokens:alice: \d+ were reserved and not given back within \d+ ms; a capacity of 100 and 0.000001 a ms allow 100/,
    );
  });

  test.each([
    ["slots", { ...limits[2], concurrency: { limit: 1 } }, "c:user-parallel:alice: 2 counted at one time; the limit is 1"],
    ["a sliding window", { ...limits[3], window: { limit: 1, per: "hour" } }, "w3600000.60:user-rate:alice: 2 counted at one time; the limit is 1"],
    ["a day", { ...limits[3], window: { limit: 1, per: "day" } }, "kday.UTC:user-rate:alice in the window from "],
  ] as const)("I3: %s let through too much", async (_what, limit, message) => {
    const over = broken((real) => ({
      reserve: (opId, charges, ttlMs) =>
        real.reserve(
          opId,
          charges.map((charge) => ({ ...charge, rule: { ...charge.rule, limit: 5 } as never })),
          ttlMs,
        ),
    }));
    const { chat, check, upstream } = await scene(over, { limits: [limit] });
    upstream.script({ hold: upstream.received(2) });
    await Promise.all([chat(), chat()]);
    expect(await violationOf(check(), "I3")).toContain(message);
  });

  test("I4: a reservation ends twice", async () => {
    const twice = broken((real) => ({
      settle(opId, actual) {
        void real.settle(opId, actual);
        return "applied";
      },
    }));
    const store = recordingStore({ store: twice });
    const charges = [{ key: "b:t:alice", rule: { kind: "bucket", capacity: 100, n: 0, d: 1 }, unit: "tokens", amount: 30, enforce: true }] as const;
    await store.limits.reserve("r", charges, 1_000);
    await store.limits.settle("r", { tokens: 10 });
    await store.limits.settle("r", { tokens: 10 });
    expect(await violationOf(expectConserved({ store, rows: [] }))).toContain("I4 reservation r was ended twice: settled, then settle");
  });

  test("I4: a store forgets what it granted", async () => {
    const store = recordingStore({ store: broken(() => ({ settle: () => "unknown" })) });
    const charges = [{ key: "c:t:alice", rule: { kind: "concurrency", limit: 3 }, unit: "concurrent", amount: 1, enforce: true }] as const;
    await store.limits.reserve("r", charges, 1_000);
    await store.limits.settle("r", {});
    expect(await violationOf(expectConserved({ store }))).toBe("I4 reservation r was made, and at its settle the store did not know it");
  });

  test("I4: a row that has no end", async () => {
    const { chat, check } = await scene(
      forged(() => null),
      { limits: [] },
    );
    await chat();
    expect(await violationOf(check())).toMatch(/^I4 user=alice: the row of request \S+ \(\S+\) is still an intent/);
  });

  test("I4: a row that is closed as something else later", async () => {
    const store = recordingStore();
    const { chat } = await scene(store);
    await chat();
    const [row] = store.recording.closed as [LedgerRow];
    store.ledger.close({ ...row, state: "released" });
    expect(await violationOf(expectConserved({ store }))).toContain(`I4 the row of request ${row.requestId} was closed as settled, then as released`);
  });

  test("I5: a hold that nobody ends", async () => {
    const clock = testClock();
    const store = recordingStore({ clock });
    const charges = [{ key: "b:t:alice", rule: { kind: "bucket", capacity: 100, n: 0, d: 1 }, unit: "tokens", amount: 30, enforce: true }] as const;
    await store.limits.reserve("r", charges, 1_000);
    clock.advance(1_500);
    expect(await violationOf(expectConserved({ store }))).toContain(
      "I5 reservation r (30 tokens of b:t:alice; 1500 ms old, 500 ms over its time) is still open",
    );
  });

  test("I6: a request that reached the upstream behind the guard's back", async () => {
    const { chat, check, upstream } = await scene();
    await chat();
    await (await fetch(`${upstream.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ model: "gpt-5", messages: [] }) })).text();
    expect(await violationOf(check())).toMatch(
      /^I6 2 requests reached the upstream, among them request 2 for gpt-5; the ledger has 1 rows of such requests with 1 attempts/,
    );
  });

  test("I6: by name, where the test can tell whose a request is", async () => {
    const { chat, check } = await scene();
    await chat();
    expect(await violationOf(check({ requestOf: () => "somebody-else" }))).toMatch(/^I6 request 1 at the upstream \(somebody-else\) has no row/);
  });
});

test("what cannot be checked is said, not passed over", async () => {
  await expect(expectConserved({})).rejects.toThrow("expectConserved() needs `guard`, `store` or `rows`");
  const { chat, upstream, check } = await scene();
  upstream.script({ fault: { at: "start", how: "hang" } });
  const pending = chat();
  onTestFinished(() => void pending.catch(() => {}));
  await upstream.received(1);
  await expect(check({ waitMs: 20 })).rejects.toThrow("expectConserved() needs a quiet moment: 1 requests are still open after 20 ms");
  upstream.reset();
  await expect(check()).rejects.toThrow("1 requests have left the upstream's log");
  const full = recordingStore({ limit: 1 });
  for (const opId of ["a", "b"]) void full.limits.release(opId);
  await expect(expectConserved({ store: full })).rejects.toThrow("give recordingStore() a larger `limit`");
});
