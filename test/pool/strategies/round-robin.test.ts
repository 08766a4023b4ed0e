import fc from "fast-check";
import { expect, test } from "vitest";
import type { Tier } from "../../../src/pool/candidate.ts";
import { roundRobin } from "../../../src/pool/strategies/round-robin.ts";
import { candidate } from "../pool-kit.ts";
import { PLAIN, countsOf, nameOf, numberedTier, someOpen, turns } from "./strategy-kit.ts";

const others = (count: number): Tier => Array.from({ length: count }, (_, i) => candidate(`other-${i}`));

test("takes three in turn", () => {
  expect(turns(roundRobin(), numberedTier(3), 6)).toEqual(["1", "2", "3", "1", "2", "3"]);
});

test("passes over those that cannot be used, and keeps their places", () => {
  expect(turns(roundRobin(), numberedTier(4), 3, () => "13")).toEqual(["2", "4", "2"]);
  // 2 is kept out for one turn: 3 stands in, and the rotation goes on after it.
  expect(turns(roundRobin(), numberedTier(4), 6, (turn) => (turn === 1 ? "2" : ""))).toEqual(["1", "3", "4", "1", "2", "3"]);
});

test("is not skewed by the traffic of models that have other candidates", () => {
  const strategy = roundRobin();
  const [openai, vertex] = [others(3), numberedTier(4)];
  const seen: string[] = [];
  for (let i = 0; i < 8; i += 1) {
    turns(strategy, openai, 10);
    seen.push(nameOf(strategy.pick(vertex, vertex, PLAIN, null)));
  }
  expect(seen).toEqual(["1", "2", "3", "4", "1", "2", "3", "4"]);
});

test("is one rotation for all models that the same candidates offer", () => {
  const strategy = roundRobin();
  const [one, two] = [numberedTier(3), numberedTier(3)];
  expect([one, two, one, two].map((tier) => nameOf(strategy.pick(tier, tier, PLAIN, null)))).toEqual(["1", "2", "3", "1"]);
});

test("begins anew for the oldest set only, when there are more sets than it remembers", () => {
  const strategy = roundRobin();
  const [first, last] = [numberedTier(2), others(2)];
  turns(strategy, first, 1);
  for (let i = 0; i < 9_998; i += 1) turns(strategy, [candidate(`${i}-a`), candidate(`${i}-b`)], 1);
  turns(strategy, last, 1);
  // As a list that has changed makes them: the same candidates in a new tier.
  expect(turns(strategy, numberedTier(2), 1)).toEqual(["2"]);
  turns(strategy, [candidate("one"), candidate("more")], 1);
  expect(turns(strategy, numberedTier(2), 1)).toEqual(["1"]);
  expect(turns(strategy, others(2), 1)).toEqual(["other-1"]);
});

test("takes the first that can be used at or after the last one's successor, whatever comes and goes", () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 8 }).chain((size) => fc.tuple(fc.constant(size), someOpen(size, { maxLength: 40 }))),
      ([size, steps]) => {
        const tier = numberedTier(size);
        const strategy = roundRobin();
        let successor = 0;
        for (const places of steps) {
          const expected = places.find((place) => place >= successor) ?? Math.min(...places);
          const open = places.map((place) => tier[place] as Tier[number]);
          expect(strategy.pick(tier, open, PLAIN, null)).toBe(tier[expected]);
          successor = (expected + 1) % size;
        }
      },
    ),
  );
});

test("is fair to the last one", () => {
  expect(countsOf(turns(roundRobin(), numberedTier(7), 700))).toEqual(Object.fromEntries(numberedTier(7).map((each) => [nameOf(each), 100])));
});
