import type { BucketRule, CalendarRule, ConcurrencyRule, Rule, SlidingRule } from "../core/store.ts";

/** Amounts up to 9e15, capacities, limits and debts up to 4e15: every sum of two of them stays exact in a double. */
export const MAX_CAPACITY = 4_000_000_000_000_000;

/** How far a state may be ahead of the clock before it is taken for the trace of a clock that jumped forward and was put right. */
export const MAX_AHEAD_MS = 60_000;

/** How long a state that says no more than its absence would is kept. */
export const LINGER_MS = 60_000;

/** The exact state of a token bucket. */
export interface BucketState {
  readonly kind: "bucket";
  readonly key: string;
  /** Whole units; below zero = debt. */
  level: number;
  /** The part of a unit above `level`, in 1/d: 0 ≤ carry < d. */
  carry: number;
  /** When the figures were true, ms. Never goes back (but see {@link MAX_AHEAD_MS}). */
  t: number;
  /** The definition in force at `t`. */
  capacity: number;
  n: number;
  d: number;
}

/** A sliding window: the non-empty cells, oldest first. */
export interface SlidingState {
  readonly kind: "sliding";
  readonly key: string;
  t: number;
  /** Of all `counts`. */
  sum: number;
  readonly perMs: number;
  readonly cellMs: number;
  /** Cells by which the clock was put back: indexes are floor(time / cellMs) + shift, so a charge's cell keeps its number. */
  shift: number;
  readonly indexes: number[];
  readonly counts: number[];
}

/** A calendar window, its predecessor kept for refunds and reports. */
export interface CalendarState {
  readonly kind: "calendar";
  readonly key: string;
  t: number;
  start: number;
  end: number;
  used: number;
  /** The window before, -1 = none is known. */
  prevStart: number;
  prevUsed: number;
}

/** Who holds a place until when. */
export interface ConcurrencyState {
  readonly kind: "concurrency";
  readonly key: string;
  t: number;
  /** opId to expiry, ms. */
  readonly holds: Map<string, number>;
  /** No hold expires before this; may be too early, never too late. */
  earliest: number;
}

export type LimitState = BucketState | SlidingState | CalendarState | ConcurrencyState;

/**
 * The arithmetic of one kind of limit. `now` is the store's time in ms: the wall clock for calendars. Only `advance`, `take`, `settle` and
 * `extend` change a state, so a refusal can judge every limit and leave no trace.
 */
export interface Kind<R extends Rule, S extends LimitState> {
  /** What the absence of a state means. */
  fresh(key: string, rule: R, now: number): S;
  /** What is left; negative = debt. */
  available(state: S, rule: R, now: number): number;
  /** Ms until `amount` fits if nothing else happens, for an amount that does not fit now; Infinity = never. */
  wait(state: S, rule: R, amount: number, now: number): number;
  /** Ms until the limit is whole again; 0 = it is, null = never by itself. */
  reset(state: S, rule: R, now: number): number | null;
  /** Whether `advance` would start a new definition or time scale. That has to be kept even by a refusal: it begins now, not at the next success. */
  moved(state: S, rule: R, now: number): boolean;
  /** Brings the state to `now` under `rule`. */
  advance(state: S, rule: R, now: number): void;
  /** Charges an advanced state. Returns where: what `settle` needs to find the same place again. */
  take(state: S, amount: number, now: number, opId: string, expiresAt: number): number;
  /** Replaces a charge of `held` at `place` by `actual`: a refund goes where it was taken, an overage is charged now. Returns whether anything changed. */
  settle(state: S, rule: R, place: number, held: number, actual: number, now: number, opId: string): boolean;
  /** From when on the state says no more than its absence, ms; Infinity = never. */
  lapsesAt(state: S): number;
}

/** The arithmetic that an engine uses. */
export interface Kinds {
  readonly bucket: Kind<BucketRule, BucketState>;
  readonly sliding: Kind<SlidingRule, SlidingState>;
  readonly calendar: Kind<CalendarRule, CalendarState>;
  readonly concurrency: Kind<ConcurrencyRule, ConcurrencyState>;
}
