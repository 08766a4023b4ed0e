/** Finished rows that a ledger has taken and may not have committed yet: what would be lost with the process if its database were away from now on. */
import type { LedgerRow } from "../../core/ledger.ts";
import type { Ledger } from "../../core/store.ts";
import type { Clock, Timer } from "../../core/time.ts";

/** Rows are committed within 50 ms; so often it is asked whether they are. */
const ASK_MS = 50;
/** A ledger that has not answered by then is away. */
const LATE_MS = 3_000;

export interface UnsureRows {
  add(row: LedgerRow): void;
  /** Hands them over, the oldest first. */
  take(): readonly LedgerRow[];
  stop(): void;
}

export function unsureRows(ledger: Ledger, clock: Clock, onLate: () => void): UnsureRows {
  let young: LedgerRow[] = [];
  let asked: LedgerRow[] = [];
  let timer: Timer | undefined;
  let isStopped = false;

  function askLater(): void {
    if (!isStopped) timer ??= clock.timer(ASK_MS, () => void ask());
  }

  async function ask(): Promise<void> {
    asked = young;
    young = [];
    const late = clock.timer(LATE_MS, () => isStopped || onLate());
    try {
      await ledger.flush();
      asked = [];
    } catch {
      // Only a ledger that is being closed gives up: it says itself what is lost.
    }
    late.cancel();
    timer = undefined;
    if (young.length > 0) askLater();
  }

  return {
    add(row) {
      young.push(row);
      askLater();
    },
    take() {
      const rows = [...asked, ...young];
      asked = [];
      young = [];
      return rows;
    },
    stop() {
      isStopped = true;
      timer?.cancel();
    },
  };
}
