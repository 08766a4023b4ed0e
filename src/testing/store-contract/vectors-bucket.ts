import { deepStrictEqual, strictEqual } from "node:assert/strict";
import type { Charge } from "../../core/store.ts";
import { allowed, ask, B, charge, DAY, ends, leaves, left, leftOf, refused, TTL, type Vector } from "./limits-kit.ts";

export const bucketVectors: readonly Vector[] = [
  {
    id: 1,
    trap: "floor and stamp lose the fraction: refused for ever",
    async run(h) {
      const b = B(10, 1, 2000);
      await allowed(ask(h, 0, [charge("b", b, 10)]));
      for (let ms = 1; ms <= 1999; ms += 1) await allowed(ask(h, ms, [charge("b", b, 0)]));
      await refused(ask(h, 1999, [charge("b", b, 1)]), { waitMs: 1 });
      deepStrictEqual(await leaves(ask(h, 2000, [charge("b", b, 1)])), [0]);
    },
  },
  {
    id: 2,
    trap: "the stamp is skipped at capacity: idle time is earned twice",
    async run(h) {
      const b = B(100, 1, 40);
      // Half a minute as well: after an hour the state of a full bucket has lapsed, which hides the mistake.
      for (const idle of [30_000, 3_600_000]) {
        await allowed(ask(h, 0, [charge(`b${idle}`, b, 0)]));
        await allowed(ask(h, idle, [charge(`b${idle}`, b, 100)]));
        await refused(ask(h, idle, [charge(`b${idle}`, b, 1)]), { waitMs: 40 });
      }
    },
  },
  {
    id: 3,
    trap: "a stamp that moves back refills the same time twice",
    async run(h) {
      const b = B(100, 1, 40);
      await allowed(ask(h, 10_000, [charge("b", b, 100)]));
      await refused(ask(h, 5000, [charge("b", b, 1)]), { waitMs: 5040 });
      await refused(ask(h, 10_039, [charge("b", b, 1)]), { waitMs: 1 });
      await allowed(ask(h, 10_040, [charge("b", b, 1)]));
    },
  },
  {
    id: 4,
    trap: "the wait of the first failing limit: retry in 50 ms, in vain",
    async run(h) {
      const both = (amount: number): Charge[] => [charge("b1", B(100, 1, 10), amount), charge("b2", B(100, 1, 100), amount)];
      await allowed(ask(h, 0, both(100)));
      await refused(ask(h, 0, both(5)), { index: 1, waitMs: 500, failing: { 0: 50, 1: 500 } });
      await refused(ask(h, 50, both(5)), { index: 1, waitMs: 450 });
      await allowed(ask(h, 500, both(5)));
    },
  },
  {
    id: 5,
    trap: "retry in 1 ms, for ever",
    async run(h) {
      const small = { needed: 11, available: 10, waitMs: null, tooSmall: true };
      await refused(ask(h, 0, [charge("b", B(10, 1), 11), charge("empty", B(5, 0), 5)]), { index: 0, ...small });
      await refused(ask(h, 0, [charge("never", B(5, 0), 5), charge("b", B(10, 1), 11)]), { index: 1, ...small });
    },
  },
  {
    id: 6,
    trap: "a refund above the capacity: level 160",
    async run(h) {
      const b = B(100, 1);
      await allowed(ask(h, 0, [charge("b", b, 60)], "x"));
      await ends(h.at(1000).store.release("x"), "applied");
      await allowed(ask(h, 1000, [charge("b", b, 100)]));
      await refused(ask(h, 1000, [charge("b", b, 1)]), { waitMs: 1 });
    },
  },
  {
    id: 7,
    trap: "an overage is dropped, or a zero estimate passes in debt",
    async run(h) {
      const b = B(100, 1, 40);
      await allowed(ask(h, 0, [charge("b", b, 10)], "x"));
      await ends(h.store.settle("x", { tokens: 150 }), "applied");
      strictEqual(await left(h, "b", b), -50);
      await refused(ask(h, 0, [charge("b", b, 0)]), { waitMs: 2000 });
      await refused(ask(h, 2039, [charge("b", b, 1)]), { waitMs: 1 });
      await allowed(ask(h, 2040, [charge("b", b, 1)]));
    },
  },
  {
    id: 9,
    trap: "a lower capacity is ignored, or a higher one adds units",
    async run(h) {
      deepStrictEqual(await leaves(ask(h, 0, [charge("b", B(100, 0), 10)])), [90]);
      deepStrictEqual(await leaves(ask(h, 0, [charge("b", B(50, 0), 0)])), [50]);
      deepStrictEqual(await leaves(ask(h, 0, [charge("b", B(150, 0), 0)])), [50]);
    },
  },
  {
    id: 10,
    trap: "the new rate is applied to the past: 1000 free units",
    async run(h) {
      await allowed(ask(h, 0, [charge("b", B(1000, 0, 1), 1000)]));
      await refused(ask(h, 3_600_000, [charge("b", B(1000, 1, 100), 5)]), { waitMs: 500 });
    },
  },
  {
    id: 11,
    trap: "a refusal writes nothing, so every retry refills at the old rate 0",
    async run(h) {
      await allowed(ask(h, 0, [charge("b", B(1000, 0, 1), 1000)]));
      await refused(ask(h, 3_600_000, [charge("b", B(1000, 1, 100), 5)]), { waitMs: 500 });
      deepStrictEqual(await leaves(ask(h, 3_600_500, [charge("b", B(1000, 1, 100), 5)])), [0]);
    },
  },
  {
    id: 21,
    trap: "large figures drift or are rounded when they are stored",
    async run(h) {
      const b = B(4_000_000_000_000_000, 0);
      deepStrictEqual(await leaves(ask(h, 0, [charge("b", b, 1)])), [3_999_999_999_999_999]);
      deepStrictEqual(await leaves(ask(h, 0, [charge("b", b, 123_456_789_012_345)])), [3_876_543_210_987_654]);
    },
  },
  {
    id: 24,
    trap: "the key of an empty bucket without refill expires, and absent means full",
    async run(h) {
      const b = B(100, 0);
      await allowed(ask(h, 0, [charge("b", b, 100)]));
      await h.at(365 * DAY).store.expire(1000);
      await refused(ask(h, 365 * DAY, [charge("b", b, 1)]), { waitMs: null, available: 0 });
    },
  },
  {
    id: 26,
    trap: "the stamp is rewritten by a refusal",
    async run(h) {
      const full = B(100, 1, 40);
      const empty = B(5, 0);
      await allowed(ask(h, 0, [charge("full", full, 30), charge("empty", empty, 5)]));
      // 39 ms are no unit yet; whoever begins anew at each refusal never earns one.
      for (let ms = 39; ms < 400; ms += 39) {
        await refused(ask(h, ms, [charge("full", full, 1), charge("empty", empty, 1)]), { index: 1, waitMs: null });
      }
      deepStrictEqual(await leftOf(h.at(400), { full, empty }), { full: 80, empty: 0 });
    },
  },
  {
    id: 28,
    trap: "no such key: the overage is dropped",
    async run(h) {
      const b = B(1000, 1);
      strictEqual((await h.at(0).store.reserve("a", [charge("b", b, 1000)], TTL)).kind, "allowed");
      // Full after 1 s, gone a minute later.
      await h.at(100_000).store.expire(1000);
      await ends(h.store.settle("a", { tokens: 1500 }), "applied");
      strictEqual(await left(h, "b", b), 500);
    },
  },
];
