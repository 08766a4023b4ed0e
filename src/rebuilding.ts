/**
 * A store that comes back empty would refill every budget. The store notices and closes the strict limits; here their counters are worked out anew from
 * the ledger.
 *
 * Why nothing is counted too low. While the limits are closed nobody can hold anything in them, so all that counts was reserved before the loss:
 * - a request that had ended has its row, at the latest after the flush (other processes commit theirs within 50 ms; until then their intents stand);
 * - one that was on its way has its intent, because an intent is committed before anything is sent: it counts as held. When it ends, be that during or
 *   after the scan, the store does not know its hold any more and gives nothing back: it stays charged as held;
 * - limits that are not strict went on with empty counters. They are not touched: what they hold by now would be lost.
 * What the ledger does not say cannot be counted: what was held at the moment of the loss and had no intent yet (requests that waited for a credential,
 * and hosts' own routes, whose rows are written when they end), and what a request on its way uses beyond its hold.
 */
import { GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import { LIMIT_NUMBERS, type Continuity, type CounterState, type Ledger, type RecordStore } from "./core/store.ts";
import type { Clock, Timer } from "./core/time.ts";
import { expiresAt, horizonOf, isStrict } from "./limits/horizon.ts";
import type { LimitDefinition, LimitNumbers } from "./limits/limit.ts";
import type { CompiledLimit, LimitRegistry } from "./limits/registry.ts";
import { replay } from "./limits/replay.ts";

/** Holds the history of counters that was seen last. */
const EPOCH_KEY = "store/epoch";
/** A process that dies while it rebuilds delays the others by so long. */
const CLAIM_MS = 15_000;
const LOOK_AGAIN_MS = 1_000;
/** Limits that cannot be rebuilt are looked at so often: numbers may change, and another ledger may come. */
const MOST_WAIT_MS = 60_000;
const FIRST_RETRY_MS = 1_000;
const MOST_RETRY_MS = 30_000;
const MEMO_RETRY_MS = 5_000;
/** Processes show themselves every few seconds: after an emptied store too, so that long alone means alone. */
const ALONE_MS = 10_000;
const COUNT_NODES_MS = 5_000;
const CHUNK = 500;

export interface RebuildingOptions {
  readonly continuity: Continuity;
  readonly registry: LimitRegistry;
  /** All limits of this guard, also those of parts that no request has reached yet. */
  readonly declared: () => Iterable<LimitDefinition>;
  /** Where numbers of limits are kept that were set at run time. */
  readonly records: RecordStore;
  /** The model that budgets count for the one that a row names. */
  readonly resolve: (model: string) => string;
  readonly ledger: Ledger;
  /** Whether all processes that share the counters write to this ledger. */
  readonly isLedgerShared: boolean;
  /** How many processes share the counters now. */
  readonly nodes: () => number;
  /** Records that outlive the store's; null = there are none, and a store that is emptied while nobody looks counts as a new one. */
  readonly memo: RecordStore | null;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface Rebuilding {
  /** Finds out whether the counters are whole. If they are not, they are rebuilt in the background, now and whenever they are lost. */
  start(): Promise<void>;
  /**
   * Opens the strict limits with what the ledger knows, although it does not know everything. Does nothing when they are open. Throws
   * `store_unavailable` while another process rebuilds, or when the store or the ledger cannot be reached.
   */
  openCounters(): Promise<void>;
  /** Stops at once; what is under way is left to another process. */
  close(): void;
}

interface Memo {
  /** The last history that was whole. */
  readonly epoch: string;
  /** When its loss was noticed, wall clock in ms; null = it stands. */
  readonly lostAt: number | null;
}

/** What the rows at hand can tell. */
interface Reach {
  readonly fromMs: number;
  readonly isBeginning: boolean;
}

export function rebuilding(options: RebuildingOptions): Rebuilding {
  const { continuity, registry, records, ledger, memo, clock, logger } = options;
  const timers = new Set<Timer>();
  let seen: string | null = null;
  let lostAt: number | null = null;
  /** The history whose loss was told. */
  let announced: string | null = null;
  let isClosed = false;
  let isRunning = false;
  let isWaiting = false;
  let stopWatching: (() => void) | undefined;
  let wake: (() => void) | undefined;
  /** Attempts go one after the other. */
  let last: Promise<unknown> = Promise.resolve();
  let aloneSinceMs: number | null = null;
  let othersSinceMs: number | null = null;
  /** Wall clock, ms: until then others lived beside us, and what they spent is in ledgers of their own. */
  let othersUntilMs = 0;

  function later(delayMs: number, fn: () => void): Timer {
    const timer = clock.timer(delayMs, () => {
      timers.delete(timer);
      fn();
    });
    timers.add(timer);
    return timer;
  }

  /** Nothing is to be rebuilt, or not by us. */
  const isOver = (): boolean => isClosed || continuity.isWhole;

  const pause = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve;
      later(ms, resolve);
    });

  async function remember(value: Memo): Promise<void> {
    try {
      await memo?.put(EPOCH_KEY, value);
    } catch (error) {
      logger.warn({ err: error }, "the ledger did not take which counters were seen last; it is tried again");
      // By then it may be another one.
      if (!isClosed) later(MEMO_RETRY_MS, () => void remember(continuity.isWhole ? { epoch: continuity.epoch, lostAt: null } : value));
    }
  }

  function changed(): void {
    if (isClosed) return;
    if (isRunning) wake?.();
    else if (!continuity.isWhole) void run();
    else if (continuity.epoch !== seen) whole();
  }

  function whole(): void {
    seen = continuity.epoch;
    lostAt = null;
    void remember({ epoch: seen, lostAt });
  }

  /** From a loss until it is made good. */
  async function run(): Promise<void> {
    if (isRunning) return;
    isRunning = true;
    for (let failures = 0; !isOver();) {
      if (announced !== continuity.epoch) announce();
      let waitMs: number;
      try {
        waitMs = await attempt(false);
        failures = 0;
      } catch (error) {
        if (failures === 0 && !isClosed)
          logger.error({ code: "QG_REBUILD_FAILED", err: error }, "the counters could not be rebuilt; it is tried again until it succeeds");
        waitMs = Math.min(MOST_RETRY_MS, FIRST_RETRY_MS * 2 ** failures);
        failures += 1;
      }
      if (!isOver()) await pause(waitMs);
      // An operator's attempt may be what made it good, and just about to say so.
      if (isOver()) await last;
    }
    isRunning = false;
    if (isClosed || continuity.epoch === seen) return;
    logger.info({ code: "QG_COUNTERS_REBUILT", by: "another process" }, "the counters are whole again: another process has rebuilt them");
    whole();
  }

  function announce(): void {
    announced = continuity.epoch;
    isWaiting = false;
    const limits = strictLimits().map(({ name }) => name);
    logger.error(
      { code: "QG_COUNTERS_LOST", limits },
      "the store has lost its counters: requests under these limits get 503 until they are rebuilt from the ledger; all others go on",
    );
    if (lostAt !== null) return;
    lostAt = clock.now();
    if (seen !== null) void remember({ epoch: seen, lostAt });
  }

  function strictLimits(): CompiledLimit[] {
    for (const limit of options.declared()) registry.add(limit);
    return registry.all().filter(isStrict);
  }

  function attempt(isForced: boolean): Promise<number> {
    const result = last.then(() => once(isForced));
    last = result.catch(() => {});
    return result;
  }

  /** Rebuilds if that can be done now. Ms to wait before the next try. */
  async function once(isForced: boolean): Promise<number> {
    if (isOver()) return 0;
    const startedAt = clock.monotonic();
    await ledger.flush();
    await registry.restore();
    const limits = strictLimits();
    const reach = await reachOf(limits, isForced);
    if (typeof reach === "number") return reach;
    if (!(await isMine())) {
      if (isOver()) return 0;
      if (isForced) throw new GuardError("store_unavailable", "another process is rebuilding the counters; try again", { retryAfterMs: CLAIM_MS });
      return LOOK_AGAIN_MS;
    }
    let isDone = false;
    keepClaim(() => isDone);
    try {
      const { epoch } = continuity;
      const counted = await count(limits, reach);
      if (counted === null) return 0;
      const counters = await restore(epoch, counted.counters);
      await keep(epoch);
      await continuity.complete();
      if (!continuity.isWhole) throw new Error("the store says that its counters are still not whole");
      const ms = Math.round(clock.monotonic() - startedAt);
      logger.info(
        { code: "QG_COUNTERS_REBUILT", counters, rows: counted.rows, ms, byHand: isForced },
        "the counters are rebuilt from the ledger: all limits are open",
      );
      whole();
      return 0;
    } finally {
      isDone = true;
    }
  }

  /** Whether we may rebuild, and there is something to rebuild. */
  async function isMine(): Promise<boolean> {
    if (!(await continuity.claim(CLAIM_MS))) return false;
    // The one who had the right before us may have finished, which is not told at once: what was charged since then must not be overwritten.
    await continuity.begin(continuity.epoch);
    return !isOver();
  }

  /** Keeps the right to rebuild during a long scan; before each write it is asked for anyway. */
  function keepClaim(isDone: () => boolean): void {
    later(CLAIM_MS / 3, () => {
      if (isDone()) return;
      const next = (): void => {
        if (!isClosed) keepClaim(isDone);
      };
      void continuity.claim(CLAIM_MS).then(next, next);
    });
  }

  async function keep(epoch: string): Promise<void> {
    if (!(await isMine())) throw new Error("another process has taken over the rebuilding, or this one is closing");
    if (continuity.epoch !== epoch) throw new Error("the store has lost its counters once more");
  }

  /** The rows that can be used, or ms to wait when the ledger does not know enough. */
  async function reachOf(limits: readonly CompiledLimit[], isForced: boolean): Promise<Reach | number> {
    const nowMs = clock.now();
    const set = await setNumbers(records);
    const horizons = limits
      .map((limit) => ({ limit, numbers: set.get(limit.name) ?? [] }))
      .map((each) => ({
        ...each,
        ...horizonOf(each.limit, each.numbers, nowMs),
      }));
    const usefulFromMs = Math.min(nowMs, ...horizons.map((each) => each.usefulFromMs));
    if (isForced) return { fromMs: usefulFromMs, isBeginning: true };
    const unsureMs = unsureFor();
    if (unsureMs !== null && unsureMs > 0) return unsureMs;
    const since = await ledger.completeSince();
    // What others spent until the loss, or until they were gone, nobody here knows; afterwards nobody could spend.
    const unknownUntilMs = options.isLedgerShared ? 0 : Math.min(unsureMs === null ? nowMs : othersUntilMs, lostAt ?? nowMs);
    const knownSinceMs = Math.max(since, unknownUntilMs);
    const opening = horizons
      .filter(({ neededFromMs }) => neededFromMs < knownSinceMs)
      .map(({ limit, numbers }) => ({ limit: limit.name, at: expiresAt(limit, numbers, knownSinceMs, nowMs) }));
    if (opening.length > 0) {
      if (!isWaiting) incomplete(opening);
      isWaiting = true;
      return Math.max(1, Math.min(MOST_WAIT_MS, Math.max(...opening.map(({ at }) => at ?? Infinity)) - nowMs));
    }
    const fromMs = Math.max(knownSinceMs, usefulFromMs);
    const isBeginning = knownSinceMs === 0 && (fromMs === 0 || (await ledger.list({ to: fromMs, limit: 1 })).length === 0);
    return { fromMs, isBeginning };
  }

  function incomplete(opening: readonly { readonly limit: string; readonly at: number | null }[]): void {
    logger.error(
      {
        code: "QG_REBUILD_INCOMPLETE",
        limits: opening.map(({ limit, at }) => ({ limit, opensAt: at === null ? null : new Date(at).toISOString() })),
      },
      "the ledger does not tell what was spent under these limits: all strict limits stay closed (503) until the last of them may open (null = never by " +
        "itself), or until an operator opens the counters. Give all processes one ledger that lasts (ledger.url: a Postgres) to have them rebuilt",
    );
  }

  /** Ms until it is clear that no other process has rows of its own; 0 = it is, null = one has. */
  function unsureFor(): number | null {
    if (options.isLedgerShared) return 0;
    countNodes();
    return aloneSinceMs === null ? null : Math.max(0, aloneSinceMs + ALONE_MS - clock.monotonic());
  }

  function countNodes(): void {
    const now = clock.monotonic();
    if (options.nodes() > 1) {
      aloneSinceMs = null;
      othersSinceMs ??= now;
      // Who comes and goes at once, such as a check of the settings, spends nothing.
      if (now - othersSinceMs >= COUNT_NODES_MS) othersUntilMs = clock.now();
    } else {
      othersSinceMs = null;
      aloneSinceMs ??= now;
    }
  }

  function watchNodes(): void {
    countNodes();
    later(COUNT_NODES_MS, watchNodes);
  }

  /** Null when limits were changed meanwhile: their rules were not the same for all rows. */
  async function count(limits: readonly CompiledLimit[], { fromMs, isBeginning }: Reach) {
    const { version } = registry;
    const replayed = replay({ registry, limits, resolve: options.resolve, nowMs: clock.now(), fromMs, isBeginning });
    let rows = 0;
    for await (const page of ledger.scan(fromMs)) {
      for (const row of page) replayed.add(row);
      rows += page.length;
      // A database in this process never waits by itself, and requests want to be served.
      await new Promise(setImmediate);
      if (isOver()) return null;
    }
    return registry.version === version ? { rows, counters: replayed.counters() } : null;
  }

  async function restore(epoch: string, counters: Iterable<CounterState>): Promise<number> {
    let restored = 0;
    let chunk: CounterState[] = [];
    async function put(): Promise<void> {
      await keep(epoch);
      await continuity.restore(chunk);
      restored += chunk.length;
      chunk = [];
    }
    for (const counter of counters) {
      chunk.push(counter);
      if (chunk.length === CHUNK) await put();
    }
    if (chunk.length > 0) await put();
    return restored;
  }

  return {
    async start() {
      const known = (await memo?.get(EPOCH_KEY))?.value as Memo | undefined;
      seen = known?.epoch ?? null;
      lostAt = known?.lostAt ?? null;
      await continuity.begin(seen);
      if (!options.isLedgerShared) watchNodes();
      stopWatching = continuity.watch(changed);
      changed();
    },
    async openCounters() {
      while (!isOver()) await attempt(true);
      wake?.();
    },
    close() {
      isClosed = true;
      stopWatching?.();
      for (const timer of timers) timer.cancel();
      wake?.();
    },
  };
}

/** The numbers that were set at run time, by the name of their limit. */
export async function setNumbers(records: RecordStore): Promise<ReadonlyMap<string, readonly LimitNumbers[]>> {
  const found = await records.list(LIMIT_NUMBERS);
  const byName = Map.groupBy(found, ({ key }) => decodeURIComponent(key.slice(LIMIT_NUMBERS.length).split("\n", 1)[0] as string));
  return new Map([...byName].map(([name, group]) => [name, group.map(({ value }) => value as LimitNumbers)]));
}
