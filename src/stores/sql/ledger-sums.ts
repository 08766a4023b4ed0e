import { type Expression, expressionBuilder, type Kysely, sql, type SqlBool } from "kysely";

import { AS_HELD_STATES, CHARGED_STATES, DAY_MS, dayName, type LedgerSums, scopeOf, tokensOf } from "../../core/ledger-totals.ts";
import type { LedgerFilter, LedgerGroup } from "../../core/store.ts";
import { TOKEN_CLASSES } from "../../core/usage.ts";
import { TOKEN_COLUMNS } from "./ledger-rows.ts";
import type { Database } from "./schema.ts";

/** What stands for the rows that have a place in both tables: the days that are folded have the same columns. */
type Table = "quotaguard_ledger" | "quotaguard_rollup";

/** A sum over no known value is null. */
type SqlSum = bigint | number | string | null;

export function conditions({ from, to, scopes, fields, state }: LedgerFilter): Expression<SqlBool> {
  const eb = expressionBuilder<Database, "quotaguard_ledger">();
  const all: Expression<SqlBool>[] = [
    ...(from === undefined ? [] : [eb("at", ">=", from)]),
    ...(to === undefined ? [] : [eb("at", "<", to)]),
    ...(state === undefined ? [] : [eb("state", "=", state)]),
  ];
  const same = (column: Expression<string | null>, value: string): void => {
    // The plain form uses an index where there is one.
    all.push(value === "" ? eb(eb.fn.coalesce(column, sql.lit("")), "=", "") : eb(column, "=", value));
  };
  for (const [name, value] of Object.entries(scopes ?? {})) same(scopeColumn(name), value);
  for (const [name, value] of Object.entries(fields ?? {})) same(sql.ref(name), value);
  return eb.and(all);
}

const scopeColumn = (name: string): Expression<string | null> =>
  name === "org" || name === "team" || name === "user" ? sql.ref(name) : sql`scopes ->> cast(${name} as text)`;

function groupColumn(group: LedgerGroup): Expression<unknown> {
  if (group === "day") return sql`at / ${sql.lit(DAY_MS)}`;
  const scope = scopeOf(group);
  return scope === null ? sql.ref(group) : scopeColumn(scope);
}

const anyOf = (states: readonly string[]) => sql`state in (${sql.join(states.map((state) => sql.lit(state)))})`;

/** How many requests a row of the table stands for, and how many of them had no price. */
const COUNTS = {
  quotaguard_ledger: {
    requests: sql`1`,
    unpriced: sql`case when billed_nano_usd is null and ${anyOf(CHARGED_STATES)} then 1 else 0 end`,
  },
  quotaguard_rollup: { requests: sql`row_count`, unpriced: sql`unpriced_count` },
};

function sumsOf(db: Kysely<Database>, table: Table, filter: LedgerFilter, groupBy: readonly LedgerGroup[]) {
  const { requests, unpriced } = COUNTS[table];
  const query = db
    .selectFrom(table)
    .where(conditions(filter))
    .select([
      sql<SqlSum>`sum(${requests})`.as("requests"),
      sql<SqlSum>`sum(case when state = 'refused' then ${requests} else 0 end)`.as("refused"),
      sql<SqlSum>`sum(case when ${anyOf(AS_HELD_STATES)} then ${requests} else 0 end)`.as("estimated"),
      sql<SqlSum>`sum(${unpriced})`.as("unpriced"),
      sql<SqlSum>`sum(raw_nano_usd)`.as("raw"),
      sql<SqlSum>`sum(billed_nano_usd)`.as("billed"),
      ...TOKEN_CLASSES.map((name) => sql<SqlSum>`sum(${sql.ref(TOKEN_COLUMNS[name])})`.as(name)),
      ...groupBy.map((group, index) => sql<SqlSum>`${groupColumn(group)}`.as(`group_${index}`)),
    ]);
  // By alias: a name within an expression would be a parameter, and another one than that of the selection.
  return groupBy.length === 0 ? query : query.groupBy(groupBy.map((_group, index) => sql.ref(`group_${index}`)));
}

/** Adds the finished rows and the days that were folded: in one statement, so that what is being folded just now is in one of them and not in both. */
export async function addTotals(db: Kysely<Database>, filter: LedgerFilter, groupBy: readonly LedgerGroup[], sums: LedgerSums): Promise<void> {
  const query = sumsOf(db, "quotaguard_ledger", filter, groupBy).unionAll(sumsOf(db, "quotaguard_rollup", filter, groupBy));
  for (const columns of (await query.execute()) as readonly Readonly<Record<string, SqlSum>>[]) {
    const sum = (name: string): bigint => wholeOf(columns[name] ?? 0);
    const requests = Number(sum("requests"));
    if (requests === 0) continue;
    sums.add(
      groupBy.map((group, index) => groupText(group, columns[`group_${index}`] ?? null)),
      {
        requests,
        refused: Number(sum("refused")),
        estimated: Number(sum("estimated")),
        unpriced: Number(sum("unpriced")),
        tokens: tokensOf((name) => Number(sum(name))),
        rawNanoUsd: sum("raw"),
        billedNanoUsd: sum("billed"),
      },
    );
  }
}

/** A figure that somebody has spoiled in SQLite makes its sum a fraction: the audit says whose it is, and reports go on. */
const wholeOf = (sum: bigint | number | string): bigint => BigInt(typeof sum === "number" ? Math.round(sum) : sum);

/** A row without the value counts under the empty name. Days are UTC. */
function groupText(group: LedgerGroup, value: SqlSum): string {
  if (value === null) return "";
  return group === "day" ? dayName(Number(value) * DAY_MS) : String(value);
}
