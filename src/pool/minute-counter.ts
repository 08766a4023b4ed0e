/** Requests and tokens of the last minute. */
export interface MinuteCount {
  readonly requests: number;
  readonly tokens: number;
}

/** Counts in one-second cells; bounded, no timers. */
export interface MinuteCounter {
  /** Counts a request; returns the second it was counted in, for {@link takeBack}. */
  request(): number;
  /** Uncounts a request, unless its second has left the minute. */
  takeBack(second: number): void;
  tokens(count: number): void;
  read(): MinuteCount;
}

const SECONDS = 60;

export function minuteCounter(monotonicMs: () => number): MinuteCounter {
  const requests = new Float64Array(SECONDS);
  const tokens = new Float64Array(SECONDS);
  let last = Math.floor(monotonicMs() / 1_000);

  function turn(): number {
    const second = Math.floor(monotonicMs() / 1_000);
    for (let steps = Math.min(second - last, SECONDS); steps > 0; steps -= 1) {
      const cell = (second - steps + 1) % SECONDS;
      requests[cell] = 0;
      tokens[cell] = 0;
    }
    last = second;
    return second;
  }

  const add = (cells: Float64Array, second: number, amount: number): void => {
    const cell = second % SECONDS;
    cells[cell] = (cells[cell] as number) + amount;
  };
  const sum = (cells: Float64Array): number => cells.reduce((total, value) => total + value, 0);

  return {
    request() {
      const second = turn();
      add(requests, second, 1);
      return second;
    },
    takeBack(second) {
      if (turn() - second < SECONDS) add(requests, second, -1);
    },
    tokens(count) {
      add(tokens, turn(), count);
    },
    read() {
      turn();
      return { requests: sum(requests), tokens: sum(tokens) };
    },
  };
}
