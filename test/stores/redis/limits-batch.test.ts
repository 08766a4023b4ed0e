import fc from "fast-check";
import { Redis } from "ioredis";
import { afterAll, describe, expect, it } from "vitest";
import { UNITS, type Charge, type LimitStore, type Rule, type Unit } from "../../../src/core/store.ts";
import { B, C, charge, DAY, K, memoryHarness, W } from "../../limits/harness.ts";
import { testServer } from "../../setup/test-server.ts";
import { forget, limitsOn, ownPrefix, plainLink, redisHarness } from "./limits-kit.ts";

const url = await testServer("redis");

/*
 * What is asked in one turn travels in one call. It must end as if each had come alone, in the order in which they were asked: so whole turns are compared
 * with the engine in memory, which does one after the other.
 */

const RULES: readonly ((ms: number) => Rule)[] = [
  () => B(60, 3, 40),
  () => B(90, 0),
  () => W(80, 1000, 333),
  () => W(90, 60_000, 1000),
  (ms) => K(100, ms),
  () => C(4),
];

type Ask =
  | { readonly verb: "reserve"; readonly mask: number; readonly shadow: number; readonly amounts: readonly number[]; readonly ttlMs: number }
  | { readonly verb: "again" | "release" | "lapse" | "extend"; readonly op: number }
  | { readonly verb: "settle"; readonly op: number; readonly amounts: readonly number[] }
  | { readonly verb: "peek" };

const amounts = fc.array(fc.oneof(fc.nat(8), fc.nat(40)), { minLength: RULES.length, maxLength: RULES.length });
const op = fc.nat(12);
const ask: fc.Arbitrary<Ask> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      verb: fc.constant("reserve" as const),
      mask: fc.integer({ min: 1, max: 2 ** RULES.length - 1 }),
      shadow: fc.oneof({ weight: 3, arbitrary: fc.constant(0) }, fc.nat(2 ** RULES.length - 1)),
      amounts,
      ttlMs: fc.constantFrom(500, 5000, 300_000),
    }),
  },
  { weight: 3, arbitrary: fc.record({ verb: fc.constant("settle" as const), op, amounts }) },
  { weight: 3, arbitrary: fc.record({ verb: fc.constantFrom("again" as const, "release" as const, "lapse" as const, "extend" as const), op }) },
  { weight: 1, arbitrary: fc.record({ verb: fc.constant("peek" as const) }) },
);
const turn = fc.record({
  asks: fc.array(ask, { minLength: 1, maxLength: 70, size: "max" }),
  ms: fc.constantFrom(0, 1, 40, 333, 1000, 5000, 61_000, DAY),
});

const keyOf = (i: number): string => `limit${i}`;
const unitOf = (i: number): Unit => UNITS[i] as Unit;

describe.skipIf(url === undefined)("operations of one turn", () => {
  const client = new Redis(url ?? "", { lazyConnect: true });
  afterAll(() => client.disconnect());

  it("end as if they had come one after the other", { timeout: 60_000 }, async () => {
    const property = fc.asyncProperty(fc.array(turn, { minLength: 3, maxLength: 8 }), async (turns) => {
      const [ours, theirs] = [redisHarness(client), memoryHarness()];
      // Newest last. What has lapsed is left alone: its keys are asked for by a second call, which comes after the rest of the turn.
      let opened: { readonly opId: string; readonly charges: readonly Charge[]; readonly ttlMs: number }[] = [];
      let ms = DAY;
      let count = 0;
      try {
        // Else the first reservation would begin, while what comes after it is decided.
        await ours.store.continuity?.begin(null);
        for (const { asks, ms: passed } of turns) {
          ms += passed;
          ours.at(ms);
          theirs.at(ms);
          const lapsed = new Set<string>();
          const limits = RULES.map((rule, i) => ({ key: keyOf(i), rule: rule(ms) }));
          const run = asks.map((each): ((store: LimitStore) => unknown) => {
            if (each.verb === "peek") return (store) => store.peek(limits);
            if (each.verb === "reserve") {
              const charges = limits.flatMap(({ key, rule }, i) =>
                (each.mask & (1 << i)) === 0
                  ? []
                  : [charge(key, rule, i === 5 ? 1 : (each.amounts[i] as number), { unit: unitOf(i), enforce: (each.shadow & (1 << i)) === 0 })],
              );
              const opId = `op${(count += 1)}`;
              opened.push({ opId, charges, ttlMs: each.ttlMs });
              return (store) => store.reserve(opId, charges, each.ttlMs);
            }
            const known = opened.at(-1 - each.op);
            if (!known) return (store) => store.release("never");
            const { opId, charges, ttlMs } = known;
            switch (each.verb) {
              case "again":
                return (store) => store.reserve(opId, charges, ttlMs);
              case "settle":
                return (store) => store.settle(opId, Object.fromEntries(each.amounts.map((amount, i) => [unitOf(i), amount])));
              case "release":
                return (store) => store.release(opId);
              case "extend":
                return (store) => store.extend(opId, 2 * ttlMs);
              case "lapse":
                lapsed.add(opId);
                return (store) => store.lapse(opId);
            }
          });
          const answers = await Promise.all(run.map(async (each) => await each(ours.store)));
          expect(answers).toEqual(run.map((each) => each(theirs.store)));
          expect(await ours.store.peek(limits)).toEqual(theirs.store.peek(limits));
          opened = opened.filter(({ opId }) => !lapsed.has(opId));
        }
      } finally {
        await ours.close();
      }
    });
    await fc.assert(property, { numRuns: 60, endOnFailure: true });
  });

  it("share one call, up to a bound", async () => {
    const prefix = ownPrefix();
    const plain = plainLink(client, prefix);
    const calls: number[] = [];
    const store = limitsOn({
      ...plain,
      run(script, keys, args, idempotent) {
        if (script.name === "limits") calls.push(keys.length);
        return plain.run(script, keys, args, idempotent);
      },
    });
    try {
      const reserve = (opId: string) => store.reserve(opId, [charge("shared", B(100_000, 0), 1), charge(`own${opId}`, B(1, 0), 1)], 1000);
      await reserve("first");
      expect(calls).toEqual([5]);
      await Promise.all(Array.from({ length: 20 }, (_, i) => reserve(`a${i}`)));
      expect(calls).toEqual([5, 2 + 1 + 20 * 2]);
      calls.length = 0;
      await Promise.all(Array.from({ length: 100 }, (_, i) => reserve(`b${i}`)));
      expect(calls.length).toBe(4);
      calls.length = 0;
      const many = Array.from({ length: 400 }, (_, i) => charge(`many${i}`, B(9, 0), 1));
      await Promise.all(
        ["c", "d", "e"].map((id) =>
          store.reserve(
            id,
            many.map((each) => ({ ...each, key: each.key + id })),
            1000,
          ),
        ),
      );
      expect(calls).toEqual([2 + 3 * 401]);
      await Promise.all(
        Array.from({ length: 12 }, (_, j) =>
          store.reserve(
            `f${j}`,
            many.map((each) => ({ ...each, key: each.key + j })),
            1000,
          ),
        ),
      );
      expect(Math.max(...calls)).toBeLessThan(1500);
      expect(await store.peek([{ key: "shared", rule: B(100_000, 0) }])).toMatchObject([{ available: 100_000 - 121 }]);
    } finally {
      await forget(client, prefix);
    }
  });
});
