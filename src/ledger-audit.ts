/** Goes through the ledger and recomputes what must hold. Nothing is changed, and no more than a page is in memory. */
import type { AuditOptions, AuditReport, AuditViolation } from "./core/audit.ts";
import type { PricedCost } from "./core/context.ts";
import { GuardError } from "./core/errors.ts";
import type { LedgerRow } from "./core/ledger.ts";
import type { ExaminedRow, RowSeals, SealState } from "./core/row-seal.ts";
import type { Ledger } from "./core/store.ts";
import type { Clock } from "./core/time.ts";
import type { UsageTime } from "./core/usage-report.ts";
import { bounded } from "./limits/bounded.ts";
import { nameOf, rowViolation } from "./metering/conservation.ts";
import { instant } from "./options/values.ts";

/** Beyond these, violations are only counted. */
const MOST_TOLD = 100;
/** One audit: whoever wants more goes on where it ended. */
const AUDIT_MS = 2_000;
/** A page of a database that hangs. */
const PAGE_MS = 10_000;

export interface LedgerAuditParts {
  readonly ledger: Ledger;
  /** Absent = rows carry no seals. */
  readonly seals: RowSeals | undefined;
  /** What a row costs by the prices that are known now. */
  readonly costOf: (row: LedgerRow) => PricedCost | null;
  /** Longer than this nothing stays open whose process is gone: the longest hold, and what it takes to find it. */
  readonly orphanMs: number;
  readonly clock: Clock;
}

/** What a Date can say. Nothing else is a place to go on from: an altered row may stand at any time, or at none. */
const LAST_DATE_MS = 8_640_000_000_000_000;
const isTime = (at: number): boolean => Number.isInteger(at) && Math.abs(at) <= LAST_DATE_MS;

export type LedgerAudit = (options?: AuditOptions) => Promise<AuditReport>;

/** Rejects with `body_invalid` for a time that is none or has no length, `store_unavailable` when the ledger cannot be read. */
export function ledgerAudit({ ledger, seals, costOf, orphanMs, clock }: LedgerAuditParts): LedgerAudit {
  const inTime = bounded({ clock, deadlineMs: PAGE_MS });

  return async function audit({ signal, ...asked } = {}) {
    const [from, to] = [timeOf("from", asked.from), timeOf("to", asked.to)];
    // Of no time at all nothing would be wrong.
    if (from !== undefined && to !== undefined && from >= to) throw invalid("to", "must be later than from");
    const untilMs = clock.monotonic() + AUDIT_MS;
    const found = findings();
    const isAsked = ({ at }: { readonly at: number }): boolean => at >= (from ?? -Infinity) && at < (to ?? Infinity);
    await inTime(() => ledger.flush());
    const pages = seals ? seals.examine(from ?? -Infinity, to ?? Infinity) : unsealedPages(ledger, from ?? 0, isAsked);
    const each = pages[Symbol.asyncIterator]();
    let next: number | null = null;
    let rows = 0;
    /** The rows of a page and of the one before: one that is there twice has the same time twice. */
    let [seen, before] = [new Set<string>(), new Set<string>()];
    try {
      for (;;) {
        signal?.throwIfAborted();
        const page = await inTime(() => each.next());
        if (page.done === true) break;
        const isOver = clock.monotonic() >= untilMs;
        const last = page.value.at(-1)?.at ?? Number.NaN;
        // Whoever goes on does so by time: rows of one moment stay together, unless they are a page of their own.
        const goesOnAt = isOver && isTime(last) && page.value[0]?.at !== last ? last : null;
        [seen, before] = [new Set(), seen];
        for (const row of page.value) {
          if (row.at === goesOnAt) break;
          rows += 1;
          if (seen.has(row.id) || before.has(row.id)) found.add("I4", row, `the row of request ${row.requestId} (${row.id}) is there twice`);
          seen.add(row.id);
          look(row, found);
        }
        if (goesOnAt !== null) {
          next = goesOnAt;
          break;
        }
        // A database in this process never waits by itself, and requests want to be served.
        await new Promise(setImmediate);
      }
    } finally {
      // Nobody waits for a database to take leave.
      each.return?.().catch(() => {});
    }
    if (next === null) for (const row of (await inTime(() => seals?.orphans())) ?? []) lookAtOrphan(row);
    return { rows, from: from ?? null, to: to ?? null, ...found.told(), next, checkedAt: clock.now() };

    function lookAtOrphan(row: LedgerRow): void {
      if (!isAsked(row) || clock.now() - row.at <= orphanMs) return;
      found.add("I4", row, `${nameOf(row)} is still open, and its process is gone: nobody has closed it`);
    }
  };

  function look({ id, requestId, row, seal }: ExaminedRow, found: Findings): void {
    found.count(seal);
    if (row === null) return found.add("I1", { id, requestId }, `the row of request ${requestId} (${id}) cannot be read any more`);
    if (seal === "altered") found.add("seal", row, `${nameOf(row)} is not what was written: it was altered in the database`);
    const violation = rowViolation(row);
    if (violation !== null) return found.add(violation.invariant, row, violation.message);
    if (row.state !== "settled" || row.priceVersion === null) return;
    const cost = costOf(row);
    if (cost?.priceVersion !== row.priceVersion) return found.otherPrice();
    if (cost.rawNanoUsd === row.rawNanoUsd && cost.billedNanoUsd === row.billedNanoUsd) return;
    const message = `${nameOf(row)} costs ${row.rawNanoUsd} nanoUSD and is billed ${row.billedNanoUsd}; by its prices its usage costs ${cost.rawNanoUsd} and is billed ${cost.billedNanoUsd}`;
    found.add("I1", row, message);
  }
}

const time = instant();
const invalid = (param: string, message: string): GuardError => new GuardError("body_invalid", `${param}: ${message}`, { param });

function timeOf(param: string, value: UsageTime | undefined): number | undefined {
  if (value === undefined) return undefined;
  const parsed = time.safeParse(value);
  if (parsed.success) return parsed.data;
  throw invalid(param, parsed.error.issues[0]?.message ?? "is not a time");
}

interface Findings {
  add(invariant: AuditViolation["invariant"], row: Pick<LedgerRow, "id" | "requestId">, message: string): void;
  count(seal: SealState): void;
  /** A row whose prices are not the ones that are known now. */
  otherPrice(): void;
  told(): Pick<AuditReport, "violations" | "more" | "seals" | "unchecked">;
}

function findings(): Findings {
  const violations: AuditViolation[] = [];
  const seals = { intact: 0, altered: 0, unsealed: 0, foreign: 0 };
  let more = 0;
  let otherPrices = 0;
  return {
    add(invariant, { id, requestId }, message) {
      if (violations.length < MOST_TOLD) violations.push({ invariant, requestId, id, message });
      else more += 1;
    },
    count(seal) {
      seals[seal] += 1;
    },
    otherPrice() {
      otherPrices += 1;
    },
    told() {
      const unchecked = [
        { rows: seals.unsealed, why: "may have been altered: they were written without a secret key" },
        { rows: seals.foreign, why: "may have been altered: they are sealed under another secret key" },
        { rows: otherPrices, why: "may cost something else: they are a host's own or of several calls, or their prices are not in force any more" },
      ];
      return { violations, more, seals, unchecked: unchecked.filter(({ rows }) => rows > 0) };
    },
  };
}

/** A ledger without seals shows its rows as they are; those that are still open are left to their processes. */
async function* unsealedPages(ledger: Ledger, fromMs: number, isAsked: (row: LedgerRow) => boolean): AsyncGenerator<readonly ExaminedRow[], void> {
  for await (const page of ledger.scan(fromMs)) {
    yield page
      .filter((row) => row.state !== "intent" && isAsked(row))
      .map((row) => ({ id: row.id, requestId: row.requestId, at: row.at, row, seal: "unsealed" }));
  }
}
