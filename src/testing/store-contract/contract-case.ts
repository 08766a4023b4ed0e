import type { LedgerStore, Store } from "../../core/store.ts";
import type { TestClock } from "../clock.ts";

/** One promise of a store. It gets an empty store that is ready, on a clock that stands at {@link AT}. */
export interface ContractCase<S extends LedgerStore = Store> {
  readonly name: string;
  run(store: S, clock: TestClock): Promise<void>;
}

/** Gathers what is told by calls and says when so much has come, whether at once or over a wire. */
export interface Gathered<T> {
  readonly all: T[];
  readonly add: (value: T) => void;
  /** Resolves when so many have come. Rejects after five seconds. */
  count(most: number): Promise<void>;
}

const PATIENCE_MS = 5000;

export function gathered<T>(): Gathered<T> {
  const all: T[] = [];
  let wake: (() => void) | undefined;
  return {
    all,
    add(value) {
      all.push(value);
      wake?.();
    },
    async count(most) {
      let timer: NodeJS.Timeout | undefined;
      const tooLate = new Promise<never>((_resolve, reject) => {
        timer = setTimeout(() => reject(new Error(`after ${PATIENCE_MS} ms ${all.length} of ${most} came: ${JSON.stringify(all)}`)), PATIENCE_MS);
      });
      try {
        while (all.length < most) await Promise.race([new Promise<void>((resolve) => (wake = resolve)), tooLate]);
      } finally {
        clearTimeout(timer);
      }
    },
  };
}
