import { expect, test } from "vitest";
import { strategyOf, type StrategyName } from "../../../src/pool/strategies/index.ts";
import { tierOf, turns } from "./strategy-kit.ts";

test.each<[StrategyName, string]>([
  ["round-robin", "abcabc"],
  ["fill-first", "aaaaaa"],
  ["weighted", "abacba"],
])("%s is known by its name", (name, expected) => {
  expect(turns(strategyOf(name), tierOf({ a: 3, b: 2, c: 1 }), 6).join("")).toBe(expected);
});

test("two pools do not share a rotation", () => {
  const tier = tierOf({ a: 1, b: 1 });
  for (const name of ["round-robin", "weighted"] as const) {
    expect([turns(strategyOf(name), tier, 1), turns(strategyOf(name), tier, 1)]).toEqual([["a"], ["a"]]);
  }
});
