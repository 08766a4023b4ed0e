import { ConfigError } from "../core/errors.ts";
import type { Ledger, RecordStore, Store, StrikeStore } from "../core/store.ts";
import type { MaybePromise } from "../core/time.ts";
import { transactLimits, type StateChange } from "./define-limits.ts";

export type { StateWrite } from "./define-backend.ts";
export type { StateChange } from "./define-limits.ts";

export interface StoreDefinition {
  /** In logs and health. Default: `custom`. */
  readonly name?: string;
  /** Whether several processes see the same state. */
  readonly shared: boolean;
  /**
   * Reads the keys, calls `change` with their texts (undefined = nothing) and the store's time (ms since the epoch), and stores what it returns,
   * as if nobody else touched those keys meanwhile. All or nothing: when it resolves, the writes are there for all processes; when it rejects,
   * none of them is. `change` answers at once and never throws. A transaction that has to be repeated calls it again; the last call counts.
   *
   * Keys are texts such as `state/…`, `hold/…` and `open/7`, values texts of mostly a few hundred bytes. `ttlMs` tells when a
   * value may be forgotten (null = never); `value: null` removes the key.
   */
  transact(keys: readonly string[], change: StateChange): MaybePromise<void>;
  /** Numbers of limits that another process sets are in force here once `watch` has told of them. */
  readonly records: RecordStore;
  readonly strikes: StrikeStore;
  readonly ledger: Ledger;
  /** Resolves when the store can serve. Called once, and again only after it rejected. */
  ready?(): MaybePromise<void>;
  /** Called once. */
  close?(): MaybePromise<void>;
  /** How many processes share it now, this one included. Absent = only this one. */
  nodes?(): number;
  /** True = each call ends by itself within a second, whatever happens. Others are given a deadline by the guard. */
  readonly isBounded?: boolean;
}

const NEEDED = ["transact", "records", "strikes", "ledger"] as const;
const OPTIONS: readonly string[] = ["name", "shared", ...NEEDED, "ready", "close", "nodes", "isBounded"] satisfies (keyof StoreDefinition)[];

/**
 * A store over a database of your own. All limits, reservations and their arithmetic are built on one function that you write, `transact`: only its
 * atomicity is yours. A verb is one transaction (two where it has to learn the keys of a hold first). What `transact` throws becomes
 * `store_unavailable`. Prove the result with `storeContract` from `quotaguard/testing`.
 *
 * @throws ConfigError for a missing, unknown or unusable part.
 * @example
 * // Texts in a Map, one transaction after another.
 * const rows = new Map<string, { value: string; until: number }>();
 * let last: Promise<unknown> = Promise.resolve();
 * const { records, strikes, ledger } = memoryStore();
 * const store = defineStore({
 *   name: "rows", shared: false, records, strikes, ledger,
 *   transact(keys, change) {
 *     const mine = last.then(async () => {
 *       const now = Date.now();
 *       const live = (key: string) => { const row = rows.get(key); return row && row.until > now ? row.value : undefined; };
 *       for (const { key, value, ttlMs } of change(keys.map(live), now)) {
 *         if (value === null) rows.delete(key);
 *         else rows.set(key, { value, until: ttlMs === null ? Infinity : now + ttlMs });
 *       }
 *     });
 *     last = mine.catch(() => {});
 *     return mine;
 *   },
 * });
 */
export function defineStore(definition: StoreDefinition): Store {
  const { name = "custom", shared, records, strikes, ledger, isBounded } = checked(definition);
  let starting: Promise<void> | undefined;
  let closing: Promise<void> | undefined;
  return {
    name,
    shared,
    limits: transactLimits((keys, change) => definition.transact(keys, change)),
    strikes,
    records,
    ledger,
    ...(isBounded === undefined ? {} : { isBounded }),
    ...(definition.nodes === undefined ? {} : { nodes: () => definition.nodes?.() ?? 1 }),
    ready() {
      starting ??= Promise.resolve()
        .then(() => definition.ready?.())
        .catch((error: unknown) => {
          // The next call tries again.
          starting = undefined;
          throw error;
        });
      return starting;
    },
    close() {
      return (closing ??= Promise.resolve().then(() => definition.close?.()));
    },
  };
}

function checked(definition: StoreDefinition): StoreDefinition {
  if (typeof definition !== "object" || (definition as unknown) === null)
    throw new ConfigError([`defineStore needs an object with ${NEEDED.join(", ")} and shared`]);
  // An object of a class has members of its own.
  const isPlain = Object.getPrototypeOf(definition) === Object.prototype;
  const problems = Object.keys(definition)
    .filter((key) => isPlain && !OPTIONS.includes(key))
    .map((key) => `defineStore knows no ${key}: it knows ${OPTIONS.join(", ")}`);
  for (const part of NEEDED) {
    const kind = part === "transact" ? "function" : "object";
    if (typeof definition[part] !== kind || (definition[part] as unknown) === null)
      problems.push(`defineStore needs ${part}: ${kind === "function" ? "a function" : "an object"}`);
  }
  if (typeof definition.shared !== "boolean") problems.push("defineStore needs shared: true or false, whether several processes see the same state");
  if (problems.length > 0) throw new ConfigError(problems);
  return definition;
}
