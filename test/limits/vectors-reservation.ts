import { expect } from "vitest";
import type { Charge, Rule } from "../../src/core/store.ts";
import { rateFrom } from "../../src/limits/rate.ts";
import { B, C, charge, K, W } from "./harness.ts";
import { allowed, ask, left, refused, type Vector } from "./vector.ts";

export const reservationVectors: readonly Vector[] = [
  {
    id: 8,
    trap: "shadow charged although it fails: its forecast drifts ever deeper",
    run(h) {
      const both = (amount: number): Charge[] => [charge("s", B(10, 0), amount, { enforce: false }), charge("e", B(100, 0), amount)];
      expect(ask(h, 0, both(8))).toMatchObject({ kind: "allowed", skipped: [] });
      expect(ask(h, 0, both(8), "second")).toMatchObject({ kind: "allowed", skipped: [{ index: 0, needed: 8, available: 2, waitMs: null }] });
      expect(left(h, "s", B(10, 0))).toBe(2);
      expect(ask(h, 0, both(2))).toMatchObject({ kind: "allowed", skipped: [] });
      expect(left(h, "s", B(10, 0))).toBe(0);
      expect(h.store.settle("second", { tokens: 50 })).toBe("applied");
      expect(ask(h, 0, both(0))).toMatchObject({ kind: "allowed", skipped: [], standings: [{ available: 0 }, { available: 40 }] });
    },
  },
  {
    id: 17,
    trap: "a counter decremented twice: two at once",
    run(h) {
      const one = [charge("c", C(1), 1, { unit: "concurrent" })];
      expect(h.at(0).store.reserve("a", one, 1000).kind).toBe("allowed");
      refused(h.at(999).store.reserve("b", one, 1000), 1);
      expect(h.at(1000).store.reserve("b", one, 1000).kind).toBe("allowed");
      expect(h.at(1001).store.settle("a", {})).toBe("late");
      refused(h.store.reserve("d", one, 1000), 999);
    },
  },
  {
    id: 18,
    trap: "a hold that comes alive after its release: charged until its TTL",
    run(h) {
      expect(h.at(0).store.release("x")).toBe("unknown");
      expect(ask(h, 0, [charge("b", B(10, 0), 1)], "x")).toEqual({ kind: "closed" });
      expect(left(h, "b", B(10, 0))).toBe(10);
    },
  },
  {
    id: 19,
    trap: "each repeat refunds once more",
    run(h) {
      const b = B(10, 0);
      expect(allowed(ask(h, 0, [charge("b", b, 8)], "a"))).toMatchObject([{ available: 2 }]);
      expect(ask(h, 0, [charge("b", b, 8)], "a")).toMatchObject({ kind: "allowed", replayed: true, standings: [{ available: 2 }] });
      expect(h.store.settle("a", { tokens: 3 })).toBe("applied");
      expect(h.store.settle("a", { tokens: 0 })).toBe("done");
      expect(h.store.release("a")).toBe("done");
      refused(ask(h, 0, [charge("b", b, 8)], "b"), null, { available: 7 });
      allowed(ask(h, 0, [charge("b", b, 7)], "b2"));
    },
  },
  {
    id: 20,
    trap: "the first answer is given silently, or charged twice",
    run(h) {
      const b = B(100, 0);
      allowed(ask(h, 0, [charge("b", b, 8)], "a"));
      for (const other of [
        [charge("b", b, 9)],
        [charge("c", b, 8)],
        [charge("b", b, 8, { unit: "requests" })],
        [charge("b", b, 8), charge("c", b, 8)],
        [],
      ]) {
        expect(ask(h, 0, other, "a")).toEqual({ kind: "conflict" });
      }
      expect(left(h, "b", b)).toBe(92);
    },
  },
  {
    id: 22,
    trap: "expiry frees what was spent, or the late figure is ignored",
    run(h) {
      const b = B(100, 0);
      expect(h.at(0).store.reserve("a", [charge("b", b, 50)], 100).kind).toBe("allowed");
      expect(h.at(99).store.expire(10)).toEqual([]);
      expect(h.at(200).store.expire(10)).toEqual([{ opId: "a", charges: [{ key: "b", unit: "tokens", amount: 50 }] }]);
      expect(h.store.expire(10)).toEqual([]);
      refused(ask(h, 250, [charge("b", b, 51)]), null, { available: 50 });
      expect(h.at(300).store.settle("a", { tokens: 20 })).toBe("late");
      allowed(ask(h, 300, [charge("b", b, 80)]));
    },
  },
  {
    id: 23,
    trap: "a refusal has charged the limits before it; requests are settled as 0",
    run(h) {
      const tokens = B(1000, 1, 1000);
      const rpm = W(3, 60_000, 1000);
      const all = (ms: number): Charge[] => [
        charge("tokens", tokens, 100),
        charge("usd", K(5_000_000_000, ms), 2_000_000_000, { unit: "usd" }),
        charge("rpm", rpm, 1, { unit: "requests" }),
      ];
      const state = (): (number | undefined)[] => [left(h, "tokens", tokens), left(h, "usd", K(5_000_000_000)), left(h, "rpm", rpm)];
      allowed(ask(h, 0, all(0), "first"));
      allowed(ask(h, 0, all(0)));
      refused(ask(h, 0, all(0)), 86_400_000, { index: 1 });
      expect(state()).toEqual([800, 1_000_000_000, 1]);
      expect(h.at(10).store.settle("first", { tokens: 40, usd: 1_000_000_000 })).toBe("applied");
      expect(allowed(ask(h, 10, all(10)))).toMatchObject([{ available: 760 }, { available: 0 }, { available: 0 }]);
      const last = ask(h, 10, all(10));
      refused(last, 86_399_990, { index: 1 });
      expect(last).toMatchObject({
        failing: [
          { index: 1, waitMs: 86_399_990 },
          { index: 2, waitMs: 60_990 },
        ],
      });
    },
  },
  {
    id: 25,
    trap: "the reply is cut after a limit that has no reset of its own",
    run(h) {
      const both = [charge("c", C(3), 1, { unit: "concurrent" }), charge("b", B(10, 0), 5)];
      expect(allowed(ask(h, 0, both))).toEqual([
        { available: 2, resetMs: null },
        { available: 5, resetMs: null },
      ]);
    },
  },
  {
    id: 29,
    trap: "the refund of a limit that was redefined or removed is lost, or booked to its successor",
    run(h) {
      allowed(ask(h, 0, [charge("old", B(100, 0), 60)], "a"));
      allowed(ask(h, 0, [charge("new", B(100, 0), 60)]));
      expect(h.store.settle("a", { tokens: 10 })).toBe("applied");
      expect([left(h, "old", B(100, 0)), left(h, "new", B(100, 0))]).toEqual([90, 40]);
    },
  },
  {
    id: 30,
    trap: "NaN, text and minus zero are taken for numbers",
    run(h) {
      const b = B(100, 1, 40);
      allowed(ask(h, 0, [charge("b", b, 50)], "held"));
      const before = h.dump(["b", "new"]);
      const odd: readonly (number | string | boolean | bigint | null | undefined)[] = [
        -1,
        1.5,
        NaN,
        Infinity,
        -Infinity,
        2 ** 53,
        9_000_000_000_000_001,
        "1e3",
        "0x10",
        "１",
        -0,
        null,
        undefined,
        true,
        5n,
      ];
      for (const amount of odd) {
        expect(() => ask(h, 1, [charge("new", b, 1), charge("b", b, amount as number)]), String(amount)).toThrow(RangeError);
        if (amount !== undefined) expect(() => h.store.settle("held", { tokens: amount as number }), String(amount)).toThrow(RangeError);
        expect(() => h.store.reserve("ttl", [charge("b", b, 1)], amount as number), String(amount)).toThrow(RangeError);
        expect(() => h.store.extend("held", amount as number), String(amount)).toThrow(RangeError);
        if (Object.is(amount, -0)) continue;
        for (const rule of [
          B(amount as number, 1, 40),
          W(amount as number, 1000, 100),
          { ...K(1), limit: amount as number } as Rule,
          C(amount as number),
        ]) {
          expect(() => ask(h, 1, [charge("new", rule, 1)]), `${rule.kind} ${String(amount)}`).toThrow(RangeError);
        }
      }
      for (const rule of [
        B(1, 1, 0),
        B(1, 1, -1),
        B(1, 9_000_000_000_000_000, 1),
        B(1, 3_000_000, 3_000_000_000),
        W(1, 0, 1),
        W(1, 10, 11),
        W(1, 1_000_000, 1),
        W(1, 10, 0),
      ]) {
        expect(() => ask(h, 1, [charge("new", rule, 1)]), JSON.stringify(rule)).toThrow(RangeError);
      }
      const bounds = [
        [0, 0, 1, 2],
        [3, 2, 1, 0],
        [0, 1, 2, NaN],
        [0.5, 1, 2, 3],
      ] as const;
      for (const some of bounds) expect(() => ask(h, 1, [charge("new", { kind: "calendar", limit: 1, bounds: some }, 1)])).toThrow(RangeError);
      expect(() => ask(h, 1, [charge("c", C(5), 2)])).toThrow(RangeError);
      expect(() => ask(h, 1, [charge("b", b, 1), charge("new", b, 1), charge("new", b, 1)])).toThrow(/twice/);
      expect(() => ask(h, 1, [charge("b", b, 1), charge("b", b, 1)])).toThrow(/twice/);
      expect(() => ask(h, 1, [charge("b", W(1, 10, 1), 1)])).toThrow(/bucket/);
      expect(() => h.store.release("")).toThrow(RangeError);
      expect(h.dump(["b", "new"])).toEqual(before);
      // The largest figures are not refused.
      allowed(ask(h, 1, [charge("big", B(4_000_000_000_000_000, ...rate(7_716.049383)), 4_000_000_000_000_000)], "big"));
      expect(h.store.settle("big", { tokens: 9_000_000_000_000_000 })).toBe("applied");
      expect(left(h, "big", B(4_000_000_000_000_000, ...rate(7_716.049383)))).toBe(-4_000_000_000_000_000);
    },
  },
  {
    id: 35,
    trap: "the finite wait of the other limit, after which it still cannot pass",
    run(h) {
      const both = (amount: number): Charge[] => [charge("slow", B(10, 1, 1000), amount), charge("never", B(10, 0), amount)];
      allowed(ask(h, 0, both(10)));
      const result = ask(h, 0, both(1));
      refused(result, null, { index: 1 });
      expect(result).toMatchObject({ failing: [{ waitMs: 1000 }, { waitMs: null }] });
    },
  },
];

function rate(perSec: number): [number, number] {
  const { n, d } = rateFrom(perSec);
  return [n, d];
}
