/** Lets a test decide when each event of a stream leaves the fake upstream, without sleeping. */
export interface Pacer {
  /** Lets `count` more events out (default 1), now or when they are ready. */
  step(count?: number): void;
  /** No more waiting from here on. */
  open(): void;
  /** Resolves once a stream waits for a step. */
  waiting(): Promise<void>;
  /** For the fake: null = go on. */
  pass(): PacerTurn | null;
}

export interface PacerTurn {
  readonly ready: Promise<void>;
  /** The stream is gone; its turn goes to nobody. */
  cancel(): void;
}

/**
 * One pacer may serve many streams: each event takes one step, whoever comes first.
 * @example
 * const events = pacer();
 * upstream.script({ pacer: events });
 * events.step(2); // two events go out, the third waits
 * events.open(); // and all others
 */
export function pacer(): Pacer {
  const turns = new Set<() => void>();
  let watchers: (() => void)[] = [];
  let permits = 0;

  function release(): void {
    for (const go of turns) {
      if (permits === 0) return;
      permits -= 1;
      turns.delete(go);
      go();
    }
  }

  return {
    step(count = 1) {
      permits += count;
      release();
    },
    open() {
      permits = Number.POSITIVE_INFINITY;
      release();
    },
    waiting() {
      return turns.size > 0 ? Promise.resolve() : new Promise((resolve) => void watchers.push(resolve));
    },
    pass() {
      if (permits > 0) {
        permits -= 1;
        return null;
      }
      const { promise, resolve } = Promise.withResolvers<void>();
      turns.add(resolve);
      for (const tell of watchers) tell();
      watchers = [];
      return { ready: promise, cancel: () => void turns.delete(resolve) };
    },
  };
}
