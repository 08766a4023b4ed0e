import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DAY } from "./health-kit.ts";
import { table } from "./penalties-kit.ts";

describe("a penalty", () => {
  test("stands until its deadline and not a millisecond longer", () => {
    const { clock, get, keep, standing } = table();
    expect(keep("a", 1_000, 503)).toBe(true);
    expect(get("a", clock.now())).toEqual({ code: 503, since: clock.now(), until: clock.now() + 1_000 });
    clock.advance(999);
    expect(standing()).toEqual({ a: 1 });
    clock.advance(1);
    expect(get("a", clock.now())).toBeUndefined();
    expect(standing()).toEqual({});
  });

  test("is never shortened, and keeps the cause that lasts longest", () => {
    const { clock, get, keep } = table();
    keep("a", 60_000, 503);
    expect(keep("a", 1_000, 429)).toBe(false);
    expect(keep("a", 60_000, 429)).toBe(false);
    expect(get("a", clock.now())?.code).toBe(503);
    expect(keep("a", 60_001, 429)).toBe(true);
    expect(get("a", clock.now())?.code).toBe(429);
    expect(keep("a", null, 401)).toBe(true);
    expect(keep("a", 1e9)).toBe(false);
    expect(keep("a", null, 500)).toBe(false);
    expect(get("a", clock.now())).toMatchObject({ code: 401, until: null });
  });

  test("that is deleted may come back shorter", () => {
    const it = table();
    it.keep("a", null);
    expect([it.delete("a"), it.delete("a"), it.delete("unknown")]).toEqual([true, false, false]);
    expect(it.keep("a", 5)).toBe(true);
    expect(it.standing()).toEqual({ a: 5 });
  });

  test("that would be over already is none", () => {
    const it = table();
    expect([it.keep("a", 0), it.keep("a", -5)]).toEqual([false, false]);
    expect(it.isEmpty).toBe(true);
  });

  test("cannot stand when its clock was put back a day and more behind it, and may begin anew", async () => {
    const it = table();
    it.keep("a", 1_000);
    it.keep("for ever", null);
    it.clock.set(it.clock.now() - DAY - 1);
    expect(it.get("a", it.clock.now())).toBeUndefined();
    expect(it.standing()).toEqual({ "for ever": null });
    expect(await it.records.list("kept/")).toHaveLength(1);
    expect(it.keep("a", 50)).toBe(true);
    expect(it.standing()).toMatchObject({ a: 50 });
  });
});

describe("a wall clock that is set", () => {
  const HOUR = 3_600_000;
  /** What the two clocks may differ by anyway. */
  const DRIFT = 1_000;

  test("back prolongs nothing: a penalty lasts as long as it was meant to", async () => {
    const it = table();
    it.keep("a", 60_000);
    it.clock.advance(20_000);
    it.clock.set(it.clock.now() - HOUR);
    expect(it.standing()).toEqual({ a: 40_000 + DRIFT });
    it.clock.advance(39_999);
    expect(it.get("a", it.clock.now())).toBeDefined();
    it.clock.advance(1 + DRIFT);
    expect([it.get("a", it.clock.now()), it.standing(), it.isEmpty, it.over]).toEqual([undefined, {}, true, ["a"]]);
    expect(await it.records.list("kept/")).toEqual([]);
    expect(it.keep("a", 5)).toBe(true);
  });

  test("back by little changes nothing: the provider's own time is kept to", () => {
    const it = table();
    it.keep("a", 60_000);
    it.clock.set(it.clock.now() - DRIFT / 2);
    expect(it.standing()).toEqual({ a: 60_000 + DRIFT / 2 });
    it.clock.advance(60_000 + DRIFT / 2 - 1);
    expect(it.standing()).toEqual({ a: 1 });
    it.clock.advance(1);
    expect(it.standing()).toEqual({});
  });

  test("back does not keep what was stored before it any longer after a restart", async () => {
    const before = table();
    before.keep("a", 60_000);
    before.close();
    before.clock.advance(20_000);
    before.clock.set(before.clock.now() - HOUR);
    const after = table(before);
    await after.load();
    expect(after.standing()).toEqual({ a: 60_000 + DRIFT });
    after.clock.advance(60_000 + DRIFT);
    expect(after.standing()).toEqual({});
  });

  test("forward ends what the wall clock says is over", () => {
    const it = table();
    it.keep("a", 60_000);
    it.clock.set(it.clock.now() + 60_000);
    expect([it.get("a", it.clock.now()), it.isEmpty]).toEqual([undefined, true]);
  });
});

describe("a table of penalties", () => {
  test("is empty again once everything has run out, without anybody asking for single ones", () => {
    const it = table();
    expect(it.isEmpty).toBe(true);
    it.keep("a", 1_000);
    it.keep("b", 5_000);
    it.keep("a", 9_000);
    it.clock.advance(8_999);
    expect(it.isEmpty).toBe(false);
    it.clock.advance(1);
    expect(it.isEmpty).toBe(true);
    expect(it.size).toBe(0);
  });

  test("is empty again when the one that lasts longest is deleted", () => {
    const it = table();
    it.keep("a", 1_000);
    it.keep("b", null);
    it.clock.advance(1_000);
    expect(it.isEmpty).toBe(false);
    it.delete("b");
    expect(it.isEmpty).toBe(true);
  });

  test("tells once when one of its own has run out, and not when it was deleted", () => {
    const it = table();
    it.keep("a", 1_000);
    it.keep("a", 2_000);
    it.keep("b", 2_000);
    it.keep("c", 3_000);
    it.delete("b");
    it.clock.advance(2_999);
    expect(it.over).toEqual([]);
    it.standing();
    expect(it.over).toEqual(["a"]);
    it.clock.advance(1);
    expect([it.isEmpty, it.isEmpty]).toEqual([true, true]);
    expect(it.over).toEqual(["a", "c"]);
  });

  test("ends what ran out before the key is penalised anew", () => {
    const it = table();
    it.keep("a", 1_000);
    it.clock.advance(1_000);
    expect(it.keep("a", 10)).toBe(true);
    expect(it.over).toEqual(["a"]);
  });

  test("makes room by what has run out, then by what ends soonest, and says so once", async () => {
    const it = table({ maxEntries: 3 });
    it.keep("over", 1);
    it.keep("long", 9_000);
    it.keep("short", 2_000);
    it.clock.advance(1);
    it.keep("middle", 5_000);
    expect(Object.keys(it.standing())).toEqual(["long", "short", "middle"]);
    expect(it.lines).toEqual([]);
    it.keep("longest", 9_999);
    expect(Object.keys(it.standing())).toEqual(["long", "middle", "longest"]);
    expect(it.keep("soonest", 1)).toBe(false);
    expect(Object.keys(it.standing())).toEqual(["long", "middle", "longest"]);
    expect(it.lines.map(({ level, fields }) => [level, fields])).toEqual([["warn", { records: "kept/", maxEntries: 3 }]]);
    expect((await it.records.list("kept/")).map(({ key }) => key)).toEqual(["kept/long", "kept/longest", "kept/middle"]);
  });

  test("never drops a permanent one for a temporary one, and the oldest of them for a permanent one", () => {
    const it = table({ maxEntries: 2 });
    it.keep("first", null);
    it.keep("temporary", 1_000);
    it.keep("second", null);
    expect(it.standing()).toEqual({ first: null, second: null });
    expect(it.keep("temporary", 1e12)).toBe(false);
    expect(it.standing()).toEqual({ first: null, second: null });
    expect(it.keep("third", null)).toBe(true);
    expect(it.standing()).toEqual({ second: null, third: null });
  });

  type Step =
    | { readonly kind: "keep"; readonly key: string; readonly forMs: number | null }
    | { readonly kind: "delete"; readonly key: string }
    | { readonly kind: "advance"; readonly ms: number };
  const key = fc.constantFrom("a", "b", "c", "d", "e", "f");
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 6, arbitrary: fc.record({ kind: fc.constant("keep" as const), key, forMs: fc.option(fc.integer({ min: 1, max: 40 }), { freq: 6 }) }) },
    { weight: 1, arbitrary: fc.record({ kind: fc.constant("delete" as const), key }) },
    { weight: 2, arbitrary: fc.record({ kind: fc.constant("advance" as const), ms: fc.nat(30) }) },
  );

  test("never shrinks a deadline, stays within its bound, and keeps what a walk through all of it would keep", () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), fc.integer({ min: 1, max: 5 }), (steps, maxEntries) => {
        const it = table({ maxEntries });
        const model = new Map<string, number>();
        for (const each of steps) {
          if (each.kind === "advance") it.clock.advance(each.ms);
          const now = it.clock.now();
          for (const [name, until] of model) if (until <= now) model.delete(name);
          if (each.kind === "delete") expect(it.delete(each.key)).toBe(model.delete(each.key));
          if (each.kind === "keep") {
            const before = model.get(each.key) ?? 0;
            const until = each.forMs === null ? Infinity : now + each.forMs;
            it.keep(each.key, each.forMs);
            if (until > before) model.set(each.key, until);
            if (model.size > maxEntries) {
              const soonest = Math.min(...model.values());
              // Of equals anyone may go; the table tells which.
              const goes = [...model].filter(([name, at]) => at === soonest && it.get(name, now) === undefined);
              expect(goes).toHaveLength(1);
              model.delete(goes[0]?.[0] as string);
            }
            expect(it.get(each.key, now)?.until ?? Infinity).toBeGreaterThanOrEqual(model.get(each.key) ?? 0);
          }
          expect(it.size).toBeLessThanOrEqual(maxEntries);
          expect(it.isEmpty).toBe(model.size === 0);
          const expected = [...model].map(([name, until]) => [name, until === Infinity ? null : until - now]);
          expect(it.standing()).toEqual(Object.fromEntries(expected));
        }
      }),
      { numRuns: 500 },
    );
  });

  test("stays small when one key's deadline grows for ever", () => {
    const it = table({ maxEntries: 10 });
    it.keep("b", 20_000);
    for (let i = 1; i <= 10_000; i += 1) it.keep("a", 1_000 + i);
    it.clock.advance(20_000);
    expect(it.isEmpty).toBe(true);
    for (let i = 0; i < 10_000; i += 1) it.keep(`key ${i}`, 1_000_000 + (i % 7));
    expect(it.size).toBe(10);
    it.clock.advance(1_000_006);
    expect(it.isEmpty).toBe(true);
  });
});
