import type { Clock } from "../core/time.ts";
import { LATE_MS, SPARE_MS, TOMBSTONE_MS, type LimitBackend, type Reservation } from "../limits/backend.ts";
import { timeTo } from "../limits/bucket.ts";
import type { LimitState } from "../limits/kind.ts";

/** Finished opIds that are remembered. A process does not lose its own replies, so fewer than two minutes' worth do no harm. */
const MAX_TOMBSTONES = 4_096;

/** Holds that nobody finished and that still wait for a late correction. */
const MAX_EXPIRED = 10_000;

/** How many states are looked at for each reservation while there are too many. */
const LOOKS = 16;

/**
 * Keeps states and reservations in this process. What is kept for each request is one small object and its charges; a finished one leaves a
 * place in a ring, because objects that outlive a garbage collection cost more than the arithmetic.
 */
export class MemoryLimits implements LimitBackend {
  readonly #clock: Clock;
  readonly #origin: number;
  readonly #maxStates: number;
  readonly #states = new Map<string, LimitState>();
  /** A reservation, or the place of its tombstone in the ring. */
  readonly #entries = new Map<string, Reservation | number>();
  readonly #tombstones: string[] = [];
  readonly #standUntil: number[] = [];
  #nextTombstone = 0;
  readonly #expired: string[] = [];
  #nextExpired = 0;
  /** No hold is overdue and none has gone before this; may be too early. */
  #nextDue = Infinity;
  #hand: Iterator<[string, LimitState]> | undefined;

  constructor(clock: Clock, maxStates: number) {
    this.#clock = clock;
    this.#origin = clock.now() - clock.monotonic();
    this.#maxStates = maxStates;
  }

  /** Counts on from the wall clock at the start, so that cells are aligned to the epoch but a clock that is set changes nothing. */
  now(): number {
    return Math.floor(this.#origin + this.#clock.monotonic());
  }

  wall(): number {
    return Math.floor(this.#clock.now());
  }

  state(key: string): LimitState | undefined {
    return this.#states.get(key);
  }

  insert(state: LimitState): void {
    this.#states.set(state.key, state);
  }

  save(): void {
    // The engine changed the object itself.
  }

  find(opId: string, now: number): Reservation | "closed" | undefined {
    const entry = this.#entries.get(opId);
    if (entry === undefined) return undefined;
    if (typeof entry === "number") return now < (this.#standUntil[entry] as number) ? "closed" : undefined;
    return now < entry.expiresAt + LATE_MS ? entry : undefined;
  }

  open(opId: string, reservation: Reservation): void {
    this.#entries.set(opId, reservation);
    if (reservation.expiresAt < this.#nextDue) this.#nextDue = reservation.expiresAt;
    // Only here, when no verb holds a state that could be dropped under its hands.
    if (this.#states.size > this.#maxStates) this.#dropVacant();
  }

  update(opId: string, reservation: Reservation): void {
    if (!reservation.expired) return;
    const place = this.#nextExpired;
    const dropped = this.#expired[place];
    if (dropped !== undefined) {
      const entry = this.#entries.get(dropped);
      if (typeof entry === "object" && entry.expired) this.#entries.delete(dropped);
    }
    this.#expired[place] = opId;
    this.#nextExpired = (place + 1) % MAX_EXPIRED;
  }

  close(opId: string, now: number): void {
    const place = this.#nextTombstone;
    this.#nextTombstone = (place + 1) % MAX_TOMBSTONES;
    this.#bury(place, opId, now + TOMBSTONE_MS);
    this.#entries.set(opId, place);
  }

  overdue(now: number, most: number): readonly (readonly [opId: string, reservation: Reservation])[] {
    for (let place = 0; place < this.#tombstones.length; place += 1) {
      if ((this.#standUntil[place] as number) <= now) this.#bury(place, "", Infinity);
    }
    return now < this.#nextDue ? [] : this.#due(now, most);
  }

  /** Puts a tombstone (or nothing) where another one was. */
  #bury(place: number, opId: string, until: number): void {
    const before = this.#tombstones[place];
    if (before !== undefined && this.#entries.get(before) === place) this.#entries.delete(before);
    this.#tombstones[place] = opId;
    this.#standUntil[place] = until;
  }

  #due(now: number, most: number): [opId: string, reservation: Reservation][] {
    const due: [string, Reservation][] = [];
    let next = Infinity;
    for (const [opId, entry] of this.#entries) {
      if (typeof entry === "number") continue;
      const goneAt = entry.expiresAt + LATE_MS + SPARE_MS;
      if (now >= goneAt) {
        this.#entries.delete(opId);
        continue;
      }
      const isDue = !entry.expired && now >= entry.expiresAt && now < entry.expiresAt + LATE_MS;
      if (isDue && due.length < most) {
        due.push([opId, entry]);
        next = Math.min(next, goneAt);
      } else {
        next = Math.min(next, entry.expired ? goneAt : entry.expiresAt);
      }
    }
    this.#nextDue = next;
    return due;
  }

  /** Goes round the states and drops those whose absence says the same. */
  #dropVacant(): void {
    const now = this.now();
    const wall = this.wall();
    for (let i = 0; i < LOOKS; i += 1) {
      this.#hand ??= this.#states.entries();
      const next = this.#hand.next();
      if (next.done === true) {
        this.#hand = undefined;
        return;
      }
      const [key, state] = next.value;
      if (isVacant(state, now, wall)) this.#states.delete(key);
    }
  }

  /** For tests and metrics. */
  get size(): { readonly states: number; readonly reservations: number } {
    return { states: this.#states.size, reservations: this.#entries.size };
  }
}

/** A bucket that never refills keeps its state: absence would fill it. */
function isVacant(state: LimitState, now: number, wall: number): boolean {
  switch (state.kind) {
    case "bucket":
      return state.n > 0 && (state.level >= state.capacity || now >= state.t + timeTo(state, state.capacity));
    case "sliding":
      return now >= state.t + state.perMs + 2 * state.cellMs;
    case "calendar":
      return wall >= state.end;
    case "concurrency":
      if (state.holds.size === 0) return true;
      for (const expiresAt of state.holds.values()) if (expiresAt > now) return false;
      return true;
  }
}
