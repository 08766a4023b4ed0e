import type { Ledger, LimitStore, RecordStore, Store, StrikeStore } from "../core/store.ts";
import type { MaybePromise } from "../core/time.ts";

/** A part of a store. */
export type StorePart = "limits" | "records" | "strikes" | "ledger";

/** One operation of a store. */
export type StoreCall =
  | `limits.${Exclude<keyof LimitStore, "continuity">}`
  | `records.${Exclude<keyof RecordStore, "watch">}`
  | `strikes.${keyof StrikeStore}`
  | `ledger.${keyof Ledger}`
  | "ready";

/** Where a fault strikes: a whole part, or one operation of it. */
export type StorePlace = StorePart | StoreCall;

const PLACES: { readonly [place in StorePlace]: true } = {
  limits: true,
  "limits.reserve": true,
  "limits.settle": true,
  "limits.release": true,
  "limits.extend": true,
  "limits.lapse": true,
  "limits.expire": true,
  "limits.peek": true,
  records: true,
  "records.get": true,
  "records.put": true,
  "records.delete": true,
  "records.list": true,
  strikes: true,
  "strikes.strike": true,
  "strikes.clear": true,
  ledger: true,
  "ledger.intent": true,
  "ledger.close": true,
  "ledger.flush": true,
  "ledger.get": true,
  "ledger.list": true,
  "ledger.totals": true,
  "ledger.scan": true,
  "ledger.completeSince": true,
  "ledger.fold": true,
  ready: true,
};

export const STORE_PLACES: readonly string[] = Object.keys(PLACES);

/** Stands between a caller and a store: `run` carries the call out. `ledger.close` has nobody who waits for it, so only what happens at once counts. */
export type Tap = <T>(call: StoreCall, run: () => MaybePromise<T>) => MaybePromise<T>;

/** The same store, with `tap` around each of its calls. Watchers and `close()` go straight through. */
export function tappedStore(store: Store, tap: Tap): Store {
  const { limits, records, strikes, ledger } = store;
  const { continuity } = limits;
  const { fold } = ledger;
  const tappedLimits: LimitStore = {
    reserve: (opId, charges, ttlMs) => tap("limits.reserve", () => limits.reserve(opId, charges, ttlMs)),
    settle: (opId, actual) => tap("limits.settle", () => limits.settle(opId, actual)),
    release: (opId) => tap("limits.release", () => limits.release(opId)),
    extend: (opId, ttlMs) => tap("limits.extend", () => limits.extend(opId, ttlMs)),
    lapse: (opId) => tap("limits.lapse", () => limits.lapse(opId)),
    expire: (most) => tap("limits.expire", () => limits.expire(most)),
    peek: (places) => tap("limits.peek", () => limits.peek(places)),
    ...(continuity ? { continuity } : {}),
  };
  const tappedRecords: RecordStore = {
    get: (key) => tap("records.get", () => records.get(key)),
    put: (key, value, how) => tap("records.put", () => records.put(key, value, how)),
    delete: (key) => tap("records.delete", () => records.delete(key)),
    list: (prefix) => tap("records.list", () => records.list(prefix)),
    watch: (prefix, fn) => records.watch(prefix, fn),
  };
  const tappedStrikes: StrikeStore = {
    strike: (key, windowMs) => tap("strikes.strike", () => strikes.strike(key, windowMs)),
    clear: (key) => tap("strikes.clear", () => strikes.clear(key)),
  };
  const tappedLedger: Ledger = {
    intent: (row) => tap("ledger.intent", () => ledger.intent(row)),
    close: (row) => void tap("ledger.close", () => ledger.close(row)),
    flush: () => tap("ledger.flush", () => ledger.flush()),
    get: (id) => tap("ledger.get", () => ledger.get(id)),
    list: (filter) => tap("ledger.list", () => ledger.list(filter)),
    totals: (filter, groupBy) => tap("ledger.totals", () => ledger.totals(filter, groupBy)),
    async *scan(fromMs) {
      yield* await tap("ledger.scan", () => ledger.scan(fromMs));
    },
    completeSince: () => tap("ledger.completeSince", () => ledger.completeSince()),
    ...(fold ? { fold: (beforeMs, most) => tap("ledger.fold", () => fold(beforeMs, most)) } : {}),
  };
  return {
    name: store.name,
    shared: store.shared,
    limits: tappedLimits,
    records: tappedRecords,
    strikes: tappedStrikes,
    ledger: tappedLedger,
    ready: () => tap("ready", () => store.ready()),
    close: () => store.close(),
    ...(store.isBounded === undefined ? {} : { isBounded: store.isBounded }),
    ...(store.nodes ? { nodes: () => (store.nodes as () => number)() } : {}),
    ...(store.memo ? { memo: store.memo } : {}),
    ...(store.seals ? { seals: store.seals } : {}),
  };
}
