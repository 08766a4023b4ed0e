import type { Clock, Timer } from "../core/time.ts";

export interface TestClock extends Clock {
  /** Moves both clocks forward and fires what falls due, in order, including timers that are started on the way. */
  advance(ms: number): void;
  /** Sets the wall clock only, as NTP or an operator would: no timer fires and `monotonic` stays. */
  set(nowMs: number): void;
  /** Moves both clocks, back too, as a machine's that slept or was restored: no timer fires, each keeps the time that it has left. */
  jump(ms: number): void;
  /** How many timers are running. */
  pending(): number;
}

export interface TestClockOptions {
  /** Wall clock at the start, ms since the epoch. Default: 2026-01-01T00:00:00Z. */
  readonly now?: number;
}

interface Running {
  dueMs: number;
  /** Breaks ties: started (or refreshed) first fires first. */
  order: number;
}

/**
 * A clock that moves only when a test says so.
 * @example
 * const clock = testClock();
 * const guard = createGuard({ clock, … });
 * clock.advance(60_000); // a minute later: windows have moved, holds have run out
 */
export function testClock(options: TestClockOptions = {}): TestClock {
  let wallOffsetMs = options.now ?? Date.UTC(2026, 0, 1);
  let elapsedMs = 0;
  let started = 0;
  const running = new Map<Running, () => void>();

  function nextDue(untilMs: number): Running | undefined {
    let next: Running | undefined;
    for (const timer of running.keys()) {
      if (timer.dueMs > untilMs) continue;
      if (!next || timer.dueMs < next.dueMs || (timer.dueMs === next.dueMs && timer.order < next.order)) next = timer;
    }
    return next;
  }

  return {
    now: () => Math.floor(wallOffsetMs + elapsedMs),
    monotonic: () => elapsedMs,
    timer(delayMs, fn): Timer {
      // Node rounds 0 up to 1 ms as well; without it a timer that restarts itself would never let `advance` return.
      const delay = delayMs >= 1 ? delayMs : 1;
      const timer: Running = { dueMs: elapsedMs + delay, order: ++started };
      let cancelled = false;
      running.set(timer, fn);
      return {
        refresh() {
          if (cancelled) return;
          timer.dueMs = elapsedMs + delay;
          timer.order = ++started;
          running.set(timer, fn);
        },
        cancel() {
          cancelled = true;
          running.delete(timer);
        },
      };
    },
    advance(ms) {
      if (!(ms >= 0)) throw new RangeError(`advance(${ms}): time only moves forward; use set() for wall clock jumps`);
      const untilMs = elapsedMs + ms;
      for (let timer = nextDue(untilMs); timer; timer = nextDue(untilMs)) {
        elapsedMs = Math.max(elapsedMs, timer.dueMs);
        const fire = running.get(timer);
        running.delete(timer);
        fire?.();
      }
      elapsedMs = Math.max(elapsedMs, untilMs);
    },
    set(nowMs) {
      wallOffsetMs = nowMs - elapsedMs;
    },
    jump(ms) {
      elapsedMs += ms;
      for (const timer of running.keys()) timer.dueMs += ms;
    },
    pending: () => running.size,
  };
}
