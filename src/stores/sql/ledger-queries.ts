import type { Kysely } from "kysely";

import type { LedgerRow } from "../../core/ledger.ts";
import { ledgerSums, matchesFilter } from "../../core/ledger-totals.ts";
import type { LedgerFilter, LedgerGroup, LedgerTotal } from "../../core/store.ts";
import { rowFrom, unpackIntents } from "./ledger-rows.ts";
import { addTotals, conditions } from "./ledger-sums.ts";
import type { Database } from "./schema.ts";

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
    const rows = [...latest.values()].filter((row) => matchesFilter(row, filter));
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
      const sums = ledgerSums(groupBy);
      for (const row of await openRows(filter)) sums.addRow(row);
      if (filter.state !== "intent") await addTotals(db, filter, groupBy, sums);
      return sums.totals();
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

function newestFirst(rows: LedgerRow[]): LedgerRow[] {
  return rows.sort((a, b) => b.at - a.at || (a.id < b.id ? 1 : -1));
}
