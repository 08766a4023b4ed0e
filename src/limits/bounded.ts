/** Stores that we did not write may never answer. Behind these wrappers each of their calls ends. */
import { GuardError } from "../core/errors.ts";
import type { Continuity, Ledger, LimitStore, RecordStore, Store, StrikeStore } from "../core/store.ts";
import { isPromise, type Clock, type MaybePromise, type Timer } from "../core/time.ts";

/** For calls that a request waits for. */
const CALL_MS = 1_000;
/** For those that read much, or that nobody waits for. */
const LONG_CALL_MS = 30_000;
/** So many calls in a row without an answer, and the store is left alone for a while. */
const MOST_MISSES = 3;
const PAUSE_MS = 1_000;

/**
 * Makes a call and sees that it ends: an answer that does not come in time is `store_unavailable`. What is answered at once is handed on as it is,
 * without a promise. After a few misses in a row calls fail at once for a second; then one is let through, and its answer opens the way again.
 */
export type Bounded = <T>(call: () => MaybePromise<T>) => MaybePromise<T>;

interface Pending {
  readonly dueAt: number;
  readonly miss: () => void;
}

export function bounded({ clock, deadlineMs }: { readonly clock: Clock; readonly deadlineMs: number }): Bounded {
  /** In the order in which they fall due: all have the same time. */
  const pending = new Set<Pending>();
  let timer: Timer | undefined;
  let misses = 0;
  let pausedUntil = 0;
  /** The one call that finds out whether the store is back. */
  let isTrying = false;

  function overdue(): void {
    timer = undefined;
    const now = clock.monotonic();
    for (const call of pending) {
      if (call.dueAt > now) {
        timer = clock.timer(call.dueAt - now, overdue);
        return;
      }
      pending.delete(call);
      call.miss();
    }
  }

  function missed(): GuardError {
    misses += 1;
    if (misses >= MOST_MISSES) pausedUntil = clock.monotonic() + PAUSE_MS;
    return new GuardError("store_unavailable", `the store did not answer within ${deadlineMs} ms`, { retryAfterMs: PAUSE_MS });
  }

  function answered(): void {
    misses = 0;
  }

  function waitFor<T>(answer: Promise<T>): Promise<T> {
    const isTrial = misses >= MOST_MISSES;
    if (isTrial) isTrying = true;
    return new Promise((resolve, reject) => {
      const call: Pending = {
        dueAt: clock.monotonic() + deadlineMs,
        miss() {
          if (isTrial) isTrying = false;
          reject(missed());
        },
      };
      pending.add(call);
      timer ??= clock.timer(deadlineMs, overdue);
      // True = in time. What comes later was told as a miss, and is nobody's any more; yet it shows that the store answers.
      const isInTime = (): boolean => {
        answered();
        if (!pending.delete(call)) return false;
        if (isTrial) isTrying = false;
        if (pending.size === 0) {
          timer?.cancel();
          timer = undefined;
        }
        return true;
      };
      answer.then(
        (value) => {
          if (isInTime()) resolve(value);
        },
        (error: unknown) => {
          if (isInTime()) reject(error);
        },
      );
    });
  }

  return function run(call) {
    if (misses >= MOST_MISSES) {
      const pauseMs = pausedUntil - clock.monotonic();
      if (isTrying || pauseMs > 0) {
        throw new GuardError("store_unavailable", "the store has not answered for a while", { retryAfterMs: Math.max(1, pauseMs) });
      }
    }
    const answer = call();
    if (isPromise(answer)) return waitFor(answer);
    answered();
    return answer;
  };
}

/** A refusal of ours stays what it is, and a RangeError says that the caller's amounts can never be taken. Everything else is trouble in the store. */
function unavailable(error: unknown): never {
  if (GuardError.is(error) || error instanceof RangeError) throw error;
  throw new GuardError("store_unavailable", "the store failed", { retryAfterMs: PAUSE_MS, cause: error });
}

/** For calls that decide about a request: other people's errors do not go to its client. */
function decisive(run: Bounded): Bounded {
  return (call) => {
    try {
      const answer = run(call);
      return isPromise(answer) ? answer.catch(unavailable) : answer;
    } catch (error) {
      return unavailable(error);
    }
  };
}

interface Deadlines {
  /** For what requests wait for. */
  readonly soon: Bounded;
  /** For starts, sweeps and reports: what went wrong is for operators, and stays as the store says it. */
  readonly later: Bounded;
}

const deadlines = (clock: Clock): Deadlines => ({
  soon: decisive(bounded({ clock, deadlineMs: CALL_MS })),
  later: bounded({ clock, deadlineMs: LONG_CALL_MS }),
});

/** A store whose calls all end: see {@link Bounded}. One that says that its own do (`isBounded`) is returned as it is. */
export function boundedStore(store: Store, clock: Clock): Store {
  if (store.isBounded === true) return store;
  const calls = deadlines(clock);
  return {
    name: store.name,
    shared: store.shared,
    isBounded: true,
    limits: boundedLimits(store.limits, calls),
    strikes: boundedStrikes(store.strikes, calls),
    records: boundedRecords(store.records, calls),
    ledger: boundedLedger(store.ledger, clock),
    ready: () => store.ready(),
    close: () => store.close(),
    nodes: () => store.nodes?.() ?? 1,
  };
}

function boundedLimits(limits: LimitStore, { soon, later }: Deadlines): LimitStore {
  const { continuity } = limits;
  return {
    reserve: (opId, charges, ttlMs) => soon(() => limits.reserve(opId, charges, ttlMs)),
    settle: (opId, actual) => soon(() => limits.settle(opId, actual)),
    release: (opId) => soon(() => limits.release(opId)),
    extend: (opId, ttlMs) => soon(() => limits.extend(opId, ttlMs)),
    lapse: (opId) => soon(() => limits.lapse(opId)),
    expire: (most) => later(() => limits.expire(most)),
    peek: (places) => soon(() => limits.peek(places)),
    ...(continuity ? { continuity: boundedContinuity(continuity, later) } : {}),
  };
}

function boundedContinuity(continuity: Continuity, later: Bounded): Continuity {
  return {
    get epoch() {
      return continuity.epoch;
    },
    get isWhole() {
      return continuity.isWhole;
    },
    begin: async (lastSeen) => later(() => continuity.begin(lastSeen)),
    watch: (fn) => continuity.watch(fn),
    claim: async (ttlMs) => later(() => continuity.claim(ttlMs)),
    restore: async (counters) => later(() => continuity.restore(counters)),
    complete: async () => later(() => continuity.complete()),
  };
}

function boundedStrikes(strikes: StrikeStore, { soon }: Deadlines): StrikeStore {
  return {
    strike: (key, windowMs) => soon(() => strikes.strike(key, windowMs)),
    clear: (key) => soon(() => strikes.clear(key)),
  };
}

function boundedRecords(records: RecordStore, { soon, later }: Deadlines): RecordStore {
  return {
    get: (key) => soon(() => records.get(key)),
    put: (key, value, how) => soon(() => records.put(key, value, how)),
    delete: (key) => soon(() => records.delete(key)),
    list: (prefix) => later(() => records.list(prefix)),
    watch: (prefix, fn) => records.watch(prefix, fn),
  };
}

/** Records beside the store's own, such as those of a ledger. */
export const boundedMemo = (records: RecordStore, clock: Clock): RecordStore => boundedRecords(records, deadlines(clock));

/** Rows may be kept elsewhere than counters, so they have a pause of their own. Only a request's intent is waited for by anybody in a hurry. */
export function boundedLedger(ledger: Ledger, clock: Clock): Ledger {
  const { soon, later } = deadlines(clock);
  const { fold } = ledger;
  return {
    intent: (row) => soon(() => ledger.intent(row)),
    close: (row) => ledger.close(row),
    flush: () => later(() => ledger.flush()),
    get: (id) => later(() => ledger.get(id)),
    list: (filter) => later(() => ledger.list(filter)),
    totals: (filter, groupBy) => later(() => ledger.totals(filter, groupBy)),
    async *scan(fromMs) {
      const pages = ledger.scan(fromMs)[Symbol.asyncIterator]();
      try {
        for (;;) {
          const next = await later(() => pages.next());
          if (next.done === true) return;
          yield next.value;
        }
      } finally {
        // Nobody waits for a store to take leave.
        pages.return?.().catch(() => {});
      }
    },
    completeSince: () => later(() => ledger.completeSince()),
    ...(fold ? { fold: (beforeMs, most) => later(() => fold(beforeMs, most)) } : {}),
  };
}
