/** Opened stores whose ledger may be away for a while: its rows are then kept in a file on this machine. */
import type { Logger } from "./core/logger.ts";
import type { LedgerStore } from "./core/store.ts";
import type { Clock } from "./core/time.ts";
import { GuardError } from "./core/errors.ts";
import { openStores, type OpenStores } from "./open-stores.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { ResolvedLedger } from "./options/stores.ts";
import { sealKey } from "./secret-key.ts";
import type { SpooledLedger } from "./stores/spool/spooled-ledger.ts";

export interface SpoolingStores extends OpenStores {
  /** Null = nothing is served while the ledger is away. */
  readonly spool: SpooledLedger | null;
}

/** What a spool says about whose rows it holds: one database and schema, however one logs in there. */
export function ledgerName({ url, place }: Extract<ResolvedLedger, { kind: "postgres" }>): string {
  return `${place} ${new URL(url.reveal()).searchParams.get("schema") ?? "public"}`;
}

/** Opens what a guard's options name, its rows sealed, with a spool where one is wanted. */
export const openSpooling = async (options: ResolvedOptions, clock: Clock, logger: Logger): Promise<SpoolingStores> =>
  spooling(await openStores(options, clock, logger, (mayMake) => sealKey(options, logger, mayMake)), options, clock, logger);

/** Puts a spool before the ledger where the options want one. What dead processes left in its folder is taken at once. Closes the stores when it rejects. */
async function spooling(stores: OpenStores, { ledger }: ResolvedOptions, clock: Clock, logger: Logger): Promise<SpoolingStores> {
  const { rows } = stores;
  if (ledger.kind !== "postgres" || ledger.spool === null || !replays(rows)) return { ...stores, spool: null };
  try {
    const { spooledLedger } = await import("./stores/spool/spooled-ledger.ts");
    const spool = spooledLedger({ store: rows, name: ledgerName(ledger), ...ledger.spool, clock, logger });
    await spool.start();
    return { ...stores, spool, ledger: spool.ledger, close: () => closeBoth(spool, stores, logger) };
  } catch (error) {
    await stores.close().catch(() => {});
    throw error;
  }
}

const replays = (rows: LedgerStore): rows is LedgerStore & Required<Pick<LedgerStore, "replay">> => rows.replay !== undefined;

async function closeBoth(spool: SpooledLedger, stores: OpenStores, logger: Logger): Promise<void> {
  const { since } = spool.state();
  const isKept = await spool.close();
  try {
    await stores.close();
  } catch (error) {
    // A database that is away takes no farewell. Nothing is lost by that: what counts is on the disk.
    if (since === null || !isKept || !GuardError.is(error)) throw error;
    logger.debug({ err: error }, "the ledger's database was away to the end");
  }
}
