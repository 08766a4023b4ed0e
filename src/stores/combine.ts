import type { LedgerStore, Store } from "../core/store.ts";

/** Takes limits, strikes and records from one store and the ledger from another, e.g. counters in Redis and rows in Postgres. */
export function combineStores(parts: { readonly store: Store; readonly ledger: LedgerStore }): Store {
  const { store, ledger } = parts;
  return {
    name: `${store.name}+${ledger.name}`,
    shared: store.shared && ledger.shared,
    limits: store.limits,
    strikes: store.strikes,
    records: store.records,
    ledger: ledger.ledger,
    ...(ledger.seals ? { seals: ledger.seals } : {}),
    // A deadline for all calls where one of the two needs it.
    ...(store.isBounded === undefined ? {} : { isBounded: store.isBounded && ledger.isBounded === true }),
    ...(ledger.name === "memory" ? {} : { memo: ledger.records }),
    ...(store.nodes ? { nodes: () => store.nodes?.() ?? 1 } : {}),
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
