import type { ScopesInput } from "./scope.ts";
import type { Unit } from "./store.ts";

/** A limit as operators see it. Amounts are in its unit, USD for money; -1 = unlimited. */
export interface LimitView {
  readonly name: string;
  readonly scope: readonly string[];
  readonly unit: Unit;
  readonly kind: "bucket" | "window" | "concurrency";
  readonly mode: "enforce" | "shadow";
  /** It only watches until then, whatever its mode. Wall clock, ms; null = no such time. */
  readonly enforceFrom: number | null;
  /** Capacity of a bucket, else the limit; null = a function says it for each request. */
  readonly limit: number | null;
  /** Buckets only. */
  readonly refillPerSec?: number;
  /** What of the whole limit was set at run time; all else is as configured. */
  readonly set: readonly LimitSetting[];
  /** Single values with other numbers that were set at run time. */
  readonly values: readonly LimitValueView[];
}

/** What of a whole limit may be changed at run time: what leaves its counters as they are. */
export const LIMIT_SETTINGS = ["mode", "enforceFrom", "limit", "refillPerSec"] as const;
export type LimitSetting = (typeof LIMIT_SETTINGS)[number];

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

/** What of a whole limit is to change; what is not said stays as it is. Amounts are in its unit, USD for money; -1 = unlimited. */
export interface LimitChange {
  /** `enforce` begins at once, unless `enforceFrom` is given beside it. What is counted stays counted. */
  readonly mode?: "enforce" | "shadow" | undefined;
  /** Shadow until then: a date, an ISO date and time, a Date, or ms since the epoch; null = at once. */
  readonly enforceFrom?: string | number | Date | null | undefined;
  /** For all values, those in `overrides` too; numbers set for single values go before it. */
  readonly limit?: number | undefined;
  /** The same as `limit`, for buckets. */
  readonly capacity?: number | undefined;
  /** Buckets only. Each counts by it from its next use on. */
  readonly refillPerSec?: number | undefined;
}

/** Requests that a limit in shadow would have refused. Amounts are in its unit, USD for money; times are wall clock, ms. */
export interface WouldRefuse {
  readonly count: number;
  readonly firstAt: number;
  readonly lastAt: number;
  /** The largest amount that one of them needed, and what was left then. */
  readonly largest: { readonly needed: number; readonly available: number };
}

/** Who would have been refused by a limit that only watched, since `from` (wall clock, ms): the last 30 days by UTC, today included. */
export interface ShadowReport {
  readonly name: string;
  readonly unit: Unit;
  readonly mode: "enforce" | "shadow";
  readonly enforceFrom: number | null;
  readonly from: number;
  readonly count: number;
  /** By value, those with the most first. At most 200. */
  readonly values: readonly (WouldRefuse & { readonly value: string })[];
  /** All others together; null = there are none. */
  readonly other: WouldRefuse | null;
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
  /**
   * Changes a whole limit: kept in the store, in force at once in all processes that share it, and before the configuration after a restart. Rejects like `set`;
   * whatever would make another counter is `body_invalid`.
   */
  update(name: string, change: LimitChange): Promise<LimitView>;
  /** Back to what the configuration says: one value, or without it what was set for the whole limit. False = nothing was set. */
  reset(name: string, value?: LimitValueInput): Promise<boolean>;
  /** Who would have been refused while it only watched. Other processes report within seconds. Rejects with `not_found`, `store_unavailable`. */
  shadow(name: string): Promise<ShadowReport>;
}
