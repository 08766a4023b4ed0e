/** How the store fares, as told by everybody who uses it: one state, one log line per change, and a way back that needs no traffic. */
import type { StoreState } from "./core/admin.ts";
import { GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import type { Charge, Ledger, LimitStore, RecordStore, ReserveResult, Store, StrikeStore } from "./core/store.ts";
import { isPromise, type Clock, type MaybePromise, type Timer } from "./core/time.ts";

const PROBE_MS = 1_000;
/** It is back when a probe was answered and nothing has failed for so long. */
const QUIET_MS = 500;
/** Trouble that returns within this time is the same trouble: it must be quiet for twice as long each time, so that the log stays short. */
const RELAPSE_MS = 10_000;
const MOST_QUIET_MS = 30_000;
/** What a client is told to wait when the store does not say. */
const RETRY_AFTER_MS = 1_000;
/** Nobody reads this key. */
const PROBE_KEY = "probe/none";

/** What failed, as the metrics call it. */
export type StoreOp = "reserve" | "settle" | "release" | "extend" | "lapse" | "expire" | "peek" | "records" | "strikes" | "intent" | "close";
/** What becomes of it: refused with 503 · tried again until it succeeds · its caller knows. What a failed `reserve` leads to is known to who asked. */
export type StoreErrorMode = "deny" | "retry" | "told";

const MODES: Readonly<Record<Exclude<StoreOp, "reserve">, StoreErrorMode>> = {
  settle: "retry",
  release: "retry",
  extend: "retry",
  lapse: "retry",
  expire: "retry",
  peek: "told",
  records: "told",
  strikes: "told",
  intent: "deny",
  close: "told",
};

export interface StoreWatchOptions {
  readonly store: Store;
  readonly ledger: Ledger;
  readonly clock: Clock;
  readonly logger: Logger;
  /** What waits for the ledger's database; null = nothing can. */
  readonly spool?: { state(): { readonly since: number | null; readonly reason: string | null } } | null;
  /** Counts failures; those of `reserve` are counted by who asked. */
  readonly failed: (op: StoreOp, mode: StoreErrorMode) => void;
}

export interface StoreWatch {
  /** The same store and ledger; what happens to their calls is noticed. Failures they throw are meant for clients: without a cause, with a time to wait. */
  readonly store: Store;
  readonly ledger: Ledger;
  state(): StoreState;
  /** Since when counters cannot be asked, ms; 0 = they can. */
  outageMs(): number;
  /** Whether intents cannot be written, so that no request may be sent. */
  isLedgerAway(): boolean;
  /** Whether counters cannot be asked, or are not whole. */
  areCountersUnsure(): boolean;
  stop(): void;
}

interface Part {
  readonly failed: (op: StoreOp, error: unknown) => void;
  /** Since when it is away; null = it is not. */
  readonly since: () => { readonly wall: number; readonly monotonic: number; readonly reason: string } | null;
  readonly stop: () => void;
}

interface PartOptions {
  readonly part: "store" | "ledger";
  readonly meanwhile: string;
  readonly probe: () => MaybePromise<unknown>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** The store's own words are for clients, so they hold no address and no secret; anybody else's are not shown. */
const reasonOf = (error: unknown): string => (GuardError.is(error) ? error.message : "the store failed");

function watchedPart({ part, meanwhile, probe, clock, logger }: PartOptions): Part {
  let away: { readonly wall: number; readonly monotonic: number; readonly reason: string } | null = null;
  let lastFailureAt = 0;
  let lastBackAt = -Infinity;
  let quietMs = QUIET_MS;
  let decisions = 0;
  let isProbing = false;
  let stopped = false;
  let timer: Timer | undefined;

  function failed(op: StoreOp, error: unknown): void {
    lastFailureAt = clock.monotonic();
    if (op === "reserve" || op === "intent") decisions += 1;
    logger.debug({ err: error, op, part }, "a call of the store failed");
    if (away || stopped) return;
    quietMs = lastFailureAt - lastBackAt < RELAPSE_MS ? Math.min(MOST_QUIET_MS, quietMs * 2) : QUIET_MS;
    away = { wall: clock.now(), monotonic: lastFailureAt, reason: reasonOf(error) };
    logger.error({ code: "QG_STORE_DEGRADED", part, op, err: error }, `the ${part} cannot be used: ${meanwhile}`);
    timer = clock.timer(PROBE_MS, tick);
  }

  function tick(): void {
    if (!away || stopped) return;
    timer?.refresh();
    if (isProbing) return;
    isProbing = true;
    const done = (): void => {
      isProbing = false;
      // However well the probe fared: not back while calls go on failing.
      if (clock.monotonic() - lastFailureAt >= quietMs) back();
    };
    const notYet = (): void => {
      isProbing = false;
    };
    try {
      const answer = probe();
      if (isPromise(answer)) answer.then(done, notYet);
      else done();
    } catch {
      notYet();
    }
  }

  function back(): void {
    if (!away || stopped) return;
    const seconds = Math.round((clock.monotonic() - away.monotonic) / 100) / 10;
    logger.info(
      { code: "QG_STORE_BACK", part, seconds, decisions },
      `the ${part} is back after ${seconds} s; ${decisions} decisions were made without it`,
    );
    away = null;
    decisions = 0;
    lastBackAt = clock.monotonic();
    timer?.cancel();
  }

  return {
    failed,
    since: () => away,
    stop() {
      stopped = true;
      timer?.cancel();
    },
  };
}

/** As it goes to clients: what caused it was logged when it began, and not once per request. */
function forClients(error: unknown): unknown {
  if (!GuardError.is(error) || error.code !== "store_unavailable") return error;
  if (error.cause === undefined && error.retryAfterMs !== undefined) return error;
  const { message, limit, scope, needed, available, retryAfterMs = RETRY_AFTER_MS } = error;
  return new GuardError("store_unavailable", message, {
    ...(limit === undefined ? {} : { limit }),
    ...(scope === undefined ? {} : { scope }),
    ...(needed === undefined ? {} : { needed }),
    ...(available === undefined ? {} : { available }),
    retryAfterMs,
  });
}

/** Watches a store and the ledger beside it. The state is about what operators see and how long an outage may go on; decisions are made by each call's own fate. */
export function storeWatch(options: StoreWatchOptions): StoreWatch {
  const { store, ledger, clock, logger } = options;
  const { continuity } = store.limits;
  const counters = watchedPart({
    part: "store",
    meanwhile: "limits with on_store_error deny refuse with 503, local ones are counted in this process, settlements wait",
    // A write that needs room, since a store that can only be read, or has no memory left, is not back. One in this process would wait for its file's
    // lock and hold up everybody, so there a read must do.
    probe: () => (store.shared ? store.records.put(PROBE_KEY, 0, { ttlMs: PROBE_MS }) : store.records.get(PROBE_KEY)),
    clock,
    logger,
  });
  const rows = watchedPart({
    part: "ledger",
    meanwhile: "no request is sent to a provider while it cannot be written down first; they are refused with 503",
    // Resolves once everything is committed: a ledger that can be read, but not written, is not back.
    probe: () => ledger.flush(),
    clock,
    logger,
  });
  let lostAt: number | null = null;
  const unwatch = continuity?.watch(() => {
    if (continuity.isWhole) lostAt = null;
    else lostAt ??= clock.now();
  });

  const isTrouble = (error: unknown): boolean => !(error instanceof RangeError) && (!GuardError.is(error) || error.code === "store_unavailable");

  function fail(op: StoreOp, error: unknown): never {
    if (isTrouble(error)) {
      if (op !== "reserve") options.failed(op, MODES[op]);
      (op === "intent" || op === "close" ? rows : counters).failed(op, error);
    }
    throw forClients(error);
  }

  /** Without a promise where the store has none: most answer at once. */
  function seen<T>(op: StoreOp, call: () => MaybePromise<T>): MaybePromise<T> {
    try {
      const answer = call();
      return isPromise(answer) ? answer.catch((error: unknown) => fail(op, error)) : answer;
    } catch (error) {
      return fail(op, error);
    }
  }

  function refusedStrictly(charges: readonly Charge[], error: unknown): never {
    // Counters that are being rebuilt are no outage: the store answers, and says so.
    if (continuity?.isWhole === false && charges.some(({ strict }) => strict === true)) throw forClients(error);
    return fail("reserve", error);
  }

  function reserve(opId: string, charges: readonly Charge[], ttlMs: number): MaybePromise<ReserveResult> {
    try {
      const answer = store.limits.reserve(opId, charges, ttlMs);
      return isPromise(answer) ? answer.catch((error: unknown) => refusedStrictly(charges, error)) : answer;
    } catch (error) {
      return refusedStrictly(charges, error);
    }
  }

  const { limits, strikes, records } = store;
  const watchedLimits: LimitStore = {
    reserve,
    settle: (opId, actual) => seen("settle", () => limits.settle(opId, actual)),
    release: (opId) => seen("release", () => limits.release(opId)),
    extend: (opId, ttlMs) => seen("extend", () => limits.extend(opId, ttlMs)),
    lapse: (opId) => seen("lapse", () => limits.lapse(opId)),
    expire: (most) => seen("expire", () => limits.expire(most)),
    peek: (places) => seen("peek", () => limits.peek(places)),
    ...(continuity ? { continuity } : {}),
  };
  const watchedStrikes: StrikeStore = {
    strike: (key, windowMs) => seen("strikes", () => strikes.strike(key, windowMs)),
    clear: (key) => seen("strikes", () => strikes.clear(key)),
  };
  const watchedRecords: RecordStore = {
    get: (key) => seen("records", () => records.get(key)),
    put: (key, value, how) => seen("records", () => records.put(key, value, how)),
    delete: (key) => seen("records", () => records.delete(key)),
    list: (prefix) => seen("records", () => records.list(prefix)),
    watch: (prefix, fn) => records.watch(prefix, fn),
  };
  const watchedLedger: Ledger = {
    intent: (row) => seen("intent", () => ledger.intent(row)),
    close(row) {
      // A request is over whatever becomes of its row: nobody could answer for it here.
      try {
        ledger.close(row);
      } catch (error) {
        if (!isTrouble(error)) throw error;
        options.failed("close", MODES.close);
        rows.failed("close", error);
      }
    },
    flush: () => ledger.flush(),
    get: (id) => ledger.get(id),
    list: (filter) => ledger.list(filter),
    totals: (filter, groupBy) => ledger.totals(filter, groupBy),
    scan: (fromMs) => ledger.scan(fromMs),
    completeSince: () => ledger.completeSince(),
  };

  return {
    store: {
      name: store.name,
      shared: store.shared,
      isBounded: true,
      limits: watchedLimits,
      strikes: watchedStrikes,
      records: watchedRecords,
      ledger: watchedLedger,
      ready: () => store.ready(),
      close: () => store.close(),
      nodes: () => store.nodes?.() ?? 1,
    },
    ledger: watchedLedger,
    state() {
      const away = counters.since() ?? rows.since();
      if (away) return { state: "degraded", since: away.wall, reason: away.reason };
      if (continuity?.isWhole === false) {
        // Lost before anybody listened: noticed now.
        lostAt ??= clock.now();
        return { state: "rebuilding", since: lostAt, reason: "the store has lost its counters; they are rebuilt from the ledger" };
      }
      const spooled = options.spool?.state();
      if (spooled && spooled.since !== null) return { state: "degraded", since: spooled.since, reason: spooled.reason };
      return { state: "ok", since: null, reason: null };
    },
    outageMs() {
      const away = counters.since();
      return away ? clock.monotonic() - away.monotonic : 0;
    },
    isLedgerAway: () => rows.since() !== null,
    areCountersUnsure: () => counters.since() !== null || continuity?.isWhole === false,
    stop() {
      counters.stop();
      rows.stop();
      unwatch?.();
    },
  };
}
