/** Time as an injected dependency: nothing in the library reads a clock or starts a timer except through a {@link Clock}. */

/** A running timer. Both methods may be called at any time, also after it fired. */
export interface Timer {
  /** Starts the full delay again. */
  refresh(): void;
  cancel(): void;
}

export interface Clock {
  /** Wall clock, ms since the epoch. May jump; used for calendar windows, log lines and rows. */
  now(): number;
  /** Monotonic ms with an arbitrary origin. Never goes back; used for durations and refills. */
  monotonic(): number;
  /** Calls `fn` once after `delayMs`. A timer never keeps the process alive. */
  timer(delayMs: number, fn: () => void): Timer;
}

/** The real clock. */
export const systemClock: Clock = {
  now: Date.now,
  monotonic: () => performance.now(),
  timer(delayMs, fn) {
    const handle = setTimeout(fn, delayMs);
    handle.unref();
    return { refresh: () => void handle.refresh(), cancel: () => clearTimeout(handle) };
  },
};

/** The last moment that a Date can tell, ms since the epoch. */
export const LAST_MOMENT_MS = 8.64e15;

export type MaybePromise<T> = T | Promise<T>;

export function isPromise<T>(value: MaybePromise<T>): value is Promise<T> {
  return typeof value === "object" && value !== null && typeof (value as { then?: unknown }).then === "function";
}

/** Goes on with a value that may still be on its way, without an await when it is not. */
export function andThen<T, U>(value: MaybePromise<T>, next: (value: T) => MaybePromise<U>): MaybePromise<U> {
  return isPromise(value) ? value.then(next) : next(value);
}
