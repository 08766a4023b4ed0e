import type { Clock } from "../core/time.ts";
import { LATE_MS, SPARE_MS, TOMBSTONE_MS, type Keyed, type LimitBackend, type Reservation } from "../limits/backend.ts";
import { timeTo } from "../limits/bucket.ts";
import type { LimitState } from "../limits/kind.ts";
import { PlannedCharge, type Counter } from "../limits/planned-charge.ts";

/**
 * So many finished opIds make a generation, and two generations are remembered. A process does not lose its own replies, so fewer than two
 * minutes' worth do no harm; and tables that stay in the processor's caches make each verb faster.
 */
const GENERATION = 1_024;

/** Holds that nobody finished and that still wait for a late correction. */
const MAX_EXPIRED = 10_000;

/** How many states are looked at for each reservation while there are too many. */
const LOOKS = 16;

/**
 * Keeps states and reservations in this process. What is kept for each request is one small object and its charges; a finished one leaves a
 * number in its place. These are forgotten by the generation: to look one up only to delete it costs more than the arithmetic.
 */
export class MemoryLimits implements LimitBackend {
  readonly #clock: Clock;
  readonly #origin: number;
  /** The time at the start. */
  readonly #base: number;
  readonly #maxStates: number;
  readonly #counters = new Map<string, Counter>();
  /** The latest reservations, and tombstones: until when they stand, in ms from the base because small numbers cost no object. */
  #recent = new Map<string, Reservation | number>();
  #finished = 0;
  /** The tombstones of the generation before. */
  #older = new Map<string, Reservation | number>();
  /** The reservations of all generations before. */
  readonly #longOpen = new Map<string, Reservation>();
  readonly #expired: string[] = [];
  #nextExpired = 0;
  /** No hold is overdue and none has gone before this; may be too early. */
  #nextDue = Infinity;
  #hand: Iterator<[string, Counter]> | undefined;

  constructor(clock: Clock, maxStates: number) {
    this.#clock = clock;
    this.#origin = clock.now() - clock.monotonic();
    this.#base = this.now();
    this.#maxStates = maxStates;
  }

  /** Counts on from the wall clock at the start, so that cells are aligned to the epoch but a clock that is set changes nothing. */
  now(): number {
    return Math.floor(this.#origin + this.#clock.monotonic());
  }

  wall(): number {
    return Math.floor(this.#clock.now());
  }

  state(place: Keyed): LimitState | undefined {
    const noted = PlannedCharge.counterOf(place);
    // A note may be of another store, or of a counter that was dropped.
    if (noted?.keeper === this && noted.state !== undefined) return noted.state;
    const counter = this.#counters.get(place.key);
    if (counter === undefined) return undefined;
    PlannedCharge.note(place, counter);
    return counter.state;
  }

  insert(state: LimitState): void {
    const counter = this.#counters.get(state.key);
    if (counter === undefined) this.#counters.set(state.key, { keeper: this, state });
    else counter.state = state;
  }

  save(): void {
    // The engine changed the object itself.
  }

  find(opId: string, now: number): Reservation | "closed" | undefined {
    const entry = this.#recent.get(opId) ?? this.#older.get(opId) ?? (this.#longOpen.size > 0 ? this.#longOpen.get(opId) : undefined);
    if (entry === undefined) return undefined;
    if (typeof entry === "number") return now < this.#base + entry ? "closed" : undefined;
    return now < entry.expiresAt + LATE_MS ? entry : undefined;
  }

  open(opId: string, reservation: Reservation): void {
    this.#recent.set(opId, reservation);
    if (reservation.expiresAt < this.#nextDue) this.#nextDue = reservation.expiresAt;
    // Only here, when no verb holds a state that could be dropped under its hands.
    if (this.#counters.size > this.#maxStates) this.#dropVacant();
  }

  update(opId: string, reservation: Reservation): void {
    if (!reservation.expired) return;
    const place = this.#nextExpired;
    const dropped = this.#expired[place];
    if (dropped !== undefined) {
      for (const entries of [this.#recent, this.#longOpen]) {
        const entry = entries.get(dropped);
        if (typeof entry === "object" && entry.expired) entries.delete(dropped);
      }
    }
    this.#expired[place] = opId;
    this.#nextExpired = (place + 1) % MAX_EXPIRED;
  }

  close(opId: string, now: number): void {
    if (this.#longOpen.size > 0) this.#longOpen.delete(opId);
    this.#recent.set(opId, now - this.#base + TOMBSTONE_MS);
    this.#finished += 1;
    if (this.#finished >= GENERATION) this.#nextGeneration();
  }

  overdue(now: number, most: number): readonly (readonly [opId: string, reservation: Reservation])[] {
    for (const entries of [this.#recent, this.#older]) {
      for (const [opId, entry] of entries) if (typeof entry === "number" && this.#base + entry <= now) entries.delete(opId);
    }
    return now < this.#nextDue ? [] : this.#due(now, most);
  }

  /** Forgets the older tombstones and begins anew. A reservation is moved at most once, so that many open ones do no harm. */
  #nextGeneration(): void {
    this.#older = this.#recent;
    this.#recent = new Map();
    this.#finished = 0;
    for (const [opId, entry] of this.#older) {
      if (typeof entry === "number") continue;
      this.#older.delete(opId);
      this.#longOpen.set(opId, entry);
    }
  }

  #due(now: number, most: number): [opId: string, reservation: Reservation][] {
    const due: [string, Reservation][] = [];
    let next = Infinity;
    for (const entries of [this.#longOpen, this.#recent]) {
      for (const [opId, entry] of entries) {
        if (typeof entry === "number") continue;
        const goneAt = entry.expiresAt + LATE_MS + SPARE_MS;
        if (now >= goneAt) {
          entries.delete(opId);
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
    }
    this.#nextDue = next;
    return due;
  }

  /** Goes round the states and drops those whose absence says the same. */
  #dropVacant(): void {
    const now = this.now();
    const wall = this.wall();
    for (let i = 0; i < LOOKS; i += 1) {
      this.#hand ??= this.#counters.entries();
      const next = this.#hand.next();
      if (next.done === true) {
        this.#hand = undefined;
        return;
      }
      const [key, counter] = next.value;
      if (counter.state !== undefined && !isVacant(counter.state, now, wall)) continue;
      counter.state = undefined;
      this.#counters.delete(key);
    }
  }

  /** For tests and metrics. */
  get size(): { readonly states: number; readonly reservations: number } {
    return { states: this.#counters.size, reservations: this.#recent.size + this.#older.size + this.#longOpen.size };
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
