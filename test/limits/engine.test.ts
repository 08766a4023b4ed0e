import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Charge, FinishResult, Rule, Unit } from "../../src/core/store.ts";
import { calendarBounds } from "../../src/limits/calendar.ts";
import { rateFrom } from "../../src/limits/rate.ts";
import { slidingRule } from "../../src/limits/window.ts";
import { B, C, charge, DAY, harnesses, K, T, W, type Harness } from "./harness.ts";

describe.each(harnesses)("limits on %s", (name, make) => {
  let h: Harness;
  beforeEach(() => void (h = make()));
  afterEach(() => h.close());

  const left = (key: string, rule: Rule): number | undefined => h.store.peek([{ key, rule }])[0]?.available;

  it("200 requests at once on a limit for 50 admit exactly 50", async () => {
    for (const rule of [B(50, 0), W(50, 60_000, 1000), K(50), C(50)]) {
      const key = `all:${rule.kind}`;
      const results = await Promise.all(Array.from({ length: 200 }, async (_, i) => h.store.reserve(`${key}-${i}`, [charge(key, rule, 1)], 60_000)));
      expect(
        results.filter(({ kind }) => kind === "allowed"),
        key,
      ).toHaveLength(50);
      expect(
        results.filter(({ kind }) => kind === "limited"),
        key,
      ).toHaveLength(150);
      expect(left(key, rule), key).toBe(0);
    }
  });

  describe("a refusal at one of five scopes", () => {
    const scopes: readonly (readonly [Rule, Rule])[] = [
      // Each with the rule that refuses.
      [B(1000, 1, 40), B(1000, 1, 40)],
      [W(1000, 60_000, 1000), W(1000, 60_000, 1000)],
      [K(1000), K(1000)],
      [C(5), C(1)],
      [B(1000, 0), B(1000, 0)],
    ];

    it.each([1, 2, 3, 4, 5])("the %i. changes no state, and names it with what was needed and there", (k) => {
      const rules = scopes.map(([open, tight], i) => (i === k - 1 ? tight : open));
      const keys = rules.map((rule, i) => `${i + 1}:${rule.kind}`);
      const ask = (amount: (i: number) => number): Charge[] =>
        rules.map((rule, i) =>
          charge(keys[i] as string, rule, rule.kind === "concurrency" ? 1 : amount(i), {
            unit: rule.kind === "concurrency" ? "concurrent" : "tokens",
          }),
        );
      h.at(0).store.reserve(
        "first",
        ask((i) => (i === k - 1 ? 990 : 100)),
        60_000,
      );
      const before = h.dump(keys);
      h.at(12_345);
      const result = h.store.reserve(
        "second",
        ask(() => 330),
        60_000,
      );
      expect(result).toMatchObject({ kind: "limited", worst: { index: k - 1 }, failing: [{ index: k - 1 }] });
      // 308 units in 12,345 ms and a part of one: of 330, after the 10 that were left, 12 are missing.
      const waits = [12 * 40 - (12_345 % 40), 1000 + 60_000 - 12_345, DAY - 12_345, 1000, null];
      expect(result.kind === "limited" && result.worst.waitMs).toBe(waits[k - 1]);
      expect(h.dump(keys)).toEqual(before);
      expect(h.store.release("second")).toBe("unknown");
      expect(h.dump(keys)).toEqual(before);
    });

    it("that nobody has used yet leaves nothing at all", () => {
      const keys = ["a", "b", "c"];
      const result = h.store.reserve("x", [charge("a", B(5, 1), 1), charge("b", W(5, 1000, 100), 1), charge("c", B(5, 0), 6)], 1000);
      expect(result).toMatchObject({
        kind: "limited",
        worst: { index: 2, tooSmall: true },
        standings: [{ available: 5, resetMs: 0 }, { available: 5 }, { available: 5 }],
      });
      expect(h.dump(keys)).toEqual(["-", "-", "-"]);
    });
  });

  it("a million refills of one ms earn what one refill of a million ms earns", () => {
    const { n, d } = rateFrom(7.7);
    const rule = B(1_000_000, n, d);
    h.at(0).store.reserve("a", [charge("many", rule, 1_000_000), charge("one", rule, 1_000_000)], 1000);
    const steps = name === "memory" ? 1_000_000 : 20_000;
    for (let ms = 1; ms <= steps; ms += 1) h.at(ms).store.reserve(`r${ms}`, [charge("many", rule, 0, { enforce: false })], 1);
    expect(left("many", rule)).toBe(left("one", rule));
    expect(left("one", rule)).toBe(Math.floor((steps * n) / d));
  });

  it("a hint is exact: refused one ms before it, admitted at it", () => {
    const rate = rateFrom(3.333);
    const rules: Rule[] = [B(100, rate.n, rate.d), slidingRule({ limit: 100, perMs: 60_000 }), W(100, 10_000, 333), K(100)];
    fc.assert(
      fc.property(
        fc.constantFrom(...rules),
        fc.array(fc.tuple(fc.nat(5000), fc.nat(60)), { minLength: 1, maxLength: 12 }),
        fc.integer({ min: 1, max: 100 }),
        (rule, past, amount) => {
          const own = make();
          let ms = 1000;
          past.forEach(([pause, units], i) => own.at((ms += pause)).store.reserve(`p${i}`, [charge("x", rule, units)], 60_000));
          const result = own.store.reserve("now", [charge("x", rule, amount)], 60_000);
          if (result.kind === "limited") {
            const wait = result.worst.waitMs as number;
            expect(own.at(ms + wait - 1).store.reserve("early", [charge("x", rule, amount)], 60_000).kind).toBe("limited");
            const bounds = rule.kind === "calendar" ? { ...rule, bounds: calendarBounds("day", "UTC", T + ms + wait) } : rule;
            expect(own.at(ms + wait).store.reserve("then", [charge("x", bounds, amount)], 60_000).kind).toBe("allowed");
          }
          own.close();
        },
      ),
      { numRuns: 300 },
    );
  });

  it("every verb delivered several times in any order leaves exact counters and one end each", () => {
    const rule = B(1_000_000, 0);
    fc.assert(
      fc.property(
        fc.array(
          fc.tuple(
            fc.nat(9),
            fc.constantFrom("reserve" as const, "reserve" as const, "settle" as const, "release" as const, "lapse" as const, "expire" as const),
          ),
          { maxLength: 200 },
        ),
        (deliveries) => {
          const own = make();
          const effects = new Map<number, number>();
          const ends = new Map<number, FinishResult[]>();
          for (const [op, verb] of deliveries) {
            const opId = `op${op}`;
            if (verb === "expire") own.store.expire(10);
            else if (verb === "reserve") {
              const result = own.store.reserve(opId, [charge("b", rule, 100 + op)], 1000);
              if (result.kind === "allowed") effects.set(op, 100 + op);
            } else {
              const result = verb === "settle" ? own.store.settle(opId, { tokens: op }) : own.store[verb](opId);
              if (result === "applied" || result === "late") {
                ends.set(op, [...(ends.get(op) ?? []), result]);
                if (verb !== "lapse") effects.set(op, verb === "settle" ? op : 0);
              }
            }
          }
          // A lapse may be corrected once; otherwise there is one end.
          for (const seen of ends.values()) expect([["applied"], ["late"], ["applied", "late"]]).toContainEqual(seen);
          const charged = [...effects.values()].reduce((sum, units) => sum + units, 0);
          expect(own.store.peek([{ key: "b", rule }])[0]?.available).toBe(1_000_000 - charged);
          own.close();
        },
      ),
      { numRuns: 200 },
    );
  });

  describe("settle", () => {
    const units: readonly Unit[] = ["requests", "tokens", "usd"];
    const rules = units.map((unit) => [unit, B(1000, 0)] as const);

    it("takes actual amounts per unit: absent keeps, zero is zero", () => {
      h.store.reserve(
        "a",
        rules.map(([unit, rule]) => charge(unit, rule, 100, { unit })),
        1000,
      );
      expect(h.store.settle("a", { tokens: 0, usd: 40 })).toBe("applied");
      expect(rules.map(([unit, rule]) => left(unit, rule))).toEqual([900, 1000, 960]);
    });

    it("charges more than was held as debt, and the next call waits until it is repaid", () => {
      const b = B(100, 1, 10);
      h.at(0).store.reserve("a", [charge("b", b, 60)], 1000);
      h.store.settle("a", { tokens: 190 });
      expect(h.store.peek([{ key: "b", rule: b }])).toEqual([{ available: -90, resetMs: 1900 }]);
      expect(h.at(899).store.reserve("b", [charge("b", b, 0)], 1000)).toMatchObject({ kind: "limited", worst: { available: -1, waitMs: 1 } });
      expect(h.at(900).store.reserve("b", [charge("b", b, 0)], 1000).kind).toBe("allowed");
    });

    it("stays charged as estimated when nobody says more, and can be corrected for 24 hours", () => {
      const b = B(100, 0);
      const hold = (opId: string): void => void h.at(0).store.reserve(opId, [charge("b", b, 30)], 1000);
      hold("in time");
      hold("too late");
      expect(h.at(1000 + DAY - 1).store.settle("in time", { tokens: 10 })).toBe("late");
      expect(h.at(1000 + DAY).store.settle("too late", { tokens: 10 })).toBe("unknown");
      expect(left("b", b)).toBe(60);
    });
  });

  it("a finished opId is remembered for two minutes", () => {
    const b = [charge("b", B(100, 0), 10)];
    h.at(0).store.reserve("a", b, 1000);
    h.store.settle("a", {});
    expect(h.at(119_999).store.reserve("a", b, 1000)).toEqual({ kind: "closed" });
    expect(h.store.settle("a", {})).toBe("done");
    expect(h.at(120_000).store.settle("a", {})).toBe("unknown");
  });

  describe("extend", () => {
    const one = [charge("c", C(1), 1, { unit: "concurrent" })];

    it("keeps a place beyond its first time, and never shortens it", () => {
      h.at(0).store.reserve("a", one, 1000);
      expect(h.at(900).store.extend("a", 1000)).toBe(true);
      expect(h.store.extend("a", 1)).toBe(true);
      expect(h.at(1899).store.reserve("b", one, 1000).kind).toBe("limited");
      expect(h.store.expire(10)).toEqual([]);
      expect(h.at(1900).store.extend("a", 1000)).toBe(false);
      expect(h.store.reserve("b", one, 1000).kind).toBe("allowed");
    });

    it("knows only what is held", () => {
      expect(h.store.extend("never", 1000)).toBe(false);
      h.store.reserve("a", one, 1000);
      h.store.release("a");
      expect(h.store.extend("a", 1000)).toBe(false);
    });
  });

  describe("lapse", () => {
    it("frees the place, keeps the rest charged and takes one correction", () => {
      const b = B(100, 0);
      const both = [charge("c", C(1), 1, { unit: "concurrent" }), charge("b", b, 60)];
      h.at(0).store.reserve("a", both, 60_000);
      expect(h.at(10).store.lapse("a")).toBe("applied");
      expect(h.store.lapse("a")).toBe("done");
      expect(h.store.extend("a", 1000)).toBe(false);
      expect(h.store.reserve("a", both, 60_000)).toEqual({ kind: "closed" });
      expect([left("c", C(1)), left("b", b)]).toEqual([1, 40]);
      expect(h.at(70_000).store.expire(10)).toEqual([]);
      expect(h.at(10 + DAY - 1).store.settle("a", { tokens: 5 })).toBe("late");
      expect(h.store.settle("a", { tokens: 50 })).toBe("done");
      expect(left("b", b)).toBe(95);
    });

    it("leaves a tombstone when it comes first, and what ran out to the sweeper", () => {
      expect(h.at(0).store.lapse("x")).toBe("unknown");
      expect(h.store.reserve("x", [charge("b", B(1, 0), 1)], 1000)).toEqual({ kind: "closed" });
      h.store.reserve("a", [charge("b", B(1, 0), 1)], 1000);
      expect(h.at(1000).store.lapse("a")).toBe("done");
      expect(h.store.expire(10)).toMatchObject([{ opId: "a" }]);
    });
  });

  it("expire reports every hold once, at most as many as asked for, without the charges that were skipped", () => {
    const shadow = charge("s", B(1, 0), 5, { enforce: false });
    for (let i = 0; i < 5; i += 1) h.at(i).store.reserve(`a${i}`, [charge("b", B(1000, 0), 10), shadow], 1000);
    const first = h.at(1003).store.expire(3);
    const rest = [...h.store.expire(3), ...h.at(5000).store.expire(3)];
    expect(first).toHaveLength(3);
    expect([...first, ...rest].map(({ opId }) => opId).sort()).toEqual(["a0", "a1", "a2", "a3", "a4"]);
    expect(first[0]?.charges).toEqual([{ key: "b", unit: "tokens", amount: 10 }]);
    expect(h.store.expire(3)).toEqual([]);
  });

  it("answers with how every limit stands, also when it refuses", () => {
    const limits: readonly Rule[] = [B(100, 1, 40), W(100, 60_000, 1000), K(100), C(2), B(100, 0)];
    const all = (amount: number): Charge[] => limits.map((rule, i) => charge(`k${i}`, rule, rule.kind === "concurrency" ? 1 : amount));
    const standings = [
      { available: 40, resetMs: 2400 },
      { available: 40, resetMs: 61_000 },
      { available: 40, resetMs: DAY },
      { available: 1, resetMs: null },
      { available: 40, resetMs: null },
    ];
    expect(h.at(0).store.reserve("a", all(60), 1000)).toMatchObject({ kind: "allowed", standings });
    expect(h.store.reserve("b", all(60), 1000)).toMatchObject({ kind: "limited", standings });
    expect(h.store.peek(limits.map((rule, i) => ({ key: `k${i}`, rule })))).toEqual(standings);
    const unused = { available: 100, resetMs: 0 };
    expect(h.store.peek(limits.map((rule, i) => ({ key: `new${i}`, rule })))).toEqual([unused, unused, unused, { available: 2, resetMs: 0 }, unused]);
    expect(h.dump(["new0", "new1"])).toEqual(["-", "-"]);
  });

  it("a reservation without charges is admitted and can be finished", () => {
    expect(h.store.reserve("none", [], 1000)).toEqual({ kind: "allowed", replayed: false, skipped: [], standings: [] });
    expect(h.store.settle("none", { tokens: 5 })).toBe("applied");
  });

  it("a wait beyond 9e15 ms is never, up to it exact", () => {
    // Two units in 95,000 years.
    const b = B(10, 2, 3_000_000_000_000_000);
    h.at(0).store.reserve("a", [charge("b", b, 10)], 1000);
    expect(h.store.reserve("six", [charge("b", b, 6)], 1000)).toMatchObject({ worst: { waitMs: 9_000_000_000_000_000 } });
    expect(h.store.reserve("seven", [charge("b", b, 7)], 1000)).toMatchObject({ worst: { waitMs: null }, standings: [{ resetMs: null }] });
  });

  it("the fastest rate fills the largest bucket after the longest time", () => {
    const b = B(4_000_000_000_000_000, 1_000_000_000_000, 1);
    h.at(0).store.reserve("a", [charge("b", b, 4_000_000_000_000_000)], 1000);
    h.store.settle("a", { tokens: 8_000_000_000_000_000 });
    expect(h.at(7999).store.peek([{ key: "b", rule: b }])).toEqual([{ available: 3_999_000_000_000_000, resetMs: 1 }]);
    expect(h.at(50 * 365 * DAY).store.peek([{ key: "b", rule: b }])).toEqual([{ available: 4_000_000_000_000_000, resetMs: 0 }]);
  });

  it("a clock that jumped ahead and was put back freezes neither bucket nor window", () => {
    const bucket = B(100, 1, 40);
    const window = W(100, 10_000, 1000);
    const both = (amount: number): Charge[] => [charge("b", bucket, amount), charge("w", window, amount)];
    expect(h.at(DAY).store.reserve("ahead", both(100), 60_000).kind).toBe("allowed");
    // Back by a day: level and cells stay, time goes on from here, and the refund of what was charged in the future still finds its cell.
    expect(h.at(0).store.reserve("now", both(10), 60_000)).toMatchObject({ kind: "limited", failing: [{ waitMs: 400 }, { waitMs: 11_000 }] });
    expect(h.at(400).store.reserve("now", [charge("b", bucket, 10)], 60_000).kind).toBe("allowed");
    expect(h.at(500).store.settle("ahead", { tokens: 70 })).toBe("applied");
    expect(left("w", window)).toBe(30);
    expect(h.at(10_999).store.reserve("early", [charge("w", window, 31)], 60_000).kind).toBe("limited");
    expect(h.at(11_000).store.reserve("later", [charge("w", window, 100)], 60_000).kind).toBe("allowed");
  });
});
