import { closeAll } from "./core/close-all.ts";
import type { Logger } from "./core/logger.ts";
import type { Ledger, Store } from "./core/store.ts";
import type { Clock } from "./core/time.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { ResolvedOptions, ResolvedStore } from "./options/resolved.ts";
import { memoryStore } from "./stores/memory.ts";

export interface OpenStores {
  readonly store: Store;
  readonly ledger: Ledger;
  /** Closes what was opened here; stores that the host brought stay open. */
  close(): Promise<void>;
}

/** Opens what the options name. Back ends are loaded only when they are used. */
export async function openStores(options: ResolvedOptions, clock: Clock, logger: Logger): Promise<OpenStores> {
  const owned: Store[] = [];
  const close = (): Promise<void> => closeAll(owned.toReversed().map((store) => () => store.close()));
  try {
    return { ...(await opened(options, clock, logger, owned)), close };
  } catch (error) {
    // What is wrong with one of them is to be told; the other one only must not stay open.
    await close().catch(() => {});
    throw error;
  }
}

async function opened(options: ResolvedOptions, clock: Clock, logger: Logger, owned: Store[]): Promise<Omit<OpenStores, "close">> {
  const open = async (wanted: ResolvedStore): Promise<Store> => {
    const store = await storeOf(wanted, clock, logger);
    if (wanted.kind !== "given") owned.push(store);
    await store.ready();
    return store;
  };
  const store = await open(options.store);
  const isSame = options.ledger.kind === "store" || samePlace(options.ledger, options.store);
  const rows = isSame ? store : await open(options.ledger);
  if (store.shared && !rows.shared) {
    logger.warn(
      { code: "QG_LEDGER_LOCAL", store: store.name, ledger: rows.name },
      "the store is shared and the ledger is not: each node keeps only its own rows",
    );
  }
  return { store, ledger: rows.ledger };
}

const samePlace = (a: ResolvedOptions["ledger"], b: ResolvedStore): boolean => a.kind === "sqlite" && b.kind === "sqlite" && a.path === b.path;

async function storeOf(wanted: ResolvedStore, clock: Clock, logger: Logger): Promise<Store> {
  if (wanted.kind === "given") return wanted.store;
  if (wanted.kind === "memory") return memoryStore({ clock });
  const { sqliteStore } = await import("./stores/sqlite/index.ts");
  return sqliteStore(wanted.path, { clock, logger });
}

/** Metrics need prom-client, an optional peer: without it the gateway works and says what is missing. */
export async function loadMetrics(options: ResolvedOptions, logger: Logger): Promise<Metrics | null> {
  try {
    const [client, { metrics }] = await Promise.all([import("prom-client"), import("./metering/metrics.ts")]);
    const { models, credentials, modelAlias } = options;
    const knownModels = [
      ...models.flatMap(({ name, model }) => (model === undefined ? [name] : [name, model])),
      ...credentials.flatMap((credential) => credential.models ?? []),
      ...Object.entries(modelAlias).flat(),
    ];
    return metrics(client, { knownModels });
  } catch (error) {
    logger.warn({ err: error, code: "QG_METRICS_OFF" }, "metrics are off: install prom-client, or set monitoring.prometheus_enabled to false");
    return null;
  }
}
