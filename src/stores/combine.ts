import { ConfigError } from "../core/errors.ts";
import type { LedgerStore, Store } from "../core/store.ts";

/**
 * Takes limits, strikes and records from one store and the ledger from another, e.g. counters in Redis and rows in Postgres.
 *
 * @throws ConfigError for a part that is missing, or is no store.
 */
export function combineStores(parts: { readonly store: Store; readonly ledger: LedgerStore }): Store {
  const { store, ledger } = checked(parts);
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

const STORE_PARTS = ["limits", "strikes", "records"] as const;
const LEDGER_PARTS = ["ledger", "records"] as const;

/** JavaScript may give anything. */
function checked(given: unknown): { readonly store: Store; readonly ledger: LedgerStore } {
  const { store, ledger } = (given ?? {}) as { readonly store?: Partial<Store> | null; readonly ledger?: Partial<LedgerStore> | null };
  const problems: string[] = [];
  if (!STORE_PARTS.every((part) => typeof store?.[part] === "object"))
    problems.push('combineStores needs store: what keeps the counters, such as redisStore("redis://localhost:6379/0")');
  if (!LEDGER_PARTS.every((part) => typeof ledger?.[part] === "object"))
    problems.push('combineStores needs ledger: what keeps the rows, such as postgresStore("postgres://localhost/quota")');
  if (problems.length > 0) throw new ConfigError(problems);
  return { store, ledger } as { readonly store: Store; readonly ledger: LedgerStore };
}
