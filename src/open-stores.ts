import { closeAll } from "./core/close-all.ts";
import { ConfigError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import type { RowSeals } from "./core/row-seal.ts";
import type { Secret } from "./core/secret.ts";
import type { Ledger, LedgerStore, RecordStore, Store } from "./core/store.ts";
import type { Clock, MaybePromise } from "./core/time.ts";
import { boundedLedger, boundedStore } from "./limits/bounded.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { ResolvedLedger, ResolvedStore } from "./options/stores.ts";
import { isMarked } from "./key-mark.ts";
import { memoryStore } from "./stores/memory.ts";

export interface OpenStores {
  readonly store: Store;
  readonly ledger: Ledger;
  /** Whose ledger it is: the store itself, or another. */
  readonly rows: LedgerStore;
  /** Records that outlive the store's own; null = there are none. */
  readonly memo: RecordStore | null;
  /** Whether all processes that share the store write to this ledger. */
  readonly isLedgerShared: boolean;
  /** Closes what was opened here; stores that the host brought stay open. */
  close(): Promise<void>;
}

/** The key that rows are sealed by; null = there is none, or none that may be made. */
type SealKey = (mayMake: boolean) => Secret | null;

/** A key that is there seals from the first row on. A key file is made only where the database does not say that it is lost. */
async function readySealed(store: LedgerStore, seals: RowSeals, sealKey: SealKey): Promise<void> {
  const known = sealKey(false);
  if (known) seals.use(known);
  await store.ready();
  if (known || (await isMarked(store.records))) return;
  const made = sealKey(true);
  if (made) seals.use(made);
}

/** Opens what the options name. Back ends are loaded only when they are used. `sealKey` is asked for the key of rows that can be sealed; absent = none are. */
export async function openStores(options: ResolvedOptions, clock: Clock, logger: Logger, sealKey?: SealKey): Promise<OpenStores> {
  const owned: LedgerStore[] = [];
  const close = (): Promise<void> => closeAll(owned.toReversed().map((store) => () => store.close()));
  try {
    return { ...(await opened(options, clock, logger, owned, sealKey)), close };
  } catch (error) {
    // What is wrong with one of them is to be told; the other one only must not stay open.
    await close().catch(() => {});
    throw error;
  }
}

async function opened(
  options: ResolvedOptions,
  clock: Clock,
  logger: Logger,
  owned: LedgerStore[],
  sealKey: SealKey | undefined,
): Promise<Omit<OpenStores, "close">> {
  async function open<S extends LedgerStore>(wanted: ResolvedStore | ResolvedLedger, made: MaybePromise<S>): Promise<S> {
    const store = await made;
    if (wanted.kind !== "given") owned.push(store);
    if (store.seals && sealKey) await readySealed(store, store.seals, sealKey);
    else await store.ready();
    return store;
  }
  const store = await open(options.store, storeOf(options.store, clock, logger));
  const { ledger: wanted } = options;
  const isOwn = wanted.kind === "store" || samePlace(wanted, options.store);
  const rows = isOwn ? store : await open(wanted, ledgerOf(wanted, clock, logger));
  if (store.shared && !rows.shared) {
    logger.warn(
      { code: "QG_LEDGER_LOCAL", store: store.name, ledger: rows.name },
      "the store is shared and the ledger is not: each node keeps only its own rows; name a Postgres in ledger.url",
    );
  }
  if (store.shared && (isOwn || rows.name === "memory")) {
    logger.warn(
      { code: "QG_LEDGER_MEMORY", store: store.name },
      "rows end with this process, so budgets cannot be rebuilt if the store loses them; name a sqlite: or postgres:// database in ledger.url",
    );
  }
  return {
    store,
    ledger: rows.ledger,
    rows,
    memo: isOwn ? (store.memo ?? null) : rows.name === "memory" ? null : rows.records,
    isLedgerShared: rows.shared,
  };
}

/** Ours end each call by themselves; a host's own may never answer. */
export function withDeadlines(
  stores: OpenStores,
  { store: wanted, ledger: rows }: ResolvedOptions,
  clock: Clock,
): Pick<OpenStores, "store" | "ledger"> {
  const store = wanted.kind === "given" ? boundedStore(stores.store, clock) : stores.store;
  if (stores.ledger === stores.store.ledger) return { store, ledger: store.ledger };
  const isBounded = rows.kind !== "given" || rows.store.isBounded === true;
  return { store, ledger: isBounded ? stores.ledger : boundedLedger(stores.ledger, clock) };
}

const samePlace = (a: ResolvedLedger, b: ResolvedStore): boolean => a.kind === "sqlite" && b.kind === "sqlite" && a.path === b.path;

async function storeOf(wanted: ResolvedStore, clock: Clock, logger: Logger): Promise<Store> {
  switch (wanted.kind) {
    case "given":
      return wanted.store;
    case "memory":
      return memoryStore({ clock });
    case "sqlite":
      return sqlite(wanted.path, clock, logger);
    case "redis": {
      const { redisStore } = await peer(() => import("./stores/redis/index.ts"), "ioredis", "store.url");
      return redisStore(wanted.url.reveal(), { clock, logger });
    }
  }
}

async function ledgerOf(wanted: Exclude<ResolvedLedger, { kind: "store" }>, clock: Clock, logger: Logger): Promise<LedgerStore> {
  switch (wanted.kind) {
    case "given":
      return wanted.store;
    case "memory":
      return memoryStore({ clock });
    case "sqlite":
      return sqlite(wanted.path, clock, logger);
    case "postgres": {
      const { postgresStore } = await peer(() => import("./stores/postgres/index.ts"), "pg", "ledger.url");
      return postgresStore(wanted.url.reveal(), { clock, logger });
    }
  }
}

async function sqlite(path: string, clock: Clock, logger: Logger): Promise<Store> {
  const { sqliteStore } = await import("./stores/sqlite/index.ts");
  return sqliteStore(path, { clock, logger });
}

/** Drivers of servers are optional peers. */
async function peer<T>(load: () => Promise<T>, name: string, option: string): Promise<T> {
  try {
    return await load();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ERR_MODULE_NOT_FOUND") throw error;
    throw new ConfigError([`${option}: needs the package ${name}, which is not installed: npm install ${name}`]);
  }
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
