// What budgets() does when a store wants the charges worked out anew, and what it never does: use the id of a lost reservation again.
import express from "express";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, GuardError, memoryStore, type GuardOptions, type LimitStore, type QuotaGuard, type Store } from "quotaguard";
import { testClock, type TestClock } from "quotaguard/testing";
import { chat, KEY, listen, testGateway, type TestGateway } from "../helpers/app.ts";

type Reserve = LimitStore["reserve"];
type ReserveResult = Awaited<ReturnType<Reserve>>;
type Charge = Parameters<Reserve>[1][number];

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

interface Asked {
  readonly opId: string;
  readonly charges: readonly Charge[];
}

interface Scripted extends Store {
  readonly asked: Asked[];
  /** Answers in place of the store, in this order; what it throws is thrown, undefined lets the store decide. */
  script: ((asked: Asked) => ReserveResult | Promise<ReserveResult> | undefined)[];
}

function scripted(clock: TestClock, later: boolean): Scripted {
  const real = memoryStore({ clock });
  const asked: Asked[] = [];
  const decide = (opId: string, charges: readonly Charge[], ttlMs: number): ReturnType<Reserve> => {
    asked.push({ opId, charges });
    return store.script.shift()?.({ opId, charges }) ?? real.limits.reserve(opId, charges, ttlMs);
  };
  const store: Scripted = {
    ...real,
    limits: { ...real.limits, reserve: (...args) => (later ? Promise.resolve().then(() => decide(...args)) : decide(...args)) },
    asked,
    script: [],
  };
  return store;
}

const bucket = (more: object = {}): NonNullable<GuardOptions["limits"]>[number] => ({
  name: "tokens",
  scope: "user",
  unit: "tokens",
  bucket: { capacity: 10_000, refillPerSec: 0 },
  ...more,
});
const STALE = (): ReserveResult => ({ kind: "stale" });

describe.each([false, true])("a store that answers later: %s", (later) => {
  let gateway: TestGateway;
  let clock: TestClock;
  let store: Scripted;

  async function start(limits: readonly NonNullable<GuardOptions["limits"]>[number][]): Promise<void> {
    clock = testClock({ now: Date.UTC(2026, 0, 1, 23, 59, 59) });
    store = scripted(clock, later);
    gateway = await testGateway({ limits, clock, store });
    cleanups.push(() => gateway.close());
  }
  const ask = async (body: object = {}) => {
    const response = await chat(gateway.url, { max_tokens: 50, ...body });
    const { error } = (await response.json()) as { error?: { code: string; message: string } };
    return { status: response.status, code: error?.code, message: error?.message, retryAfter: response.headers.get("retry-after") };
  };
  const left = async () => (await gateway.guard.admin.bucket({ scope: "user", id: "alice" })).tokens;
  const used = () => gateway.upstream.totals().inputTokens + gateway.upstream.totals().outputTokens;
  const quiet = async (): Promise<void> => {
    await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
  };

  test("numbers that changed meanwhile are worked out anew, under the same id, and counted once", async () => {
    await start([bucket()]);
    // Another process writes them, and the watchers know before the answer comes.
    const elsewhere = createGuard({ clock, store, limits: [bucket()] });
    await elsewhere.ready();
    cleanups.push(() => elsewhere.close());
    await elsewhere.admin.setBucket({ scope: "user", id: "alice" }, { capacity: 5_000 });
    const numbers = (await store.records.list("limit/"))[0];
    await store.records.delete(numbers?.key ?? "");
    store.asked.length = 0;
    store.script = [
      () => {
        void store.records.put(numbers?.key ?? "", numbers?.value);
        return { kind: "stale" };
      },
    ];
    expect((await ask()).status).toBe(200);
    await quiet();
    const opIds = store.asked.map(({ opId }) => opId);
    expect([opIds.length, new Set(opIds).size]).toEqual([2, 1]);
    const capacities = store.asked.map(({ charges }) => (charges[0]?.rule.kind === "bucket" ? charges[0].rule.capacity : null));
    expect(capacities).toEqual([10_000, 5_000]);
    expect(await left()).toBe(5_000 - used());
  });

  test("a limit that was made at run time by another process counts at once", async () => {
    await start([]);
    const elsewhere = createGuard({ clock, store });
    await elsewhere.ready();
    cleanups.push(() => elsewhere.close());
    expect((await ask()).status).toBe(200);
    await elsewhere.admin.setBucket({ scope: "user", id: "alice" }, { capacity: 5 });
    expect(await ask()).toMatchObject({ status: 400, code: "budget_too_small" });
    expect(gateway.guard.admin.limits.list().map(({ name }) => name)).toEqual(["budget-user"]);
  });

  test("an operator's own change is repeated as well", async () => {
    await start([bucket()]);
    store.script = [STALE, STALE];
    expect(await gateway.guard.admin.setBucket({ scope: "user", id: "alice" }, { refillPerSec: 7 })).toMatchObject({ refillPerSec: 7 });
    expect([store.asked.length, new Set(store.asked.map(({ opId }) => opId)).size]).toEqual([3, 1]);
  });

  test("three times at most: then the request is refused, and holds nothing", async () => {
    await start([bucket()]);
    store.script = [STALE, STALE, STALE];
    expect((await ask()).status).toBe(200);
    await quiet();
    const before = await left();
    store.asked.length = 0;
    store.script = [STALE, STALE, STALE, STALE];
    expect(await ask()).toMatchObject({ status: 503, code: "store_unavailable", retryAfter: "1" });
    expect([store.asked.length, await left(), gateway.guard.admin.health().openRequests]).toEqual([4, before, 0]);
  });

  test("a store whose clock is in the next day decides by its own, whatever ours says, and one that knows no time is refused", async () => {
    await start([{ name: "day", scope: "user", unit: "requests", window: { limit: 1, per: "day" } }]);
    const tomorrow = clock.now() + 5_000;
    const boundsOf = ({ rule }: Charge) => (rule.kind === "calendar" ? rule.bounds[1] : null);
    store.script = [() => ({ kind: "skew", now: tomorrow })];
    expect((await ask()).status).toBe(200);
    expect(store.asked.map(({ charges }) => boundsOf(charges[0] as Charge))).toEqual([Date.UTC(2026, 0, 1), Date.UTC(2026, 0, 2)]);
    store.script = Array.from({ length: 9 }, () => () => ({ kind: "skew", now: tomorrow }));
    expect(await ask()).toMatchObject({ status: 503, code: "store_unavailable", message: expect.stringContaining("clock") });
    expect(store.script).toHaveLength(5);
  });

  test("an id that was used twice is a fault of ours, and no outage", async () => {
    await start([bucket()]);
    store.script = [() => ({ kind: "conflict" })];
    expect(await ask()).toMatchObject({ status: 500, code: "internal" });
  });

  test("what is shortened after new numbers is shortened once", async () => {
    await start([bucket({ bucket: { capacity: 200, refillPerSec: 0 }, whenShort: "shorten", estimate: "ceiling" })]);
    store.script = [STALE, () => undefined, STALE];
    expect((await ask({ max_tokens: 5_000 })).status).toBe(200);
    await quiet();
    expect(store.asked).toHaveLength(4);
    expect(await left()).toBe(200 - used());
  });
});

test("the id of a reservation without a reply is never used again: it will be released", async () => {
  const clock = testClock();
  const store = scripted(clock, true);
  const opened: QuotaGuard[] = [];
  const guard = createGuard({ clock, store, auth: { keys: [{ name: "alice", key: KEY, scopes: { user: "alice" } }] } });
  opened.push(guard);
  await guard.ready();
  const app = express();
  const soft = { name: "soft", scope: "user", unit: "requests", window: { limit: 50, per: "hour" }, onStoreError: "allow" } as const;
  const firm = bucket({ onStoreError: "deny" });
  const gate = Promise.withResolvers<void>();
  app.post(
    "/work",
    guard.auth(),
    guard.scopes(),
    guard.budgets({ limits: [soft] }, false),
    guard.budgets({ limits: [firm], cost: { tokens: 100 } }, false),
    async (_req, res) => {
      await gate.promise;
      res.json({});
    },
  );
  const listening = await listen(app);
  cleanups.push(async () => {
    await listening.close();
    for (const each of opened) await each.close();
  });
  store.script = [() => Promise.reject(new GuardError("store_unavailable", "away"))];
  const pending = fetch(`${listening.url}/work`, { method: "POST", headers: { authorization: `Bearer ${KEY}` } });
  await expect.poll(() => store.asked.length).toBe(2);
  // The store is back, and what was lost is released while the request runs.
  clock.advance(1_000);
  await expect.poll(() => guard.admin.health().waitingSettlements).toBe(0);
  expect((await guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(9_900);
  gate.resolve();
  expect((await pending).status).toBe(200);
  expect(new Set(store.asked.map(({ opId }) => opId)).size).toBe(2);
});
