import { deepStrictEqual, strictEqual } from "node:assert/strict";
import type { Charge, FinishResult, Rule, Unit } from "../../core/store.ts";
import type { MaybePromise } from "../../core/time.ts";
import { allowed, ask, B, C, charge, DAY, ends, K, left, leftOf, refused, TTL, W, type LimitScene, type Limits } from "./limits-kit.ts";
import { readingScenes } from "./reading-scenes.ts";
import { vectors } from "./vectors.ts";

const MANY = 20;

/** Sends a verb many times at once and counts the answers. */
async function atOnce<T>(
  verb: (i: number) => MaybePromise<T>,
  kindOf: (answer: T) => string,
  times = MANY,
): Promise<Readonly<Record<string, number>>> {
  const counts: Record<string, number> = {};
  for (const answer of await Promise.all(Array.from({ length: times }, async (_, i) => await verb(i)))) {
    const kind = kindOf(answer);
    counts[kind] = (counts[kind] ?? 0) + 1;
  }
  return counts;
}

const place = [charge("c", C(1), 1, { unit: "concurrent" })];

/** A place for so long; the clock stands already. */
async function hold(h: Limits, opId: string, ttlMs = 1000): Promise<string> {
  return (await h.store.reserve(opId, place, ttlMs)).kind;
}

export const concurrencyScenes: readonly LimitScene[] = [
  {
    name: "of 200 requests at once on a limit for 50 exactly 50 pass",
    async run(h) {
      h.at(0);
      for (const rule of [B(50, 0), W(50, 60_000, 1000), K(50), C(50)]) {
        const key = `all:${rule.kind}`;
        const verdicts = await atOnce(
          (i) => h.store.reserve(`${key}-${i}`, [charge(key, rule, 1)], TTL),
          ({ kind }) => kind,
          200,
        );
        deepStrictEqual({ key, ...verdicts, left: await left(h, key, rule) }, { key, allowed: 50, limited: 150, left: 0 });
      }
    },
  },
  {
    name: "each verb sent many times at once has one effect",
    async run(h) {
      const b = B(1000, 0);
      h.at(0);
      const reserve = (opId: string) => atOnce(() => h.store.reserve(opId, [charge("b", b, 10)], TTL), answerOf);
      const same = (answer: FinishResult): string => answer;
      deepStrictEqual(await reserve("a"), { allowed: 1, replayed: MANY - 1 });
      strictEqual(await left(h, "b", b), 990);
      deepStrictEqual(await atOnce(() => h.store.settle("a", { tokens: 4 }), same), { applied: 1, done: MANY - 1 });
      strictEqual(await left(h, "b", b), 996);
      await reserve("b");
      deepStrictEqual(await atOnce(() => h.store.release("b"), same), { applied: 1, done: MANY - 1 });
      strictEqual(await left(h, "b", b), 996);
      await reserve("c");
      deepStrictEqual(await atOnce(() => h.store.lapse("c"), same), { applied: 1, done: MANY - 1 });
      strictEqual(await left(h, "b", b), 986);
      deepStrictEqual(await atOnce(() => h.store.release("never"), same), { unknown: 1, done: MANY - 1 });
    },
  },
  {
    name: "a release that races its reserve leaves nothing held, whichever comes first",
    async run(h) {
      const b = B(1000, 0);
      h.at(0);
      for (let i = 0; i < MANY; i += 1) {
        const verbs = [() => h.store.reserve(`op${i}`, [charge("b", b, 10)], TTL), () => h.store.release(`op${i}`)];
        if (i % 2 === 1) verbs.reverse();
        await Promise.all(verbs.map(async (verb) => await verb()));
        await ends(h.store.reserve(`op${i}`, [charge("b", b, 10)], TTL), { kind: "closed" });
      }
      strictEqual(await left(h, "b", b), 1000);
    },
  },
  {
    name: "two sweepers at once report each hold once",
    async run(h) {
      h.at(0);
      for (let i = 0; i < 10; i += 1) await h.store.reserve(`op${i}`, [charge("b", B(1000, 0), 1)], 1000);
      h.at(1000);
      const found = await Promise.all([1, 2].map(async () => await h.store.expire(100)));
      deepStrictEqual(
        found
          .flat()
          .map(({ opId }) => opId)
          .sort(),
        Array.from({ length: 10 }, (_, i) => `op${i}`),
      );
    },
  },
];

const answerOf = (answer: Awaited<ReturnType<Limits["store"]["reserve"]>>): string =>
  answer.kind === "allowed" && answer.replayed ? "replayed" : answer.kind;

export const verbScenes: readonly LimitScene[] = [
  {
    name: "a refusal by one of five limits changes none of them",
    async run(h) {
      const rules: readonly Rule[] = [B(1000, 1, 40), W(1000, 60_000, 1000), K(1000), C(5), B(1000, 0)];
      for (const [k, tight] of rules.entries()) {
        const keys = rules.map((rule, i) => `${k}.${i}:${rule.kind}`);
        const limits = rules.map((rule, i) => ({ key: keys[i] as string, rule: i === k && tight.kind === "concurrency" ? C(1) : rule }));
        const charges = (amount: (i: number) => number): Charge[] =>
          limits.map(({ key, rule }, i) => charge(key, rule, rule.kind === "concurrency" ? 1 : amount(i)));
        await allowed(
          ask(
            h,
            0,
            charges((i) => (i === k ? 990 : 100)),
            `first${k}`,
          ),
        );
        h.at(12_345);
        const before = await h.store.peek(limits);
        const result = await h.store.reserve(
          `second${k}`,
          charges(() => 330),
          TTL,
        );
        strictEqual(result.kind === "limited" && result.worst.index, k);
        deepStrictEqual(await h.store.peek(limits), before);
        await ends(h.store.release(`second${k}`), "unknown");
        deepStrictEqual(await h.store.peek(limits), before);
      }
    },
  },
  {
    name: "settle takes actual amounts per unit: absent keeps, zero is zero",
    async run(h) {
      const units: readonly Unit[] = ["requests", "tokens", "usd"];
      const rules = Object.fromEntries(units.map((unit) => [unit, B(1000, 0)]));
      await allowed(
        ask(
          h,
          0,
          units.map((unit) => charge(unit, B(1000, 0), 100, { unit })),
          "a",
        ),
      );
      await ends(h.store.settle("a", { tokens: 0, usd: 40 }), "applied");
      deepStrictEqual(await leftOf(h, rules), { requests: 900, tokens: 1000, usd: 960 });
    },
  },
  {
    name: "settle charges more than was held as debt, and the next call waits until it is repaid",
    async run(h) {
      const b = B(100, 1, 10);
      await allowed(ask(h, 0, [charge("b", b, 60)], "a"));
      await ends(h.store.settle("a", { tokens: 190 }), "applied");
      await ends(h.store.peek([{ key: "b", rule: b }]), [{ available: -90, resetMs: 1900 }]);
      await refused(ask(h, 899, [charge("b", b, 0)]), { available: -1, waitMs: 1 });
      await allowed(ask(h, 900, [charge("b", b, 0)]));
    },
  },
  {
    name: "a hold that ran out stays charged as estimated and can be corrected for 24 hours",
    async run(h) {
      const b = B(100, 0);
      await h.at(0).store.reserve("a", [charge("b", b, 30)], 1000);
      h.at(1000 + DAY - 1);
      strictEqual(await left(h, "b", b), 70);
      await ends(h.store.settle("a", { tokens: 10 }), "late");
      strictEqual(await left(h, "b", b), 90);
      await ends(h.store.settle("a", { tokens: 0 }), "done");
    },
  },
  {
    name: "a finished opId is remembered for two minutes",
    async run(h) {
      const b = [charge("b", B(100, 0), 10)];
      await h.at(0).store.reserve("a", b, 1000);
      await ends(h.store.settle("a", {}), "applied");
      await ends(ask(h, 119_999, b, "a"), { kind: "closed" });
      await ends(h.store.settle("a", {}), "done");
    },
  },
  {
    name: "a reserve that is repeated with new numbers of the same limits is the same one",
    async run(h) {
      await allowed(ask(h, 0, [charge("b", B(100, 0), 60)], "a"));
      const standings = [{ available: 40, resetMs: null }];
      await ends(ask(h, 0, [charge("b", B(200, 0), 60)], "a"), { kind: "allowed", replayed: true, skipped: [], standings });
      await ends(h.store.settle("a", { tokens: 50 }), "applied");
      strictEqual(await left(h, "b", B(100, 0)), 50);
    },
  },
  {
    name: "extend keeps a place beyond its first time and never shortens it",
    async run(h) {
      h.at(0);
      strictEqual(await hold(h, "a"), "allowed");
      h.at(900);
      for (let i = 0; i < 3; i += 1) await ends(h.store.extend("a", 1000), true);
      await ends(h.store.extend("a", 1), true);
      h.at(1899);
      strictEqual(await hold(h, "b"), "limited");
      await ends(h.store.expire(10), []);
      h.at(1900);
      await ends(h.store.extend("a", 1000), false);
      strictEqual(await hold(h, "b"), "allowed");
    },
  },
  {
    name: "extend knows only what is held",
    async run(h) {
      h.at(0);
      await ends(h.store.extend("never", 1000), false);
      strictEqual(await hold(h, "a"), "allowed");
      await ends(h.store.release("a"), "applied");
      await ends(h.store.extend("a", 1000), false);
    },
  },
  {
    name: "lapse frees the place, keeps the rest charged and takes one correction",
    async run(h) {
      const limits = { c: C(1), b: B(100, 0) };
      const both = [...place, charge("b", limits.b, 60)];
      await allowed(ask(h, 0, both, "a"));
      await ends(h.at(10).store.lapse("a"), "applied");
      await ends(h.store.lapse("a"), "done");
      await ends(h.store.extend("a", 1000), false);
      await ends(ask(h, 10, both, "a"), { kind: "closed" });
      deepStrictEqual(await leftOf(h, limits), { c: 1, b: 40 });
      await ends(h.at(TTL + 10).store.expire(10), []);
      await ends(h.at(10 + DAY - 1).store.settle("a", { tokens: 5 }), "late");
      await ends(h.store.settle("a", { tokens: 50 }), "done");
      strictEqual(await left(h, "b", limits.b), 95);
    },
  },
  {
    name: "lapse leaves a tombstone when it comes first, and what ran out to the sweeper",
    async run(h) {
      await ends(h.at(0).store.lapse("x"), "unknown");
      await ends(ask(h, 0, place, "x"), { kind: "closed" });
      strictEqual(await hold(h, "a"), "allowed");
      await ends(h.at(1000).store.lapse("a"), "done");
      await ends(h.store.expire(10), [{ opId: "a", charges: [{ key: "c", unit: "concurrent", amount: 1 }] }]);
    },
  },
  {
    name: "expire reports each hold once, at most as many as asked for, without the charges that were skipped",
    async run(h) {
      const shadow = charge("s", B(1, 0), 5, { enforce: false });
      for (let i = 0; i < 5; i += 1) await h.at(i).store.reserve(`a${i}`, [charge("b", B(1000, 0), 10), shadow], 1000);
      const first = await h.at(1003).store.expire(3);
      strictEqual(first.length, 3);
      const rest = [...(await h.store.expire(3)), ...(await h.at(5000).store.expire(3))];
      deepStrictEqual([...first, ...rest].map(({ opId }) => opId).sort(), ["a0", "a1", "a2", "a3", "a4"]);
      deepStrictEqual(first[0]?.charges, [{ key: "b", unit: "tokens", amount: 10 }]);
      await ends(h.store.expire(3), []);
    },
  },
  {
    name: "a strict charge is like any other while no counters were lost",
    async run(h) {
      const strict = (amount: number): Charge[] => [{ ...charge("b", B(10, 0), amount), strict: true }];
      await allowed(ask(h, 0, strict(6), "a"));
      await refused(ask(h, 0, strict(5)), { waitMs: null, available: 4 });
      await ends(h.store.settle("a", { tokens: 2 }), "applied");
      strictEqual(await left(h, "b", B(10, 0)), 8);
    },
  },
  {
    name: "a reservation without charges is admitted and can be finished",
    async run(h) {
      await ends(ask(h, 0, [], "none"), { kind: "allowed", replayed: false, skipped: [], standings: [] });
      await ends(h.store.settle("none", { tokens: 5 }), "applied");
    },
  },
];

/** Everything that limits promise. */
export const limitScenes: readonly LimitScene[] = [
  ...vectors.map(({ id, trap, run }): LimitScene => ({ name: `vector ${id}: not so: ${trap}`, run })),
  ...verbScenes,
  ...readingScenes,
  ...concurrencyScenes,
];
