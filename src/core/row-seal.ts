import type { LedgerRow } from "./ledger.ts";
import type { Secret } from "./secret.ts";

/**
 * How a row compares with what was written: `intact` · `altered` since · `unsealed` written without a key, or before there were seals · `foreign` sealed
 * under another key, so nobody here can tell.
 */
export type SealState = "intact" | "altered" | "unsealed" | "foreign";

/** A row as it lies in the database, and what its seal says. */
export interface ExaminedRow {
  readonly id: string;
  readonly requestId: string;
  /** Wall clock, ms. */
  readonly at: number;
  /** Null = what lies there is no row any more. */
  readonly row: LedgerRow | null;
  readonly seal: SealState;
}

/** A ledger whose finished rows carry a keyed digest of all that they say: who has the database and not the key can change none without a trace. */
export interface RowSeals {
  /** Seals the rows that are written from now on. To be called before the store is opened, which already closes what dead processes left. */
  use(key: Secret): void;
  /** Committed rows of finished requests with `fromMs` ≤ `at` < `toMs` (Infinity = all), by time, in pages. */
  examine(fromMs: number, toMs: number): AsyncIterable<readonly ExaminedRow[]>;
  /** Open requests that no living process has: their process is gone, and nobody has ended them yet. */
  orphans(): Promise<readonly LedgerRow[]>;
}
