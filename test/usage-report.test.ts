import { expect, test } from "vitest";
import type { LedgerRow } from "../src/core/ledger.ts";
import type { UsageQuery } from "../src/core/usage-report.ts";
import { memoryLedger } from "../src/stores/memory-ledger.ts";
import { testClock } from "../src/testing/clock.ts";
import { usageReport } from "../src/usage-report.ts";
import { AT, rowOf } from "./contracts/ledger-rows.ts";

const DAY_MS = 86_400_000;
const SCOPES = { names: ["feature"], trustHeaders: false, headers: { user: "x-user-id", squad: "x-squad" }, of: null };

function report(rows: readonly Partial<LedgerRow>[], scopes: Parameters<typeof usageReport>[0]["scopes"] = SCOPES) {
  const ledger = memoryLedger(1_000, 0);
  for (const [i, row] of rows.entries()) ledger.close(rowOf(`r${i}`, row));
  return usageReport({ ledger, scopes, clock: testClock({ now: AT }) });
}

test("a row is told in USD, with each token counted once", async () => {
  const usage = {
    inputTokens: 1,
    cacheReadTokens: 2,
    cacheWriteTokens: 4,
    cacheWriteLongTokens: 8,
    outputTokens: 16,
    reasoningTokens: 32,
    audioOutputTokens: 64,
  };
  const usageOf = report([
    { usage, rawNanoUsd: 1_500_000_000, billedNanoUsd: 1_650_000_001 },
    { state: "refused", usage: null, rawNanoUsd: 0, billedNanoUsd: 0 },
    { state: "estimated", usage: null, rawNanoUsd: null, billedNanoUsd: null },
  ]);
  expect(await usageOf({ scopes: { org: "acme" }, groupBy: ["org", "key"] })).toEqual([
    {
      group: { org: "acme", key: "alice" },
      requests: 3,
      refused: 1,
      estimated: 1,
      unpriced: 1,
      inputTokens: 15,
      cacheReadTokens: 2,
      cacheWriteTokens: 12,
      outputTokens: 112,
      reasoningTokens: 32,
      totalTokens: 127,
      rawUsd: 1.5,
      billedUsd: 1.650000001,
      rawNanoUsd: "1500000000",
      billedNanoUsd: "1650000001",
    },
  ]);
  expect(await usageOf()).toMatchObject([{ group: {}, requests: 3 }]);
});

test("no digit is lost of a sum that no number can hold", async () => {
  const usageOf = report([{ billedNanoUsd: 9_000_000_000_000_000 }, { billedNanoUsd: 7_199_254_740_993 }, { billedNanoUsd: 9_000_000_000_000_000 }]);
  const [row] = await usageOf();
  expect([row?.billedNanoUsd, row?.billedUsd]).toEqual(["18007199254740993", Number("18007199.254740993")]);
});

test("any scope and any field can be asked for, and some scopes are fields", async () => {
  const usageOf = report([
    { scopes: { feature: "chat" }, tag: null },
    { scopes: { feature: "search" }, key: "bob", route: "/v1/responses" },
    { scopes: {}, model: "o3", tag: "t" },
  ]);
  const count = async (query: UsageQuery): Promise<unknown> =>
    (await usageOf(query)).map(({ group, requests }) => [...Object.values(group), requests]);
  expect(await count({ groupBy: "scope.feature" })).toEqual([
    ["", 1],
    ["chat", 1],
    ["search", 1],
  ]);
  expect(await count({ scopes: { feature: "search", key: "bob" }, groupBy: ["route", "scope.key", "key"] })).toEqual([["/v1/responses", "bob", 1]]);
  expect(await count({ tag: "", groupBy: "model" })).toEqual([["gpt-4o", 1]]);
  expect(await count({ model: "none" })).toEqual([]);
});

test("days without requests have a row when only days are asked for, up to today", async () => {
  const usageOf = report([{ at: AT - 5 * DAY_MS }, { at: AT - 3 * DAY_MS }, { at: AT - 3 * DAY_MS }]);
  const days = async (query: UsageQuery): Promise<unknown> =>
    (await usageOf({ groupBy: "day", ...query })).map(({ group, requests, billedUsd, totalTokens }) => [
      group.day?.slice(8),
      requests,
      billedUsd > 0,
      totalTokens > 0,
    ]);
  const none = [0, false, false];
  const all = [
    ["15", 1, true, true],
    ["16", ...none],
    ["17", 2, true, true],
    ["18", ...none],
    ["19", ...none],
    ["20", ...none],
  ];
  expect(await days({})).toEqual(all);
  expect(await days({ to: "2027-01-01" })).toEqual(all);
  expect(await days({ from: "2026-11-14", to: "2026-11-17" })).toEqual([
    ["14", ...none],
    ["15", 1, true, true],
    ["16", ...none],
  ]);
  expect(await days({ from: new Date(AT - 3 * DAY_MS) })).toEqual(all.slice(2));
  // Centuries are not written out.
  expect(await days({ from: "1900-01-01" })).toEqual(all);
  expect(await days({ model: "none" })).toEqual([]);
  expect(await days({ from: "2026-12-01" })).toEqual([]);
  expect(await usageOf({ groupBy: ["day", "model"] })).toHaveLength(2);
});

test.each<[object, string, string]>([
  [{ groupBy: "modle" }, "body_invalid", "groupBy[0]: unknown group modle; did you mean model?"],
  [{ groupBy: ["org", "colour"] }, "body_invalid", "groupBy[1]: unknown group colour"],
  [{ groupBy: 5 }, "body_invalid", "groupBy: expected a list, got a number"],
  [{ group_by: "model" }, "body_invalid", "did you mean groupBy?"],
  [{ form: "2026-01-01" }, "body_invalid", "did you mean from?"],
  [{ from: "last week" }, "body_invalid", "from: expected a date such as"],
  [{ from: AT, to: AT }, "body_invalid", "to: must be later than from"],
  [{ scopes: { featrue: "x" } }, "scope_invalid", "scopes.featrue: nobody declares this scope; did you mean feature?"],
  [{ groupBy: "scope.sqad" }, "scope_invalid", "did you mean squad?"],
  [{ scopes: { user: "a b" } }, "scope_invalid", "the value of scope user"],
])("%j is refused, and says what is meant", async (query, code, message) => {
  const refusal = report([])(query);
  await expect(refusal).rejects.toMatchObject({ code, message: expect.stringContaining(message) });
});

test.each([
  { scopes: { org: undefined } },
  { scopes: { org: null } },
  { scopes: { org: "" } },
  { scopes: undefined },
  { key: undefined },
  { from: undefined },
])("%j is never the sum of everybody", async (query) => {
  const refusal = report([{}])(query);
  await expect(refusal).rejects.toMatchObject({ code: "body_invalid", message: expect.stringContaining("has no value") });
});

test("where a function of the host says the scopes, any may be asked for", async () => {
  const usageOf = report([{ scopes: { plan: "pro" } }], { ...SCOPES, of: () => ({}) });
  expect(await usageOf({ scopes: { plan: "pro" }, groupBy: "scope.plan" })).toMatchObject([{ group: { "scope.plan": "pro" } }]);
});
