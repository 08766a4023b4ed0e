import type { BucketRule, CalendarRule, ConcurrencyRule, Rule, SlidingRule } from "../../src/core/store.ts";

/*
 * The counters of the oracle. Each is an immutable value: it is looked at for a time and a rule, and a changed one takes its place.
 */

export const DAY = 86_400_000;
export const NEVER = Infinity;

const floorDiv = (a: bigint, b: bigint): bigint => (a >= 0n ? a / b : -((-a + b - 1n) / b));
const ceilDiv = (a: bigint, b: bigint): bigint => -floorDiv(-a, b);
const max = (a: bigint, b: bigint): bigint => (a > b ? a : b);

/** One counter. `look` is a copy at a time under a rule; it becomes the counter only when the caller says so. */
export interface Counter {
  readonly lapsesAt: number;
  /** A new definition or time scale, which even a refusal has to keep. */
  readonly moved: boolean;
  readonly available: number;
  wait(amount: number): number;
  reset(): number | null;
  look(rule: Rule, now: number): Counter;
  charge(amount: number, opId: string, expiresAt: number): [Counter, Place];
}

export type Place = Event | number | null;

/** A charge in a sliding window; refunds shrink it where it stands. */
export interface Event {
  cell: number;
  amount: number;
}

export class Bucket implements Counter {
  readonly moved: boolean;
  readonly num: bigint;
  readonly t: number;
  readonly rule: BucketRule;
  readonly now: number;

  /** `num` is what is there in 1/d of a unit. */
  constructor(num: bigint, t: number, rule: BucketRule, now = t, moved = false) {
    this.num = num;
    this.t = t;
    this.rule = rule;
    this.now = now;
    this.moved = moved;
  }

  static full(rule: BucketRule, now: number): Bucket {
    return new Bucket(BigInt(rule.capacity) * BigInt(rule.d), now, rule);
  }

  get #n(): bigint {
    return BigInt(this.rule.n);
  }

  get #d(): bigint {
    return BigInt(this.rule.d);
  }

  get #full(): bigint {
    return BigInt(this.rule.capacity) * this.#d;
  }

  get available(): number {
    return Number(floorDiv(this.num, this.#d));
  }

  #timeTo(num: bigint): number {
    if (num <= this.num) return 0;
    if (this.#n === 0n) return NEVER;
    const ms = Number(ceilDiv(num - this.num, this.#n));
    return ms > 9e15 ? NEVER : ms;
  }

  get lapsesAt(): number {
    return this.t + this.#timeTo(this.#full) + 60_000;
  }

  wait(amount: number): number {
    return this.#timeTo(BigInt(amount) * this.#d) + this.t - this.now;
  }

  reset(): number | null {
    if (this.num >= this.#full) return 0;
    const ms = this.#timeTo(this.#full);
    return ms === NEVER ? null : ms + this.t - this.now;
  }

  /** Time passes under the old definition. */
  pass(now: number): Bucket {
    const jumpedBack = this.t - now > 60_000;
    const t = jumpedBack ? now : Math.max(now, this.t);
    const grown = this.num + BigInt(t > this.t ? t - this.t : 0) * this.#n;
    const num = t > this.t && grown >= this.#full ? this.#full : grown;
    return new Bucket(num, t, this.rule, now, jumpedBack);
  }

  look(rule: BucketRule, now: number): Bucket {
    const passed = this.pass(now);
    const old = this.rule;
    if (old.capacity === rule.capacity && old.n === rule.n && old.d === rule.d) return passed;
    const level = floorDiv(passed.num, this.#d);
    const carry = passed.num - level * this.#d;
    const scaled = carry * BigInt(rule.d);
    const kept = old.d === rule.d ? carry : scaled > 9_000_000_000_000_000n ? 0n : scaled / this.#d;
    const full = BigInt(rule.capacity) * BigInt(rule.d);
    const num = level * BigInt(rule.d) + kept;
    return new Bucket(num > full ? full : num, passed.t, rule, now, true);
  }

  charge(amount: number): [Bucket, Place] {
    return [new Bucket(this.num - BigInt(amount) * this.#d, this.t, this.rule, this.now), null];
  }

  settle(held: number, actual: number, now: number): Bucket {
    const passed = this.pass(now);
    const num = passed.num + BigInt(held - actual) * this.#d;
    return new Bucket(num > this.#full ? this.#full : max(num, -4_000_000_000_000_000n * this.#d), passed.t, this.rule, now);
  }
}

export class Log implements Counter {
  readonly moved: boolean;
  readonly events: readonly Event[];
  readonly t: number;
  readonly rule: SlidingRule;
  readonly now: number;
  readonly shifted: boolean;

  constructor(events: readonly Event[], t: number, rule: SlidingRule, now = t, moved = false, shifted = false) {
    this.events = events;
    this.t = t;
    this.rule = rule;
    this.now = now;
    this.moved = moved;
    this.shifted = shifted;
  }

  get #live(): readonly Event[] {
    const oldest = Math.floor((this.t - this.rule.perMs) / this.rule.cellMs);
    return this.events.filter(({ cell, amount }) => cell >= oldest && amount > 0);
  }

  get available(): number {
    return this.rule.limit - this.#live.reduce((sum, { amount }) => sum + amount, 0);
  }

  get lapsesAt(): number {
    return this.t + this.rule.perMs + 2 * this.rule.cellMs + (this.shifted ? 2 * DAY : 60_000);
  }

  #leavesIn(cell: number): number {
    return (cell + 1) * this.rule.cellMs + this.rule.perMs - this.now;
  }

  wait(amount: number): number {
    const cells = this.#live.map(({ cell }) => cell).sort((a, b) => a - b);
    for (const leaving of cells) {
      const rest = this.#live.filter(({ cell }) => cell > leaving).reduce((sum, event) => sum + event.amount, 0);
      if (this.rule.limit - rest >= amount) return this.#leavesIn(leaving);
    }
    return NEVER;
  }

  reset(): number | null {
    const cells = this.#live.map(({ cell }) => cell);
    return cells.length === 0 ? 0 : this.#leavesIn(Math.max(...cells));
  }

  look(rule: SlidingRule, now: number): Log {
    const ahead = this.t - now;
    if (ahead > 60_000) {
      // The events themselves move with the clock: their records see it, because they hold the same objects. So a mere look moves copies.
      const by = Math.floor(ahead / rule.cellMs);
      return new Log(
        this.events.map((event) => ({ ...event, cell: event.cell - by })),
        now,
        rule,
        now,
        true,
        true,
      );
    }
    return new Log(this.events, Math.max(now, this.t), rule, now, false, this.shifted);
  }

  /** The look made real: moves the events themselves and forgets those that have left. */
  adopt(look: Log): Log {
    look.events.forEach((event, i) => void ((this.events[i] as Event).cell = event.cell));
    const oldest = Math.floor((look.t - look.rule.perMs) / look.rule.cellMs);
    return new Log(
      this.events.filter(({ cell }) => cell >= oldest),
      look.t,
      look.rule,
      look.now,
      false,
      look.shifted,
    );
  }

  charge(amount: number): [Log, Place] {
    const cells = this.events.filter((event) => event.amount > 0).map(({ cell }) => cell);
    const event: Event = { cell: Math.max(Math.floor(this.t / this.rule.cellMs), ...cells), amount };
    return [new Log([...this.events, event], this.t, this.rule, this.now, false, this.shifted), event];
  }
}

export class Windows implements Counter {
  readonly moved = false;
  readonly start: number;
  readonly end: number;
  readonly used: number;
  readonly rule: CalendarRule;
  readonly now: number;

  constructor(start: number, end: number, used: number, rule: CalendarRule, now: number) {
    this.start = start;
    this.end = end;
    this.used = used;
    this.rule = rule;
    this.now = now;
  }

  static at(rule: CalendarRule, now: number): Windows {
    const bounds: number[] = [...rule.bounds];
    const length = rule.bounds[3] - rule.bounds[2];
    while (now >= (bounds.at(-1) as number)) bounds.push((bounds.at(-1) as number) + length);
    const i = Math.max(
      0,
      bounds.findLastIndex((start) => start <= now),
    );
    return new Windows(bounds[i] as number, bounds[i + 1] as number, 0, rule, now);
  }

  get available(): number {
    return this.rule.limit - this.used;
  }

  get lapsesAt(): number {
    return this.end + DAY;
  }

  wait(): number {
    return this.end - this.now;
  }

  reset(): number | null {
    return this.used === 0 ? 0 : this.end - this.now;
  }

  look(rule: CalendarRule, now: number): Windows {
    return now < this.end ? new Windows(this.start, this.end, this.used, rule, now) : Windows.at(rule, now);
  }

  charge(amount: number): [Windows, Place] {
    return [new Windows(this.start, this.end, this.used + amount, this.rule, this.now), this.start];
  }
}

export class Slots implements Counter {
  readonly moved = false;
  readonly holds: ReadonlyMap<string, number>;
  readonly t: number;
  readonly rule: ConcurrencyRule;
  readonly now: number;

  constructor(holds: ReadonlyMap<string, number>, t: number, rule: ConcurrencyRule, now = t) {
    this.holds = holds;
    this.t = t;
    this.rule = rule;
    this.now = now;
  }

  get #live(): readonly number[] {
    return [...this.holds.values()].filter((expiresAt) => expiresAt > this.now);
  }

  get available(): number {
    return this.rule.limit - this.#live.length;
  }

  get lapsesAt(): number {
    return Math.max(this.t, ...this.holds.values()) + 60_000;
  }

  wait(): number {
    return Math.min(1000, ...this.#live.map((expiresAt) => expiresAt - this.now));
  }

  reset(): number | null {
    return this.#live.length === 0 ? 0 : null;
  }

  look(rule: ConcurrencyRule, now: number): Slots {
    return new Slots(this.holds, this.t, rule, now);
  }

  charge(_amount: number, opId: string, expiresAt: number): [Slots, Place] {
    const live = [...this.holds].filter(([, until]) => until > this.now);
    return [new Slots(new Map([...live, [opId, expiresAt]]), this.now, this.rule, this.now), null];
  }

  with(opId: string, expiresAt: number | null): Slots {
    const holds = new Map(this.holds);
    if (expiresAt === null) holds.delete(opId);
    else if (holds.has(opId)) holds.set(opId, expiresAt);
    return new Slots(holds, this.t, this.rule, this.now);
  }
}

export function absent(rule: Rule, now: number): Counter {
  switch (rule.kind) {
    case "bucket":
      return Bucket.full(rule, now);
    case "sliding":
      return new Log([], now, rule);
    case "calendar":
      return Windows.at(rule, now);
    case "concurrency":
      return new Slots(new Map(), now, rule);
  }
}
