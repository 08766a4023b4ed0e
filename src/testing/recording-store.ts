import type { LedgerRow } from "../core/ledger.ts";
import type { Amounts, Charge, ExpiredReservation, FinishResult, LimitStore, ReserveResult, Store } from "../core/store.ts";
import { isPromise, systemClock, type Clock, type MaybePromise } from "../core/time.ts";
import { memoryStore } from "../stores/memory.ts";

/** When a verb was asked for and when it was answered: monotonic ms of the recording's clock, and its place among all questions and answers. */
export interface VerbSpan {
  readonly startMs: number;
  readonly endMs: number;
  readonly startOrder: number;
  readonly endOrder: number;
}

/** Counts questions and answers of all recordings of this process, so that several can be read together. */
let order = 0;

/** One verb of the limits, with its answer. `null` = it failed, so nobody knows whether it was carried out. */
export type Verb = VerbSpan &
  (
    | {
        readonly verb: "reserve";
        readonly opId: string;
        readonly charges: readonly Charge[];
        readonly ttlMs: number;
        readonly result: ReserveResult | null;
      }
    | { readonly verb: "settle"; readonly opId: string; readonly actual: Amounts; readonly result: FinishResult | null }
    | { readonly verb: "release" | "lapse"; readonly opId: string; readonly result: FinishResult | null }
    | { readonly verb: "extend"; readonly opId: string; readonly ttlMs: number; readonly result: boolean | null }
    | { readonly verb: "expire"; readonly result: readonly ExpiredReservation[] | null }
  );

/** What a store did, in the order of its answers. */
export interface StoreRecording {
  readonly verbs: readonly Verb[];
  /** Rows that the ledger was told to close, in that order. */
  readonly closed: readonly LedgerRow[];
  /** Verbs and rows beyond the recording's limit. */
  readonly unrecorded: number;
  /** Verbs that are not answered yet. */
  readonly pending: number;
  /** How often counters were lost. */
  readonly losses: number;
  /** Reads the counters, whatever faults are on. */
  readonly peek: LimitStore["peek"];
  readonly clock: Clock;
}

export interface RecordingStore extends Store {
  readonly recording: StoreRecording;
}

export interface RecordingStoreOptions {
  /** What is recorded. Default: a memory store on the same clock. */
  readonly store?: Store;
  /** Default: the system's clock. */
  readonly clock?: Clock;
  /** How many verbs are remembered, and how many rows. Default 200,000. */
  readonly limit?: number;
}

/**
 * Any store, with a record of what its limits did: `expectConserved()` reads it. It adds nothing and changes nothing, so it may stand in any test.
 * @example
 * const store = recordingStore();
 * const guard = createGuard({ store, … });
 * // … requests …
 * await expectConserved({ guard, store });
 */
export function recordingStore(options: RecordingStoreOptions = {}): RecordingStore {
  const { clock = systemClock, limit = 200_000 } = options;
  const { store = memoryStore({ clock }) } = options;
  const { limits, ledger } = store;
  const verbs: Verb[] = [];
  const closed: LedgerRow[] = [];
  let unrecorded = 0;
  let pending = 0;
  let losses = 0;
  limits.continuity?.watch(() => {
    if (limits.continuity?.isWhole === false) losses += 1;
  });

  function keep<T>(list: T[], item: T): void {
    if (list.length < limit) list.push(item);
    else unrecorded += 1;
  }

  function record<T>(run: () => MaybePromise<T>, verb: (span: VerbSpan, result: T | null) => Verb): MaybePromise<T> {
    const startMs = clock.monotonic();
    const startOrder = (order += 1);
    pending += 1;
    const done = (result: T | null): void => {
      pending -= 1;
      keep(verbs, verb({ startMs, endMs: clock.monotonic(), startOrder, endOrder: (order += 1) }, result));
    };
    try {
      const answer = run();
      if (!isPromise(answer)) {
        done(answer);
        return answer;
      }
      return answer.then(
        (result) => {
          done(result);
          return result;
        },
        (error: unknown) => {
          done(null);
          throw error;
        },
      );
    } catch (error) {
      done(null);
      throw error;
    }
  }

  return {
    ...store,
    limits: {
      reserve: (opId, charges, ttlMs) =>
        record(
          () => limits.reserve(opId, charges, ttlMs),
          (span, result) => ({ verb: "reserve", opId, charges, ttlMs, result, ...span }),
        ),
      settle: (opId, actual) =>
        record(
          () => limits.settle(opId, actual),
          (span, result) => ({ verb: "settle", opId, actual, result, ...span }),
        ),
      release: (opId) =>
        record(
          () => limits.release(opId),
          (span, result) => ({ verb: "release", opId, result, ...span }),
        ),
      lapse: (opId) =>
        record(
          () => limits.lapse(opId),
          (span, result) => ({ verb: "lapse", opId, result, ...span }),
        ),
      extend: (opId, ttlMs) =>
        record(
          () => limits.extend(opId, ttlMs),
          (span, result) => ({ verb: "extend", opId, ttlMs, result, ...span }),
        ),
      expire: (most) =>
        record(
          () => limits.expire(most),
          (span, result) => ({ verb: "expire", result, ...span }),
        ),
      peek: (places) => limits.peek(places),
      ...(limits.continuity ? { continuity: limits.continuity } : {}),
    },
    ledger: {
      intent: (row) => ledger.intent(row),
      close(row) {
        // The guard completes the row's object itself; what it says now is what counts.
        keep(closed, { ...row });
        ledger.close(row);
      },
      flush: () => ledger.flush(),
      get: (id) => ledger.get(id),
      list: (filter) => ledger.list(filter),
      totals: (filter, groupBy) => ledger.totals(filter, groupBy),
      scan: (fromMs) => ledger.scan(fromMs),
      completeSince: () => ledger.completeSince(),
    },
    recording: {
      verbs,
      closed,
      clock,
      peek: (places) => limits.peek(places),
      get unrecorded() {
        return unrecorded;
      },
      get pending() {
        return pending;
      },
      get losses() {
        return losses;
      },
    },
  };
}
