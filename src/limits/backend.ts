import type { Charge } from "../core/store.ts";
import type { LimitState } from "./kind.ts";

/** How long a finished opId is remembered, so that a repeated or delayed verb cannot bring it back to life. */
export const TOMBSTONE_MS = 120_000;

/** How long after its expiry a hold can still be corrected. */
export const LATE_MS = 86_400_000;

/**
 * How much longer than it says anything a row is kept, wherever that costs little: a clock that is put back finds it again. Tombstones are too many
 * for that.
 */
export const SPARE_MS = 86_400_000;

/**
 * What one opId holds: everything that is needed to finish it, whatever becomes of the limits meanwhile. The charges are kept by reference, so
 * a caller must not change them.
 */
export interface Reservation {
  readonly charges: readonly Charge[];
  /** Where each charge was taken (cell or window); empty when no charge has such a place. */
  readonly places: readonly number[];
  /** Indexes of the shadow charges that did not fit and were not charged. */
  readonly skipped: ReadonlySet<number> | null;
  expiresAt: number;
  /** It ended by expiry, and that was reported. */
  expired: boolean;
}

/** A charge, or whatever else names a counter. */
export interface Keyed {
  readonly key: string;
}

/** Where an engine keeps what it decides. All calls between two turns of the event loop belong to one verb. */
export interface LimitBackend {
  /** The store's time, integer ms. */
  now(): number;
  /** The wall clock, integer ms: chooses calendar windows. */
  wall(): number;
  /** The state of a key; the same object for the same key within one verb. */
  state(place: Keyed): LimitState | undefined;
  /** Stores a state that is not there yet, or replaces one that has lapsed. */
  insert(state: LimitState): void;
  /** Stores a state that `state()` returned and that has changed. */
  save(state: LimitState): void;
  /** A reservation until {@link LATE_MS} after its expiry, or `closed` while its tombstone stands. */
  find(opId: string, now: number): Reservation | "closed" | undefined;
  open(opId: string, reservation: Reservation): void;
  /** Stores another expiry, or that the expiry was reported. */
  update(opId: string, reservation: Reservation): void;
  /** Replaces whatever the opId holds by a tombstone that stands for {@link TOMBSTONE_MS}. */
  close(opId: string, now: number): void;
  /** Up to `most` holds that ran out and were not reported. */
  overdue(now: number, most: number): readonly (readonly [opId: string, reservation: Reservation])[];
}
