/** Watches over the books while the guard runs: each row as it is closed, and now and then those of the last hour. */
import type { LedgerRow } from "./core/ledger.ts";
import type { Logger } from "./core/logger.ts";
import type { RowSeals } from "./core/row-seal.ts";
import type { Ledger, RecordStore } from "./core/store.ts";
import type { Clock, Timer } from "./core/time.ts";
import type { GuardPrices } from "./guard-prices.ts";
import { ledgerAudit, type LedgerAudit } from "./ledger-audit.ts";
import { rowViolation } from "./metering/conservation.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { recordLock } from "./record-lock.ts";
import { rowCosts } from "./row-costs.ts";
import { SWEEP_MS } from "./sweeper.ts";

const EVERY_MS = 600_000;
const BACK_MS = 3_600_000;
/** Of the processes that share a store one does it. */
const LOCK_KEY = "audit/self";
/** What such an audit may take, in parts of two seconds. */
const MOST_PARTS = 15;
/** Violations that are remembered, so that each is told once. */
const MOST_KNOWN = 1_000;
/** Lines of the log in an hour. */
const MOST_LINES = 20;

export interface BooksParts {
  readonly options: Pick<ResolvedOptions, "modelAlias" | "models" | "router">;
  readonly ledger: Ledger;
  readonly seals: RowSeals | undefined;
  readonly records: RecordStore;
  readonly prices: Pick<GuardPrices, "at">;
  readonly metrics: Pick<Metrics, "conservationViolation"> | null;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface Books {
  readonly audit: LedgerAudit;
  /** A row that is about to be written. */
  closing(row: LedgerRow): void;
  /** From now on it looks at the last hour, every ten minutes. */
  begin(): void;
  stop(): void;
}

export function books({ options, ledger, seals, records, prices, metrics, clock, logger }: BooksParts): Books {
  const costOf = rowCosts(prices, options);
  const audit = ledgerAudit({ ledger, seals, costOf, orphanMs: options.router.reservation.ttlMs + SWEEP_MS, clock });
  const lock = recordLock({ records, clock });
  const known = new Set<string>();
  const ending = new AbortController();
  let timer: Timer | undefined;
  let lines = 0;
  let linesSinceMs = clock.monotonic();

  function tell(violation: { readonly invariant: string; readonly message: string }, row: { readonly id: string | null }): void {
    const name = `${violation.invariant} ${row.id ?? violation.message}`;
    if (known.has(name)) return;
    if (known.size >= MOST_KNOWN) known.clear();
    known.add(name);
    metrics?.conservationViolation();
    const now = clock.monotonic();
    if (now - linesSinceMs >= BACK_MS) [lines, linesSinceMs] = [0, now];
    lines += 1;
    if (lines <= MOST_LINES) logger.error({ code: "QG_CONSERVATION", invariant: violation.invariant, id: row.id }, violation.message);
  }

  async function lookBack(): Promise<void> {
    try {
      // Never given back: whoever comes later in the same ten minutes finds that it was done.
      if ((await lock.take(LOCK_KEY, EVERY_MS / 2)) === null) return;
      let from: number | null = clock.now() - BACK_MS;
      for (let part = 0; part < MOST_PARTS && from !== null; part += 1) {
        const { violations, next } = await audit({ from, signal: ending.signal });
        for (const violation of violations) tell(violation, violation);
        from = next;
      }
    } catch (error) {
      // That a store is away is said elsewhere, and the next round comes.
      if (!ending.signal.aborted) logger.debug({ err: error }, "the last hour's rows could not be audited; the next round tries again");
    }
  }

  function later(): void {
    timer = clock.timer(EVERY_MS, () => {
      void lookBack().finally(() => {
        if (!ending.signal.aborted) later();
      });
    });
  }

  return {
    audit,
    closing(row) {
      const violation = rowViolation(row);
      if (violation !== null) tell(violation, row);
    },
    begin: later,
    stop() {
      timer?.cancel();
      ending.abort();
    },
  };
}
