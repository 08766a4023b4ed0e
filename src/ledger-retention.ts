/**
 * Rows that are older than the ledger is to keep become sums by day: by one process at a time, a few rows at a time, so that neither the database nor the
 * event loop is held up. That it is one process only saves work: a row is counted once, however many do it.
 */
import { ConfigError, GuardError } from "./core/errors.ts";
import { dayOf } from "./core/ledger-totals.ts";
import type { Logger } from "./core/logger.ts";
import type { Ledger, RecordStore, Store } from "./core/store.ts";
import type { Clock, Timer } from "./core/time.ts";
import { boundedLedger } from "./limits/bounded.ts";
import { horizonOf, isStrict, reachMs } from "./limits/horizon.ts";
import type { LimitDefinition } from "./limits/limit.ts";
import type { LimitRegistry } from "./limits/registry.ts";
import type { OpenStores } from "./open-stores.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { formatDuration } from "./options/values.ts";
import { setNumbers } from "./rebuilding.ts";
import { recordLock } from "./record-lock.ts";
import { keptRecords } from "./reselling.ts";

const LOCK_KEY = "ledger/retention";
/** A process that dies while it folds delays the others by so long. */
const LOCK_MS = 60_000;
const EVERY_MS = 3_600_000;
/** Rows of one transaction: some milliseconds. */
const ROWS = 200;
/** Between two of them others have the database, and the event loop. */
const PAUSE_MS = 20;
const DAY_MS = 86_400_000;

interface LedgerRetentionParts {
  readonly retentionMs: number;
  readonly ledger: Pick<Ledger, "fold">;
  /** Whose ledger it is, for people. */
  readonly name: string;
  /** Beside the ledger: who folds it holds a lock there. */
  readonly records: RecordStore;
  /** Limits whose counters are rebuilt from the rows when their store loses them; null = its counters are never rebuilt. */
  readonly rebuilt: {
    readonly registry: LimitRegistry;
    readonly declared: () => Iterable<LimitDefinition>;
    /** Where numbers of limits are kept that were set at run time. */
    readonly records: RecordStore;
  } | null;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface LedgerRetention {
  /** Begins, and goes on once an hour. Rejects with a ConfigError when the ledger cannot do it, or a limit needs rows for longer. */
  start(): Promise<void>;
  /** Resolves when nothing of it runs any more. */
  close(): Promise<void>;
}

function ledgerRetention({ retentionMs, ledger, name, records, rebuilt, clock, logger }: LedgerRetentionParts): LedgerRetention {
  const locks = recordLock({ records, clock });
  const { fold } = ledger;
  let timer: Timer | undefined;
  let running: Promise<void> | undefined;
  let isClosed = false;
  let wake: (() => void) | undefined;
  let isFailing = false;
  let isHeldUp = false;

  const isOver = (): boolean => isClosed;

  /** The limits that need rows, with what was set for them at run time. */
  async function strictLimits() {
    if (rebuilt === null) return [];
    for (const limit of rebuilt.declared()) rebuilt.registry.add(limit);
    const set = await setNumbers(rebuilt.records);
    return rebuilt.registry
      .all()
      .filter(isStrict)
      .map((limit) => ({ limit, numbers: set.get(limit.name) ?? [] }));
  }

  async function check(): Promise<void> {
    if (!fold) {
      throw new ConfigError([
        `ledger.retention: the ledger (${name}) cannot do it: it keeps its last rows only, or is a host's own; name a sqlite: or postgres:// database in ledger.url`,
      ]);
    }
    const nowMs = clock.now();
    const problems = (await strictLimits()).flatMap(({ limit, numbers }) => {
      const neededMs = reachMs(limit, numbers, nowMs);
      if (neededMs <= retentionMs) return [];
      const why = `ledger.retention: ${formatDuration(retentionMs)} is too short for limit ${limit.name}, whose counters are rebuilt from the rows when the store loses them:`;
      const least = Number.isFinite(neededMs) ? `give at least ${Math.ceil(neededMs / DAY_MS)}d` : "it may need all of them, so leave retention out";
      return [`${why} ${least}, or give the limit another on_store_error than deny`];
    });
    if (problems.length > 0) throw new ConfigError(problems);
  }

  /** Limits may have come, and other numbers been set, since the start. */
  async function untilMs(): Promise<number> {
    const nowMs = clock.now();
    const wantedMs = nowMs - retentionMs;
    const needed = (await strictLimits()).map(({ limit, numbers }) => ({ limit: limit.name, fromMs: horizonOf(limit, numbers, nowMs).neededFromMs }));
    const holding = needed.filter(({ fromMs }) => fromMs < wantedMs);
    if (holding.length > 0 && !isHeldUp)
      logger.warn(
        { limits: holding.map(({ limit }) => limit) },
        "rows are kept for longer than ledger.retention says, because these limits may need them",
      );
    isHeldUp = holding.length > 0;
    return dayOf(Math.min(wantedMs, ...holding.map(({ fromMs }) => fromMs)));
  }

  const pause = (): Promise<void> =>
    new Promise((resolve) => {
      const paused = clock.timer(PAUSE_MS, resolve);
      wake = () => {
        paused.cancel();
        resolve();
      };
    });

  async function foldOld(): Promise<void> {
    const beforeMs = await untilMs();
    const lock = await locks.take(LOCK_KEY, LOCK_MS);
    if (lock === null) return;
    let rows = 0;
    try {
      let keepAt = clock.monotonic() + LOCK_MS / 3;
      while (!isOver()) {
        const folded = await (fold as NonNullable<Ledger["fold"]>)(beforeMs, ROWS);
        if (folded === 0) break;
        rows += folded;
        await pause();
        if (clock.monotonic() < keepAt) continue;
        if (!(await lock.extend())) break;
        keepAt = clock.monotonic() + LOCK_MS / 3;
      }
    } finally {
      if (rows > 0) logger.info({ rows, before: new Date(beforeMs).toISOString().slice(0, 10) }, "old rows of the ledger are sums by day now");
      await lock.release();
    }
  }

  async function run(): Promise<void> {
    try {
      await foldOld();
      isFailing = false;
    } catch (error) {
      // That the database is away is said once, and by others.
      if (!isFailing && !GuardError.is(error)) logger.warn({ err: error }, "old rows of the ledger could not be summed up; it is tried again");
      isFailing = true;
    }
    if (isClosed) return;
    if (timer) timer.refresh();
    else timer = clock.timer(EVERY_MS, begin);
  }

  function begin(): void {
    running = run();
  }

  return {
    async start() {
      await check();
      begin();
    },
    async close() {
      isClosed = true;
      timer?.cancel();
      wake?.();
      await running;
    },
  };
}

export interface RetentionOfParts {
  readonly options: ResolvedOptions;
  readonly stores: OpenStores;
  /** With its deadlines. */
  readonly store: Store;
  readonly registry: LimitRegistry;
  /** All limits of this guard, also those of parts that no request has reached yet. */
  readonly declared: () => Iterable<LimitDefinition>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** Null = rows are kept for good. */
export function retentionOf({ options, stores, store, registry, declared, clock, logger }: RetentionOfParts): LedgerRetention | null {
  const { retentionMs } = options;
  if (retentionMs === null) return null;
  return ledgerRetention({
    retentionMs,
    // A host's own may never answer.
    ledger: boundedLedger(stores.ledger, clock),
    name: stores.rows.name,
    records: keptRecords(stores, store.records, options, clock),
    rebuilt: store.limits.continuity ? { registry, declared, records: store.records } : null,
    clock,
    logger,
  });
}
