import { describe, expect, it } from "vitest";
import { ConfigError, GuardError } from "../../src/core/errors.ts";
import { silentLogger } from "../../src/core/logger.ts";
import type { Charge, ReserveResult, Rule } from "../../src/core/store.ts";
import { isPromise } from "../../src/core/time.ts";
import { limitEngine, type LimitEngine } from "../../src/limits/engine.ts";
import { memoryLedger } from "../../src/stores/memory-ledger.ts";
import { MemoryLimits } from "../../src/stores/memory-limits.ts";
import { memoryRecords } from "../../src/stores/memory-records.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { testClock } from "../../src/testing/clock.ts";
import { intentOf, rowOf } from "../contracts/ledger-rows.ts";

const B = (capacity: number, n: number, d = 1): Rule => ({ kind: "bucket", capacity, n, d });
const charge = (key: string, rule: Rule, amount: number): Charge => ({ key, rule, amount, unit: "tokens", enforce: true });

describe("memoryStore", () => {
  it("answers every verb at once", () => {
    const { limits, ledger, ready, close } = memoryStore();
    const answers = [
      ready(),
      limits.reserve("a", [charge("b", B(10, 1), 5)], 1000),
      limits.extend("a", 2000),
      limits.settle("a", { tokens: 1 }),
      limits.release("b"),
      limits.lapse("c"),
      limits.expire(10),
      limits.peek([{ key: "b", rule: B(10, 1) }]),
      ledger.intent(intentOf("i")),
      ledger.flush(),
      close(),
    ];
    expect(answers.filter((answer) => isPromise(answer as unknown))).toEqual([]);
  });

  it("refuses options that it does not know or cannot use, and names the right ones", () => {
    expect(() => memoryStore({ maxState: 5 } as object)).toThrow(/maxState: it knows clock, logger, maxStates/);
    expect(() => memoryStore({ maxStates: 0, maxLedgerRows: 1.5 })).toThrow(ConfigError);
  });

  it("refills on the monotonic clock: setting the system's time grants and takes nothing", async () => {
    const clock = testClock();
    const { limits } = memoryStore({ clock });
    const rules: Rule[] = [B(100, 1, 40), { kind: "sliding", limit: 100, perMs: 60_000, cellMs: 1000 }];
    await limits.reserve(
      "a",
      rules.map((rule) => charge(rule.kind, rule, 100)),
      1000,
    );
    for (const jump of [86_400_000, -86_400_000]) {
      clock.set(clock.now() + jump);
      expect(await limits.peek(rules.map((rule) => ({ key: rule.kind, rule })))).toMatchObject([{ available: 0 }, { available: 0 }]);
    }
    clock.advance(400);
    expect(await limits.peek([{ key: "bucket", rule: B(100, 1, 40) }])).toMatchObject([{ available: 10 }]);
  });

  it("picks days by the wall clock", async () => {
    const clock = testClock({ now: Date.UTC(2026, 0, 1, 23, 59) });
    const { limits } = memoryStore({ clock });
    const day = Date.UTC(2026, 0, 1);
    const rule: Rule = { kind: "calendar", limit: 10, bounds: [day - 86_400_000, day, day + 86_400_000, day + 2 * 86_400_000] };
    expect(await limits.reserve("a", [charge("k", rule, 10)], 1000)).toMatchObject({ kind: "allowed" });
    expect(await limits.reserve("b", [charge("k", rule, 10)], 1000)).toMatchObject({ kind: "limited", worst: { waitMs: 60_000 } });
    clock.set(day + 86_400_000);
    expect(await limits.reserve("b", [charge("k", rule, 10)], 1000)).toMatchObject({ kind: "allowed" });
  });
});

describe("memory is bounded", () => {
  const make = (maxStates: number) => {
    const clock = testClock();
    const backend = new MemoryLimits(clock, maxStates);
    return { clock, backend, limits: limitEngine(backend) };
  };

  function use(limits: LimitEngine, key: string, rule: Rule, amount: number): void {
    limits.reserve(`${key}.op`, [charge(key, rule, amount)], 1000);
    limits.settle(`${key}.op`, {});
  }

  it("counters that are whole again make room, and nobody can tell", () => {
    const { clock, backend, limits } = make(100);
    const kinds: Rule[] = [B(10, 1), { kind: "sliding", limit: 10, perMs: 1000, cellMs: 100 }];
    for (let i = 0; i < 20_000; i += 1) {
      use(limits, `user${i}`, kinds[i % 2] as Rule, 5);
      clock.advance(10);
    }
    expect(backend.size.states).toBeLessThan(300);
    expect(limits.peek([{ key: "user0", rule: B(10, 1) }])).toEqual([{ available: 10, resetMs: 0 }]);
  });

  it("counters that hold something against somebody stay, however many", () => {
    const { clock, backend, limits } = make(10);
    for (let i = 0; i < 500; i += 1) use(limits, `frozen${i}`, B(10, 0), 5);
    limits.reserve("debt", [charge("debt", B(10, 1, 1000), 1)], 1000);
    limits.settle("debt", { tokens: 500 });
    limits.reserve("place", [{ ...charge("places", { kind: "concurrency", limit: 1 }, 1), unit: "concurrent" }], 300_000);
    clock.advance(100_000);
    for (let i = 0; i < 500; i += 1) use(limits, `other${i}`, B(10, 1), 0);
    for (let i = 0; i < 500; i += 1) expect(limits.peek([{ key: `frozen${i}`, rule: B(10, 0) }])).toMatchObject([{ available: 5 }]);
    expect(limits.peek([{ key: "debt", rule: B(10, 1, 1000) }])).toMatchObject([{ available: -390 }]);
    expect(limits.peek([{ key: "places", rule: { kind: "concurrency", limit: 1 } }])).toMatchObject([{ available: 0 }]);
    expect(backend.size.states).toBeLessThan(600);
  });

  it("a bucket that never refills stays even when it is full: its successor may be larger", () => {
    const { limits } = make(10);
    use(limits, "frozen", B(50, 0), 0);
    for (let i = 0; i < 500; i += 1) use(limits, `other${i}`, B(10, 1), 0);
    expect(limits.peek([{ key: "frozen", rule: B(150, 0) }])).toMatchObject([{ available: 50 }]);
  });

  it("a reservation never loses the counter that it is being charged to", () => {
    const { clock, limits } = make(1);
    const shared = B(1000, 1, 1000);
    for (let i = 0; i < 200; i += 1) {
      // Whole again each time, so that it may be dropped, but not between its judgement and its charge.
      clock.advance(1000);
      const keys = [`a${i}`, "shared", `b${i}`];
      const charges = keys.map((key) => charge(key, shared, key === "shared" ? 1 : 0));
      expect(limits.reserve(`op${i}`, charges, 1000)).toMatchObject({ kind: "allowed" });
      expect(limits.peek([{ key: "shared", rule: shared }])).toMatchObject([{ available: 999 }]);
    }
  });

  it("finished opIds are forgotten oldest first, and after two minutes by the sweeper", () => {
    const { clock, backend, limits } = make(10);
    for (let i = 0; i < 40_000; i += 1) limits.release(`op${i}`);
    // A full generation of 1,024 and what came after it.
    expect(backend.size.reservations).toBe(1_024 + (40_000 % 1_024));
    for (const i of [39_999, 38_912]) expect(limits.release(`op${i}`)).toBe("done");
    expect(limits.release("op38911")).toBe("unknown");
    clock.advance(120_000);
    limits.expire(10);
    expect(backend.size.reservations).toBe(0);
  });

  it("a hold outlives the finished opIds that came after it, and is finished, expired and closed as ever", () => {
    const { clock, backend, limits } = make(10);
    const charges = [charge("b", B(1_000, 0), 100)];
    const others = (from: number): void => {
      for (let i = 0; i < 5_000; i += 1) limits.release(`other${from + i}`);
    };
    for (const opId of ["settled", "released", "expired"]) limits.reserve(opId, charges, opId === "expired" ? 1_000 : 500_000);
    others(0);
    expect(limits.reserve("settled", charges, 1_000)).toMatchObject({ kind: "allowed", replayed: true });
    expect(limits.settle("settled", { tokens: 10 })).toBe("applied");
    expect(limits.settle("settled", { tokens: 10 })).toBe("done");
    expect(limits.release("released")).toBe("applied");
    clock.advance(1_000);
    expect(limits.expire(10)).toMatchObject([{ opId: "expired" }]);
    others(5_000);
    expect(limits.settle("expired", { tokens: 30 })).toBe("late");
    expect(limits.reserve("expired", charges, 1_000)).toEqual({ kind: "closed" });
    expect(limits.peek([{ key: "b", rule: B(1_000, 0) }])).toMatchObject([{ available: 960 }]);
    clock.advance(120_000);
    limits.expire(10);
    expect(backend.size.reservations).toBe(0);
  });

  it("holds that ran out and were never finished are forgotten beyond 10,000, and all of them after two days", () => {
    const { clock, backend, limits } = make(10);
    const reserve = (opId: string): ReserveResult => limits.reserve(opId, [charge("b", B(1_000_000, 0), 1)], 1000);
    for (let i = 0; i < 7_500; i += 1) reserve(`op${i}`);
    // These are the older ones when 1,024 others have been finished.
    for (let i = 0; i < 1_024; i += 1) limits.release(`other${i}`);
    for (let i = 7_500; i < 15_000; i += 1) reserve(`op${i}`);
    clock.advance(1000);
    expect(
      limits
        .expire(1)
        .concat(limits.expire(100_000))
        .map(({ opId }) => opId),
    ).toEqual(Array.from({ length: 15_000 }, (_, i) => `op${i}`));
    expect(backend.size.reservations).toBe(10_000 + 1_024);
    // The oldest was forgotten: it stays charged. The newest can still be corrected.
    expect(limits.settle("op0", { tokens: 0 })).toBe("unknown");
    expect(limits.settle("op14999", { tokens: 0 })).toBe("late");
    clock.advance(2 * 86_400_000);
    limits.expire(10);
    expect(backend.size.reservations).toBe(0);
    expect(limits.peek([{ key: "b", rule: B(1_000_000, 0) }])).toMatchObject([{ available: 1_000_000 - 14_999 }]);
  });

  it("the ledger keeps the newest rows", () => {
    const ledger = memoryLedger(3, 0);
    for (let i = 0; i < 10; i += 1) {
      void ledger.intent(intentOf(`open${i}`, { at: i }));
      ledger.close(rowOf(`row${i}`, { at: i, requestId: `r${i}` }));
    }
    expect(ledger.list({})).toMatchObject([{ id: "row9" }, { id: "open9" }, { id: "row8" }, { id: "open8" }, { id: "row7" }, { id: "open7" }]);
    expect([ledger.get("row6"), ledger.get("r6"), ledger.get("open6")]).toEqual([undefined, undefined, undefined]);
    expect(ledger.get("r9")).toMatchObject({ id: "row9" });
  });

  it("and says from when on none of its rows was dropped", async () => {
    const ledger = memoryLedger(3, 100);
    expect(ledger.completeSince()).toBe(100);
    for (let at = 200; at < 203; at += 1) ledger.close(rowOf(`row${at}`, { at }));
    for (const at of [150, 190]) void ledger.intent(intentOf(`open${at}`, { at }));
    expect(ledger.completeSince()).toBe(100);
    ledger.close(rowOf("fourth", { at: 203 }));
    expect(ledger.completeSince()).toBe(201);
    // A request that began before the others and ends after them.
    ledger.close(rowOf("late", { at: 199 }));
    expect(ledger.completeSince()).toBe(202);
    for (const at of [210, 220]) void ledger.intent(intentOf(`open${at}`, { at }));
    expect(ledger.completeSince()).toBe(202);
    void ledger.intent(intentOf("open230", { at: 230 }));
    void ledger.intent(intentOf("open240", { at: 240 }));
    expect(ledger.completeSince()).toBe(211);
    const pages = [];
    for await (const page of ledger.scan(200)) pages.push(page.map((row) => row.id));
    expect(pages).toEqual([
      ["row202", "fourth"],
      ["open220", "open230", "open240"],
    ]);
  });

  it("records: when all places are taken the store says so, and takes back those that ran out", () => {
    let now = 0;
    const records = memoryRecords(() => now, silentLogger);
    for (let i = 0; i < 100_000; i += 1) void records.put(`k${i}`, 1, i < 10 ? { ttlMs: 1000 } : {});
    expect(() => records.put("one more", 1)).toThrow(GuardError);
    expect(records.put("k50", 2)).toBeTypeOf("number");
    now = 1000;
    expect(records.put("one more", 1)).toBeTypeOf("number");
    expect(records.get("k0")).toBeUndefined();
  });
});
