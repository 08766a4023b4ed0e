import type { LedgerFilter, LedgerGroup, LedgerTotal, Unit } from "./store.ts";

/** A token bucket as operators see it: `tokens` is what is left net of open reservations; negative = debt. */
export interface BucketView {
  readonly tokens: number;
  readonly capacity: number;
  readonly refillPerSec: number;
}

export interface BucketAddress {
  readonly scope: string;
  /** Absent for `global`. */
  readonly id?: string | undefined;
  readonly org?: string | undefined;
}

export interface LimitView {
  readonly name: string;
  readonly scope: readonly string[];
  readonly unit: Unit;
  readonly kind: "bucket" | "window" | "concurrency";
  readonly mode: "enforce" | "shadow";
}

export interface CredentialView {
  readonly name: string;
  readonly provider: string;
  readonly isFallback: boolean;
  readonly priority: number;
  readonly inFlight: number;
}

export interface HealthView {
  readonly status: "ok" | "starting" | "closing" | "unavailable";
  readonly store: string;
  readonly uptimeSeconds: number;
  readonly openRequests: number;
  /** Settlements that wait for the store. */
  readonly waitingSettlements: number;
  readonly credentials: readonly CredentialView[];
}

/** The outcome of reading a provider's rate-limit headers into the global bucket. */
export interface LimitSync {
  readonly status: "success" | "skipped";
  readonly message: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly bucket: BucketView | null;
}

/** What operators can do. Management routes, CLI and bots are only faces of it, so a thing that one can do all can do. Money in USD. */
export interface Admin {
  health(): HealthView;
  limits(): readonly LimitView[];
  bucket(address: BucketAddress): Promise<BucketView>;
  /** Sets capacity or refill of one bucket at run time; creates `budget-<scope>` when the scope has no tokens bucket. */
  setBucket(address: BucketAddress, numbers: { readonly capacity?: number; readonly refillPerSec?: number }): Promise<BucketView>;
  syncLimits(): Promise<LimitSync>;
  usage(filter: LedgerFilter, groupBy: readonly LedgerGroup[]): Promise<readonly LedgerTotal[]>;
}
