import { describe, expect, test } from "vitest";
import { REASONING_LEVELS } from "../../src/dialects/message.ts";
import { budgetOf, levelOf, nearestLevel, reasoningSuffix } from "../../src/dialects/reasoning.ts";

describe("levels of reasoning", () => {
  test.each([
    [-1, "auto"],
    [0, "none"],
    [1, "minimal"],
    [512, "minimal"],
    [513, "low"],
    [1_024, "low"],
    [8_192, "medium"],
    [24_576, "high"],
    [24_577, "xhigh"],
    [1_000_000, "xhigh"],
  ])("%i tokens are %s", (tokens, level) => expect(levelOf(tokens)).toBe(level));

  test("a level stands for a number, and a number for itself", () => {
    const budgets = REASONING_LEVELS.map((level) => budgetOf({ level, budgetTokens: null }));
    expect(budgets).toEqual([0, -1, 512, 1_024, 8_192, 24_576, 32_768, 128_000]);
    expect(budgetOf({ level: "high", budgetTokens: 7 })).toBe(7);
  });

  test("the nearest level that a model has", () => {
    const known = ["low", "medium", "high"] as const;
    expect(REASONING_LEVELS.map((level) => nearestLevel(level, known))).toEqual(["low", "medium", "low", "low", "medium", "high", "high", "high"]);
    expect(nearestLevel("auto", ["auto", "low"])).toBe("auto");
    expect(nearestLevel("medium", ["low", "high"])).toBe("high");
  });

  test.each([
    ["gpt-5(high)", "gpt-5", "high", null],
    ["claude-opus(16384)", "claude-opus", "high", 16_384],
    ["m(auto)", "m", "auto", null],
    ["m(-1)", "m", "auto", -1],
    ["m(None)", "m", "none", null],
  ])("%s", (name, model, level, budgetTokens) => {
    expect(reasoningSuffix(name)).toEqual({ model, reasoning: { level, budgetTokens, wantsThoughts: null } });
  });

  test.each(["gpt-5", "m(turbo)", "m()", "(high)", "m(1.5)", "m(99999999)"])("%s has none", (name) => expect(reasoningSuffix(name)).toBeNull());
});
