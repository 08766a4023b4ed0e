/** What a store over a database is before its database is open, and after it is closed. */
import type { Logger } from "../../core/logger.ts";
import type { Ledger, RecordStore } from "../../core/store.ts";

type Watch = RecordStore["watch"];

interface EarlyWatcher {
  readonly prefix: string;
  readonly fn: Parameters<Watch>[1];
  stop?: () => void;
}

export interface EarlyWatchers {
  /** Keeps it for later: parts of a guard begin to watch while they are built, before anything is opened. */
  readonly watch: Watch;
  /** From now on they watch there. */
  begin(watch: Watch): void;
}

export function earlyWatchers(): EarlyWatchers {
  const early = new Set<EarlyWatcher>();
  return {
    watch(prefix, fn) {
      const watcher: EarlyWatcher = { prefix, fn };
      early.add(watcher);
      return () => {
        early.delete(watcher);
        watcher.stop?.();
      };
    },
    begin(watch) {
      for (const watcher of early) watcher.stop = watch(watcher.prefix, watcher.fn);
    },
  };
}

/** The ledger of a store: `opened` throws while there is none. A request that ends after the store was closed loses nothing: its row was closed with it. */
export function ledgerOnceOpen(opened: () => Required<Ledger>, isClosed: () => boolean, logger: Logger): Ledger {
  return {
    intent: (row) => opened().intent(row),
    close(row) {
      if (!isClosed()) return opened().close(row);
      logger.error({ id: row.id, requestId: row.requestId }, "a request ended after the store was closed: its row stays as it was closed then");
    },
    flush: () => opened().flush(),
    get: (id) => opened().get(id),
    list: (filter) => opened().list(filter),
    totals: (filter, groupBy) => opened().totals(filter, groupBy),
    scan: (fromMs) => opened().scan(fromMs),
    completeSince: () => opened().completeSince(),
    fold: (beforeMs, most) => opened().fold(beforeMs, most),
  };
}
