import { expect, test } from "vitest";
import type { StrategyCall, StrategyCandidate, StrategyFunction } from "../../../src/core/strategy.ts";
import { NO_USAGE, type Usage } from "../../../src/core/usage.ts";
import { hostStrategy } from "../../../src/pool/strategies/host-strategy.ts";
import { PLAIN, nameOf, numberedTier } from "./strategy-kit.ts";

const USAGE: Usage = { ...NO_USAGE, inputTokens: 10, outputTokens: 20 };

function kit(fn: StrategyFunction) {
  const failures: string[] = [];
  const load = new Map<string, number>();
  let priced = 0;
  const { pick } = hostStrategy({
    fn,
    inFlight: (name) => load.get(name) ?? 0,
    remainingRatio: ({ credential }) => (credential.name === "1" ? 0.25 : null),
    costUsd(_candidate, usage) {
      priced += 1;
      return usage.outputTokens / 100;
    },
    failed: (error) => void failures.push((error as Error).message),
  });
  const tier = numberedTier(3);
  const turn = (open = tier): string => nameOf(pick(tier, open, { ...PLAIN, scopes: { team: "data" }, usage: () => USAGE }, null));
  return { turn, tier, failures, load, priced: () => priced };
}

test("is shown the candidates that may be used, with what is true now, and the call", () => {
  const seen: (readonly [readonly StrategyCandidate[], StrategyCall])[] = [];
  const { turn, tier, load, priced } = kit((candidates, call) => {
    seen.push([candidates, call]);
    return candidates.at(-1) ?? null;
  });
  expect(turn(tier.slice(0, 2))).toBe("2");
  expect(priced()).toBe(0);
  const [[candidates, call]] = seen as [[readonly StrategyCandidate[], StrategyCall]];
  expect(call).toEqual({ model: "m", scopes: { team: "data" } });
  load.set("1", 4);
  expect({ ...candidates[0] }).toEqual({
    name: "1",
    provider: "openai",
    tier: null,
    priority: 0,
    weight: 1,
    remainingRatio: 0.25,
    inFlight: 4,
    costUsd: null,
  });
  expect(() => Object.assign(candidates[0] as object, { name: "x" })).toThrow(TypeError);
  turn();
  expect(seen[1]?.[0][0]).toBe(candidates[0]);
});

test("learns what the call would cost only while it decides", () => {
  const { turn } = kit((candidates) => (candidates[1]?.costUsd === 0.2 ? candidates[1] : null));
  expect([turn(), turn()]).toEqual(["2", "2"]);
});

test("may give back a copy, which is known by its name", () => {
  const { turn, failures } = kit((candidates) => ({ ...(candidates[2] as StrategyCandidate) }));
  expect([turn(), failures]).toEqual(["3", []]);
});

test("null is whoever is next in turn, and no failure", () => {
  const { turn, failures, tier } = kit(() => null);
  expect([turn(), turn(), turn(tier.slice(1)), turn(), failures]).toEqual(["1", "2", "3", "1", []]);
});

test.each<[string, () => unknown]>([
  ["undefined", () => undefined],
  ["somebody else", () => ({ name: "4" })],
  ["somebody who may not be used", () => ({ name: "1" })],
  ["a text", () => "2"],
  ["a promise", () => Promise.resolve({ name: "2" })],
  ["a promise that rejects", () => Promise.reject(new Error("later"))],
])("%s falls back to round-robin, and is a failure", (_what, answer) => {
  const { turn, failures, tier } = kit(answer as StrategyFunction);
  expect([turn(tier.slice(1)), turn(tier.slice(1)), failures.length]).toEqual(["2", "3", 2]);
});

test("a throw falls back to round-robin, and is a failure", () => {
  const { turn, failures } = kit(() => {
    throw new Error("broken");
  });
  expect([turn(), turn(), failures]).toEqual(["1", "2", ["broken", "broken"]]);
});

test("may sort what it is shown", () => {
  const { turn } = kit((candidates) => (candidates as StrategyCandidate[]).sort((a, b) => (a.name < b.name ? 1 : -1))[0] ?? null);
  expect([turn(), turn()]).toEqual(["3", "3"]);
});
