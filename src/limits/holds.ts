import type { Logger } from "../core/logger.ts";
import type { Amounts, Charge, FinishResult, LimitStore, ReserveResult, Shortfall } from "../core/store.ts";
import { isPromise, type Clock, type MaybePromise, type Timer } from "../core/time.ts";

/** Finishes that could not be delivered wait here; more than this means the store has been away for very long. */
const MAX_WAITING = 100_000;
/** Of these, releases of reservations without a reply: an outage makes one with each request, and they must not push out what was spent. */
const MAX_UNANSWERED = 10_000;
const RETRY_MS = 1_000;
/** Tried at one time, once the first has shown that the store is back. */
const AT_ONCE = 8;
/** As long as a late settlement is still taken as a correction. */
const GIVE_UP_MS = 24 * 60 * 60_000;
/** How long the end waits for what is still to be delivered. */
const FLUSH_MS = 5_000;

export interface Holds {
  /** Reserves and, when allowed, keeps the hold alive until it is finished. Throws `store_unavailable` as the store does. */
  reserve(store: LimitStore, opId: string, charges: readonly Charge[]): MaybePromise<ReserveResult>;
  /** Finishes a hold: settled with the actual amounts, released, or lapsed (charged as held until corrected). Never throws: an unreachable store is tried again with the same opId. */
  finish(store: LimitStore, opId: string, ending: Ending): MaybePromise<void>;
  /** Finishes that are still to be delivered. */
  readonly waiting: number;
  /** Holds of requests that are still running. */
  readonly open: number;
  /** What these hold of the counters of a store, by key. Looks through all of them. */
  heldOf(store: LimitStore, keys: ReadonlySet<string>): ReadonlyMap<string, number>;
  /** Tries what is waiting once more; resolves when that attempt is over, or after 5 s. Never rejects. */
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
  /** Undoes a reservation that may never have been made. */
  readonly isUnanswered: boolean;
}

interface OpenHold {
  readonly store: LimitStore;
  readonly charges: readonly Charge[];
  /** Shadow charges that did not fit: they hold nothing. */
  readonly skipped: readonly Shortfall[];
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
  let retrying: Promise<void> | undefined;
  let closed = false;
  /** Taken out of `waiting` and being tried. */
  let underWay = 0;
  /** How many of all that wait undo a reservation. */
  let unanswered = 0;
  let dropped = 0;
  let isExtending = false;
  let cannotProlong = false;

  function wait(item: Waiting, error: unknown): void {
    if (!isAway(error)) {
      refused(item, error);
      return;
    }
    if (waiting.length + underWay >= MAX_WAITING || (item.isUnanswered && unanswered >= MAX_UNANSWERED)) {
      if (dropped === 0)
        logger.error({ err: error }, "too many settlements wait for the store: further ones are dropped, and their holds stay charged as estimated");
      dropped += 1;
      return;
    }
    if (item.isUnanswered) unanswered += 1;
    waiting.push(item);
    retryLater();
  }

  function retryLater(): void {
    if (!closed) retrier ??= clock.timer(RETRY_MS, () => void retry());
  }

  /** One round at a time: who asks during one gets its end. */
  function retry(): Promise<void> {
    retrier?.cancel();
    retrier = undefined;
    return (retrying ??= round().finally(() => (retrying = undefined)));
  }

  /** Goes through what waits, oldest first, until one fails: that speaks for the rest, which then is not tried in vain. */
  async function round(): Promise<void> {
    const batch = waiting;
    waiting = [];
    underWay = batch.length;
    const failed: Waiting[] = [];
    let next = 0;
    while (next < batch.length && failed.length === 0) {
      // The first one alone: a store that is still away is not met with a crowd.
      const some = batch.slice(next, next + (next === 0 ? 1 : AT_ONCE));
      next += some.length;
      await Promise.all(some.map((item) => deliver(item, failed)));
    }
    underWay = 0;
    // What failed goes last: should it be its own fault, it must not hold up the others for ever. Finishes of one hold may come in any order.
    waiting = [...batch.slice(next), ...waiting, ...failed];
    if (failed.length > 0) waiting = waiting.filter((item) => !isTooLate(item));
    if (waiting.length > 0) retryLater();
    else if (dropped > 0) {
      logger.warn({ dropped }, "the settlements that waited are delivered; those that were dropped stay charged as estimated");
      dropped = 0;
    }
  }

  async function deliver(item: Waiting, failed: Waiting[]): Promise<void> {
    try {
      await verb(item.store, item.opId, item.ending);
    } catch (error) {
      if (isAway(error)) {
        failed.push(item);
        return;
      }
      refused(item, error);
    }
    underWay -= 1;
    if (item.isUnanswered) unanswered -= 1;
  }

  function isTooLate({ opId, since, isUnanswered }: Waiting): boolean {
    if (clock.monotonic() - since < GIVE_UP_MS) return false;
    if (isUnanswered) unanswered -= 1;
    logger.error({ opId }, "a settlement could not be delivered for a day and is given up; the hold stays charged as estimated");
    return true;
  }

  /** The store is there and will never take it: the hold stays charged as it was held. */
  function refused({ store, opId, ending }: Waiting, error: unknown): void {
    logger.error({ opId, err: error }, "the store refused a settlement; the hold stays charged as estimated");
    if (ending !== "lapse") void finish(store, opId, "lapse");
  }

  async function extendAll(): Promise<void> {
    isExtending = true;
    const now = clock.monotonic();
    const due = [...open].filter(([, hold]) => hold.extendAt <= now);
    let nextMs = third;
    for (let i = 0; i < due.length && nextMs === third; i += AT_ONCE) {
      const results = await Promise.all(due.slice(i, i + AT_ONCE).map(([opId, hold]) => prolong(opId, hold, now)));
      // When none could be, the rest would fare no better now.
      if (!results.includes(true)) nextMs = Math.min(third, RETRY_MS);
    }
    isExtending = false;
    extender = undefined;
    if (open.size > 0) extendLater(nextMs);
  }

  function extendLater(ms: number): void {
    if (!closed && !isExtending) extender ??= clock.timer(ms, () => void extendAll());
  }

  async function prolong(opId: string, hold: OpenHold, now: number): Promise<boolean> {
    if (!open.has(opId)) return true;
    try {
      await hold.store.extend(opId, ttlMs);
      hold.extendAt = now + third;
      cannotProlong = false;
      return true;
    } catch (error) {
      if (!cannotProlong) logger.warn({ err: error, opId }, "holds cannot be prolonged; it is tried again before they run out");
      cannotProlong = true;
      // Last in line, so that one that can never be prolonged does not stand before the others.
      if (open.delete(opId)) open.set(opId, hold);
      return false;
    }
  }

  /** A round that is under way may have begun before the last ones came to wait. */
  async function retryAll(): Promise<void> {
    if (retrying) await retrying;
    if (waiting.length > 0) await retry();
  }

  function keep(store: LimitStore, opId: string, charges: readonly Charge[], skipped: readonly Shortfall[]): void {
    open.set(opId, { store, charges, skipped, extendAt: clock.monotonic() + third });
    extendLater(third);
  }

  function verb(store: LimitStore, opId: string, ending: Ending): MaybePromise<FinishResult> {
    if (ending === "release") return store.release(opId);
    return ending === "lapse" ? store.lapse(opId) : store.settle(opId, ending);
  }

  function finish(store: LimitStore, opId: string, ending: Ending): MaybePromise<void> {
    open.delete(opId);
    const lost = (error: unknown): void => wait({ store, opId, ending, since: clock.monotonic(), isUnanswered: false }, error);
    try {
      const result = verb(store, opId, ending);
      if (isPromise(result)) {
        return result.then(() => undefined, lost);
      }
    } catch (error) {
      lost(error);
    }
    return undefined;
  }

  return {
    reserve(store, opId, charges) {
      const settle = (result: ReserveResult): ReserveResult => {
        if (result.kind === "allowed") keep(store, opId, charges, result.skipped);
        return result;
      };
      const lost = (error: unknown): never => {
        // No reply is no answer: the store may still carry it out, so it must be undone. What it refused outright it has not done.
        if (isAway(error)) wait({ store, opId, ending: "release", since: clock.monotonic(), isUnanswered: true }, error);
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
      return waiting.length + underWay;
    },
    get open() {
      return open.size;
    },
    heldOf(store, keys) {
      const held = new Map<string, number>();
      for (const { store: at, charges, skipped } of open.values()) {
        if (at !== store) continue;
        charges.forEach(({ key, amount }, i) => {
          if (keys.has(key) && !skipped.some(({ index }) => index === i)) held.set(key, (held.get(key) ?? 0) + amount);
        });
      }
      return held;
    },
    async flush() {
      let timer: Timer | undefined;
      const timeout = new Promise<void>((resolve) => {
        timer = clock.timer(FLUSH_MS, resolve);
      });
      await Promise.race([retryAll(), timeout]);
      timer?.cancel();
    },
    close() {
      closed = true;
      const left = waiting.length + underWay;
      if (left > 0) logger.error({ waiting: left }, "the store was away at the end: settlements are lost, and their holds stay charged as estimated");
      extender?.cancel();
      retrier?.cancel();
    },
  };
}
