import { openRow, type LedgerIntent, type LedgerRow } from "../core/ledger.ts";
import { ledgerSums, matchesFilter } from "../core/ledger-totals.ts";
import type { Ledger, LedgerFilter } from "../core/store.ts";

const PAGE_ROWS = 1000;

/** The last `maxRows` finished requests and up to as many open ones, from `startedAt` on (wall clock, ms). Promises nothing across a crash. */
export function memoryLedger(maxRows: number, startedAt: number): Ledger {
  const open = new Map<string, LedgerIntent>();
  /** A ring: the next row replaces the oldest. */
  const rows: LedgerRow[] = [];
  let next = 0;
  const byId = new Map<string, LedgerRow>();
  let completeSince = startedAt;

  function dropped(row: LedgerIntent): void {
    if (row.at >= completeSince) completeSince = row.at + 1;
  }

  function matching(filter: LedgerFilter): LedgerRow[] {
    const found = rows.filter((row) => matchesFilter(row, filter));
    if (filter.state === undefined || filter.state === "intent") {
      for (const intent of open.values()) {
        const row = openRow(intent);
        if (matchesFilter(row, filter)) found.push(row);
      }
    }
    return found.sort((a, b) => b.at - a.at || (a.id < b.id ? 1 : -1));
  }

  return {
    intent(row) {
      if (byId.has(row.id)) return undefined;
      open.set(row.id, row);
      if (open.size <= maxRows) return undefined;
      const [id, oldest] = open.entries().next().value as [string, LedgerIntent];
      open.delete(id);
      dropped(oldest);
      return undefined;
    },

    close(row) {
      if (byId.has(row.id)) return;
      open.delete(row.id);
      const oldest = rows[next];
      if (oldest !== undefined) {
        byId.delete(oldest.id);
        dropped(oldest);
      }
      rows[next] = row;
      byId.set(row.id, row);
      next = next + 1 === maxRows ? 0 : next + 1;
    },

    flush() {
      return undefined;
    },

    get(idOrRequestId) {
      const finished = byId.get(idOrRequestId);
      if (finished !== undefined) return finished;
      const intent = open.get(idOrRequestId);
      if (intent !== undefined) return openRow(intent);
      return matching({}).find(({ requestId }) => requestId === idOrRequestId);
    },

    list(filter) {
      return matching(filter).slice(0, filter.limit);
    },

    totals(filter, groupBy) {
      const sums = ledgerSums(groupBy);
      for (const row of matching(filter)) sums.addRow(row);
      return sums.totals();
    },

    async *scan(fromMs) {
      // References to what is in memory anyway: nothing can be replaced under the reader's hands.
      const finished = rows.filter((row) => row.at >= fromMs).sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1));
      const intents = [...open.values()].filter((row) => row.at >= fromMs);
      for (let from = 0; from < finished.length; from += PAGE_ROWS) yield finished.slice(from, from + PAGE_ROWS);
      for (let from = 0; from < intents.length; from += PAGE_ROWS) yield intents.slice(from, from + PAGE_ROWS).map(openRow);
    },

    completeSince: () => completeSince,
  };
}
