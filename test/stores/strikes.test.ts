import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { StrikeStore } from "../../src/core/store.ts";
import { combineStores } from "../../src/stores/combine.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { strikeStore } from "../../src/stores/strikes.ts";
import { testClock } from "../../src/testing/clock.ts";

const MINUTE = 60_000;

/** One more strike than before tells how many stood. */
const standing = async (strikes: StrikeStore, key: string): Promise<number> => (await strikes.strike(key, MINUTE)) - 1;

describe("strikes", () => {
  test("are counted by key", async () => {
    const strikes = strikeStore({ clock: testClock() });
    const counts: number[] = [];
    for (const key of ["a", "a", "b", "a", "b", "__proto__"]) counts.push(await strikes.strike(key, MINUTE));
    expect(counts).toEqual([1, 2, 1, 3, 2, 1]);
  });

  test("count from the first one: later ones do not prolong the window", async () => {
    const clock = testClock();
    const strikes = strikeStore({ clock });
    await strikes.strike("a", MINUTE);
    clock.advance(MINUTE - 1);
    expect(await strikes.strike("a", MINUTE)).toBe(2);
    clock.advance(1);
    expect(await strikes.strike("a", MINUTE)).toBe(1);
    clock.advance(MINUTE - 1);
    expect(await strikes.strike("a", MINUTE)).toBe(2);
  });

  test("stand for exactly the window, to the millisecond", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 1e10 }), async (windowMs) => {
        const clock = testClock();
        const strikes = strikeStore({ clock });
        await strikes.strike("a", windowMs);
        clock.advance(windowMs - 1);
        const before = await strikes.strike("a", windowMs);
        clock.advance(1);
        expect([before, await strikes.strike("a", windowMs)]).toEqual([2, 1]);
      }),
    );
  });

  test("given at the same time each have their own number", async () => {
    const strikes = strikeStore({ clock: testClock() });
    expect(await Promise.all(Array.from({ length: 5 }, () => strikes.strike("a", MINUTE)))).toEqual([1, 2, 3, 4, 5]);
  });

  test("are gone when they are cleared, and only those", async () => {
    const strikes = strikeStore({ clock: testClock() });
    await strikes.clear("a");
    for (const key of ["a", "a", "b"]) await strikes.strike(key, MINUTE);
    await strikes.clear("a");
    expect([await standing(strikes, "a"), await standing(strikes, "b")]).toEqual([0, 1]);
  });

  test("are neither forgiven nor kept longer when the system's time is set", async () => {
    const clock = testClock();
    const strikes = strikeStore({ clock });
    await strikes.strike("a", MINUTE);
    clock.set(clock.now() + 10 * MINUTE);
    expect(await strikes.strike("a", MINUTE)).toBe(2);
    clock.set(clock.now() - 20 * MINUTE);
    clock.advance(MINUTE);
    expect(await strikes.strike("a", MINUTE)).toBe(1);
  });

  test("agree with a plain count, whatever happens in whatever order", async () => {
    const key = fc.constantFrom("a", "b", "c");
    const act = fc.oneof(
      fc.record({ kind: fc.constant("strike" as const), key, windowMs: fc.integer({ min: 1, max: 50 }) }),
      fc.record({ kind: fc.constant("clear" as const), key }),
      fc.record({ kind: fc.constant("wait" as const), ms: fc.integer({ min: 0, max: 40 }) }),
    );
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 60 }), async (acts) => {
        const clock = testClock();
        const strikes = strikeStore({ clock });
        const model = new Map<string, { count: number; endsAt: number }>();
        for (const each of acts) {
          if (each.kind === "wait") clock.advance(each.ms);
          else if (each.kind === "clear") {
            await strikes.clear(each.key);
            model.delete(each.key);
          } else {
            const known = model.get(each.key);
            const next = known && known.endsAt > clock.monotonic() ? known : { count: 0, endsAt: clock.monotonic() + each.windowMs };
            next.count += 1;
            model.set(each.key, next);
            expect(await strikes.strike(each.key, each.windowMs)).toBe(next.count);
          }
        }
      }),
    );
  });
});

describe("more keys than are kept", () => {
  test("push out the ones that were struck least recently", async () => {
    const strikes = strikeStore({ clock: testClock(), maxKeys: 3 });
    for (const key of ["a", "b", "c", "a", "d"]) await strikes.strike(key, MINUTE);
    expect(await Promise.all(["a", "c", "d"].map((key) => standing(strikes, key)))).toEqual([2, 1, 1]);
    expect(await standing(strikes, "b")).toBe(0);
  });

  test("never make it grow, and hide nobody who goes on", async () => {
    const strikes = strikeStore({ clock: testClock(), maxKeys: 1_000 });
    await strikes.strike("victim", MINUTE);
    for (let i = 0; i < 100_000; i += 1) {
      await strikes.strike(`stranger-${i}`, MINUTE);
      // Who goes on misbehaving is not forgotten in the crowd.
      if (i % 900 === 0) await strikes.strike("victim", MINUTE);
    }
    expect(await standing(strikes, "victim")).toBe(113);
    expect([await standing(strikes, "stranger-99999"), await standing(strikes, "stranger-98000")]).toEqual([1, 0]);
  });
});

describe("a store's strikes", () => {
  test("run on the store's own clock", async () => {
    const clock = testClock();
    for (const { strikes } of [memoryStore({ clock }), sqliteStore(":memory:", { clock })]) {
      await strikes.strike("a", MINUTE);
      clock.advance(MINUTE - 1);
      expect(await standing(strikes, "a")).toBe(1);
      clock.advance(1);
      expect(await standing(strikes, "a")).toBe(0);
    }
  });

  test("come from the store that has the limits when two are combined", () => {
    const [store, ledger] = [memoryStore(), memoryStore()];
    expect(combineStores({ store, ledger }).strikes).toBe(store.strikes);
  });
});
