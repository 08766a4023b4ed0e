import type { ScopesInput } from "./scope.ts";
import type { Unit } from "./store.ts";

/** A limit as operators see it. Amounts are in its unit, USD for money; -1 = unlimited. */
export interface LimitView {
  readonly name: string;
  readonly scope: readonly string[];
  readonly unit: Unit;
  readonly kind: "bucket" | "window" | "concurrency";
  readonly mode: "enforce" | "shadow";
  /** Capacity of a bucket, else the limit; null = a function says it for each request. */
  readonly limit: number | null;
  /** Buckets only. */
  readonly refillPerSec?: number;
  /** Single values with other numbers that were set at run time. */
  readonly values: readonly LimitValueView[];
}

export interface LimitValueView {
  /** `acme`, `acme/alice` within an organisation, `alice:gpt-4o` for a composite. */
  readonly value: string;
  /** Null = as the limit has it. */
  readonly limit: number | null;
  readonly refillPerSec?: number;
  /** Wall clock, ms; null = until it is changed. */
  readonly until: number | null;
}

/** Numbers for one value, in the limit's unit, USD for money; -1 = unlimited. What is not said is as the limit has it. */
export interface NewLimitNumbers {
  readonly limit?: number | undefined;
  /** The same as `limit`, for buckets. */
  readonly capacity?: number | undefined;
  /** Buckets only. */
  readonly refillPerSec?: number | undefined;
  /** When it ends by itself: a date, an ISO date and time, a Date, or ms since the epoch; absent or null = when it is changed. */
  readonly until?: string | number | Date | null | undefined;
}

/**
 * One value of a limit: the value (`acme`), within an organisation with its name before it (`acme/alice`), values of composites with colons between them; or
 * the scopes themselves (`{ org: "acme", user: "alice" }`), which is always clear.
 */
export type LimitValueInput = string | ScopesInput;

/** Numbers of limits for single values: whoever sells budgets sets them. They go before `overrides` and functions, are kept in the store, and count at once in all processes that share it. */
export interface LimitAdmin {
  list(): readonly LimitView[];
  /**
   * Replaces the numbers of one value. What is used stays used. Rejects with `not_found` for a limit that nobody has, `body_invalid` for numbers and values that it cannot have,
   * `store_unavailable`.
   */
  set(name: string, value: LimitValueInput, numbers: NewLimitNumbers): Promise<LimitValueView>;
  /** Back to what the configuration says. False = nothing was set. */
  reset(name: string, value: LimitValueInput): Promise<boolean>;
}
