import type { DatabaseSync } from "node:sqlite";

import type { GuardError } from "../../core/errors.ts";
import type { LedgerRow } from "../../core/ledger.ts";
import type { Logger } from "../../core/logger.ts";
import type { Ledger } from "../../core/store.ts";
import type { Clock, Timer } from "../../core/time.ts";
import type { LedgerQueries } from "../sql/ledger-queries.ts";
import { packIntent, rowValues } from "../sql/ledger-rows.ts";
import type { Transact } from "./dialect.ts";
import { INSERT_ROW, type Owners } from "./owners.ts";
import { isRowFault, storeUnavailable } from "./trouble.ts";

/** Rows that may wait for the database. */
export const QUEUE_ROWS = 100_000;
/** The age at which a finished row is committed: the promise is 50 ms, the rest is for a late timer. */
const ROW_WAIT_MS = 40;
/** With this many finished rows waiting, the next commit takes them along. Fewer commits write fewer pages; more rows block longer. */
const EAGER_ROWS = 64;
const BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 5000;

export interface SqliteLedger extends Ledger {
  /** Shows that the owner lives and writes what waits. Never throws. */
  beat(): void;
  /** Writes what waits, the last call. Returns how many rows were lost because the database failed. */
  stop(): number;
}

/** The intents of one tick: one row, one promise, whatever their number. */
interface Pack {
  body: string;
  /** Of how many requests the finished row is not committed yet. */
  open: number;
  seq: number;
  readonly committed: Promise<void>;
  readonly resolve: () => void;
  readonly reject: (error: GuardError) => void;
}

export interface LedgerParts {
  readonly db: DatabaseSync;
  readonly transact: Transact;
  readonly queries: LedgerQueries;
  readonly owners: Owners;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Writes are raw prepared statements, not Kysely: compiling a query and a promise per row would cost more than the row itself. An intent is not
 * a ledger row yet but an entry of a pack, so a request costs one insert into the ledger, with no update and no index to change twice.
 */
export function sqliteLedger({ db, transact, queries, owners, clock, logger }: LedgerParts): SqliteLedger {
  const insertPack = db.prepare("insert into quotaguard_intent (owner, body) values (?, ?)");
  const deletePack = db.prepare("delete from quotaguard_intent where seq = ?");
  const insertRow = db.prepare(INSERT_ROW);

  let pack: Pack | null = null;
  let rows: LedgerRow[] = [];
  /** The pack of each open request. Only a shortcut to empty packs: what it does not know is found again when this owner signs off. */
  const packs = new Map<string, Pack>();
  let emptied: number[] = [];
  let rowTimer: Timer | undefined;
  let rowTimerRuns = false;
  let failures = 0;
  let retryAtMs = 0;
  let retryTimer: Timer | undefined;
  let dropped = 0;
  let waiters: { resolve(): void; reject(error: GuardError): void }[] = [];

  function onTick(): void {
    if (pack !== null) commit(rows.length >= EAGER_ROWS, false);
  }

  function onRowTimer(): void {
    rowTimerRuns = false;
    if (failures === 0) commit(true, false);
  }

  function onRetry(): void {
    // The beat is a real write, so that an idle gateway finds out as well that the database is back.
    commit(true, true);
  }

  /** Writes the intents of this tick and, on request, the finished rows. False = the database failed; the finished rows stay queued. */
  function commit(withRows: boolean, withBeat: boolean): boolean {
    const newPack = pack;
    const finished = withRows ? rows : [];
    const beat = withBeat || owners.due();
    if (newPack === null && finished.length === 0 && !beat) return true;
    let alive = true;
    try {
      transact(() => {
        if (beat) alive = owners.beat();
        if (newPack !== null) newPack.seq = Number(insertPack.run(owners.id, `[${newPack.body}]`).lastInsertRowid);
        for (const row of finished) insert(row);
        // Another process closed our older intents and deleted their packs; their numbers may be in use again.
        if (alive) for (const seq of emptied) deletePack.run(seq);
      });
    } catch (error) {
      failed(error);
      return false;
    }
    pack = null;
    emptied = [];
    if (!alive) forgetPacks(newPack);
    if (withRows) rows = [];
    for (const row of finished) leavePack(row.id);
    newPack?.resolve();
    if (failures > 0 || (withRows && dropped > 0)) caughtUp();
    if (withRows && waiters.length > 0) release();
    return true;
  }

  function insert(row: LedgerRow): void {
    try {
      insertRow.run(...rowValues(row));
    } catch (error) {
      // One row that cannot be stored must not hold up all others for ever.
      if (!isRowFault(error)) throw error;
      logger.error({ err: error, id: row.id, requestId: row.requestId }, "a ledger row cannot be stored and was left out");
    }
  }

  function leavePack(id: string): void {
    const left = packs.get(id);
    if (left === undefined) return;
    packs.delete(id);
    leaveOne(left);
  }

  function leaveOne(left: Pack): void {
    left.open -= 1;
    if (left.open === 0) emptied.push(left.seq);
  }

  function forgetPacks(except: Pack | null): void {
    for (const [id, known] of packs) if (known !== except) packs.delete(id);
  }

  function failed(error: unknown): void {
    owners.lapse();
    const delayMs = Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** failures);
    failures += 1;
    retryAtMs = clock.monotonic() + delayMs;
    if (failures === 1) logger.error({ err: error, rows: rows.length }, "the ledger cannot be written: requests are refused until it can");
    retryTimer = clock.timer(delayMs, onRetry);
    if (pack === null) return;
    const refused = pack;
    pack = null;
    for (const [id, known] of packs) if (known === refused) packs.delete(id);
    refused.reject(storeUnavailable(error, delayMs));
  }

  function caughtUp(): void {
    failures = 0;
    logger.info({ droppedRefusals: dropped }, "the ledger has caught up");
    dropped = 0;
  }

  function release(): void {
    const released = waiters;
    waiters = [];
    for (const waiter of released) {
      if (rows.length === 0) waiter.resolve();
      else waiter.reject(refusal());
    }
  }

  async function read<T>(query: () => Promise<T>): Promise<T> {
    // Reads see what this process has written, committed or not.
    if (failures === 0) commit(true, false);
    try {
      return await query();
    } catch (error) {
      throw storeUnavailable(error);
    }
  }

  return {
    intent(row) {
      if (failures > 0 || rows.length + (pack?.open ?? 0) >= QUEUE_ROWS) throw refusal();
      const text = packIntent(row);
      if (pack === null) {
        pack = newPackOf(text);
        setImmediate(onTick);
      } else {
        pack.body += `,${text}`;
        pack.open += 1;
      }
      // A further attempt of the same request: its new intent stands for the old one.
      const before = packs.get(row.id);
      packs.set(row.id, pack);
      if (before !== undefined) leaveOne(before);
      else if (packs.size > QUEUE_ROWS) packs.delete(packs.keys().next().value as string);
      return pack.committed;
    },

    close(row) {
      if (rows.length >= QUEUE_ROWS && !makeRoom(row)) return;
      rows.push(row);
      if (rowTimerRuns || failures > 0) return;
      rowTimerRuns = true;
      if (rowTimer === undefined) rowTimer = clock.timer(ROW_WAIT_MS, onRowTimer);
      else rowTimer.refresh();
    },

    flush() {
      if (failures === 0 && commit(true, false)) return;
      return new Promise<void>((resolve, reject) => waiters.push({ resolve, reject }));
    },

    get: (idOrRequestId) => read(() => queries.get(idOrRequestId)),
    list: (filter) => read(() => queries.list(filter)),
    totals: (filter, groupBy) => read(() => queries.totals(filter, groupBy)),

    beat() {
      if (failures === 0) commit(true, true);
    },

    stop() {
      commit(true, false);
      rowTimer?.cancel();
      retryTimer?.cancel();
      release();
      return rows.length;
    },
  };

  function refusal(): GuardError {
    if (failures > 0) return storeUnavailable(undefined, retryAtMs - clock.monotonic());
    return storeUnavailable(new Error(`${QUEUE_ROWS} ledger rows wait for the database`), BACKOFF_MS);
  }

  /** Refusals cost nobody anything, so they go first. A charged row had its intent admitted while there was room: those end by themselves. */
  function makeRoom(row: LedgerRow): boolean {
    if (dropped === 0) logger.warn({ rows: rows.length }, "the ledger's queue is full: rows of refused requests are dropped and counted");
    if (row.state === "refused") {
      dropped += 1;
      return false;
    }
    const charged = rows.filter((queued) => queued.state !== "refused");
    dropped += rows.length - charged.length;
    rows = charged;
    if (rows.length < 2 * QUEUE_ROWS) return true;
    logger.error({ id: row.id, requestId: row.requestId }, "the ledger's queue is full of charged rows: this one is lost");
    return false;
  }
}

function newPackOf(body: string): Pack {
  let resolve!: () => void;
  let reject!: (error: GuardError) => void;
  const committed = new Promise<void>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { body, open: 1, seq: 0, committed, resolve, reject };
}
