import { deepStrictEqual, strictEqual } from "node:assert/strict";
import type { Charge, Rule } from "../../core/store.ts";
import { allowed, ask, B, C, charge, DAY, ends, K, left, refused, T, W, type LimitScene } from "./limits-kit.ts";

/** What a store must tell of its counters. */
export const readingScenes: readonly LimitScene[] = [
  {
    name: "verdicts and peek tell how every limit stands, also when it refuses or was never used",
    async run(h) {
      const limits: readonly Rule[] = [B(100, 1, 40), W(100, 60_000, 1000), K(100), C(2), B(100, 0)];
      const all = (amount: number): Charge[] => limits.map((rule, i) => charge(`k${i}`, rule, rule.kind === "concurrency" ? 1 : amount));
      const standings = [
        { available: 40, resetMs: 2400 },
        { available: 40, resetMs: 61_000 },
        { available: 40, resetMs: DAY },
        { available: 1, resetMs: null },
        { available: 40, resetMs: null },
      ];
      deepStrictEqual(await allowed(ask(h, 0, all(60))), standings);
      const second = await ask(h, 0, all(60));
      deepStrictEqual(second.kind === "limited" && second.standings, standings);
      await ends(h.store.peek(limits.map((rule, i) => ({ key: `k${i}`, rule }))), standings);
      const unused = { available: 100, resetMs: 0 };
      const fresh = [unused, unused, unused, { available: 2, resetMs: 0 }, unused];
      await ends(h.store.peek(limits.map((rule, i) => ({ key: `new${i}`, rule }))), fresh);
      await ends(h.store.peek([]), []);
    },
  },
  {
    name: "peek says when an amount fits, as a refusal would",
    async run(h) {
      const limits: readonly Rule[] = [B(100, 1, 40), W(100, 60_000, 1000), K(100), C(1), B(100, 0)];
      const all = (amount: number): Charge[] => limits.map((rule, i) => charge(`k${i}`, rule, rule.kind === "concurrency" ? 1 : amount));
      await allowed(ask(h, 0, all(60)));
      for (const amount of [50, 101]) {
        const verdict = await ask(h, 0, all(amount));
        const waits = verdict.kind === "limited" ? verdict.failing.map(({ waitMs }) => waitMs) : [];
        const told = await h.store.peek(limits.map((rule, i) => ({ key: `k${i}`, rule, amount: rule.kind === "concurrency" ? 1 : amount })));
        deepStrictEqual(
          told.map(({ waitMs }) => waitMs),
          waits,
        );
      }
      // What fits has nothing to wait for; nor has what nobody asks about, even where nothing is left.
      const quiet = await h.store.peek([
        { key: "k0", rule: B(100, 1, 40), amount: 40 },
        { key: "k3", rule: C(1) },
      ]);
      deepStrictEqual(
        quiet.map((standing) => "waitMs" in standing),
        [false, false],
      );
    },
  },
  {
    name: "peek changes nothing, whatever numbers it is asked with",
    async run(h) {
      await allowed(ask(h, 0, [charge("b", B(100, 0), 10), charge("f", B(100, 1, 40), 100)]));
      const both = (capacity: number, n: number) =>
        h.store.peek([
          { key: "b", rule: B(capacity, 0) },
          { key: "f", rule: B(100, n, 40) },
        ]);
      h.at(400);
      for (let i = 0; i < 3; i += 1) {
        deepStrictEqual(
          (await both(50, 0)).map(({ available }) => available),
          [50, 10],
        );
        deepStrictEqual(
          (await both(100, 1)).map(({ available }) => available),
          [90, 10],
        );
      }
      // A place that nobody took, a window that has not begun.
      await h.store.peek([
        { key: "c", rule: C(1) },
        { key: "w", rule: W(5, 1000, 100) },
      ]);
      await allowed(ask(h, 400, [charge("c", C(1), 1), charge("w", W(5, 1000, 100), 5)]));
    },
  },
  {
    name: "a wait beyond 9e15 ms is never, up to it exact",
    async run(h) {
      // Two units in 95,000 years.
      const b = B(10, 2, 3_000_000_000_000_000);
      await allowed(ask(h, 0, [charge("b", b, 10)]));
      await refused(ask(h, 0, [charge("b", b, 6)]), { waitMs: 9_000_000_000_000_000 });
      await refused(ask(h, 0, [charge("b", b, 7)]), { waitMs: null });
      await ends(h.store.peek([{ key: "b", rule: b }]), [{ available: 0, resetMs: null }]);
    },
  },
  {
    name: "the fastest rate fills the largest bucket after the longest time",
    async run(h) {
      const b = B(4_000_000_000_000_000, 1_000_000_000_000, 1);
      await allowed(ask(h, 0, [charge("b", b, 4_000_000_000_000_000)], "a"));
      await ends(h.store.settle("a", { tokens: 8_000_000_000_000_000 }), "applied");
      await ends(h.at(7999).store.peek([{ key: "b", rule: b }]), [{ available: 3_999_000_000_000_000, resetMs: 1 }]);
      await ends(h.at(50 * 365 * DAY).store.peek([{ key: "b", rule: b }]), [{ available: 4_000_000_000_000_000, resetMs: 0 }]);
    },
  },
  {
    name: "a clock that jumped ahead and was put back freezes neither bucket nor window",
    async run(h) {
      const bucket = B(100, 1, 40);
      const window = W(100, 10_000, 1000);
      const both = (amount: number): Charge[] => [charge("b", bucket, amount), charge("w", window, amount)];
      await allowed(ask(h, DAY, both(100), "ahead"));
      // Back by a day: level and cells stay, time goes on from here, and the refund of what was charged in the future still finds its cell.
      await refused(ask(h, 0, both(10)), { index: 1, waitMs: 11_000, failing: { 0: 400, 1: 11_000 } });
      await allowed(ask(h, 400, [charge("b", bucket, 10)]));
      await ends(h.at(500).store.settle("ahead", { tokens: 70 }), "applied");
      strictEqual(await left(h, "w", window), 30);
      await refused(ask(h, 10_999, [charge("w", window, 31)]), { waitMs: 1 });
      await allowed(ask(h, 11_000, [charge("w", window, 100)]));
    },
  },
  {
    name: "the store's own time is told to a caller whose clock is far off",
    async run(h) {
      await ends(ask(h, 777, [charge("k", K(10, 3 * DAY), 1)]), { kind: "skew", now: T + 777 });
    },
  },
];
