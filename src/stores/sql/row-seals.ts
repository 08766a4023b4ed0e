/** Reads rows as they lie in the database, to see whether they are what was written. */
import type { Kysely, Selectable } from "kysely";

import type { LedgerRow } from "../../core/ledger.ts";
import type { ExaminedRow, RowSeals } from "../../core/row-seal.ts";
import { rowFrom, unpackIntents } from "./ledger-rows.ts";
import type { RowSealer } from "./row-sealer.ts";
import type { Database, LedgerTable } from "./schema.ts";
import { storeUnavailable } from "./store-unavailable.ts";

const PAGE_ROWS = 500;

/** `opened` throws while there is no database. */
export function rowSeals(sealer: RowSealer, opened: () => Kysely<Database>): RowSeals {
  async function pageAfter(fromMs: number, toMs: number, after: Selectable<LedgerTable> | undefined) {
    // Whatever stands in the place of a time is handed back as it came: it may be none any more.
    const from = (after?.at ?? fromMs) as number;
    let query = opened().selectFrom("quotaguard_ledger").selectAll();
    // Whoever puts a row before all times would hide it.
    if (from !== -Infinity) query = query.where("at", ">=", from);
    if (toMs !== Infinity) query = query.where("at", "<", toMs);
    if (after !== undefined) query = query.where((row) => row.or([row("at", ">", from), row("id", ">", after.id)]));
    return query.orderBy("at").orderBy("id").limit(PAGE_ROWS).execute();
  }

  return {
    use: (key) => sealer.use(key),

    async *examine(fromMs, toMs) {
      let after: Selectable<LedgerTable> | undefined;
      do {
        const page = await told(pageAfter(fromMs, toMs, after));
        if (page.length > 0) yield page.map((columns) => examined(columns, sealer));
        after = page.length < PAGE_ROWS ? undefined : page.at(-1);
      } while (after !== undefined);
    },

    orphans: () => told(orphans()),
  };

  async function orphans(): Promise<readonly LedgerRow[]> {
    const db = opened();
    const packs = await db
      .selectFrom("quotaguard_intent as intent")
      .leftJoin("quotaguard_owner as owner", "owner.id", "intent.owner")
      .where("owner.id", "is", null)
      .select("body")
      .orderBy("seq")
      .execute();
    const open = new Map<string, LedgerRow>();
    for (const { body } of packs) for (const row of unpackIntents(body)) open.set(row.id, row);
    const ids = [...open.keys()];
    for (let from = 0; from < ids.length; from += PAGE_ROWS) {
      const page = ids.slice(from, from + PAGE_ROWS);
      for (const { id } of await db.selectFrom("quotaguard_ledger").select("id").where("id", "in", page).execute()) open.delete(id);
    }
    return [...open.values()];
  }
}

/** A database that fails is told as one that is away. */
async function told<T>(asked: Promise<T>): Promise<T> {
  try {
    return await asked;
  } catch (error) {
    throw storeUnavailable(error);
  }
}

function examined(columns: Selectable<LedgerTable>, sealer: RowSealer): ExaminedRow {
  return {
    id: columns.id,
    requestId: columns.request_id,
    at: Number(columns.at),
    row: readable(columns),
    seal: sealer.stateOf(columns),
  };
}

function readable(columns: Selectable<LedgerTable>): LedgerRow | null {
  try {
    return rowFrom(columns);
  } catch {
    return null;
  }
}
