import { ConfigError } from "../core/errors.ts";
import { silentLogger, type Logger } from "../core/logger.ts";
import type { Store } from "../core/store.ts";
import { systemClock, type Clock } from "../core/time.ts";
import { limitEngine } from "../limits/engine.ts";
import { memoryLedger } from "./memory-ledger.ts";
import { MemoryLimits } from "./memory-limits.ts";
import { memoryRecords } from "./memory-records.ts";
import { strikeStore } from "./strikes.ts";

export interface MemoryStoreOptions {
  /** Default: the system's clock. */
  readonly clock?: Clock;
  /** Told about watchers that fail. Default: silent. */
  readonly logger?: Logger;
  /**
   * How many counters may stay when they say no more than their absence would (full buckets, ended windows). Counters that still hold something
   * against somebody are kept beyond it. Default 100,000, about 20 MB.
   */
  readonly maxStates?: number;
  /** How many finished requests the ledger remembers. Default 10,000. */
  readonly maxLedgerRows?: number;
}

const OPTIONS: readonly string[] = ["clock", "logger", "maxStates", "maxLedgerRows"] satisfies (keyof MemoryStoreOptions)[];

/**
 * Limits, strikes, records and ledger in this process: fast, exact, and gone when it ends. Refills run on the monotonic clock, so setting the system's
 * time neither grants nor takes anything; only days, weeks and months follow the wall clock.
 *
 * @throws ConfigError for an unknown or unusable option.
 * @example const guard = createGuard({ store: memoryStore(), … });
 */
export function memoryStore(options: MemoryStoreOptions = {}): Store {
  const { clock = systemClock, logger = silentLogger, maxStates = 100_000, maxLedgerRows = 10_000 } = checked(options);
  const limits = new MemoryLimits(clock, maxStates);
  return {
    name: "memory",
    shared: false,
    limits: limitEngine(limits),
    strikes: strikeStore({ clock }),
    records: memoryRecords(() => limits.now(), logger),
    ledger: memoryLedger(maxLedgerRows, clock.now()),
    ready: () => undefined,
    close: () => undefined,
  };
}

function checked(options: MemoryStoreOptions): MemoryStoreOptions {
  if (typeof options !== "object" || (options as unknown) === null) throw new ConfigError([`memoryStore takes options: ${OPTIONS.join(", ")}`]);
  const problems = Object.keys(options)
    .filter((name) => !OPTIONS.includes(name))
    .map((name) => `memoryStore has no option ${name}: it knows ${OPTIONS.join(", ")}`);
  for (const name of ["maxStates", "maxLedgerRows"] as const) {
    const value = options[name];
    if (value !== undefined && !(Number.isSafeInteger(value) && value > 0))
      problems.push(`memoryStore's ${name} must be a whole number from 1 up, not ${String(value)}`);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return options;
}
