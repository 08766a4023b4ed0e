import { expect, test } from "vitest";
import { asksUsage, strategyOf, type StrategyName } from "../../../src/pool/strategies/index.ts";
import { choosing } from "./choosing-kit.ts";
import { tierOf, turns } from "./strategy-kit.ts";

const { parts } = choosing({});

test.each<[StrategyName, string]>([
  ["round-robin", "abcabc"],
  ["fill-first", "aaaaaa"],
  ["weighted", "abacba"],
  ["least-cost", "abcabc"],
  ["quota", "aaaaaa"],
])("%s is known by its name", (name, expected) => {
  expect(turns(strategyOf(name, parts), tierOf({ a: 3, b: 2, c: 1 }), 6).join("")).toBe(expected);
});

test("two pools do not share a rotation", () => {
  const tier = tierOf({ a: 1, b: 1 });
  for (const name of ["round-robin", "weighted"] as const) {
    expect([turns(strategyOf(name, parts), tier, 1), turns(strategyOf(name, parts), tier, 1)]).toEqual([["a"], ["a"]]);
  }
});

test("only who needs it makes a request be estimated", () =>
  expect(["round-robin", "fill-first", "weighted", "least-cost", "quota", "a plugin's", () => null].map(asksUsage)).toEqual([
    false,
    false,
    false,
    true,
    true,
    true,
    true,
  ]));
