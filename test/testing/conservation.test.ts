// The checks behind `expectConserved()`: sound under load, duplicates and lost answers, and sharp where only time tells.
import { randomUUID } from "node:crypto";
import { describe, expect, onTestFinished, test } from "vitest";
import { expectConserved, recordingStore, testClock, type Verb } from "quotaguard/testing";
import type { Charge, Store } from "../../src/core/store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { admissionViolations } from "../../src/testing/conservation/admissions.ts";
import { reservationsOf } from "../../src/testing/conservation/reservations.ts";
import { limitsLoad } from "../chaos/kit/limits-load.ts";
import { repeatedOperations } from "../chaos/kit/repeated-operations.ts";
import { testServer } from "../setup/test-server.ts";

const url = await testServer("redis");

const bucket = (capacity: number, n: number, amount: number, key = "b:t:alice"): readonly Charge[] => [
  { key, rule: { kind: "bucket", capacity, n, d: 1_000 }, unit: "tokens", amount, enforce: true },
];

async function opened(store: Store): Promise<Store> {
  onTestFinished(() => void store.close());
  await store.ready();
  return store;
}

/** The load at a store must leave books that balance: whatever is found is a false alarm. */
function findsNothing(open: () => Promise<Store>): void {
  test("many at once over limits that they share, mixed amounts", async () => {
    const store = recordingStore({ store: await open() });
    const rule = (capacity: number) => ({ kind: "bucket", capacity, n: 200, d: 1_000 }) as const;
    const rules = { user: rule(500), team: rule(900), global: rule(2_000) };
    const plan = { seed: 7, workers: 24, durationMs: 400, users: 6, teams: 2, hotPart: 0.4, rules };
    const report = await limitsLoad(store.limits, plan);
    expect([report.failed, report.refused > 0, report.allowed > 0]).toEqual([0, true, true]);
    expect((await expectConserved({ store, rows: [] })).reservations).toBe(report.allowed);
  });

  test("verbs that come one to five times, in any order, and late", async () => {
    const real = await open();
    const nodes = [recordingStore({ store: real }), recordingStore({ store: real })];
    const report = await repeatedOperations(
      nodes.map(({ limits }) => limits),
      { seed: 11, operations: 150, atOnce: 16, users: 5 },
    );
    expect(report.problems).toEqual([]);
    await expectConserved({ store: nodes, rows: [] });
  });
}

describe("finds nothing where there is nothing, in memory", () => {
  findsNothing(async () => memoryStore());
});
describe("finds nothing where there is nothing, in SQLite", () => {
  findsNothing(async () => opened(sqliteStore(":memory:")));
});
describe.skipIf(url === undefined)("finds nothing where there is nothing, in Redis", () => {
  findsNothing(async () => opened(redisStore(url as string, { partition: randomUUID() })));
});

test("a limit that was idle for long lets through no more for it", () => {
  const clock = testClock();
  const store = recordingStore({ clock, store: memoryStore({ clock }) });
  void store.limits.reserve("first", bucket(1_000, 100, 1), 1_000);
  clock.advance(3_600_000);
  // The store is told of a larger bucket than there is.
  for (let i = 0; i < 3; i += 1) void store.limits.reserve(`op${i}`, bucket(5_000, 100_000, 100), 1_000);
  const verbs = store.recording.verbs.map((verb): Verb =>
    verb.verb === "reserve" ? { ...verb, charges: bucket(200, 1, verb.charges[0]?.amount ?? 0) } : verb,
  );
  const { reservations } = reservationsOf(verbs);
  expect(admissionViolations(reservations)).toEqual([
    { invariant: "I3", message: "b:t:alice: 300 were reserved and not given back within 0 ms; a capacity of 200 and 0.001 a ms allow 200" },
  ]);
  clock.advance(100_000);
  // What flowed in meanwhile may be had.
  expect(admissionViolations(reservationsOf(verbs.filter((verb) => verb.verb !== "reserve" || verb.opId !== "op2")).reservations)).toEqual([]);
});

describe("verbs without an answer", () => {
  const span = (order: number) => ({ startMs: order, endMs: order, startOrder: 2 * order, endOrder: 2 * order + 1 });
  const reserve = (order: number, result: Extract<Verb, { verb: "reserve" }>["result"]): Verb => ({
    verb: "reserve",
    opId: "r",
    charges: bucket(100, 0, 30),
    ttlMs: 50,
    result,
    ...span(order),
  });
  const allowed = (replayed: boolean) => ({ kind: "allowed", replayed, skipped: [], standings: [{ available: 70, resetMs: null }] }) as const;
  const settle = (order: number, result: "applied" | "done" | null): Verb => ({
    verb: "settle",
    opId: "r",
    actual: { tokens: 10 },
    result,
    ...span(order),
  });
  const only = (...verbs: readonly Verb[]) => {
    const { reservations, violations } = reservationsOf(verbs);
    expect(violations).toEqual([]);
    return reservations[0];
  };

  test("a settle that was done and not heard is told by its repetition", () => {
    expect(only(reserve(1, allowed(false)), settle(2, null), settle(3, "done"))).toMatchObject({ end: "settled", kept: [10] });
    expect(only(reserve(1, allowed(false)), settle(2, null))).toMatchObject({ end: "unclear", kept: null });
    expect(reservationsOf([reserve(1, allowed(false)), settle(2, "done")]).violations[0]?.message).toBe(
      'reservation r: a settle was answered "done", and nothing had ended it',
    );
  });

  test("a reserve that was done and not heard, too", () => {
    expect(only(reserve(1, null), reserve(2, allowed(true)), settle(3, "applied"))).toMatchObject({ end: "settled", made: { startMs: 1, endMs: 2 } });
    expect(only(reserve(1, null), { ...settle(2, "applied"), verb: "release" } as Verb)).toMatchObject({ end: "released", kept: [0] });
    expect(only(reserve(1, null))).toBeUndefined();
  });

  test("are recorded as such, whether they throw or reject", async () => {
    const away = new Error("away");
    const real = memoryStore();
    const throwing = {
      ...real.limits,
      settle: () => {
        throw away;
      },
      release: async () => {
        throw away;
      },
    };
    const store = recordingStore({ store: { ...real, limits: throwing } });
    expect(() => store.limits.settle("a", {})).toThrow(away);
    await expect((async () => store.limits.release("a"))()).rejects.toBe(away);
    expect([store.recording.verbs.map(({ result }) => result), store.recording.pending]).toEqual([[null, null], 0]);
  });
});
