import type { Store } from "../core/store.ts";

/** Takes limits, strikes and records from one store and the ledger from another, e.g. buckets in memory and rows in SQLite. */
export function combineStores(parts: { readonly store: Store; readonly ledger: Store }): Store {
  const { store, ledger } = parts;
  return {
    name: `${store.name}+${ledger.name}`,
    shared: store.shared && ledger.shared,
    limits: store.limits,
    strikes: store.strikes,
    records: store.records,
    ledger: ledger.ledger,
    async ready() {
      await store.ready();
      await ledger.ready();
    },
    async close() {
      await ledger.close();
      await store.close();
    },
  };
}
