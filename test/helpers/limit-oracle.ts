import type {
  Amounts,
  CalendarRule,
  Charge,
  ExpiredReservation,
  FinishResult,
  ReserveResult,
  Rule,
  Shortfall,
  Standing,
} from "../../src/core/store.ts";
import { absent, Bucket, DAY, Log, NEVER, Slots, Windows, type Counter, type Event, type Place } from "./limit-counters.ts";

/*
 * The limits once more, written for being right instead of fast: buckets as one rational number each (BigInt numerators), windows as logs of
 * events that are added up on every question, reservations as a plain table of histories. It shares no line with the engine.
 */

interface Held {
  readonly charges: readonly Charge[];
  readonly places: readonly Place[];
  readonly skipped: readonly number[];
  expiresAt: number;
  expired: boolean;
}

type Entry = Held | { readonly closedUntil: number };

/** The reference that a store is compared with. Its clock is the caller's. */
export class LimitOracle {
  readonly #now: () => number;
  readonly #counters = new Map<string, Counter>();
  readonly #entries = new Map<string, Entry>();

  constructor(now: () => number) {
    this.#now = now;
  }

  /** When a hold runs out, for tests that want to hit the edge. */
  expiryOf(opId: string): number | undefined {
    const entry = this.#entries.get(opId);
    return entry !== undefined && "charges" in entry ? entry.expiresAt : undefined;
  }

  #known(key: string, now: number): Counter | undefined {
    const counter = this.#counters.get(key);
    return counter === undefined || now >= counter.lapsesAt ? undefined : counter;
  }

  #look(key: string, rule: Rule): Counter {
    const now = this.#now();
    return (this.#known(key, now) ?? absent(rule, now)).look(rule, now);
  }

  #adopt(key: string, look: Counter): Counter {
    const known = this.#known(key, this.#now());
    return known instanceof Log && look instanceof Log ? known.adopt(look) : look;
  }

  #entry(opId: string): Entry | undefined {
    const entry = this.#entries.get(opId);
    if (entry === undefined) return undefined;
    return this.#now() < ("charges" in entry ? entry.expiresAt + DAY : entry.closedUntil) ? entry : undefined;
  }

  #standings(charges: readonly { readonly key: string; readonly rule: Rule }[]): Standing[] {
    return charges.map(({ key, rule }) => {
      const look = this.#look(key, rule);
      return { available: look.available, resetMs: look.reset() };
    });
  }

  #shortfall(charge: Charge, index: number): Shortfall {
    const look = this.#look(charge.key, charge.rule);
    const tooSmall = charge.amount > (charge.rule.kind === "bucket" ? charge.rule.capacity : charge.rule.limit);
    const wait = tooSmall ? NEVER : charge.amount <= look.available ? 0 : look.wait(charge.amount);
    return { index, needed: charge.amount, available: look.available, waitMs: wait === NEVER ? null : wait, tooSmall };
  }

  reserve(opId: string, charges: readonly Charge[], ttlMs: number): ReserveResult {
    const now = this.#now();
    const entry = this.#entry(opId);
    if (entry !== undefined) {
      if (!("charges" in entry) || entry.expired || now >= entry.expiresAt) return { kind: "closed" };
      const text = (all: readonly Charge[]): string => JSON.stringify(all.map(({ key, unit, amount }) => [key, unit, amount]));
      if (text(entry.charges) !== text(charges)) return { kind: "conflict" };
      const skipped = entry.skipped.map((i) => this.#shortfall(charges[i] as Charge, i));
      return { kind: "allowed", replayed: true, skipped, standings: this.#standings(charges) };
    }
    for (const { rule } of charges) {
      if (rule.kind === "calendar" && (now < rule.bounds[0] || now >= rule.bounds[3])) return { kind: "skew", now };
    }
    const short = charges.flatMap((charge, i) => (this.#look(charge.key, charge.rule).available < charge.amount ? [this.#shortfall(charge, i)] : []));
    const failing = short.filter(({ index }) => charges[index]?.enforce);
    if (failing.length > 0) {
      const rank = ({ tooSmall, waitMs }: Shortfall): number => (tooSmall ? 2 * Number.MAX_VALUE : (waitMs ?? Number.MAX_VALUE));
      const worst = failing.reduce((a, b) => (rank(b) > rank(a) ? b : a));
      const standings = this.#standings(charges);
      for (const { key, rule } of charges) this.#keepMove(key, rule);
      return { kind: "limited", worst, failing, standings };
    }
    const skipped = short.map(({ index }) => index);
    const places = charges.map(({ key, rule, amount }, i): Place => {
      if (skipped.includes(i)) {
        this.#keepMove(key, rule);
        return null;
      }
      const [charged, place] = this.#adopt(key, this.#look(key, rule)).charge(amount, opId, now + ttlMs);
      this.#counters.set(key, charged);
      return place;
    });
    this.#entries.set(opId, { charges, places, skipped, expiresAt: now + ttlMs, expired: false });
    return { kind: "allowed", replayed: false, skipped: short, standings: this.#standings(charges) };
  }

  #keepMove(key: string, rule: Rule): void {
    const look = this.#look(key, rule);
    if (this.#known(key, this.#now()) !== undefined && look.moved) this.#counters.set(key, this.#adopt(key, look));
  }

  settle(opId: string, actual: Amounts): FinishResult {
    return this.#finish(opId, ({ unit, amount }) => actual[unit] ?? amount);
  }

  release(opId: string): FinishResult {
    return this.#finish(opId, () => 0);
  }

  #finish(opId: string, spentOf: (charge: Charge) => number): FinishResult {
    const now = this.#now();
    const entry = this.#entry(opId);
    if (entry !== undefined && !("charges" in entry)) return "done";
    this.#entries.set(opId, { closedUntil: now + 120_000 });
    if (entry === undefined) return "unknown";
    entry.charges.forEach((charge, i) => {
      if (entry.skipped.includes(i)) return;
      this.#correct(opId, charge, entry.places[i] as Place, spentOf(charge), now);
    });
    return entry.expired || now >= entry.expiresAt ? "late" : "applied";
  }

  #correct(opId: string, { key, rule, amount }: Charge, place: Place, spent: number, now: number): void {
    const known = this.#known(key, now);
    if (rule.kind === "concurrency") {
      const slots = this.#counters.get(key);
      if (slots instanceof Slots) this.#counters.set(key, slots.with(opId, null));
      return;
    }
    if (spent === amount) return;
    const counter = known ?? absent(rule, now);
    if (known === undefined && spent < amount) return;
    if (counter instanceof Bucket) {
      this.#counters.set(key, counter.settle(amount, spent, now));
    } else if (counter instanceof Log) {
      const current = counter.adopt(counter.look(counter.rule, now));
      if (spent > amount) return void this.#counters.set(key, current.charge(spent - amount)[0]);
      const event = place as Event;
      if (current.events.includes(event)) event.amount -= amount - spent;
      this.#counters.set(key, current);
    } else if (counter instanceof Windows) {
      if (spent > amount) this.#counters.set(key, counter.look(rule as CalendarRule, now).charge(spent - amount)[0]);
      else if (place === counter.start)
        this.#counters.set(key, new Windows(counter.start, counter.end, counter.used - (amount - spent), counter.rule, now));
    }
  }

  extend(opId: string, ttlMs: number): boolean {
    const now = this.#now();
    const entry = this.#entry(opId);
    if (entry === undefined || !("charges" in entry) || entry.expired || now >= entry.expiresAt) return false;
    if (now + ttlMs > entry.expiresAt) {
      entry.expiresAt = now + ttlMs;
      this.#places(opId, entry, entry.expiresAt);
    }
    return true;
  }

  lapse(opId: string): FinishResult {
    const now = this.#now();
    const entry = this.#entry(opId);
    if (entry === undefined) {
      this.#entries.set(opId, { closedUntil: now + 120_000 });
      return "unknown";
    }
    if (!("charges" in entry) || entry.expired || now >= entry.expiresAt) return "done";
    entry.expiresAt = now;
    entry.expired = true;
    this.#places(opId, entry, null);
    return "applied";
  }

  expire(): ExpiredReservation[] {
    const now = this.#now();
    const found: ExpiredReservation[] = [];
    for (const [opId, entry] of this.#entries) {
      // The sweeper removes tombstones for good; all else that has lapsed only counts as absent.
      if (!("charges" in entry) && now >= entry.closedUntil) this.#entries.delete(opId);
      if (!("charges" in entry) || entry.expired || now < entry.expiresAt || now >= entry.expiresAt + DAY) continue;
      entry.expired = true;
      this.#places(opId, entry, null);
      found.push({ opId, charges: entry.charges.flatMap(({ key, unit, amount }, i) => (entry.skipped.includes(i) ? [] : [{ key, unit, amount }])) });
    }
    return found;
  }

  #places(opId: string, entry: Held, expiresAt: number | null): void {
    entry.charges.forEach(({ key }, i) => {
      const counter = this.#counters.get(key);
      if (counter instanceof Slots && !entry.skipped.includes(i)) this.#counters.set(key, counter.with(opId, expiresAt));
    });
  }

  peek(limits: readonly { readonly key: string; readonly rule: Rule }[]): Standing[] {
    return this.#standings(limits);
  }
}
