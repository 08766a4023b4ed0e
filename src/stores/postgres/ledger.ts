import type { Kysely } from "kysely";

import type { GuardError } from "../../core/errors.ts";
import type { LedgerRow } from "../../core/ledger.ts";
import type { Logger } from "../../core/logger.ts";
import type { Ledger, LedgerFilter, LedgerStore } from "../../core/store.ts";
import type { Clock, Timer } from "../../core/time.ts";
import { folding } from "../sql/folding.ts";
import type { LedgerQueries } from "../sql/ledger-queries.ts";
import { OpenPacks, type Pack } from "../sql/open-packs.ts";
import { backoffMs, EAGER_ROWS, QUEUE_ROWS, type QueuedRow, queuedRow, ROW_WAIT_MS, RowQueue } from "../sql/row-queue.ts";
import type { RowSealer } from "../sql/row-sealer.ts";
import type { Database } from "../sql/schema.ts";
import { storeUnavailable } from "../sql/store-unavailable.ts";
import { type LedgerWrite, rowJson, storableText, writeLedger } from "./ledger-writer.ts";
import type { PostgresLink } from "./link.ts";
import type { Owners } from "./owners.ts";
import { isRowFault } from "./trouble.ts";

/** Rows of one statement: what an outage left behind is written in parts that stay within the deadline. */
const BATCH_ROWS = 1000;
/** Intents of one statement. More come only when the database hangs. */
const PACK_INTENTS = 2000;
/** Kept rows that are made ready in one turn of the event loop. */
const REPLAYED_AT_ONCE = 50;

export interface PostgresLedger extends Required<Ledger> {
  readonly replay: NonNullable<LedgerStore["replay"]>;
  /** The first beat: from then on intents may be written. Rejects with the database's own error. */
  begin(): Promise<void>;
  /** Shows that the owner lives and writes what waits. Resolves when that is done or has failed; never rejects. */
  beat(): Promise<void>;
  /** Writes what waits, the last call. Returns how many rows were lost because the database failed. */
  stop(): Promise<number>;
}

export interface LedgerParts {
  readonly link: PostgresLink;
  readonly queries: LedgerQueries;
  /** Builds statements; they are run here. */
  readonly builder: Kysely<Database>;
  readonly owners: Owners;
  readonly sealer: RowSealer;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Waiter {
  /** How many rows must have been dealt with. */
  readonly target: number;
  /** Also content with an attempt that failed. */
  readonly oneAttempt: boolean;
  resolve(): void;
  reject(error: GuardError): void;
}

/** See {@link rowJson}. */
type JsonRow = QueuedRow<string>;

/**
 * One write at a time: whatever comes while it is on its way goes with the next one, so that the busier the gateway, the more requests share a
 * round trip. All of it may happen twice (rows by their id, deletions by nature), so a write whose reply was lost is simply repeated.
 */
export function postgresLedger({ link, queries, builder, owners, sealer, clock, logger }: LedgerParts): PostgresLedger {
  const queue = new RowQueue<string>(clock, logger);
  const packs = new OpenPacks();
  let pack: Pack | null = null;
  /** The pack that is on its way. */
  let sent: Pack | null = null;
  let writing: Promise<void> = Promise.resolve();
  let isWriting = false;
  let wantsRows = false;
  let wantsBeat = false;
  /** A reply was lost: the database may hold packs whose number nobody knows. */
  let hasStrays = false;
  let rowTimer: Timer | undefined;
  let rowTimerRuns = false;
  let failures = 0;
  let isBehind = false;
  let isRegistered = false;
  let retryAtMs = 0;
  let retryTimer: Timer | undefined;
  let queued = 0;
  let done = 0;
  let waiters: Waiter[] = [];

  function wake(): void {
    if (!isWriting && failures === 0) start();
  }

  function start(): void {
    isWriting = true;
    writing = writeAll();
  }

  async function writeAll(): Promise<void> {
    let goesOn = true;
    while (goesOn && (pack !== null || wantsBeat || (wantsRows && queue.rows.length > 0))) goesOn = await writeOnce();
    isWriting = false;
  }

  function onRowTimer(): void {
    rowTimerRuns = false;
    wantsRows = true;
    wake();
  }

  function onRetry(): void {
    // The beat is a real write, so that an idle gateway finds out as well that the database is back.
    wantsRows = wantsBeat = true;
    if (!isWriting) start();
  }

  /** False = the database failed; the finished rows stay queued. */
  async function writeOnce(): Promise<boolean> {
    sent = pack;
    pack = null;
    const rows = wantsRows || queue.rows.length >= EAGER_ROWS ? queue.rows.splice(0, BATCH_ROWS) : [];
    if (queue.rows.length === 0) wantsRows = false;
    const beat = wantsBeat || owners.due();
    wantsBeat = false;
    if (beat) owners.beaten();
    const emptied = packs.emptied.splice(0);
    const { completeFrom } = queue;
    const only = hasStrays && packs.isComplete ? packs.numbers() : null;
    if (only !== null) hasStrays = false;
    const rest: LedgerWrite = { beat, body: sent && `[${sent.body}]`, rows: [], only, completeFrom, emptied: numbersOf(emptied) };
    try {
      await write(rest, rows);
    } catch (error) {
      queue.rows.unshift(...rows);
      packs.emptied.unshift(...emptied);
      failed(error);
      return false;
    }
    if (queue.completeFrom === completeFrom) queue.completeFrom = null;
    for (const { id } of rows) packs.leave(id);
    failures = 0;
    if ((isBehind || queue.droppedRefusals > 0) && queue.rows.length === 0) caughtUp();
    done += rows.length;
    release((waiter) => waiter.target <= done);
    return true;
  }

  async function write(rest: LedgerWrite, rows: readonly JsonRow[]): Promise<void> {
    try {
      return await send({ ...rest, rows: rows.map(({ stored }) => stored) });
    } catch (error) {
      if (rows.length === 0 || !isRowFault(error)) throw error;
    }
    // One row that cannot be stored must not hold up the intents, nor all other rows for ever.
    await send(rest);
    await writeHalves(rows, false);
  }

  async function writeHalves(rows: readonly JsonRow[], corrects: boolean): Promise<void> {
    const middle = Math.ceil(rows.length / 2);
    for (const half of [rows.slice(0, middle), rows.slice(middle)]) {
      try {
        if (half.length > 0) await send({ ...NOTHING, rows: half.map(({ stored }) => stored), corrects });
      } catch (error) {
        if (!isRowFault(error)) throw error;
        const [one, more] = half;
        if (one && !more) queue.leftOut(one, error);
        else await writeHalves(half, corrects);
      }
    }
  }

  async function send(one: LedgerWrite): Promise<void> {
    const { seq, isAlive } = await writeLedger(link, owners.self, one, () => (hasStrays = true));
    if (sent !== null && one.body !== null) {
      sent.seq = seq;
      sent.resolve();
      sent = null;
    }
    if (!isAlive && isRegistered) {
      logger.warn({}, "another process took this one for dead: the requests that were open stand as unknown, charged as held");
    }
    isRegistered ||= one.beat;
  }

  /** Null = it is no row, and left out. */
  function prepared(row: LedgerRow): JsonRow | null {
    try {
      return queuedRow(row, rowJson(row, sealer));
    } catch (error) {
      queue.leftOut(row, error);
      packs.leave(row.id);
      return null;
    }
  }

  function failed(error: unknown): void {
    owners.lapse();
    hasStrays = true;
    const delayMs = backoffMs(failures);
    failures += 1;
    retryAtMs = clock.monotonic() + delayMs;
    if (!isBehind) logger.error({ err: error, rows: queue.rows.length }, "the ledger's database cannot be written");
    isBehind = true;
    retryTimer = clock.timer(delayMs, onRetry);
    for (const refused of [sent, pack]) if (refused !== null) packs.refuse(refused, storeUnavailable(error, delayMs));
    sent = pack = null;
    release((waiter) => waiter.oneAttempt);
  }

  function caughtUp(): void {
    isBehind = false;
    logger.info({ droppedRefusals: queue.droppedRefusals }, "the ledger has caught up");
    queue.droppedRefusals = 0;
  }

  function release(which: (waiter: Waiter) => boolean): void {
    const released = waiters.filter(which);
    if (released.length === 0) return;
    waiters = waiters.filter((waiter) => !released.includes(waiter));
    for (const waiter of released) waiter.resolve();
  }

  function rowsDone(oneAttempt: boolean): Promise<void> {
    if (done >= queued) return Promise.resolve();
    wantsRows = true;
    wake();
    const target = queued;
    return new Promise((resolve, reject) => waiters.push({ target, oneAttempt, resolve, reject }));
  }

  /** Reads see what this process has written, committed or not. */
  async function settled(): Promise<void> {
    if (failures > 0) return;
    const unsent = [pack, sent].map((one) => one?.committed.catch(() => {}));
    wake();
    await Promise.all([rowsDone(true), ...unsent]);
  }

  async function read<T>(query: () => Promise<T>): Promise<T> {
    await settled();
    try {
      return await query();
    } catch (error) {
      throw storeUnavailable(error);
    }
  }

  function refusal(): GuardError {
    if (failures > 0) return storeUnavailable(undefined, retryAtMs - clock.monotonic());
    return storeUnavailable(new Error("too many ledger rows wait for the database"), backoffMs(0));
  }

  return {
    intent(row) {
      if (failures > 0 || queue.rows.length >= QUEUE_ROWS || (pack !== null && pack.open >= PACK_INTENTS)) return Promise.reject(refusal());
      if (pack === null) setImmediate(wake);
      pack = packs.add(row, pack);
      return pack.committed;
    },

    close(given) {
      const row = prepared(given);
      if (row === null) return;
      const before = queue.rows.length;
      const isQueued = queue.add(row);
      // Refusals that made room are dealt with as well.
      done += before + (isQueued ? 1 : 0) - queue.rows.length;
      if (!isQueued) return;
      queued += 1;
      if (rowTimerRuns || failures > 0) return;
      rowTimerRuns = true;
      if (rowTimer === undefined) rowTimer = clock.timer(ROW_WAIT_MS, onRowTimer);
      else rowTimer.refresh();
    },

    flush: () => rowsDone(false),

    get: (idOrRequestId) => read(() => queries.get(storableText(idOrRequestId))),
    list: (filter) => read(() => queries.list(storableFilter(filter))),
    totals: (filter, groupBy) => read(() => queries.totals(storableFilter(filter), groupBy)),

    async *scan(fromMs) {
      await settled();
      if (failures > 0) throw refusal();
      try {
        yield* queries.scan(fromMs);
      } catch (error) {
        throw storeUnavailable(error);
      }
    },

    completeSince: () => read(async () => Math.max(queue.completeFrom ?? 0, await queries.completeSince())),

    async replay(given, gapUntilMs) {
      if (failures > 0) {
        retryTimer?.cancel();
        if (!isWriting) onRetry();
        await writing;
        if (failures > 0) throw refusal();
      }
      const rows: JsonRow[] = [];
      for (const [index, one] of given.entries()) {
        if (index % REPLAYED_AT_ONCE === REPLAYED_AT_ONCE - 1) await new Promise((resolve) => setImmediate(resolve));
        const row = prepared(one);
        if (row !== null) rows.push(row);
      }
      try {
        await send({ ...NOTHING, beat: given.length === 0, completeFrom: gapUntilMs });
        await writeHalves(rows, true);
      } catch (error) {
        throw storeUnavailable(error);
      }
      for (const { id } of rows) packs.leave(id);
    },

    async fold(beforeMs, most) {
      if (failures > 0) throw refusal();
      try {
        return await link.transact(async (session) => {
          const steps = folding(builder, sealer, beforeMs, most);
          let step = steps.next();
          while (!step.done) {
            const { sql, parameters } = step.value;
            step = steps.next((await session.query(sql, parameters)).rows);
          }
          return step.value;
        });
      } catch (error) {
        throw storeUnavailable(error);
      }
    },

    async begin() {
      owners.beaten();
      await send({ ...NOTHING, beat: true });
    },

    async beat() {
      if (failures > 0) return;
      wantsRows = wantsBeat = true;
      wake();
      await writing;
    },

    async stop() {
      rowTimer?.cancel();
      await writing;
      retryTimer?.cancel();
      wantsRows = true;
      if (!isWriting) start();
      await writing;
      retryTimer?.cancel();
      for (const waiter of waiters) waiter.reject(refusal());
      waiters = [];
      return queue.rows.length;
    },
  };
}

const NOTHING: LedgerWrite = { beat: false, body: null, rows: [], emptied: [], only: null, completeFrom: null };

const numbersOf = (emptied: readonly Pack[]): number[] => emptied.filter(({ seq }) => seq > 0).map(({ seq }) => seq);

function storableFilter(filter: LedgerFilter): LedgerFilter {
  const { scopes, fields } = filter;
  return {
    ...filter,
    ...(scopes === undefined ? {} : { scopes: storableValues(scopes) }),
    ...(fields === undefined ? {} : { fields: storableValues(fields) }),
  };
}

const storableValues = (values: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [storableText(name), storableText(value)]));
