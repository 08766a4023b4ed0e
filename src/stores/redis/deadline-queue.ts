import type { Clock, Timer } from "../../core/time.ts";

export interface Due {
  /** Monotonic ms. */
  readonly endsAtMs: number;
  isOver: boolean;
}

/** Settled items that may stand before they are cut off. */
const MAX_SPENT = 1024;
const LATE_MS = 20;
const GRACE_MS = 25;

/** What ends when its time is over, first in, first out, with one timer for all: every item has the same time. */
export class DeadlineQueue<T extends Due> {
  readonly #clock: Clock;
  readonly #onDue: (items: readonly T[]) => void;
  readonly #items: T[] = [];
  #head = 0;
  #timer: Timer | undefined;

  constructor(clock: Clock, onDue: (items: readonly T[]) => void) {
    this.#clock = clock;
    this.#onDue = onDue;
  }

  push(item: T): void {
    this.#items.push(item);
    if (this.#timer === undefined) this.#arm();
  }

  /** Lets go of what is over. Called when an item is. */
  trim(): void {
    while (this.#items[this.#head]?.isOver === true) this.#head += 1;
    if (this.#head > MAX_SPENT || this.#head === this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
  }

  #arm(): void {
    const next = this.#items[this.#head];
    if (next === undefined) return void (this.#timer = undefined);
    const dueMs = Math.max(next.endsAtMs, this.#clock.monotonic() + 1);
    this.#timer = this.#clock.timer(dueMs - this.#clock.monotonic(), () => {
      if (this.#clock.monotonic() - dueMs < LATE_MS) return this.#judgeSoon();
      // This process stood still itself: its calls get a moment for what they could not do meanwhile.
      this.#timer = this.#clock.timer(GRACE_MS, () => this.#judgeSoon());
    });
  }

  /** Not before the replies are read that have come by now. */
  #judgeSoon(): void {
    setImmediate(() => this.#judge());
  }

  #judge(): void {
    this.trim();
    const now = this.#clock.monotonic();
    const due: T[] = [];
    for (let i = this.#head; i < this.#items.length; i += 1) {
      const item = this.#items[i] as T;
      if (item.endsAtMs > now) break;
      if (!item.isOver) due.push(item);
    }
    if (due.length > 0) this.#onDue(due);
    this.trim();
    this.#arm();
  }
}
