import { deepStrictEqual } from "node:assert/strict";
import type { LedgerRow } from "../../core/ledger.ts";
import type { Ledger, LedgerFilter, LedgerGroup, LedgerStore, LedgerTotal } from "../../core/store.ts";
import { TOKEN_CLASSES, type TokenClass } from "../../core/usage.ts";
import type { ContractCase } from "./contract-case.ts";
import { AT, rowOf, VOID } from "./ledger-rows.ts";

const DAY_MS = 86_400_000;

/** Each class has a number of its own: what is counted twice, or as another one, shows. */
const EVERY_CLASS = Object.fromEntries(TOKEN_CLASSES.map((name, i) => [name, 10 ** i])) as Record<TokenClass, number>;

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
      route: n % 2 === 0 ? "/v1/chat/completions" : "/v1/embeddings",
      tag: n < 3 ? `tag-${n % 2}` : null,
      scopes: n === 0 ? {} : { org: "acme", user: n % 2 === 0 ? "alice" : "bob", ...(n > 2 ? { feature: "chat" } : {}) },
      rawNanoUsd: n === 3 ? null : n,
      billedNanoUsd: n === 3 ? null : n * 10,
      ...(n === 1 ? { usage: EVERY_CLASS } : {}),
      ...(n === 2 ? VOID : {}),
      ...(n === 4 ? { state: "unknown", provenance: "estimated", usage: null, rawNanoUsd: null } : {}),
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

const valueOf = (row: LedgerRow, name: LedgerGroup): string | null | undefined => {
  const { model, provider, credential, key, route, tag, scopes } = row;
  const { org, team, user } = scopes;
  const day = new Date(row.at).toISOString().slice(0, 10);
  const values: Readonly<Record<string, string | null | undefined>> = { model, provider, credential, key, route, tag, org, team, user, day };
  return name.startsWith("scope.") ? scopes[name.slice(6)] : values[name];
};

/** The totals as the interface defines them: the rows of the same filter, added up. A missing value counts under "". */
function fold(rows: readonly LedgerRow[], groupBy: readonly LedgerGroup[]): LedgerTotal[] {
  const groups = Map.groupBy(rows, (row) => JSON.stringify(groupBy.map((name) => valueOf(row, name) ?? "")));
  return [...groups].map(([id, group]) => {
    const count = (isCounted: (row: LedgerRow) => boolean): number => group.filter(isCounted).length;
    const asHeld = (row: LedgerRow): boolean => row.state === "estimated" || row.state === "unknown";
    const usd = (field: "rawNanoUsd" | "billedNanoUsd"): bigint => group.reduce((sum, row) => sum + BigInt(row[field] ?? 0), 0n);
    const tokens = (name: TokenClass): number => group.reduce((sum, row) => sum + (row.usage?.[name] ?? 0), 0);
    return {
      group: Object.fromEntries((JSON.parse(id) as string[]).map((value, i) => [groupBy[i] as string, value])),
      requests: group.length,
      refused: count((row) => row.state === "refused"),
      estimated: count(asHeld),
      unpriced: count((row) => row.billedNanoUsd === null && (asHeld(row) || row.state === "settled")),
      tokens: Object.fromEntries(TOKEN_CLASSES.map((name) => [name, tokens(name)])) as LedgerTotal["tokens"],
      rawNanoUsd: usd("rawNanoUsd"),
      billedNanoUsd: usd("billedNanoUsd"),
    };
  });
}

/** Figures are compared, not prototypes or the order of groups. */
function sorted(totals: readonly LedgerTotal[]): readonly string[] {
  const inOrder = (values: object): readonly unknown[] => Object.entries(values).sort(([a], [b]) => (a < b ? -1 : 1));
  return totals
    .map(({ group, tokens, rawNanoUsd, billedNanoUsd, requests, refused, estimated, unpriced }) => [
      inOrder(group),
      inOrder(tokens),
      ...[requests, refused, estimated, unpriced, String(rawNanoUsd), String(billedNanoUsd)],
    ])
    .map((figures) => JSON.stringify(figures))
    .sort();
}

const GROUPS: readonly (readonly LedgerGroup[])[] = [
  [],
  ["model"],
  ["provider", "credential"],
  ["key"],
  ["route", "tag"],
  ["org", "team", "user"],
  ["scope.feature"],
  ["scope.user", "scope.feature"],
  ["day"],
  ["day", "user"],
];

export const ledgerTotalCases: readonly ContractCase<LedgerStore>[] = [
  {
    name: "rows are listed newest first, by time, scopes, fields, state and limit",
    async run({ ledger }) {
      await writeVaried(ledger);
      const cases: readonly (readonly [filter: LedgerFilter, ids: readonly string[]])[] = [
        [{}, ["v5", "v4", "v3", "v2", "v1", "v0"]],
        [{ limit: 2 }, ["v5", "v4"]],
        [{ from: AT + DAY_MS, to: AT + 3 * DAY_MS }, ["v2", "v1"]],
        [{ scopes: { user: "bob" } }, ["v5", "v3", "v1"]],
        [{ scopes: { user: "bob", feature: "chat" } }, ["v5", "v3"]],
        [{ scopes: { feature: "none" } }, []],
        [{ scopes: { user: "", feature: "" } }, ["v0"]],
        [{ fields: { model: "model-1" } }, ["v5", "v3", "v1"]],
        [{ fields: { key: "key-0", route: "/v1/chat/completions" } }, ["v2", "v0"]],
        [{ fields: { key: "" } }, ["v4"]],
        [{ fields: { provider: "openai", credential: "credential-0" } }, ["v3", "v0"]],
        [{ fields: { tag: "tag-0" }, scopes: { org: "acme" } }, ["v2"]],
        [{ fields: { tag: "" }, limit: 2 }, ["v5", "v4"]],
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
      const filters: readonly LedgerFilter[] = [
        {},
        { scopes: { user: "bob" } },
        { scopes: { feature: "" } },
        { fields: { tag: "tag-1" } },
        { from: AT + DAY_MS },
        { state: "settled" },
      ];
      for (const filter of filters) {
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
      const usd = async (): Promise<unknown> =>
        (await ledger.totals({}, ["org"])).map(({ rawNanoUsd, billedNanoUsd }) => [rawNanoUsd, billedNanoUsd]);
      deepStrictEqual(await usd(), [[9_007_199_254_740_990n, 9_007_199_254_740_990n]]);
      // Beyond what a double can tell apart.
      ledger.close(rowOf("d", { rawNanoUsd: 3, billedNanoUsd: 7 }));
      await ledger.flush();
      deepStrictEqual(await usd(), [[9_007_199_254_740_993n, 9_007_199_254_740_997n]]);
    },
  },
];
