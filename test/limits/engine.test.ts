import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { UNITS, type Charge, type FinishResult, type Rule } from "../../src/core/store.ts";
import { calendarBounds } from "../../src/limits/calendar.ts";
import { rateFrom } from "../../src/limits/rate.ts";
import { slidingRule } from "../../src/limits/window.ts";
import { B, C, charge, DAY, harnesses, K, memoryHarness, T, W, type Harness } from "./harness.ts";

describe.each(harnesses)("limits on %s", (name, make) => {
  let h: Harness;
  beforeEach(async () => void (h = await make()));
  afterEach(() => h.close());

  const left = async (key: string, rule: Rule): Promise<number | undefined> => (await h.store.peek([{ key, rule }]))[0]?.available;

  describe("a refusal at one of five scopes", () => {
    const scopes: readonly (readonly [Rule, Rule])[] = [
      // Each with the rule that refuses.
      [B(1000, 1, 40), B(1000, 1, 40)],
      [W(1000, 60_000, 1000), W(1000, 60_000, 1000)],
      [K(1000), K(1000)],
      [C(5), C(1)],
      [B(1000, 0), B(1000, 0)],
    ];

    it.each([1, 2, 3, 4, 5])("the %i. changes no state, and names it with what was needed and there", async (k) => {
      const rules = scopes.map(([open, tight], i) => (i === k - 1 ? tight : open));
      const keys = rules.map((rule, i) => `${i + 1}:${rule.kind}`);
      const ask = (amount: (i: number) => number): Charge[] =>
        rules.map((rule, i) =>
          charge(keys[i] as string, rule, rule.kind === "concurrency" ? 1 : amount(i), {
            unit: rule.kind === "concurrency" ? "concurrent" : "tokens",
          }),
        );
      await h.at(0).store.reserve(
        "first",
        ask((i) => (i === k - 1 ? 990 : 100)),
        60_000,
      );
      const before = await h.dump(keys);
      h.at(12_345);
      const result = await h.store.reserve(
        "second",
        ask(() => 330),
        60_000,
      );
      expect(result).toMatchObject({ kind: "limited", worst: { index: k - 1 }, failing: [{ index: k - 1 }] });
      // 308 units in 12,345 ms and a part of one: of 330, after the 10 that were left, 12 are missing.
      const waits = [12 * 40 - (12_345 % 40), 1000 + 60_000 - 12_345, DAY - 12_345, 1000, null];
      expect(result.kind === "limited" && result.worst.waitMs).toBe(waits[k - 1]);
      expect(await h.dump(keys)).toEqual(before);
      expect(await h.store.release("second")).toBe("unknown");
      expect(await h.dump(keys)).toEqual(before);
    });

    it("leaves a bucket that is full as it is, with its stamp", async () => {
      const both = (amount: number): Charge[] => [charge("full", B(100, 1, 40), amount), charge("empty", B(5, 0), 5)];
      await h.at(0).store.reserve("first", both(0), 60_000);
      const before = await h.dump(["full", "empty"]);
      expect(await h.at(7777).store.reserve("second", both(1), 60_000)).toMatchObject({ kind: "limited", worst: { index: 1 } });
      expect(await h.dump(["full", "empty"])).toEqual(before);
    });

    it("that nobody has used yet leaves nothing at all", async () => {
      const keys = ["a", "b", "c"];
      const result = await h.store.reserve("x", [charge("a", B(5, 1), 1), charge("b", W(5, 1000, 100), 1), charge("c", B(5, 0), 6)], 1000);
      expect(result).toMatchObject({
        kind: "limited",
        worst: { index: 2, tooSmall: true },
        standings: [{ available: 5, resetMs: 0 }, { available: 5 }, { available: 5 }],
      });
      expect(await h.dump(keys)).toEqual(["-", "-", "-"]);
    });
  });

  it.each(UNITS)("a settlement whose %s are no amount is refused, and the hold stays", async (unit) => {
    await h.at(0).store.reserve("a", [charge("b", B(100, 0), 40)], 60_000);
    for (const amount of [-1, -0, 0.5, NaN, 9e15 + 1]) {
      await expect((async () => h.store.settle("a", { tokens: 5, [unit]: amount }))()).rejects.toThrow(`${unit}: an amount must be an integer`);
    }
    expect(await left("b", B(100, 0))).toBe(60);
    expect(await h.store.settle("a", { tokens: 5, [unit]: 7 })).toBe("applied");
    expect(await left("b", B(100, 0))).toBe(unit === "tokens" ? 93 : 95);
  });

  it("a million refills of one ms earn what one refill of a million ms earns", async () => {
    const { n, d } = rateFrom(7.7);
    const rule = B(1_000_000, n, d);
    await h.at(0).store.reserve("a", [charge("many", rule, 1_000_000), charge("one", rule, 1_000_000)], 1000);
    const steps = name === "memory" ? 1_000_000 : name === "sqlite" ? 20_000 : 2000;
    for (let ms = 1; ms <= steps; ms += 1) await h.at(ms).store.reserve(`r${ms}`, [charge("many", rule, 0, { enforce: false })], 1);
    expect(await left("many", rule)).toBe(await left("one", rule));
    expect(await left("one", rule)).toBe(Math.floor((steps * n) / d));
  });

  it("a hint is exact: refused one ms before it, admitted at it", async () => {
    const rate = rateFrom(3.333);
    const rules: Rule[] = [B(100, rate.n, rate.d), slidingRule({ limit: 100, perMs: 60_000 }), W(100, 10_000, 333), K(100)];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...rules),
        fc.array(fc.tuple(fc.nat(5000), fc.nat(60)), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 1, max: 100 }),
        async (rule, past, amount) => {
          const own = await make();
          let ms = 1000;
          for (const [i, [pause, units]] of past.entries()) await own.at((ms += pause)).store.reserve(`p${i}`, [charge("x", rule, units)], 60_000);
          const result = await own.store.reserve("now", [charge("x", rule, amount)], 60_000);
          if (result.kind === "limited") {
            const wait = result.worst.waitMs as number;
            expect(await own.at(ms + wait - 1).store.reserve("early", [charge("x", rule, amount)], 60_000)).toMatchObject({ kind: "limited" });
            const bounds = rule.kind === "calendar" ? { ...rule, bounds: calendarBounds("day", "UTC", T + ms + wait) } : rule;
            expect(await own.at(ms + wait).store.reserve("then", [charge("x", bounds, amount)], 60_000)).toMatchObject({ kind: "allowed" });
          }
          await own.close();
        },
      ),
      { numRuns: 300 },
    );
  });

  it("every verb delivered several times in any order leaves exact counters and one end each", async () => {
    const rule = B(1_000_000, 0);
    await fc.assert(
      fc.asyncProperty(
        fc.array(
          fc.tuple(
            fc.nat(9),
            fc.constantFrom("reserve" as const, "reserve" as const, "settle" as const, "release" as const, "lapse" as const, "expire" as const),
          ),
          { maxLength: 200 },
        ),
        async (deliveries) => {
          const own = await make();
          const effects = new Map<number, number>();
          const ends = new Map<number, FinishResult[]>();
          for (const [op, verb] of deliveries) {
            const opId = `op${op}`;
            if (verb === "expire") await own.store.expire(10);
            else if (verb === "reserve") {
              const result = await own.store.reserve(opId, [charge("b", rule, 100 + op)], 1000);
              if (result.kind === "allowed") effects.set(op, 100 + op);
            } else {
              const result = await (verb === "settle" ? own.store.settle(opId, { tokens: op }) : own.store[verb](opId));
              if (result === "applied" || result === "late") {
                ends.set(op, [...(ends.get(op) ?? []), result]);
                if (verb !== "lapse") effects.set(op, verb === "settle" ? op : 0);
              }
            }
          }
          // A lapse may be corrected once; otherwise there is one end.
          for (const seen of ends.values()) expect([["applied"], ["late"], ["applied", "late"]]).toContainEqual(seen);
          const charged = [...effects.values()].reduce((sum, units) => sum + units, 0);
          expect((await own.store.peek([{ key: "b", rule }]))[0]?.available).toBe(1_000_000 - charged);
          await own.close();
        },
      ),
      { numRuns: 200 },
    );
  });
});

it("a refund of yesterday lowers the figure that is kept of yesterday", async () => {
  const h = memoryHarness();
  await h.at(-1).store.reserve("x", [charge("k", K(100, -1), 60)], 60_000);
  await h.at(5).store.settle("x", { tokens: 20 });
  await h.store.reserve("today", [charge("k", K(100), 7)], 60_000);
  expect(await h.dump(["k"])).toEqual([JSON.stringify(["k", T + 5, T, T + DAY, 7, T - DAY, 20])]);
});
