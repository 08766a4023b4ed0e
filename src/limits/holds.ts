import type { Logger } from "../core/logger.ts";
import type { Amounts, Charge, FinishResult, LimitStore, ReserveResult } from "../core/store.ts";
import { isPromise, type Clock, type MaybePromise, type Timer } from "../core/time.ts";

/** Settlements that could not be delivered wait here; more than this means the store has been away for very long. */
const MAX_WAITING = 100_000;
const RETRY_MS = 1_000;
/** As long as a late settlement is still taken as a correction. */
const GIVE_UP_MS = 24 * 60 * 60_000;

export interface Holds {
  /** Reserves and, when allowed, keeps the hold alive until it is finished. Throws `store_unavailable` as the store does. */
  reserve(store: LimitStore, opId: string, charges: readonly Charge[]): MaybePromise<ReserveResult>;
  /** Finishes a hold: settled with the actual amounts, released, or lapsed (charged as held until corrected). Never throws: an unreachable store is tried again with the same opId. */
  finish(store: LimitStore, opId: string, ending: Ending): MaybePromise<void>;
  /** Finishes that are still to be delivered. */
  readonly waiting: number;
  /** Holds of requests that are still running. */
  readonly open: number;
  /** Tries what is waiting once more; resolves when that attempt is over. */
  flush(): Promise<void>;
  close(): void;
}

/** Whether asking again may help: only a RangeError says that the amounts themselves can never be taken. */
const isAway = (error: unknown): boolean => !(error instanceof RangeError);

export type Ending = Amounts | "release" | "lapse";

interface Waiting {
  readonly store: LimitStore;
  readonly opId: string;
  readonly ending: Ending;
  readonly since: number;
}

interface OpenHold {
  readonly store: LimitStore;
  extendAt: number;
}

/** Keeps what requests hold: prolongs it while they run, and sees to it that each is finished exactly once, whatever the store does. */
export function holds(options: { readonly clock: Clock; readonly logger: Logger; readonly ttlMs: number }): Holds {
  const { clock, logger, ttlMs } = options;
  const third = Math.floor(ttlMs / 3);
  const open = new Map<string, OpenHold>();
  let waiting: Waiting[] = [];
  let extender: Timer | undefined;
  let retrier: Timer | undefined;
  let closed = false;
  /** Taken out of `waiting` and being tried. */
  let underWay = 0;

  function wait(store: LimitStore, opId: string, ending: Ending, error: unknown): void {
    if (!isAway(error)) {
      refused({ store, opId, ending, since: clock.monotonic() }, error);
      return;
    }
    if (waiting.length + underWay >= MAX_WAITING) {
      logger.error({ opId, err: error }, "a settlement was dropped: too many are waiting for the store; the hold stays charged as estimated");
      return;
    }
    if (waiting.length === 0) logger.warn({ err: error }, "the store did not take a settlement; it is tried again until it does");
    waiting.push({ store, opId, ending, since: clock.monotonic() });
    if (!closed) retrier ??= clock.timer(RETRY_MS, () => void retry());
  }

  async function retry(): Promise<void> {
    retrier?.cancel();
    retrier = undefined;
    const batch = waiting;
    waiting = [];
    underWay = batch.length;
    for (let i = 0; i < batch.length; i += 1) {
      const item = batch[i] as Waiting;
      try {
        await verb(item.store, item.opId, item.ending);
      } catch (error) {
        if (isAway(error)) {
          // One failure speaks for the rest: keep their order and come back.
          waiting = [...batch.slice(i).filter((each) => !isTooLate(each)), ...waiting];
          break;
        }
        refused(item, error);
      }
      underWay -= 1;
    }
    underWay = 0;
    if (waiting.length > 0 && !closed) retrier ??= clock.timer(RETRY_MS, () => void retry());
  }

  function isTooLate({ opId, since }: Waiting): boolean {
    if (clock.monotonic() - since < GIVE_UP_MS) return false;
    logger.error({ opId }, "a settlement could not be delivered for a day and is given up; the hold stays charged as estimated");
    return true;
  }

  /** The store is there and will never take it: the hold stays charged as it was held. */
  function refused({ store, opId, ending }: Waiting, error: unknown): void {
    logger.error({ opId, err: error }, "the store refused a settlement; the hold stays charged as estimated");
    if (ending !== "lapse") void finish(store, opId, "lapse");
  }

  async function extendAll(): Promise<void> {
    extender = undefined;
    const now = clock.monotonic();
    for (const [opId, hold] of open) {
      if (hold.extendAt > now) continue;
      hold.extendAt = now + third;
      try {
        await hold.store.extend(opId, ttlMs);
      } catch (error) {
        logger.warn({ err: error, opId }, "a hold could not be prolonged; it is tried again before it runs out");
      }
    }
    if (open.size > 0 && !closed) extender ??= clock.timer(third, () => void extendAll());
  }

  function keep(store: LimitStore, opId: string): void {
    open.set(opId, { store, extendAt: clock.monotonic() + third });
    if (!closed) extender ??= clock.timer(third, () => void extendAll());
  }

  function verb(store: LimitStore, opId: string, ending: Ending): MaybePromise<FinishResult> {
    if (ending === "release") return store.release(opId);
    return ending === "lapse" ? store.lapse(opId) : store.settle(opId, ending);
  }

  function finish(store: LimitStore, opId: string, ending: Ending): MaybePromise<void> {
    open.delete(opId);
    try {
      const result = verb(store, opId, ending);
      if (isPromise(result)) {
        return result.then(
          () => undefined,
          (error: unknown) => wait(store, opId, ending, error),
        );
      }
    } catch (error) {
      wait(store, opId, ending, error);
    }
    return undefined;
  }

  return {
    reserve(store, opId, charges) {
      const settle = (result: ReserveResult): ReserveResult => {
        if (result.kind === "allowed") keep(store, opId);
        return result;
      };
      const lost = (error: unknown): never => {
        // No reply is no answer: the store may still carry it out, so it must be undone. What it refused outright it has not done.
        if (isAway(error)) wait(store, opId, "release", error);
        throw error;
      };
      try {
        const result = store.reserve(opId, charges, ttlMs);
        return isPromise(result) ? result.then(settle, lost) : settle(result);
      } catch (error) {
        return lost(error);
      }
    },
    finish,
    get waiting() {
      return waiting.length;
    },
    get open() {
      return open.size;
    },
    async flush() {
      if (waiting.length > 0) await retry();
    },
    close() {
      closed = true;
      extender?.cancel();
      retrier?.cancel();
    },
  };
}
