import { expect, test } from "vitest";
import { resolveOptions, type GuardOptions } from "../../src/options.ts";
import { problemsOf } from "./options-kit.ts";

const choosing = (router: NonNullable<GuardOptions["router"]> = {}) => resolveOptions({ router }).router.choosing;

test("what nobody says", () =>
  expect(choosing()).toEqual({
    thresholds: { warning: 85, switch: 90, critical: 95, minSafe: 5 },
    antiFlapping: { minDwellTimeMs: 300_000, cooldownAfterSwitchMs: 180_000, hysteresisMargin: 5 },
    policy: "balanced",
    policies: [],
    ignoreEstimated: true,
  }));

test("what is said, whatever the strategy; the rest stays", () => {
  const said = choosing({
    strategy: "round-robin",
    thresholds: { warning: 70.5, minSafe: 0 },
    antiFlapping: { minDwellTime: "90s", cooldownAfterSwitch: 0, hysteresisMargin: 0 },
    policy: "mine",
    policies: [{ name: "mine", weights: { safety: 3, cost: 1 } }],
    ignoreEstimated: false,
  });
  expect(said).toEqual({
    thresholds: { warning: 70.5, switch: 90, critical: 95, minSafe: 0 },
    antiFlapping: { minDwellTimeMs: 90_000, cooldownAfterSwitchMs: 0, hysteresisMargin: 0 },
    policy: "mine",
    policies: [{ name: "mine", weights: { safety: 3, refill: 0, tier: 0, reliability: 0, cost: 1 } }],
    ignoreEstimated: false,
  });
});

test("a policy with the name of a built-in one replaces it", () =>
  expect(choosing({ policies: [{ name: "cost", weights: { cost: 1 } }], policy: "cost" }).policies[0]?.weights.cost).toBe(1));

test.each<readonly [unknown, readonly string[]]>([
  [{ thresholds: { warning: 90 } }, ["router.thresholds.warning: must be below switch, and 90 is not below 90"]],
  [{ thresholds: { switch: 80 } }, ["router.thresholds.warning: must be below switch, and 85 is not below 80"]],
  [{ thresholds: { switch: 99 } }, ["router.thresholds.switch: must be below critical, and 99 is not below 95"]],
  [
    { thresholds: { warning: 98, switch: 97, critical: 96 } },
    [
      "router.thresholds.warning: must be below switch, and 98 is not below 97",
      "router.thresholds.switch: must be below critical, and 97 is not below 96",
    ],
  ],
  [{ thresholds: { critical: 100.5 } }, ["router.thresholds.critical: must be a percentage between 0 and 100"]],
  [{ thresholds: { minSafe: -1 } }, ["router.thresholds.minSafe: must be a percentage between 0 and 100"]],
  [{ thresholds: { switch: "90" } }, ["router.thresholds.switch: expected a number, got a string"]],
  [{ thresholds: { min_safe: 5 } }, ["router.thresholds.min_safe: unknown option; did you mean minSafe?"]],
  [{ antiFlapping: { hysteresisMargin: 101 } }, ["router.antiFlapping.hysteresisMargin: must be at most 100"]],
  [{ antiFlapping: { minDwellTime: -1 } }, ["router.antiFlapping.minDwellTime: must be between 0ms and 24d"]],
  [{ policy: "ballanced" }, ["router.policy: expected one of balanced, cost, performance, safety; did you mean balanced?"]],
  [
    { policy: "min", policies: [{ name: "mine", weights: { cost: 1 } }] },
    ["router.policy: expected one of balanced, cost, performance, safety, mine; did you mean mine?"],
  ],
  [
    { policies: [{ name: "mine", weights: { cost: 0 } }] },
    ["router.policies[0].weights: all are 0, so nothing would count; give one of safety, refill, tier, reliability, cost a weight"],
  ],
  [
    { policies: [{ name: "mine", weights: {} }] },
    ["router.policies[0].weights: all are 0, so nothing would count; give one of safety, refill, tier, reliability, cost a weight"],
  ],
  [{ policies: [{ name: "mine", weights: { cost: -1 } }] }, ["router.policies[0].weights.cost: must be at least 0"]],
  [{ policies: [{ name: "mine", weights: { saftey: 1 } }] }, ["router.policies[0].weights.saftey: unknown option; did you mean safety?"]],
  [{ policies: [{ name: "mine" }] }, ["router.policies[0].weights: is required (an object)"]],
  [
    {
      policies: [
        { name: "mine", weights: { cost: 1 } },
        { name: "mine", weights: { safety: 1 } },
      ],
    },
    ["router.policies[1].name: mine is already the name of router.policies[0]; names must differ"],
  ],
])("%j is refused", (router, lines) => expect(problemsOf({ router })).toEqual(lines));
