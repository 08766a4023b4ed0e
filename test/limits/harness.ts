import { DatabaseSync } from "node:sqlite";
import type { Charge, Rule, Unit } from "../../src/core/store.ts";
import type { Clock } from "../../src/core/time.ts";
import type { LimitBackend } from "../../src/limits/backend.ts";
import { encodeState } from "../../src/limits/codec.ts";
import { exactKinds, limitEngine, type LimitEngine } from "../../src/limits/engine.ts";
import type { Kinds } from "../../src/limits/kind.ts";
import { MemoryLimits } from "../../src/stores/memory-limits.ts";
import { LIMIT_TABLES, sqliteLimits } from "../../src/stores/sqlite/limits.ts";

/** A midnight in UTC: the T of the vectors. */
export const T = Date.UTC(2026, 10, 20);
export const DAY = 86_400_000;

/** A store whose clocks stand where the test puts them, forwards or backwards. */
export interface Harness {
  readonly store: LimitEngine;
  /** Ms after {@link T}. */
  at(ms: number): Harness;
  now(): number;
  /** The states of these keys as text, `-` where there is none. */
  dump(keys: readonly string[]): readonly string[];
  close(): void;
}

export interface Parts {
  readonly kinds?: Kinds;
  readonly backend?: (backend: LimitBackend) => LimitBackend;
  readonly store?: (engine: LimitEngine) => LimitEngine;
}

export type MakeHarness = () => Harness;

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
        const state = limits.state(key);
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

export const harnesses: readonly (readonly [name: string, make: MakeHarness])[] = [
  ["memory", () => memoryHarness()],
  ["sqlite", sqliteHarness],
];

// The notation of the vectors.
export const B = (capacity: number, n: number, d = 1): Rule => ({ kind: "bucket", capacity, n, d });
export const W = (limit: number, perMs: number, cellMs: number): Rule => ({ kind: "sliding", limit, perMs, cellMs });
export const C = (limit: number): Rule => ({ kind: "concurrency", limit });

/** A limit per UTC day; `ms` is the caller's clock. */
export function K(limit: number, ms = 0): Rule {
  const today = T + Math.floor(ms / DAY) * DAY;
  return { kind: "calendar", limit, bounds: [today - DAY, today, today + DAY, today + 2 * DAY] };
}

export function charge(key: string, rule: Rule, amount: number, more: { readonly unit?: Unit; readonly enforce?: boolean } = {}): Charge {
  return { key, rule, amount, unit: "tokens", enforce: true, ...more };
}
