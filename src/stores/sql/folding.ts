/**
 * Rows that are too old become sums of their day. Whatever a report can ask for is kept apart, so that no report changes: a row is deleted and added to
 * its sum in one transaction, and only what was really deleted there is added.
 */
import { createHash } from "node:crypto";

import { type CompiledQuery, type Insertable, type Kysely, type Selectable, sql } from "kysely";

import type { LedgerRow } from "../../core/ledger.ts";
import { dayOf, isUnpriced } from "../../core/ledger-totals.ts";
import { TOKEN_CLASSES } from "../../core/usage.ts";
import { COMPLETE_SINCE } from "./ledger-queries.ts";
import { otherScopes, rowFrom, TOKEN_COLUMNS, unpackIntents } from "./ledger-rows.ts";
import type { RowSealer } from "./row-sealer.ts";
import type { Database, LedgerTable, RollupTable } from "./schema.ts";

/** Far below any database's limit of parameters. */
const DAYS_PER_STATEMENT = 200;

const SUMS = [
  "row_count",
  "unpriced_count",
  ...TOKEN_CLASSES.map((name) => TOKEN_COLUMNS[name]),
  "raw_nano_usd",
  "billed_nano_usd",
] as const satisfies readonly (keyof RollupTable)[];

type Columns = Selectable<LedgerTable>;

type Sums = { readonly [column in (typeof SUMS)[number]]: bigint };

/**
 * The statements of one `Ledger.fold`, to be run in one transaction, each answered with its rows; it returns how many rows were folded. A generator,
 * because one database answers at once and the other does not.
 */
export function* folding(
  db: Kysely<Database>,
  sealer: RowSealer,
  beforeMs: number,
  most: number,
): Generator<CompiledQuery, number, readonly Readonly<Record<string, unknown>>[]> {
  const packs = yield db.selectFrom("quotaguard_intent").select("body").compile();
  let oldestOpenMs = Infinity;
  // Of a pack some requests have ended: if their rows went, they would count as open again.
  for (const { body } of packs) for (const { at } of unpackIntents(String(body))) oldestOpenMs = Math.min(oldestOpenMs, at);
  const untilMs = Math.min(dayOf(beforeMs), dayOf(oldestOpenMs));
  const ids = yield* oldIds(db, sealer, untilMs, most);
  if (ids.length === 0) return 0;
  const taken = yield db.deleteFrom("quotaguard_ledger").where("id", "in", ids).where("at", "<", untilMs).returningAll().compile();
  const rows = (taken as unknown as readonly Columns[]).map(rowFrom);
  if (rows.length === 0) return 0;
  const days = summed(rows);
  for (let from = 0; from < days.length; from += DAYS_PER_STATEMENT) yield addDays(db, days.slice(from, from + DAYS_PER_STATEMENT));
  const charged = rows.filter(({ state }) => state !== "refused").map(({ at }) => at);
  if (charged.length > 0) yield noteLoss(db, Math.max(...charged) + 1);
  return rows.length;
}

/** The oldest rows that say what was written. One that somebody has altered stays where the audit finds it: no sum takes it in, and it holds up no other. */
function* oldIds(
  db: Kysely<Database>,
  sealer: RowSealer,
  untilMs: number,
  most: number,
): Generator<CompiledQuery, readonly string[], readonly Readonly<Record<string, unknown>>[]> {
  const old = db.selectFrom("quotaguard_ledger").selectAll().where("at", "<", untilMs).orderBy("at").orderBy("id").limit(most);
  for (let passed = 0; ; passed += most) {
    const found = yield old.offset(passed).compile();
    const ids = (found as unknown as readonly Columns[]).filter((columns) => isWhole(columns, sealer)).map(({ id }) => id);
    if (ids.length > 0 || found.length < most) return ids;
  }
}

function isWhole(columns: Columns, sealer: RowSealer): boolean {
  if (sealer.stateOf(columns) === "altered") return false;
  try {
    return Object.values(figuresOf(rowFrom(columns))).every((figure) => figure <= Number.MAX_SAFE_INTEGER);
  } catch {
    return false;
  }
}

/** In the order of their ids, so that of two processes one waits for the other and not each for the other. */
function summed(rows: readonly LedgerRow[]): Insertable<RollupTable>[] {
  const sums = new Map<string, Insertable<RollupTable>>();
  for (const row of rows) {
    const kept = keptApart(row);
    const id = createHash("sha256")
      .update(JSON.stringify(Object.values(kept)))
      .digest("base64url");
    const known = sums.get(id);
    sums.set(id, { ...kept, id, ...added(figuresOf(row), known) });
  }
  return [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, sum]) => sum);
}

function keptApart(row: LedgerRow): Omit<Insertable<RollupTable>, keyof Sums | "id"> {
  const { key, scopes, state, route, model, provider, credential, tag } = row;
  const { org = null, team = null, user = null } = scopes;
  // The same scopes, in whatever order they were named.
  const others = otherScopes(Object.fromEntries(Object.entries(scopes).sort(([a], [b]) => (a < b ? -1 : 1))));
  return { at: dayOf(row.at), state, key, org, team, user, scopes: others, route, model, provider, credential, tag };
}

function figuresOf(row: LedgerRow): Sums {
  const tokens = TOKEN_CLASSES.map((name) => [TOKEN_COLUMNS[name], BigInt(row.usage?.[name] ?? 0)] as const);
  return {
    row_count: 1n,
    unpriced_count: isUnpriced(row) ? 1n : 0n,
    ...(Object.fromEntries(tokens) as { readonly [column in (typeof TOKEN_COLUMNS)[keyof typeof TOKEN_COLUMNS]]: bigint }),
    raw_nano_usd: BigInt(row.rawNanoUsd ?? 0),
    billed_nano_usd: BigInt(row.billedNanoUsd ?? 0),
  };
}

const added = (sums: Sums, known: Sums | undefined): Sums =>
  known === undefined ? sums : (Object.fromEntries(SUMS.map((column) => [column, sums[column] + known[column]])) as Sums);

function addDays(db: Kysely<Database>, days: readonly Insertable<RollupTable>[]): CompiledQuery {
  return db
    .insertInto("quotaguard_rollup")
    .values(days)
    .onConflict((conflict) =>
      conflict
        .column("id")
        .doUpdateSet(
          Object.fromEntries(SUMS.map((column) => [column, sql`${sql.ref(`quotaguard_rollup.${column}`)} + ${sql.ref(`excluded.${column}`)}`])),
        ),
    )
    .compile();
}

/** From here on the rows are all there. */
function noteLoss(db: Kysely<Database>, fromMs: number): CompiledQuery {
  const [known, given] = [sql.ref<number>("quotaguard_meta.value"), sql.ref<number>("excluded.value")];
  return db
    .insertInto("quotaguard_meta")
    .values({ key: COMPLETE_SINCE, value: fromMs })
    .onConflict((conflict) =>
      conflict.column("key").doUpdateSet({ value: sql<number>`case when ${known} < ${given} then ${given} else ${known} end` }),
    )
    .compile();
}
