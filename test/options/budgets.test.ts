import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import type { Unit } from "../../src/core/store.ts";
import { resolveOptions } from "../../src/options.ts";
import { resolveCost, resolveRouteBudget, type CostValue, type RouteBudgetOptions } from "../../src/options/budgets.ts";

const { limits } = resolveOptions({
  limits: [
    { name: "user-day", scope: "user", unit: "usd", window: { limit: 2, per: "day" } },
    { name: "user-calls", scope: "user", unit: "requests", window: { limit: 5, per: "minute" } },
  ],
});
const around = { limits, declaredScopes: new Set(["feature"]), pricesCalls: false };

function problemsOf(run: () => unknown): readonly string[] {
  try {
    run();
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

describe("route budgets", () => {
  test("name limits of the guard, or bring their own", () => {
    const own = { name: "hourly", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } } as const;
    const route = resolveRouteBudget({ limits: ["user-calls", own] }, around);
    expect(route.limits.map(({ name }) => name)).toEqual(["user-calls", "hourly"]);
    expect(route.limits[0]).toBe(limits[1]);
    expect(route).toMatchObject({ cost: null, scopes: null, onRefused: null });
  });

  test.each(["feature", "user", "model", "route", "global"])("own limits may count %s", (scope) => {
    const own = { name: "own", scope, unit: "requests", window: { limit: 1, per: "hour" } } as const;
    expect(resolveRouteBudget({ limits: [own] }, around).limits[0]?.scope).toEqual([scope]);
  });

  test("without names all of the guard's", () => expect(resolveRouteBudget({ cost: 1 }, around).limits).toBe(limits));

  test.each<readonly [CostValue, object]>([
    [0.05, { kind: "amounts", usd: 0.05 }],
    [
      { tokens: 500, usd: 1 },
      { kind: "amounts", tokens: 500, usd: 1 },
    ],
    [
      { inputTokens: 1, outputTokens: 2 },
      { kind: "amounts", inputTokens: 1, outputTokens: 2 },
    ],
    [
      { model: "gpt-4o", maxOutputTokens: 800 },
      { kind: "model", model: "gpt-4o", maxOutputTokens: 800 },
    ],
  ])("cost %j", (cost, resolved) => {
    expect(resolveRouteBudget({ limits: ["user-calls"], cost }, around).cost).toEqual(resolved);
    expect(resolveCost(cost, "/summarise")).toEqual(resolved);
  });

  test("a function of the request stays one", () => {
    const cost = (): number => 1;
    expect(resolveRouteBudget({ cost }, around).cost).toBe(cost);
  });

  test("only money and tokens need a cost, and only where no call says it", () => {
    expect(problemsOf(() => resolveRouteBudget({ limits: ["user-calls"] }, around))).toEqual([]);
    expect(problemsOf(() => resolveRouteBudget({ limits: ["user-day"] }, { ...around, pricesCalls: true }))).toEqual([]);
    expect(problemsOf(() => resolveRouteBudget({}, around))).toEqual([
      "budgets() cost: is required: limit user-day counts usd, and nothing else says what this route costs",
    ]);
  });

  test.each<readonly [Unit, CostValue, boolean]>([
    ["usd", 0, true],
    ["usd", { usd: 1 }, true],
    ["usd", { tokens: 5, inputTokens: 1, outputTokens: 1 }, false],
    ["usd", {}, false],
    ["tokens", 1, false],
    ["tokens", { tokens: 5 }, true],
    ["tokens", { inputTokens: 5 }, true],
    ["tokens", { outputTokens: 5 }, true],
    ["input_tokens", { tokens: 5 }, false],
    ["input_tokens", { inputTokens: 5 }, true],
    ["input_tokens", { outputTokens: 5 }, false],
    ["output_tokens", { outputTokens: 0 }, true],
    ["output_tokens", { inputTokens: 5 }, false],
    ["output_tokens", { model: "gpt-4o", maxOutputTokens: 5 }, true],
    ["requests", {}, true],
  ])("a limit of %s, cost %j: covered is %s", (unit, cost, isCovered) => {
    const own = { name: "own", scope: "user", unit, window: { limit: 1, per: "hour" } } as const;
    const expected = isCovered ? [] : [`budgets() cost: says nothing about ${unit}: limit own counts ${unit}`];
    expect(problemsOf(() => resolveRouteBudget({ limits: [own], cost }, around))).toEqual(expected);
    expect(problemsOf(() => resolveRouteBudget({ limits: [own], cost: () => cost }, around))).toEqual([]);
  });

  test("skip nobody and send all headers unless told otherwise", () => {
    expect(resolveRouteBudget({ cost: 1 }, around)).toMatchObject({ skip: null, headers: "all" });
    const skip = (): boolean => true;
    expect(resolveRouteBudget({ cost: 1, skip, headers: "legacy" }, around)).toMatchObject({ skip, headers: "legacy" });
  });

  test.each<readonly [string, unknown, string]>([
    ["style of headers", { cost: 1, headers: "standart" }, "budgets() headers: expected one of all, standard, legacy, none; did you mean standard?"],
    ["skip that is no function", { cost: 1, skip: true }, "budgets() skip: expected a function"],
    [
      "no limit at all",
      { limits: [], cost: 1 },
      "budgets() limits: is empty, so nothing would be counted; leave it out for all of the guard's limits",
    ],
    ["unknown limit", { limits: ["user-dy"], cost: 1 }, "budgets() limits[0]: there is no limit user-dy among the guard's; did you mean user-day?"],
    ["unknown option", { limt: [], cost: 1 }, "budgets() limt: unknown option; did you mean limits?"],
    [
      "bad own limit",
      { limits: [{ name: "x", scope: "usr", unit: "requests", window: { limit: 1, per: "hour" } }] },
      "budgets() limits[0].scope: unknown scope usr; did you mean user?",
    ],
    ["kind of own limit", { limits: [{ name: "x", scope: "user", unit: "requests" }] }, "budgets() limits[0]: needs exactly one of bucket or window"],
    ["negative cost", { cost: { usd: -1 } }, "budgets() cost.usd: must be at least 0"],
    ["cost of nothing known", { cost: { dollars: 1 } }, "budgets() cost"],
    ["cost without a maximum", { cost: { model: "gpt-4o" } }, "budgets() cost"],
  ])("%s", (_what, options, line) => {
    expect(problemsOf(() => resolveRouteBudget(options as RouteBudgetOptions, around))).toContainEqual(expect.stringContaining(line));
  });

  test("what a cost function returned is checked too", () => {
    const expected = "the cost function of /summarise: expected USD, { usd, tokens, inputTokens, outputTokens }, { model, input, maxOutputTokens }";
    for (const wrong of ["5", { tokens: 1.5 }, NaN, undefined, { model: "gpt-4o" }]) {
      expect(problemsOf(() => resolveCost(wrong as CostValue, "/summarise"))).toEqual([expected]);
    }
    expect(problemsOf(() => resolveCost(-1, "/summarise"))).toEqual(["the cost function of /summarise: must be at least 0"]);
  });
});
