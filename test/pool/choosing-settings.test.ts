import { expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import { resolveOptions } from "../../src/options.ts";
import { choosingSettings, type ChoosingChange } from "../../src/pool/choosing-settings.ts";
import { DEFAULT_THRESHOLDS, shownLevel } from "../../src/pool/quota-level.ts";

const settings = () => choosingSettings(resolveOptions({ router: { policies: [{ name: "mine", weights: { cost: 1 } }] } }).router.choosing);

test("what is said changes, and nothing else", () => {
  const { current: before } = settings();
  expect(before.policy).toBe("balanced");
  const changed = settings();
  changed.set({ policy: "mine" });
  changed.set({ thresholds: { switch: 92 } });
  changed.set({ ignoreEstimated: false });
  expect(changed.current).toEqual({ ...before, policy: "mine", thresholds: { ...DEFAULT_THRESHOLDS, switch: 92 }, ignoreEstimated: false });
});

test.each<[ChoosingChange, string]>([
  [{ thresholds: { switch: 96 } }, "thresholds.switch: must be below critical, and 96 is not below 95"],
  [{ thresholds: { warning: Number.NaN } }, "thresholds.warning: must be a percentage between 0 and 100"],
  [{ policy: "min" }, "policy: expected one of balanced, cost, performance, safety, mine; did you mean mine?"],
])("%j is refused by name, and nothing changes", (change, message) => {
  const kept = settings();
  const before = kept.current;
  let error: unknown;
  try {
    kept.set({ ignoreEstimated: false, ...change });
  } catch (thrown) {
    error = thrown;
  }
  expect(GuardError.is(error) && [error.code, error.message]).toEqual(["body_invalid", message]);
  expect(kept.current).toBe(before);
});

test.each([
  [null, null],
  [1, "ok"],
  [0.151, "ok"],
  [0.15, "warning"],
  [0.1, "high"],
  [0.05, "critical"],
  [0, "critical"],
] as const)("of %d left people see %s", (ratio, level) => expect(shownLevel(ratio, DEFAULT_THRESHOLDS)).toBe(level));
