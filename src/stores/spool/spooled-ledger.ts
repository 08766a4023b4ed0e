/**
 * A ledger that goes on while its database is away: rows are kept in a file on this machine, and written to the database once it is back.
 *
 * Why nothing is lost or counted twice. An intent is acknowledged when the database has committed it, or the file is on the disk; what the disk did not
 * take is refused. A file goes when all of its rows are committed and its open intents stand in the database, and not before; until then each start
 * writes it again, which changes nothing, since a row is known by its id. Where an intent went one way and its end the other one, the end counts:
 * it is a finished row, and an intent that another process closed as `unknown` meanwhile gives way to it.
 * Refusals cost nobody anything. They wait in memory, so that nobody fills the disk with requests that were never let in.
 */
import { GuardError } from "../../core/errors.ts";
import type { LedgerIntent, LedgerRow } from "../../core/ledger.ts";
import type { Logger } from "../../core/logger.ts";
import type { Ledger, LedgerStore } from "../../core/store.ts";
import { isPromise, type Clock, type Timer } from "../../core/time.ts";
import { BEAT_EVERY_MS } from "../sql/owner-watch.ts";
import { storeUnavailable } from "../sql/store-unavailable.ts";
import { type SpoolDisk, spoolFolder } from "./spool-folder.ts";
import { intentLine, rowLine } from "./spool-lines.ts";
import { discardSpool, replaySpool } from "./spool-replay.ts";
import { spoolWriter, type SpoolWriter } from "./spool-writer.ts";
import { unsureRows } from "./unsure-rows.ts";

/** How often a database that is away is asked. */
const PROBE_MS = 1_000;
/** One that takes a beat and no rows is left alone for longer each time. */
const MOST_PROBE_MS = 30_000;
/** What a client is told to wait when the spool takes nothing more. */
const RETRY_AFTER_MS = 5_000;
/** How long after an outage the ledger is not called complete, for what other nodes have kept. */
const OTHERS_MS = 10_000;
/** Open intents that go to the database together. */
const MOVE_INTENTS = 500;
/** What is already let in may end beyond `maxBytes`, up to this share more. */
const SPARE = 1.25;

export interface SpooledLedgerOptions {
  /** The ledger whose database may be away. */
  readonly store: LedgerStore & Required<Pick<LedgerStore, "replay">>;
  /** Which ledger it is, so that no other one gets its rows: place and schema. */
  readonly name: string;
  readonly path: string;
  readonly maxBytes: number;
  /** How long one outage is bridged. */
  readonly maxTimeMs: number;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly disk?: SpoolDisk;
}

/** What waits for the database. */
export interface SpoolState {
  /** Lines that this process has written, intents too, and the bytes of all files that it has to write to the database. */
  readonly rows: number;
  readonly bytes: number;
  /** Since when something waits, wall clock in ms; null = nothing does. */
  readonly since: number | null;
  /** For people; null = nothing waits. */
  readonly reason: string | null;
}

export interface SpooledLedger {
  readonly ledger: Ledger;
  state(): SpoolState;
  /** Takes what dead processes left behind, and begins to write it to the database. */
  start(): Promise<void>;
  /** Leaves what still waits to the next start. True = all of it is on the disk; false = rows wait in memory alone. */
  close(): Promise<boolean>;
}

interface Waiting {
  readonly path: string;
  readonly bytes: number;
  readonly lines: number;
  readonly isOrphaned: boolean;
}

interface Away {
  readonly wall: number;
  readonly monotonic: number;
  readonly writer: SpoolWriter;
  /** Why nothing new is taken; null = it is. */
  closed: string | null;
  /** Whether a row that counts had to stay in memory. */
  hasUnkept: boolean;
}

const isTrouble = (error: unknown): boolean => GuardError.is(error) && error.code === "store_unavailable";

export function spooledLedger(options: SpooledLedgerOptions): SpooledLedger {
  const { store, clock, logger, maxBytes, maxTimeMs, disk } = options;
  const real = store.ledger;
  const { fold } = real;
  const folder = spoolFolder({ path: options.path, ledger: options.name, ...(disk ? { disk } : {}) });
  /** Requests of this process whose newest intent stands in a file only. A file's size bounds it. */
  const open = new Map<string, LedgerIntent>();
  const unsure = unsureRows(real, clock, () => leave(new Error("finished rows are not committed in time")));
  let away: Away | null = null;
  /** Files that are not in the database yet. */
  let waiting: Waiting[] = [];
  let waitingSince: number | null = null;
  let working: Promise<void> | null = null;
  let backWaiters: (() => void)[] = [];
  /** Who waits for the database, and need not once the file has what it does not. */
  const leavers = new Set<() => void>();
  let probe: Timer | undefined;
  let upkeep: Timer | undefined;
  let isClosed = false;
  let doneAtMs = -Infinity;
  let relapses = 0;
  let delivered = { rows: 0, orphans: 0 };

  const waitingBytes = (): number => waiting.reduce((sum, { bytes }) => sum + bytes, away?.writer.bytes ?? 0);
  const waitingLines = (): number => waiting.reduce((sum, { lines }) => sum + lines, away?.writer.lines ?? 0);

  function allPaths(): readonly string[] {
    const paths = waiting.map(({ path }) => path);
    const current = away?.writer.path ?? null;
    return current === null ? paths : [...paths, current];
  }

  /** The database does not take rows any more: from now on the file does. */
  function leave(error: unknown): Away {
    if (away !== null) return away;
    const began = (away = { wall: clock.now(), monotonic: clock.monotonic(), writer: newWriter(), closed: null, hasUnkept: false });
    waitingSince ??= began.wall;
    logger.error(
      { code: "QG_LEDGER_SPOOLING", path: folder.path, err: error },
      "the ledger's database is away: rows are kept in a file on this machine until it is back",
    );
    for (const row of unsure.take()) keepRow(began, row);
    for (const leaving of leavers) leaving();
    probeLater();
    return began;
  }

  function newWriter(): SpoolWriter {
    return spoolWriter({
      folder,
      clock,
      onFailure: (error) => shut("the disk does not take its spool", error),
    });
  }

  function shut(why: string, error?: Error): void {
    if (away?.closed !== null) return;
    away.closed = why;
    logger.error(
      { code: "QG_LEDGER_SPOOL_CLOSED", path: folder.path, err: error, rows: waitingLines(), bytes: waitingBytes() },
      `${why}: no request is sent to a provider until the ledger's database is back; they are refused with 503`,
    );
  }

  function admit(now: Away, line: string): void {
    if (now.closed === null && clock.monotonic() - now.monotonic >= maxTimeMs) shut("the ledger's database is away for longer than spool.max_time");
    if (now.closed === null && waitingBytes() + line.length > maxBytes) shut("the ledger's spool is full (spool.max_bytes)");
    if (now.closed === null) return;
    throw new GuardError(
      "store_unavailable",
      "the database of the gateway is away, and what it keeps in its place takes nothing more: try again later",
      {
        retryAfterMs: RETRY_AFTER_MS,
      },
    );
  }

  async function keepIntent(now: Away, row: LedgerIntent): Promise<void> {
    const line = intentLine(row);
    admit(now, line);
    open.set(row.id, row);
    try {
      await now.writer.append(line);
    } catch (error) {
      if (open.get(row.id) === row) open.delete(row.id);
      throw storeUnavailable(error, RETRY_AFTER_MS);
    }
  }

  function keepRow(now: Away, row: LedgerRow): void {
    open.delete(row.id);
    const inMemory = (): void => {
      now.hasUnkept = true;
      real.close(row);
    };
    let line: string;
    try {
      line = rowLine(row);
    } catch {
      // The ledger says what is wrong with it.
      return inMemory();
    }
    if (waitingBytes() + line.length > maxBytes * SPARE) return inMemory();
    now.writer.append(line).catch(inMemory);
  }

  function probeLater(): void {
    probe?.cancel();
    if (!isClosed) probe = clock.timer(Math.min(MOST_PROBE_MS, PROBE_MS * 2 ** relapses), () => void work());
  }

  /** One at a time: asks the database, and writes all that waits. Never rejects. */
  function work(): Promise<void> {
    return (working ??= turn().finally(() => (working = null)));
  }

  async function turn(): Promise<void> {
    probe?.cancel();
    try {
      // A real write: a database that can only be read is not back.
      if (away !== null) await store.replay([], null);
      if (isClosed) return;
      await comeBack();
      for (let next = waiting[0]; next !== undefined; next = waiting[0]) {
        if (isClosed) return;
        await deliver(next);
      }
      if (!isClosed) caughtUp();
    } catch (error) {
      // Anything else would be the same at the next look.
      if (!isTrouble(error)) logger.error({ err: error }, "what the ledger's spool keeps could not be written to the database; it is tried again");
      else if (!isClosed) {
        if (away === null) relapses += 1;
        leave(error);
      }
    }
    if (away !== null) probeLater();
  }

  function caughtUp(): void {
    if (waitingSince === null || away !== null) return;
    const seconds = Math.round((clock.now() - waitingSince) / 100) / 10;
    logger.info(
      { code: "QG_LEDGER_REPLAYED", seconds, ...delivered },
      "what was kept in files while the ledger's database was away is in the ledger",
    );
    waitingSince = null;
    doneAtMs = clock.monotonic();
    delivered = { rows: 0, orphans: 0 };
    relapses = 0;
  }

  /** From now on rows go to the database again. */
  async function comeBack(): Promise<void> {
    if (away === null) return;
    const { writer } = away;
    away = null;
    const waiters = backWaiters;
    backWaiters = [];
    for (const resolve of waiters) resolve();
    await writer.end();
    const { path, bytes, lines } = writer;
    if (path !== null) waiting.push({ path, bytes, lines, isOrphaned: false });
  }

  async function deliver(file: Waiting): Promise<void> {
    const { path, isOrphaned } = file;
    const replayed = await replaySpool({
      path,
      isOrphaned,
      replay: (rows, gapUntilMs) => store.replay(rows, gapUntilMs),
      disk,
      isStopped: () => isClosed,
      now: clock.now,
      logger,
    });
    if (replayed === null) return;
    await moveOpen();
    if (isClosed) return;
    await discardSpool(folder, path, replayed.isWhole, logger);
    waiting = waiting.filter((each) => each !== file);
    delivered = { rows: delivered.rows + replayed.rows, orphans: delivered.orphans + replayed.orphans };
  }

  /** Nobody but this process knows that these requests still run: the database is told before the file goes. */
  async function moveOpen(): Promise<void> {
    while (open.size > 0) {
      if (isClosed) return;
      const some = [...open.values()].slice(0, MOVE_INTENTS);
      await Promise.all(
        some.map(async (row) => {
          await real.intent(row);
          if (open.get(row.id) === row) open.delete(row.id);
        }),
      );
    }
  }

  async function look(): Promise<void> {
    try {
      await folder.beat(allPaths(), clock.now()).catch(() => {});
      for (const { path, bytes } of await folder.claim()) waiting.push({ path, bytes, lines: 0, isOrphaned: true });
    } catch (error) {
      logger.warn({ err: error, path: folder.path }, "the folder of the ledger's spool cannot be read; it is tried again");
    }
    if (waiting.length > 0) waitingSince ??= clock.now();
    if (waiting.length > 0 && away === null) void work();
    if (!isClosed) upkeep = clock.timer(BEAT_EVERY_MS, () => void look());
  }

  /** Other nodes were cut off too, and write what they kept at about the same time. */
  function unfinished(): GuardError | null {
    if (waitingSince === null && clock.monotonic() - doneAtMs >= OTHERS_MS) return null;
    return new GuardError("store_unavailable", "rows of this ledger are still kept in a file: wait until they are written to its database", {
      retryAfterMs: PROBE_MS,
    });
  }

  /** Of what the database takes; false = it went away meanwhile. */
  async function committed(): Promise<boolean> {
    const left = Promise.withResolvers<boolean>();
    const leaving = (): void => left.resolve(false);
    leavers.add(leaving);
    try {
      return await Promise.race([Promise.resolve(real.flush()).then(() => true), left.promise]);
    } finally {
      leavers.delete(leaving);
    }
  }

  const ledger: Ledger = {
    intent(row) {
      if (away !== null) return keepIntent(away, row);
      // A newer attempt of the same request: the older one must not be written over it.
      open.delete(row.id);
      const instead = (error: unknown): Promise<void> => {
        if (!isTrouble(error) || isClosed) throw error;
        return keepIntent(leave(error), row);
      };
      try {
        const answer = real.intent(row);
        return isPromise(answer) ? answer.catch(instead) : answer;
      } catch (error) {
        return instead(error);
      }
    },

    close(row) {
      if (away !== null && row.state !== "refused" && !isClosed) return keepRow(away, row);
      open.delete(row.id);
      real.close(row);
      if (away === null) unsure.add(row);
    },

    async flush() {
      for (;;) {
        if (away?.closed === null) return away.writer.idle();
        if (away !== null) await new Promise<void>((resolve) => backWaiters.push(resolve));
        if (waitingSince !== null) await working;
        if (await committed()) return;
      }
    },

    get: (id) => real.get(id),
    list: (filter) => real.list(filter),
    totals: (filter, groupBy) => real.totals(filter, groupBy),
    scan: (fromMs) => real.scan(fromMs),
    ...(fold ? { fold } : {}),
    async completeSince() {
      const problem = unfinished();
      if (problem) throw problem;
      return real.completeSince();
    },
  };

  return {
    ledger,

    state() {
      const [rows, bytes] = [waitingLines(), waitingBytes()];
      if (waitingSince === null) return { rows, bytes, since: null, reason: null };
      const seconds = Math.round((clock.now() - waitingSince) / 1_000);
      const reason =
        away === null
          ? `the ledger's database is back: ${rows} rows (${bytes} bytes) that were kept in a file are being written to it`
          : away.closed !== null
            ? away.closed
            : `the ledger's database is away: ${rows} rows are kept in a file, for ${seconds} s now`;
      return { rows, bytes, since: waitingSince, reason };
    },

    start: look,

    async close() {
      isClosed = true;
      upkeep?.cancel();
      probe?.cancel();
      unsure.stop();
      await working;
      const last = away;
      await last?.writer.end();
      const left = allPaths();
      if (left.length > 0) logger.warn({ code: "QG_LEDGER_SPOOL_LEFT", path: folder.path, rows: waitingLines() }, LEFT);
      for (const path of left) await folder.release(path).catch(() => {});
      return last?.hasUnkept !== true;
    },
  };
}

const LEFT = "the ledger's database was away to the end: its rows are kept in a file, and the next start writes them to it";
