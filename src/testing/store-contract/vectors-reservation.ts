import { deepStrictEqual, strictEqual } from "node:assert/strict";
import type { Charge, Rule } from "../../core/store.ts";
import { rateFrom } from "../../limits/rate.ts";
import { allowed, ask, B, C, charge, ends, K, leaves, left, leftOf, outOfRange, refused, W, type Vector } from "./limits-kit.ts";

export const reservationVectors: readonly Vector[] = [
  {
    id: 8,
    trap: "shadow charged although it fails: its forecast drifts ever deeper",
    async run(h) {
      const both = (amount: number): Charge[] => [charge("s", B(10, 0), amount, { enforce: false }), charge("e", B(100, 0), amount)];
      const fits = { kind: "allowed", replayed: false, skipped: [] } as const;
      const standings = (s: number, e: number) => [s, e].map((available) => ({ available, resetMs: null }));
      await ends(ask(h, 0, both(8)), { ...fits, standings: standings(2, 92) });
      const short = { index: 0, needed: 8, available: 2, waitMs: null, tooSmall: false };
      await ends(ask(h, 0, both(8), "second"), { ...fits, skipped: [short], standings: standings(2, 84) });
      strictEqual(await left(h, "s", B(10, 0)), 2);
      await ends(ask(h, 0, both(2)), { ...fits, standings: standings(0, 82) });
      await ends(h.store.settle("second", { tokens: 50 }), "applied");
      await ends(ask(h, 0, both(0)), { ...fits, standings: standings(0, 40) });
    },
  },
  {
    id: 17,
    trap: "a counter decremented twice: two at once",
    async run(h) {
      const one = [charge("c", C(1), 1, { unit: "concurrent" })];
      const take = async (opId: string) => h.store.reserve(opId, one, 1000);
      h.at(0);
      await allowed(take("a"));
      h.at(999);
      await refused(take("b"), { waitMs: 1 });
      h.at(1000);
      await allowed(take("b"));
      await ends(h.at(1001).store.settle("a", {}), "late");
      await refused(take("d"), { waitMs: 999 });
    },
  },
  {
    id: 18,
    trap: "a hold that comes alive after its release: charged until its TTL",
    async run(h) {
      await ends(h.at(0).store.release("x"), "unknown");
      await ends(ask(h, 0, [charge("b", B(10, 0), 1)], "x"), { kind: "closed" });
      strictEqual(await left(h, "b", B(10, 0)), 10);
    },
  },
  {
    id: 19,
    trap: "each repeat refunds once more",
    async run(h) {
      const b = B(10, 0);
      const standings = [{ available: 2, resetMs: null }];
      deepStrictEqual(await allowed(ask(h, 0, [charge("b", b, 8)], "a")), standings);
      await ends(ask(h, 0, [charge("b", b, 8)], "a"), { kind: "allowed", replayed: true, skipped: [], standings });
      await ends(h.store.settle("a", { tokens: 3 }), "applied");
      await ends(h.store.settle("a", { tokens: 0 }), "done");
      await ends(h.store.release("a"), "done");
      await refused(ask(h, 0, [charge("b", b, 8)], "b"), { waitMs: null, available: 7 });
      await allowed(ask(h, 0, [charge("b", b, 7)], "b2"));
    },
  },
  {
    id: 20,
    trap: "the first answer is given silently, or charged twice",
    async run(h) {
      const b = B(100, 0);
      await allowed(ask(h, 0, [charge("b", b, 8)], "a"));
      for (const other of [
        [charge("b", b, 9)],
        [charge("c", b, 8)],
        [charge("b", b, 8, { unit: "requests" })],
        [charge("b", b, 8), charge("c", b, 8)],
        [],
      ]) {
        await ends(ask(h, 0, other, "a"), { kind: "conflict" });
      }
      strictEqual(await left(h, "b", b), 92);
    },
  },
  {
    id: 22,
    trap: "expiry frees what was spent, or the late figure is ignored",
    async run(h) {
      const b = B(100, 0);
      strictEqual((await h.at(0).store.reserve("a", [charge("b", b, 50)], 100)).kind, "allowed");
      await ends(h.at(99).store.expire(10), []);
      await ends(h.at(200).store.expire(10), [{ opId: "a", charges: [{ key: "b", unit: "tokens", amount: 50 }] }]);
      await ends(h.store.expire(10), []);
      await refused(ask(h, 250, [charge("b", b, 51)]), { waitMs: null, available: 50 });
      await ends(h.at(300).store.settle("a", { tokens: 20 }), "late");
      await allowed(ask(h, 300, [charge("b", b, 80)]));
    },
  },
  {
    id: 23,
    trap: "a refusal has charged the limits before it; requests are settled as 0",
    async run(h) {
      const tokens = B(1000, 1, 1000);
      const rpm = W(3, 60_000, 1000);
      const all = (ms: number): Charge[] => [
        charge("tokens", tokens, 100),
        charge("usd", K(5_000_000_000, ms), 2_000_000_000, { unit: "usd" }),
        charge("rpm", rpm, 1, { unit: "requests" }),
      ];
      await allowed(ask(h, 0, all(0), "first"));
      await allowed(ask(h, 0, all(0)));
      await refused(ask(h, 0, all(0)), { index: 1, waitMs: 86_400_000 });
      deepStrictEqual(await leftOf(h, { tokens, usd: K(5_000_000_000), rpm }), { tokens: 800, usd: 1_000_000_000, rpm: 1 });
      await ends(h.at(10).store.settle("first", { tokens: 40, usd: 1_000_000_000 }), "applied");
      deepStrictEqual(await leaves(ask(h, 10, all(10))), [760, 0, 0]);
      await refused(ask(h, 10, all(10)), { index: 1, waitMs: 86_399_990, failing: { 1: 86_399_990, 2: 60_990 } });
    },
  },
  {
    id: 25,
    trap: "the reply is cut after a limit that has no reset of its own",
    async run(h) {
      const both = [charge("c", C(3), 1, { unit: "concurrent" }), charge("b", B(10, 0), 5)];
      deepStrictEqual(await allowed(ask(h, 0, both)), [
        { available: 2, resetMs: null },
        { available: 5, resetMs: null },
      ]);
    },
  },
  {
    id: 29,
    trap: "the refund of a limit that was redefined or removed is lost, or booked to its successor",
    async run(h) {
      await allowed(ask(h, 0, [charge("old", B(100, 0), 60)], "a"));
      await allowed(ask(h, 0, [charge("new", B(100, 0), 60)]));
      await ends(h.store.settle("a", { tokens: 10 }), "applied");
      deepStrictEqual(await leftOf(h, { old: B(100, 0), new: B(100, 0) }), { old: 90, new: 40 });
    },
  },
  {
    id: 30,
    trap: "NaN, text and minus zero are taken for numbers",
    async run(h) {
      const b = B(100, 1, 40);
      await allowed(ask(h, 0, [charge("b", b, 50)], "held"));
      for (const amount of ODD) {
        const what = String(amount);
        await outOfRange(() => ask(h, 1, [charge("new", b, 1), charge("b", b, amount as number)]), `the amount ${what}`);
        if (amount !== undefined) await outOfRange(() => h.store.settle("held", { tokens: amount as number }), `a settle of ${what}`);
        await outOfRange(() => h.store.reserve("ttl", [charge("b", b, 1)], amount as number), `a ttl of ${what}`);
        await outOfRange(() => h.store.extend("held", amount as number), `a prolongation by ${what}`);
        if (Object.is(amount, -0)) continue;
        for (const rule of [
          B(amount as number, 1, 40),
          W(amount as number, 1000, 100),
          { ...K(1), limit: amount as number } as Rule,
          C(amount as number),
        ]) {
          await outOfRange(() => ask(h, 1, [charge("new", rule, 1)]), `a ${rule.kind} of ${what}`);
        }
      }
      for (const rule of ODD_RULES) await outOfRange(() => ask(h, 1, [charge("new", rule, 1)]), JSON.stringify(rule));
      await outOfRange(() => ask(h, 1, [charge("c", C(5), 2)]), "two places at once");
      await outOfRange(() => ask(h, 1, [charge("b", b, 1), charge("new", b, 1), charge("new", b, 1)]), "a limit named twice", /twice/);
      await outOfRange(() => ask(h, 1, [charge("b", b, 1), charge("b", b, 1)]), "a limit named twice", /twice/);
      await outOfRange(() => ask(h, 1, [charge("b", W(1, 10, 1), 1)]), "a bucket charged as a window", /bucket/);
      await outOfRange(() => h.store.release(""), "an empty opId");
      deepStrictEqual(await h.store.peek([{ key: "b", rule: b }]), [{ available: 50, resetMs: 1999 }]);
      deepStrictEqual(await h.store.peek([{ key: "new", rule: b }]), [{ available: 100, resetMs: 0 }]);
      // The largest figures are not refused.
      const { n, d } = rateFrom(7_716.049383);
      const big = B(4_000_000_000_000_000, n, d);
      await allowed(ask(h, 1, [charge("big", big, 4_000_000_000_000_000)], "big"));
      await ends(h.store.settle("big", { tokens: 9_000_000_000_000_000 }), "applied");
      strictEqual(await left(h, "big", big), -4_000_000_000_000_000);
    },
  },
  {
    id: 35,
    trap: "the finite wait of the other limit, after which it still cannot pass",
    async run(h) {
      const both = (amount: number): Charge[] => [charge("slow", B(10, 1, 1000), amount), charge("never", B(10, 0), amount)];
      await allowed(ask(h, 0, both(10)));
      await refused(ask(h, 0, both(1)), { index: 1, waitMs: null, failing: { 0: 1000, 1: null } });
    },
  },
];

/** No amount at all, whatever a language makes of them. */
const ODD: readonly (number | string | boolean | bigint | null | undefined)[] = [
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

const ODD_RULES: readonly Rule[] = [
  B(1, 1, 0),
  B(1, 1, -1),
  B(1, 9_000_000_000_000_000, 1),
  B(1, 3_000_000, 3_000_000_000),
  W(1, 0, 1),
  W(1, 10, 11),
  W(1, 1_000_000, 1),
  W(1, 10, 0),
  ...(
    [
      [0, 0, 1, 2],
      [3, 2, 1, 0],
      [0, 1, 2, NaN],
      [0.5, 1, 2, 3],
    ] as const
  ).map((bounds): Rule => ({ kind: "calendar", limit: 1, bounds })),
];
