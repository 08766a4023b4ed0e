import { DatabaseSync } from "node:sqlite";
import type { Clock, MaybePromise } from "../../src/core/time.ts";
import type { LimitBackend } from "../../src/limits/backend.ts";
import { encodeState } from "../../src/limits/codec.ts";
import { exactKinds, limitEngine, type LimitEngine } from "../../src/limits/engine.ts";
import type { Kinds } from "../../src/limits/kind.ts";
import { transactLimits } from "../../src/stores/define-limits.ts";
import type { StoreDefinition } from "../../src/stores/define-store.ts";
import { MemoryLimits } from "../../src/stores/memory-limits.ts";
import { LIMIT_TABLES, sqliteLimits } from "../../src/stores/sqlite/limits.ts";
import { T, type Limits } from "../../src/testing/store-contract/limits-kit.ts";

export { B, C, charge, DAY, K, T, W } from "../../src/testing/store-contract/limits-kit.ts";

/** A store whose clocks stand where the test puts them, and into which a test can look. */
export interface Harness extends Limits {
  /** The states of these keys as text, `-` where there is none. */
  dump(keys: readonly string[]): MaybePromise<readonly string[]>;
  close(): MaybePromise<void>;
}

export interface Parts {
  readonly kinds?: Kinds;
  readonly backend?: (backend: LimitBackend) => LimitBackend;
  readonly store?: (engine: LimitEngine) => LimitEngine;
}

export type MakeHarness = () => MaybePromise<Harness>;

function handClock(): { clock: Clock; at(ms: number): void } {
  let ms = 0;
  return {
    at: (value) => void (ms = value),
    clock: {
      now: () => T + ms,
      monotonic: () => 5000 + ms,
      timer: () => {
        throw new Error("limits start no timers");
      },
    },
  };
}

export function memoryHarness({ kinds = exactKinds, backend = (same) => same, store = (same) => same }: Parts = {}): Harness {
  const { clock, at } = handClock();
  const limits = new MemoryLimits(clock, 1000);
  const harness: Harness = {
    store: store(limitEngine(backend(limits), kinds)),
    at(ms) {
      at(ms);
      return harness;
    },
    now: () => clock.now(),
    dump: (keys) =>
      keys.map((key) => {
        const state = limits.state({ key });
        return state === undefined ? "-" : encodeState(state);
      }),
    close: () => undefined,
  };
  return harness;
}

export function sqliteHarness(): Harness {
  const { clock, at } = handClock();
  const db = new DatabaseSync(":memory:");
  db.exec(LIMIT_TABLES);
  const row = db.prepare("select state from quotaguard_limit_state where key = ?");
  const harness: Harness = {
    store: sqliteLimits(db, clock),
    at(ms) {
      at(ms);
      return harness;
    },
    now: () => clock.now(),
    dump: (keys) => keys.map((key) => String(row.get(key)?.state ?? "-")),
    close: () => db.close(),
  };
  return harness;
}

/** The rows of a store of one's own: texts with their time to live, one transaction after another. */
export class Rows {
  readonly all = new Map<string, { readonly value: string; readonly until: number }>();
  readonly #now: () => number;
  #last: Promise<unknown> = Promise.resolve();

  constructor(now: () => number) {
    this.#now = now;
  }

  readonly transact: StoreDefinition["transact"] = (keys, change) => {
    const mine = this.#last.then(() => {
      const now = this.#now();
      for (const { key, value, ttlMs } of change(
        keys.map((one) => this.read(one)),
        now,
      )) {
        if (value === null) this.all.delete(key);
        else this.all.set(key, { value, until: ttlMs === null ? Infinity : now + ttlMs });
      }
    });
    this.#last = mine.catch(() => {});
    return mine;
  };

  read(key: string): string | undefined {
    const row = this.all.get(key);
    return row !== undefined && row.until > this.#now() ? row.value : undefined;
  }

  /** Forgets what may be forgotten. */
  sweep(): void {
    for (const [key, { until }] of this.all) if (until <= this.#now()) this.all.delete(key);
  }
}

export function definedHarness(): Harness {
  const { clock, at } = handClock();
  const rows = new Rows(() => clock.now());
  const store = transactLimits(rows.transact);
  const harness: Harness = {
    store: {
      ...store,
      expire(most) {
        rows.sweep();
        return store.expire(most);
      },
    },
    at(ms) {
      at(ms);
      return harness;
    },
    now: () => clock.now(),
    dump: (keys) => keys.map((key) => rows.read(`state/${key}`) ?? "-"),
    close: () => undefined,
  };
  return harness;
}

export const harnesses: readonly (readonly [name: string, make: MakeHarness])[] = [
  ["memory", () => memoryHarness()],
  ["sqlite", sqliteHarness],
  ["a store of one's own", definedHarness],
];
