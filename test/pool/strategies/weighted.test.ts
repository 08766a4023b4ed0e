import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { weighted } from "../../../src/pool/strategies/weighted.ts";
import type { Candidate } from "../../../src/pool/candidate.ts";
import { PLAIN, countsOf, nameOf, someOpen, tierOf, turns } from "./strategy-kit.ts";

test("spreads the turns of the heavy one instead of taking them in a row", () => {
  expect(turns(weighted(), tierOf({ a: 5, b: 1, c: 1 }), 14).join("")).toBe("aabacaa".repeat(2));
});

test("is plain rotation when all weigh the same, whatever that is", () => {
  expect(turns(weighted(), tierOf({ a: 0.3, b: 0.3, c: 0.3 }), 6).join("")).toBe("abcabc");
});

describe("shares", () => {
  const tenths = fc.integer({ min: 1, max: 60 }).map((weight) => weight / 10);

  test("are exact after every round, also of fractions, and never far off in between", () => {
    fc.assert(
      fc.property(fc.array(tenths, { minLength: 2, maxLength: 6 }), (weights) => {
        const tier = tierOf(Object.fromEntries(weights.map((weight, i) => [`c${i}`, weight])));
        const round = weights.reduce((sum, weight) => sum + Math.round(weight * 10), 0);
        const picks = turns(weighted(), tier, 3 * round);
        expect(countsOf(picks)).toEqual(Object.fromEntries(weights.map((weight, i) => [`c${i}`, 3 * Math.round(weight * 10)])));
        const sofar = weights.map(() => 0);
        for (const [turn, name] of picks.entries()) {
          const place = Number(name.slice(1));
          sofar[place] = (sofar[place] as number) + 1;
          weights.forEach((weight, i) => {
            const due = ((turn + 1) * weight * 10) / round;
            expect(Math.abs((sofar[i] as number) - due)).toBeLessThan(weights.length);
          });
        }
      }),
      { numRuns: 50 },
    );
  });

  test("of very different sizes are kept", () => {
    expect(countsOf(turns(weighted(), tierOf({ a: 1_000, b: 0.5 }), 4_002))).toEqual({ a: 4_000, b: 2 });
  });

  test("are those of the ones that can be used while others cannot", () => {
    expect(countsOf(turns(weighted(), tierOf({ a: 3, b: 2, c: 5 }), 500, () => "c"))).toEqual({ a: 300, b: 200 });
  });

  test("hold although each request's second try leaves out what its first one took", () => {
    const tier = tierOf({ a: 3, b: 2, c: 1 });
    const strategy = weighted();
    const firsts: string[] = [];
    for (let i = 0; i < 6_000; i += 1) {
      const first = strategy.pick(tier, tier, PLAIN, null);
      firsts.push(nameOf(first));
      strategy.pick(
        tier,
        tier.filter((each) => each !== first),
        PLAIN,
        null,
      );
    }
    const counts = countsOf(firsts);
    // Second tries count too, so first ones need not be 3 : 2 : 1; but nobody gets all of them and the order of the weights stands.
    expect(counts.a).toBeGreaterThan(counts.b as number);
    expect(counts.b).toBeGreaterThan(counts.c as number);
    expect(counts.c).toBeGreaterThan(500);
  });
});

describe("who comes back", () => {
  test("has saved nothing up, and waits for a turn like at the start", () => {
    const tier = tierOf({ a: 5, b: 1, c: 1 });
    const strategy = weighted();
    // After four turns c is the next but one.
    expect(turns(strategy, tier, 4).join("")).toBe("aaba");
    turns(strategy, tier, 60, () => "c");
    const after = turns(strategy, tier, 14);
    expect(after.slice(0, 3)).not.toContain("c");
    expect(countsOf(after).c).toBeLessThanOrEqual(2);
  });

  test("gets no run of turns however long it was away", () => {
    const tier = tierOf({ a: 1, b: 1 });
    const strategy = weighted();
    turns(strategy, tier, 101, () => "b");
    expect(countsOf(turns(strategy, tier, 10))).toEqual({ a: 5, b: 5 });
  });

  test("leaves the others' shares as they were, whatever comes and goes", () => {
    const weights = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 2, maxLength: 6 });
    fc.assert(
      fc.property(
        weights.chain((given) => fc.tuple(fc.constant(given), someOpen(given.length, { maxLength: 200 }))),
        ([given, steps]) => {
          const tier = tierOf(Object.fromEntries(given.map((weight, i) => [`c${i}`, weight])));
          const strategy = weighted();
          for (const places of steps) {
            const open = places.map((place) => tier[place] as Candidate);
            expect(open).toContain(strategy.pick(tier, open, PLAIN, null));
          }
          // However it was left, a full round pays it back: nobody is more than the number of candidates away from their share.
          const total = given.reduce((sum, weight) => sum + weight, 0);
          const counts = countsOf(turns(strategy, tier, 10 * total));
          given.forEach((weight, i) => expect(Math.abs((counts[`c${i}`] ?? 0) - 10 * weight)).toBeLessThanOrEqual(given.length));
        },
      ),
    );
  });
});

test("other models with the same candidates share the turns, with other weights they do not", () => {
  const strategy = weighted();
  const heavy = tierOf({ a: 5, b: 1 });
  expect(turns(strategy, heavy, 2).join("") + turns(strategy, tierOf({ a: 5, b: 1 }), 4).join("")).toBe("aaabaa");
  expect(turns(strategy, tierOf({ a: 1, b: 1 }), 2).join("")).toBe("ab");
});
