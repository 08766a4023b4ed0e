import { type ExpressionBuilder, type Kysely, sql } from "kysely";

import type { LedgerRow } from "../../core/ledger.ts";
import type { LedgerFilter, LedgerGroup, LedgerTotal } from "../../core/store.ts";
import { totalInputTokens, totalOutputTokens } from "../../core/usage.ts";
import { rowFrom, unpackIntents } from "./ledger-rows.ts";
import type { Database } from "./schema.ts";

const DAY_MS = 86_400_000;
/** Far below any database's limit of parameters. */
const IDS_PER_QUERY = 500;
const PAGE_ROWS = 1000;

/** The counter in `quotaguard_meta` that {@link LedgerQueries.completeSince} reads. */
export const COMPLETE_SINCE = "complete_since";

/** The reading half of a ledger, the same for every SQL database. */
export interface LedgerQueries {
  get(idOrRequestId: string): Promise<LedgerRow | undefined>;
  list(filter: LedgerFilter): Promise<readonly LedgerRow[]>;
  totals(filter: LedgerFilter, groupBy: readonly LedgerGroup[]): Promise<readonly LedgerTotal[]>;
  /** Every row that is there at the beginning exactly once: finished ones by time, then those that are still open. */
  scan(fromMs: number): AsyncGenerator<readonly LedgerRow[], void>;
  completeSince(): Promise<number>;
}

export function ledgerQueries(db: Kysely<Database>): LedgerQueries {
  /**
   * Open requests of all processes. A pack stays until the last of its requests has ended, so those that ended before are taken out here, and
   * of several intents of one request (its attempts) the last one counts.
   */
  async function openRows(filter: LedgerFilter): Promise<LedgerRow[]> {
    if (filter.state !== undefined && filter.state !== "intent") return [];
    const packs = await db.selectFrom("quotaguard_intent").select("body").orderBy("seq").execute();
    const latest = new Map<string, LedgerRow>();
    for (const { body } of packs) for (const row of unpackIntents(body)) latest.set(row.id, row);
    const rows = [...latest.values()].filter((row) => matches(row, filter));
    const closed = new Set<string>();
    for (let from = 0; from < rows.length; from += IDS_PER_QUERY) {
      const ids = rows.slice(from, from + IDS_PER_QUERY).map((row) => row.id);
      const found = await db.selectFrom("quotaguard_ledger").select("id").where("id", "in", ids).execute();
      for (const { id } of found) closed.add(id);
    }
    return rows.filter((row) => !closed.has(row.id));
  }

  async function pageAfter(fromMs: number, after: LedgerRow | undefined): Promise<readonly LedgerRow[]> {
    let query = db
      .selectFrom("quotaguard_ledger")
      .selectAll()
      .where("at", ">=", after?.at ?? fromMs);
    if (after !== undefined) query = query.where((row) => row.or([row("at", ">", after.at), row("id", ">", after.id)]));
    return (await query.orderBy("at").orderBy("id").limit(PAGE_ROWS).execute()).map(rowFrom);
  }

  return {
    async get(idOrRequestId) {
      const byId = await db.selectFrom("quotaguard_ledger").selectAll().where("id", "=", idOrRequestId).executeTakeFirst();
      if (byId) return rowFrom(byId);
      const byRequestId = await db
        .selectFrom("quotaguard_ledger")
        .selectAll()
        .where("request_id", "=", idOrRequestId)
        // Says again what the partial index says, so that the planner may use it.
        .whereRef("request_id", "<>", "id")
        .orderBy("at", "desc")
        .limit(1)
        .executeTakeFirst();
      if (byRequestId) return rowFrom(byRequestId);
      return (await openRows({})).find((row) => row.id === idOrRequestId || row.requestId === idOrRequestId);
    },

    async list(filter) {
      const open = await openRows(filter);
      if (filter.state === "intent") return newestFirst(open).slice(0, filter.limit);
      let query = db.selectFrom("quotaguard_ledger").selectAll().where(conditions(filter)).orderBy("at", "desc").orderBy("id", "desc");
      if (filter.limit !== undefined) query = query.limit(filter.limit);
      const rows = (await query.execute()).map(rowFrom);
      if (open.length === 0) return rows;
      // A request that another process closed between the two reads is in both.
      const ids = new Set(rows.map((row) => row.id));
      return newestFirst([...rows, ...open.filter((row) => !ids.has(row.id))]).slice(0, filter.limit);
    },

    async totals(filter, groupBy) {
      const sums = new Map<string, LedgerTotal>();
      for (const row of await openRows(filter)) addRow(sums, groupBy, row);
      if (filter.state !== "intent") {
        const groups = groupBy.map((group) => (group === "day" ? sql`at / ${sql.lit(DAY_MS)}` : sql`${sql.ref(group)}`));
        const query = db
          .selectFrom("quotaguard_ledger")
          .where(conditions(filter))
          .select(groups.map((group, index) => group.as(`group_${index}`)))
          .select([
            sql<SqlSum>`count(*)`.as("requests"),
            sql<SqlSum>`sum(input_tokens + cache_read_tokens + cache_write_tokens + coalesce(cache_write_long_tokens, 0)
              + coalesce(audio_input_tokens, 0) + coalesce(image_input_tokens, 0))`.as("input_tokens"),
            sql<SqlSum>`sum(output_tokens + reasoning_tokens + coalesce(audio_output_tokens, 0)
              + coalesce(image_output_tokens, 0) + coalesce(prediction_tokens, 0))`.as("output_tokens"),
            sql<SqlSum>`sum(raw_nano_usd)`.as("raw_nano_usd"),
            sql<SqlSum>`sum(billed_nano_usd)`.as("billed_nano_usd"),
          ]);
        for (const row of await (groups.length === 0 ? query : query.groupBy(groups)).execute()) {
          const columns = row as unknown as Readonly<Record<string, GroupValue>>;
          add(sums, Object.fromEntries(groupBy.map((group, index) => [group, groupText(group, columns[`group_${index}`] ?? null)])), {
            requests: Number(row.requests),
            inputTokens: Number(row.input_tokens),
            outputTokens: Number(row.output_tokens),
            rawNanoUsd: Number(row.raw_nano_usd),
            billedNanoUsd: Number(row.billed_nano_usd),
          });
        }
      }
      return [...sums].sort(([a], [b]) => (a < b ? -1 : 1)).flatMap(([, total]) => (total.requests === 0 ? [] : [total]));
    },

    async *scan(fromMs) {
      // Open requests first: one that ends meanwhile, behind the page that is being read, is looked up at the end.
      const open = new Map((await openRows({ from: fromMs })).map((row) => [row.id, row]));
      let after: LedgerRow | undefined;
      do {
        const page = await pageAfter(fromMs, after);
        for (const row of page) open.delete(row.id);
        if (page.length > 0) yield page;
        after = page.length < PAGE_ROWS ? undefined : page.at(-1);
      } while (after !== undefined);
      const left = [...open.values()];
      for (let from = 0; from < left.length; from += IDS_PER_QUERY) {
        const page = left.slice(from, from + IDS_PER_QUERY);
        const ids = page.map((row) => row.id);
        const ended = await db.selectFrom("quotaguard_ledger").selectAll().where("id", "in", ids).execute();
        const endedById = new Map(ended.map((columns) => [columns.id, columns]));
        yield page.map((row) => {
          const columns = endedById.get(row.id);
          return columns === undefined ? row : rowFrom(columns);
        });
      }
    },

    async completeSince() {
      const row = await db.selectFrom("quotaguard_meta").select("value").where("key", "=", COMPLETE_SINCE).executeTakeFirst();
      return Number(row?.value ?? 0);
    },
  };
}

/** A sum over no known value is null. */
type SqlSum = bigint | string | null;

function conditions({ from, to, scopes, state }: LedgerFilter) {
  return ({ eb, and }: ExpressionBuilder<Database, "quotaguard_ledger">) => {
    const all = [
      ...(from === undefined ? [] : [eb("at", ">=", from)]),
      ...(to === undefined ? [] : [eb("at", "<", to)]),
      ...(state === undefined ? [] : [eb("state", "=", state)]),
    ];
    for (const [name, value] of Object.entries(scopes ?? {})) {
      if (name === "org" || name === "team" || name === "user") all.push(eb(name, "=", value));
      else all.push(eb(sql<string>`scopes ->> cast(${name} as text)`, "=", value));
    }
    return and(all);
  };
}

function matches(row: LedgerRow, { from, to, scopes, state }: LedgerFilter): boolean {
  if (from !== undefined && row.at < from) return false;
  if (to !== undefined && row.at >= to) return false;
  if (state !== undefined && row.state !== state) return false;
  return Object.entries(scopes ?? {}).every(([name, value]) => row.scopes[name] === value);
}

function newestFirst(rows: LedgerRow[]): LedgerRow[] {
  return rows.sort((a, b) => b.at - a.at || (a.id < b.id ? 1 : -1));
}

function addRow(sums: Map<string, LedgerTotal>, groupBy: readonly LedgerGroup[], row: LedgerRow): void {
  const group = Object.fromEntries(groupBy.map((name) => [name, groupText(name, groupValue(row, name))]));
  add(sums, group, {
    requests: 1,
    inputTokens: row.usage === null ? 0 : totalInputTokens(row.usage),
    outputTokens: row.usage === null ? 0 : totalOutputTokens(row.usage),
    rawNanoUsd: row.rawNanoUsd ?? 0,
    billedNanoUsd: row.billedNanoUsd ?? 0,
  });
}

type GroupValue = string | number | bigint | null;

function groupValue(row: LedgerRow, group: LedgerGroup): GroupValue {
  if (group === "day") return Math.floor(row.at / DAY_MS);
  return group === "org" || group === "team" || group === "user" ? (row.scopes[group] ?? null) : row[group];
}

/** A row without the value counts under the empty name. Days are UTC. */
function groupText(group: LedgerGroup, value: GroupValue): string {
  if (value === null) return "";
  return group === "day" ? new Date(Number(value) * DAY_MS).toISOString().slice(0, 10) : String(value);
}

function add(sums: Map<string, LedgerTotal>, group: Record<string, string>, more: Omit<LedgerTotal, "group">): void {
  const key = JSON.stringify(Object.values(group));
  const sum = sums.get(key);
  sums.set(key, {
    group,
    requests: more.requests + (sum?.requests ?? 0),
    inputTokens: more.inputTokens + (sum?.inputTokens ?? 0),
    outputTokens: more.outputTokens + (sum?.outputTokens ?? 0),
    rawNanoUsd: more.rawNanoUsd + (sum?.rawNanoUsd ?? 0),
    billedNanoUsd: more.billedNanoUsd + (sum?.billedNanoUsd ?? 0),
  });
}
