import type { DatabaseSync, SQLInputValue } from "node:sqlite";

import type { CompiledQuery, Kysely } from "kysely";

import type { GuardError } from "../../core/errors.ts";
import type { LedgerRow } from "../../core/ledger.ts";
import type { Logger } from "../../core/logger.ts";
import type { Ledger } from "../../core/store.ts";
import type { Clock, Timer } from "../../core/time.ts";
import { folding } from "../sql/folding.ts";
import { COMPLETE_SINCE, type LedgerQueries } from "../sql/ledger-queries.ts";
import { OpenPacks, type Pack } from "../sql/open-packs.ts";
import { backoffMs, EAGER_ROWS, QUEUE_ROWS, type QueuedRow, queuedRow, ROW_WAIT_MS, RowQueue } from "../sql/row-queue.ts";
import type { SqlValue } from "../sql/ledger-rows.ts";
import type { RowSealer } from "../sql/row-sealer.ts";
import type { Database } from "../sql/schema.ts";
import type { Transact } from "./dialect.ts";
import { INSERT_ROW, type Owners } from "./owners.ts";
import { isRowFault, storeUnavailable } from "./trouble.ts";

/** Rows of one turn of the event loop that came of themselves: SQLite writes while everybody else waits. */
const TURN_ROWS = 16;

export interface SqliteLedger extends Required<Ledger> {
  /** Shows that the owner lives and writes what waits. Never throws. */
  beat(): void;
  /** Writes what waits, the last call. Returns how many rows were lost because the database failed. */
  stop(): number;
}

export interface LedgerParts {
  readonly db: DatabaseSync;
  readonly transact: Transact;
  readonly queries: LedgerQueries;
  /** Builds statements; they are run here. */
  readonly builder: Kysely<Database>;
  readonly owners: Owners;
  readonly sealer: RowSealer;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Writes are raw prepared statements, not Kysely: compiling a query and a promise per row would cost more than the row itself. An intent is not
 * a ledger row yet but an entry of a pack, so a request costs one insert into the ledger, with no update and no index to change twice.
 */
export function sqliteLedger({ db, transact, queries, builder, owners, sealer, clock, logger }: LedgerParts): SqliteLedger {
  const insertPack = db.prepare("insert into quotaguard_intent (owner, body) values (?, ?)");
  const deletePack = db.prepare("delete from quotaguard_intent where seq = ?");
  const insertRow = db.prepare(INSERT_ROW);
  const noteLoss = db.prepare(
    `insert into quotaguard_meta (key, value) values ('${COMPLETE_SINCE}', ?) on conflict (key) do update set value = max(value, excluded.value)`,
  );

  const queue = new RowQueue<readonly SqlValue[]>(clock, logger);
  const packs = new OpenPacks();
  let pack: Pack | null = null;
  let isTurnComing = false;
  /** The oldest row has waited for as long as it may, or there are many. */
  let areRowsDue = false;
  /** Rows that were closed since the last turn. */
  let arrived = 0;
  let rowTimer: Timer | undefined;
  let rowTimerRuns = false;
  let failures = 0;
  /** It has failed, and not all that waited then is written. */
  let isBehind = false;
  let retryAtMs = 0;
  let retryTimer: Timer | undefined;
  let waiters: { resolve(): void; reject(error: GuardError): void }[] = [];

  function turnSoon(): void {
    if (isTurnComing) return;
    isTurnComing = true;
    setImmediate(onTurn);
  }

  function onTurn(): void {
    isTurnComing = false;
    if (failures === 0 && (pack !== null || areRowsDue)) writeSome(false);
  }

  function onRowTimer(): void {
    rowTimerRuns = false;
    areRowsDue = true;
    if (failures === 0) writeSome(false);
  }

  function onRetry(): void {
    areRowsDue = true;
    // The beat is a real write, so that an idle gateway finds out as well that the database is back.
    writeSome(true);
  }

  /** One transaction for the intents of this tick, together with some of the rows that are due; what is left of them has further turns. */
  function writeSome(withBeat: boolean): void {
    // Twice what has come since: however busy the process, the queue becomes shorter.
    const most = Math.max(TURN_ROWS, 2 * arrived);
    arrived = 0;
    areRowsDue ||= queue.rows.length >= EAGER_ROWS;
    if (!commit(areRowsDue ? most : 0, withBeat)) return;
    areRowsDue &&= queue.rows.length > 0;
    if (areRowsDue) turnSoon();
  }

  /** Writes the intents of this tick and up to so many finished rows. False = the database failed; the finished rows stay queued. */
  function commit(mostRows: number, withBeat: boolean): boolean {
    const newPack = pack;
    const finished = queue.rows.slice(0, mostRows);
    const beat = withBeat || owners.due();
    if (newPack === null && finished.length === 0 && !beat) return true;
    let alive = true;
    try {
      transact(() => {
        if (beat) alive = owners.beat();
        if (newPack !== null) newPack.seq = Number(insertPack.run(owners.id, `[${newPack.body}]`).lastInsertRowid);
        for (const row of finished) insert(row);
        // Another process closed our older intents and deleted their packs; their numbers may be in use again.
        if (alive) for (const { seq } of packs.emptied) deletePack.run(seq);
        if (queue.completeFrom !== null) noteLoss.run(queue.completeFrom);
      });
    } catch (error) {
      failed(error);
      return false;
    }
    pack = null;
    packs.emptied = [];
    queue.completeFrom = null;
    if (!alive) packs.forget(newPack);
    queue.rows.splice(0, finished.length);
    for (const { id } of finished) packs.leave(id);
    newPack?.resolve();
    failures = 0;
    if (queue.rows.length > 0) return true;
    if (isBehind || queue.droppedRefusals > 0) caughtUp();
    if (waiters.length > 0) release();
    return true;
  }

  /** Null = it is no row, and left out. */
  function prepared(row: LedgerRow): QueuedRow<readonly SqlValue[]> | null {
    try {
      return queuedRow(row, sealer.sealed(row));
    } catch (error) {
      queue.leftOut(row, error);
      packs.leave(row.id);
      return null;
    }
  }

  function insert(row: QueuedRow<readonly SqlValue[]>): void {
    try {
      insertRow.run(...row.stored);
    } catch (error) {
      // One row that cannot be stored must not hold up all others for ever.
      if (!isRowFault(error)) throw error;
      queue.leftOut(row, error);
    }
  }

  function failed(error: unknown): void {
    owners.lapse();
    const delayMs = backoffMs(failures);
    failures += 1;
    retryAtMs = clock.monotonic() + delayMs;
    if (!isBehind) logger.error({ err: error, rows: queue.rows.length }, "the ledger cannot be written: requests are refused until it can");
    isBehind = true;
    retryTimer = clock.timer(delayMs, onRetry);
    if (pack === null) return;
    const refused = pack;
    pack = null;
    packs.refuse(refused, storeUnavailable(error, delayMs));
  }

  function caughtUp(): void {
    isBehind = false;
    logger.info({ droppedRefusals: queue.droppedRefusals }, "the ledger has caught up");
    queue.droppedRefusals = 0;
  }

  function release(): void {
    const released = waiters;
    waiters = [];
    for (const waiter of released) {
      if (queue.rows.length === 0) waiter.resolve();
      else waiter.reject(refusal());
    }
  }

  async function read<T>(query: () => Promise<T>): Promise<T> {
    // Reads see what this process has written, committed or not.
    if (failures === 0) commit(Infinity, false);
    try {
      return await query();
    } catch (error) {
      throw storeUnavailable(error);
    }
  }

  return {
    intent(row) {
      if (failures > 0 || queue.rows.length + (pack?.open ?? 0) >= QUEUE_ROWS) throw refusal();
      turnSoon();
      pack = packs.add(row, pack);
      return pack.committed;
    },

    close(given) {
      const row = prepared(given);
      if (row === null || !queue.add(row)) return;
      arrived += 1;
      if (rowTimerRuns || failures > 0) return;
      rowTimerRuns = true;
      if (rowTimer === undefined) rowTimer = clock.timer(ROW_WAIT_MS, onRowTimer);
      else rowTimer.refresh();
    },

    flush() {
      if (failures === 0 && commit(Infinity, false)) return;
      return new Promise<void>((resolve, reject) => waiters.push({ resolve, reject }));
    },

    get: (idOrRequestId) => read(() => queries.get(idOrRequestId)),
    list: (filter) => read(() => queries.list(filter)),
    totals: (filter, groupBy) => read(() => queries.totals(filter, groupBy)),

    async *scan(fromMs) {
      if (failures > 0 || !commit(Infinity, false)) throw refusal();
      try {
        yield* queries.scan(fromMs);
      } catch (error) {
        throw storeUnavailable(error);
      }
    },

    completeSince: () => read(async () => Math.max(queue.completeFrom ?? 0, await queries.completeSince())),

    fold(beforeMs, most) {
      if (failures > 0) throw refusal();
      try {
        return transact(() => {
          const steps = folding(builder, sealer, beforeMs, most);
          let step = steps.next();
          while (!step.done) step = steps.next(allOf(step.value));
          return step.value;
        });
      } catch (error) {
        throw storeUnavailable(error);
      }
    },

    beat() {
      if (failures === 0) commit(Infinity, true);
    },

    stop() {
      commit(Infinity, false);
      rowTimer?.cancel();
      retryTimer?.cancel();
      release();
      return queue.rows.length;
    },
  };

  function allOf({ sql, parameters }: CompiledQuery): readonly Record<string, unknown>[] {
    const statement = db.prepare(sql);
    statement.setReadBigInts(true);
    return statement.all(...(parameters as SQLInputValue[]));
  }

  function refusal(): GuardError {
    if (failures > 0) return storeUnavailable(undefined, retryAtMs - clock.monotonic());
    return storeUnavailable(new Error(`${QUEUE_ROWS} ledger rows wait for the database`), backoffMs(0));
  }
}
