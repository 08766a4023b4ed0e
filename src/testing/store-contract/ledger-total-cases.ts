import { deepStrictEqual } from "node:assert/strict";
import type { LedgerRow } from "../../core/ledger.ts";
import type { Ledger, LedgerFilter, LedgerGroup, LedgerStore, LedgerTotal } from "../../core/store.ts";
import { totalInputTokens, totalOutputTokens } from "../../core/usage.ts";
import type { ContractCase } from "./contract-case.ts";
import { AT, rowOf, VOID } from "./ledger-rows.ts";

const DAY_MS = 86_400_000;

/** Six rows, a day apart, with holes in every column that can be grouped by. */
function variedRows(): LedgerRow[] {
  return Array.from({ length: 6 }, (_, n) =>
    rowOf(`v${n}`, {
      requestId: n % 2 === 0 ? `v${n}` : `client-${n}`,
      at: AT + n * DAY_MS,
      key: n === 4 ? null : `key-${n % 2}`,
      model: n === 2 ? null : `model-${n % 2}`,
      provider: n === 2 ? null : "openai",
      credential: n === 2 ? null : `credential-${n % 3}`,
      scopes: n === 0 ? {} : { org: "acme", user: n % 2 === 0 ? "alice" : "bob", ...(n > 2 ? { feature: "chat" } : {}) },
      rawNanoUsd: n === 3 ? null : n,
      billedNanoUsd: n === 3 ? null : n * 10,
      ...(n === 2 ? VOID : {}),
      ...(n === 5 ? { state: "intent", usage: null, rawNanoUsd: null, billedNanoUsd: null } : {}),
    }),
  );
}

async function writeVaried(ledger: Ledger): Promise<void> {
  for (const row of variedRows()) {
    if (row.state === "intent") await ledger.intent(row);
    else ledger.close(row);
  }
  await ledger.flush();
}

/** The totals as the interface defines them: the rows of the same filter, added up. A missing value counts under "". */
function fold(rows: readonly LedgerRow[], groupBy: readonly LedgerGroup[]): LedgerTotal[] {
  const totals = new Map<string, LedgerTotal>();
  for (const row of rows) {
    const day = new Date(row.at).toISOString().slice(0, 10);
    const { model, provider, credential, key } = row;
    const values = { model, provider, credential, key, day, org: row.scopes.org, team: row.scopes.team, user: row.scopes.user };
    const group = Object.fromEntries(groupBy.map((name) => [name, values[name] ?? ""]));
    const sum = totals.get(JSON.stringify(group));
    totals.set(JSON.stringify(group), {
      group,
      requests: 1 + (sum?.requests ?? 0),
      inputTokens: (row.usage ? totalInputTokens(row.usage) : 0) + (sum?.inputTokens ?? 0),
      outputTokens: (row.usage ? totalOutputTokens(row.usage) : 0) + (sum?.outputTokens ?? 0),
      rawNanoUsd: (row.rawNanoUsd ?? 0) + (sum?.rawNanoUsd ?? 0),
      billedNanoUsd: (row.billedNanoUsd ?? 0) + (sum?.billedNanoUsd ?? 0),
    });
  }
  return [...totals.values()];
}

/** Figures are compared, not prototypes or the order of groups. */
function sorted(totals: readonly LedgerTotal[]): readonly string[] {
  return totals
    .map(({ group, requests, inputTokens, outputTokens, rawNanoUsd, billedNanoUsd }) => [
      Object.entries(group).sort(([a], [b]) => (a < b ? -1 : 1)),
      ...[requests, inputTokens, outputTokens, rawNanoUsd, billedNanoUsd],
    ])
    .map((figures) => JSON.stringify(figures))
    .sort();
}

const GROUPS: readonly (readonly LedgerGroup[])[] = [
  [],
  ["model"],
  ["provider", "credential"],
  ["key"],
  ["org", "team", "user"],
  ["day"],
  ["day", "user"],
];

export const ledgerTotalCases: readonly ContractCase<LedgerStore>[] = [
  {
    name: "rows are listed newest first, by time, scopes, state and limit",
    async run({ ledger }) {
      await writeVaried(ledger);
      const cases: readonly (readonly [filter: LedgerFilter, ids: readonly string[]])[] = [
        [{}, ["v5", "v4", "v3", "v2", "v1", "v0"]],
        [{ limit: 2 }, ["v5", "v4"]],
        [{ from: AT + DAY_MS, to: AT + 3 * DAY_MS }, ["v2", "v1"]],
        [{ scopes: { user: "bob" } }, ["v5", "v3", "v1"]],
        [{ scopes: { user: "bob", feature: "chat" } }, ["v5", "v3"]],
        [{ scopes: { feature: "none" } }, []],
        [{ state: "refused" }, ["v2"]],
        [{ state: "intent", limit: 1 }, ["v5"]],
      ];
      for (const [filter, ids] of cases) {
        const listed = (await ledger.list(filter)).map(({ id }) => id);
        deepStrictEqual(listed, ids, `list(${JSON.stringify(filter)}) gave ${listed.join()}`);
      }
    },
  },
  {
    name: "totals are the sums of what is listed, for every group",
    async run({ ledger }) {
      await writeVaried(ledger);
      for (const filter of [{}, { scopes: { user: "bob" } }, { from: AT + DAY_MS }, { state: "settled" as const }]) {
        const rows = await ledger.list(filter);
        for (const groupBy of GROUPS) deepStrictEqual(sorted(await ledger.totals(filter, groupBy)), sorted(fold(rows, groupBy)));
      }
      deepStrictEqual(await ledger.totals({ scopes: { user: "nobody" } }, []), []);
    },
  },
  {
    name: "money is added exactly",
    async run({ ledger }) {
      const half = 4_503_599_627_370_495;
      ledger.close(rowOf("a", { rawNanoUsd: half, billedNanoUsd: half }));
      ledger.close(rowOf("b", { rawNanoUsd: half, billedNanoUsd: half - 1 }));
      ledger.close(rowOf("c", { rawNanoUsd: null, billedNanoUsd: 1 }));
      await ledger.flush();
      deepStrictEqual(
        (await ledger.totals({}, ["org"])).map(({ rawNanoUsd, billedNanoUsd }) => [rawNanoUsd, billedNanoUsd]),
        [[9_007_199_254_740_990, 9_007_199_254_740_990]],
      );
    },
  },
];
