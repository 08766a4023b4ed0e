/** What sells budgets on: keys for clients, their organisations, and the numbers of their limits. */
import { adoptRule, type AdoptRule } from "./adopt-rule.ts";
import { closeAll } from "./core/close-all.ts";
import { GuardError } from "./core/errors.ts";
import type { LimitAdmin } from "./core/limit-admin.ts";
import type { Logger } from "./core/logger.ts";
import { BUILT_IN_SCOPES } from "./core/scope.ts";
import type { RecordStore, Store } from "./core/store.ts";
import type { Clock } from "./core/time.ts";
import { boundedMemo } from "./limits/bounded.ts";
import type { LimitDefinition } from "./limits/limit.ts";
import type { LimitRegistry } from "./limits/registry.ts";
import { limitSettings } from "./limit-settings.ts";
import type { OpenStores } from "./open-stores.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { organisations, type Organisations } from "./organisations.ts";
import { shadowReports, type ShadowReports } from "./shadow-reports.ts";
import { secretKey } from "./secret-key.ts";
import { storedKeys, type StoredKeys } from "./stored-keys.ts";

export interface Reselling {
  readonly keys: StoredKeys;
  readonly orgs: Organisations;
  readonly limits: LimitAdmin;
  readonly reports: ShadowReports;
  readonly adopt: AdoptRule;
  close(): Promise<void>;
}

export interface ResellingParts {
  readonly options: ResolvedOptions;
  readonly stores: OpenStores;
  /** With its deadlines. */
  readonly store: Store;
  readonly registry: LimitRegistry;
  readonly declared: () => Iterable<LimitDefinition>;
  readonly clock: Clock;
  readonly logger: Logger;
}

/** The records that outlive the counters, with deadlines: those of the ledger's store. `own` are those of the store itself, with its own. */
export function keptRecords(
  { store, rows }: Pick<OpenStores, "store" | "rows">,
  own: RecordStore,
  { ledger }: ResolvedOptions,
  clock: Clock,
): RecordStore {
  if (rows === store) return own;
  return ledger.kind === "given" ? boundedMemo(rows.records, clock) : rows.records;
}

/** Reads what it must know before the first request. */
export async function reselling({ options, stores, store, registry, declared, clock, logger }: ResellingParts): Promise<Reselling> {
  const records = keptRecords(stores, store.records, options, clock);
  const isLocal = stores.store.shared && !stores.rows.shared;
  function mayMake(): void {
    if (!isLocal) return;
    throw new GuardError(
      "forbidden",
      "keys and organisations cannot be made here: the store is shared, and the ledger is this process's own; name a Postgres in ledger.url",
    );
  }
  const { auth, scopes } = options;
  const orgs = organisations({ records, clock, logger, mayMake });
  const keys = storedKeys({
    records,
    secretKey: (mayMakeKey) => secretKey(options, mayMakeKey),
    replaces: options.secrets.replaces,
    configured: auth?.kind === "keys" ? auth.keys.map(({ name }) => name) : [],
    declaredScopes: new Set([...BUILT_IN_SCOPES, ...scopes.names, ...Object.keys(scopes.headers)]),
    orgs,
    mayMake,
    clock,
    logger,
  });
  const reports = shadowReports({ records: store.records, clock, logger });
  const close = (): Promise<void> => closeAll([() => keys.close(), () => orgs.close(), () => reports.close()]);
  try {
    await Promise.all([orgs.load(), keys.load()]);
  } catch (error) {
    await close();
    throw error;
  }
  const adopt = adoptRule(store.limits, clock);
  return { keys, orgs, limits: limitSettings({ registry, declared, adopt, reports, clock }), reports, adopt, close };
}
