import type { UsageTime } from "./usage-report.ts";

/**
 * What must hold whatever happens: I1 every operation balances · I2 what was settled is what the upstream billed · I3 no limit lets through more than it
 * may · I4 exactly one end for each reservation · I5 no hold outlives its request · I6 whatever reached an upstream has a row.
 */
export type Invariant = "I1" | "I2" | "I3" | "I4" | "I5" | "I6";

export interface AuditViolation {
  /** `seal`: the row is not what was written. */
  readonly invariant: Invariant | "seal";
  /** Null = it is about no single row. */
  readonly requestId: string | null;
  /** The row's own id. */
  readonly id: string | null;
  readonly message: string;
}

export interface AuditOptions {
  /** By the time of the request: `from` inclusive, `to` exclusive. Absent = all there is. */
  readonly from?: UsageTime;
  readonly to?: UsageTime;
  /** Ends the audit: it rejects with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** Finished rows by what their seals say: `unsealed` were written without a key, `foreign` under another one, so nobody here can tell. */
export interface SealCounts {
  readonly intact: number;
  readonly altered: number;
  readonly unsealed: number;
  readonly foreign: number;
}

export interface AuditReport {
  /** Finished rows that were looked at. */
  readonly rows: number;
  readonly from: number | null;
  readonly to: number | null;
  /** The first hundred. */
  readonly violations: readonly AuditViolation[];
  /** How many there are beyond those. */
  readonly more: number;
  readonly seals: SealCounts;
  /** What could not be checked of how many rows, for people: "3 rows …". */
  readonly unchecked: readonly { readonly rows: number; readonly why: string }[];
  /** Null = all of it was looked at. Else the time was over: the rows from here on are still to be audited. */
  readonly next: number | null;
  /** Wall clock, ms. */
  readonly checkedAt: number;
}
