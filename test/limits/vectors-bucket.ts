import { expect } from "vitest";
import type { Charge } from "../../src/core/store.ts";
import { B, charge, DAY } from "./harness.ts";
import { allowed, ask, left, refused, TTL, type Vector } from "./vector.ts";

export const bucketVectors: readonly Vector[] = [
  {
    id: 1,
    trap: "floor and stamp lose the fraction: refused for ever",
    run(h) {
      const b = B(10, 1, 2000);
      allowed(ask(h, 0, [charge("b", b, 10)]));
      for (let ms = 1; ms <= 1999; ms += 1) allowed(ask(h, ms, [charge("b", b, 0)]));
      refused(ask(h, 1999, [charge("b", b, 1)]), 1);
      expect(allowed(ask(h, 2000, [charge("b", b, 1)]))).toMatchObject([{ available: 0 }]);
    },
  },
  {
    id: 2,
    trap: "the stamp is skipped at capacity: idle time is earned twice",
    run(h) {
      const b = B(100, 1, 40);
      // Half a minute as well: after an hour the state of a full bucket has lapsed, which hides the mistake.
      for (const idle of [30_000, 3_600_000]) {
        allowed(ask(h, 0, [charge(`b${idle}`, b, 0)]));
        allowed(ask(h, idle, [charge(`b${idle}`, b, 100)]));
        refused(ask(h, idle, [charge(`b${idle}`, b, 1)]), 40);
      }
    },
  },
  {
    id: 3,
    trap: "a stamp that moves back refills the same time twice",
    run(h) {
      const b = B(100, 1, 40);
      allowed(ask(h, 10_000, [charge("b", b, 100)]));
      refused(ask(h, 5000, [charge("b", b, 1)]), 5040);
      refused(ask(h, 10_039, [charge("b", b, 1)]), 1);
      allowed(ask(h, 10_040, [charge("b", b, 1)]));
    },
  },
  {
    id: 4,
    trap: "the wait of the first failing limit: retry in 50 ms, in vain",
    run(h) {
      const both = (amount: number): Charge[] => [charge("b1", B(100, 1, 10), amount), charge("b2", B(100, 1, 100), amount)];
      allowed(ask(h, 0, both(100)));
      const first = ask(h, 0, both(5));
      refused(first, 500, { index: 1 });
      expect(first).toMatchObject({
        failing: [
          { index: 0, waitMs: 50 },
          { index: 1, waitMs: 500 },
        ],
      });
      refused(ask(h, 50, both(5)), 450, { index: 1 });
      allowed(ask(h, 500, both(5)));
    },
  },
  {
    id: 5,
    trap: "retry in 1 ms, for ever",
    run(h) {
      const result = ask(h, 0, [charge("b", B(10, 1), 11), charge("empty", B(5, 0), 5)]);
      expect(result).toMatchObject({ kind: "limited", worst: { index: 0, needed: 11, available: 10, waitMs: null, tooSmall: true } });
      const mixed = ask(h, 0, [charge("never", B(5, 0), 5), charge("b", B(10, 1), 11)]);
      expect(mixed).toMatchObject({ worst: { index: 1, tooSmall: true } });
    },
  },
  {
    id: 6,
    trap: "a refund above the capacity: level 160",
    run(h) {
      const b = B(100, 1);
      allowed(ask(h, 0, [charge("b", b, 60)], "x"));
      expect(h.at(1000).store.release("x")).toBe("applied");
      allowed(ask(h, 1000, [charge("b", b, 100)]));
      refused(ask(h, 1000, [charge("b", b, 1)]), 1);
    },
  },
  {
    id: 7,
    trap: "an overage is dropped, or a zero estimate passes in debt",
    run(h) {
      const b = B(100, 1, 40);
      allowed(ask(h, 0, [charge("b", b, 10)], "x"));
      expect(h.store.settle("x", { tokens: 150 })).toBe("applied");
      expect(left(h, "b", b)).toBe(-50);
      refused(ask(h, 0, [charge("b", b, 0)]), 2000);
      refused(ask(h, 2039, [charge("b", b, 1)]), 1);
      allowed(ask(h, 2040, [charge("b", b, 1)]));
    },
  },
  {
    id: 9,
    trap: "a lower capacity is ignored, or a higher one adds units",
    run(h) {
      expect(allowed(ask(h, 0, [charge("b", B(100, 0), 10)]))).toMatchObject([{ available: 90 }]);
      expect(allowed(ask(h, 0, [charge("b", B(50, 0), 0)]))).toMatchObject([{ available: 50 }]);
      expect(allowed(ask(h, 0, [charge("b", B(150, 0), 0)]))).toMatchObject([{ available: 50 }]);
    },
  },
  {
    id: 10,
    trap: "the new rate is applied to the past: 1000 free units",
    run(h) {
      allowed(ask(h, 0, [charge("b", B(1000, 0, 1), 1000)]));
      refused(ask(h, 3_600_000, [charge("b", B(1000, 1, 100), 5)]), 500);
    },
  },
  {
    id: 11,
    trap: "a refusal writes nothing, so every retry refills at the old rate 0",
    run(h) {
      allowed(ask(h, 0, [charge("b", B(1000, 0, 1), 1000)]));
      refused(ask(h, 3_600_000, [charge("b", B(1000, 1, 100), 5)]), 500);
      expect(allowed(ask(h, 3_600_500, [charge("b", B(1000, 1, 100), 5)]))).toMatchObject([{ available: 0 }]);
    },
  },
  {
    id: 21,
    trap: "large figures drift or are rounded when they are stored",
    run(h) {
      const b = B(4_000_000_000_000_000, 0);
      expect(allowed(ask(h, 0, [charge("b", b, 1)]))).toMatchObject([{ available: 3_999_999_999_999_999 }]);
      expect(allowed(ask(h, 0, [charge("b", b, 123_456_789_012_345)]))).toMatchObject([{ available: 3_876_543_210_987_654 }]);
    },
  },
  {
    id: 24,
    trap: "the key of an empty bucket without refill expires, and absent means full",
    run(h) {
      const b = B(100, 0);
      allowed(ask(h, 0, [charge("b", b, 100)]));
      h.at(365 * DAY).store.expire(1000);
      refused(ask(h, 365 * DAY, [charge("b", b, 1)]), null, { available: 0 });
    },
  },
  {
    id: 26,
    trap: "the stamp is rewritten by a refusal",
    run(h) {
      const full = B(100, 1, 40);
      const empty = B(5, 0);
      allowed(ask(h, 0, [charge("full", full, 0), charge("empty", empty, 5)]));
      const before = h.dump(["full", "empty"]);
      refused(ask(h, 7777, [charge("full", full, 1), charge("empty", empty, 1)]), null, { index: 1 });
      expect(h.dump(["full", "empty"])).toEqual(before);
    },
  },
  {
    id: 28,
    trap: "no such key: the overage is dropped",
    run(h) {
      const b = B(1000, 1);
      expect(h.at(0).store.reserve("a", [charge("b", b, 1000)], TTL).kind).toBe("allowed");
      // Full after 1 s, gone a minute later.
      h.at(100_000).store.expire(1000);
      expect(h.store.settle("a", { tokens: 1500 })).toBe("applied");
      expect(left(h, "b", b)).toBe(500);
    },
  },
];
