import type { Clock } from "../core/time.ts";

const WINDOW_MS = 10_000;
const CELLS = 10;

/** Every gateway may retry this often per window, so that a quiet one still fails over. */
const ALWAYS_ALLOWED = 10;

export interface RetryBudget {
  /** A request came in. */
  request(): void;
  /** Takes one retry; false = the budget is spent and the failure must be passed on. */
  take(): boolean;
}

/**
 * Retries as a share of traffic (plus at least ten per ten seconds): when an upstream is down for everybody, retrying everything would only
 * multiply the load on what is left.
 */
export function retryBudget(clock: Clock, share: number): RetryBudget {
  const requests = new Float64Array(CELLS);
  const retries = new Float64Array(CELLS);
  let cell = Math.floor(clock.monotonic() / (WINDOW_MS / CELLS));

  function turn(): number {
    const now = Math.floor(clock.monotonic() / (WINDOW_MS / CELLS));
    for (let steps = Math.min(now - cell, CELLS); steps > 0; steps -= 1) {
      requests[(now - steps + 1) % CELLS] = 0;
      retries[(now - steps + 1) % CELLS] = 0;
    }
    cell = now;
    return now % CELLS;
  }

  const sum = (cells: Float64Array): number => cells.reduce((total, value) => total + value, 0);

  return {
    request() {
      const at = turn();
      requests[at] = (requests[at] as number) + 1;
    },
    take() {
      const at = turn();
      if (sum(retries) >= ALWAYS_ALLOWED + share * sum(requests)) return false;
      retries[at] = (retries[at] as number) + 1;
      return true;
    },
  };
}
