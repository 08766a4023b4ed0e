import type { Logger } from "../core/logger.ts";
import type { RecordStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";
import { Deadlines } from "./deadlines.ts";
import { recordMirror } from "./record-mirror.ts";

/** Why something is kept out, and for how long. Wall clock, ms. */
export interface Penalty {
  /** The status that caused it. */
  readonly code: number;
  readonly since: number;
  /** Null = until a person lifts it. */
  readonly until: number | null;
  /** The deadline was named by who sets it, not guessed. */
  readonly isFirm?: boolean;
  /** From when on single requests may look whether it is over already; absent = not before its end. */
  readonly probeAt?: number;
  /** One of them is under way, or was. */
  readonly isProbed?: boolean;
  /** It is about the provider's quota of this model, as the provider calls it; `` = of all of the account's. Absent = it is about something else. */
  readonly quotaOf?: string;
}

export interface PenaltiesOptions {
  readonly records: RecordStore;
  /** Of the keys of its records, e.g. `ban/`. */
  readonly prefix: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Default 10,000. */
  readonly maxEntries?: number;
  /** One that began in this process has run out, or had to make room. Seen when somebody looks next. Never throws. */
  readonly ended?: (key: string) => void;
}

/**
 * Who is kept out, by key: bounded, and mirrored in the store's records, so that other processes take it over at once and it outlives a restart. When
 * it is full, the one that would end first makes room; a permanent one does so for other permanent ones only.
 */
export interface Penalties {
  /** May count some that are over and that nobody has looked at since. */
  readonly size: number;
  /** Asked by each request: looks at the earliest deadline only. */
  readonly isEmpty: boolean;
  get(key: string, now: number): Penalty | undefined;
  /** A deadline only grows, and of equal ones the time of the next probe. False = what stands lasts as long or longer, and stays. */
  set(key: string, penalty: Penalty): boolean;
  /** False = there was none. */
  delete(key: string): boolean;
  all(now: number): readonly (readonly [key: string, penalty: Penalty])[];
  /** Takes over what was stored before, and from now on what other processes store. Never rejects: a store that is away is read when it is back. */
  load(): Promise<void>;
  close(): void;
}

const MAX_ENTRIES = 10_000;

/** One that began so far in the future was made by a clock that has been put back since. */
const MAX_AHEAD_MS = 24 * 60 * 60_000;

/** By how much the two clocks may differ before the wall clock is not believed any more. */
const DRIFT_MS = 1_000;

interface Entry {
  readonly penalty: Penalty;
  /** Whether it began in this process. */
  readonly isOwn: boolean;
  /** Monotonic, ms: by then it has lasted as long as it was meant to, even if the wall clock was put back meanwhile. */
  readonly endsAt: number;
}

export function penalties(options: PenaltiesOptions): Penalties {
  const { records, prefix, clock, logger, maxEntries = MAX_ENTRIES, ended } = options;
  const entries = new Map<string, Entry>();
  let deadlines = new Deadlines();
  let wasFull = false;
  const mirror = recordMirror({ records, prefix, clock, logger, standing, heard });

  function standing(key: string): { value: Penalty; ttlMs: number | null } | undefined {
    const now = clock.now();
    const penalty = live(key, now)?.penalty;
    return penalty && { value: penalty, ttlMs: penalty.until === null ? null : penalty.until - now };
  }

  function heard(key: string, value: unknown): void {
    const now = clock.now();
    const known = live(key, now);
    if (value === undefined) {
      entries.delete(key);
      return;
    }
    if (!isPenalty(value) || isOver(value, now)) return;
    if (!known || outlasts(value, known.penalty)) put(key, value, known?.isOwn ?? false, now);
    // Two processes wrote at the same time, and the shorter one came last.
    else if (outlasts(known.penalty, value)) mirror.write(key);
  }

  function live(key: string, now: number): Entry | undefined {
    const entry = entries.get(key);
    if (!entry || !(isOver(entry.penalty, now) || clock.monotonic() >= entry.endsAt)) return entry;
    end(key, entry);
    // Over before its time, so the store would still keep it.
    if ((entry.penalty.until as number) > now) mirror.write(key);
    return undefined;
  }

  /** As it stands by the time of day that it is now. */
  function shown({ penalty, endsAt }: Entry, now: number): Penalty {
    const leftMs = endsAt - clock.monotonic();
    return penalty.until === null || penalty.until - now <= leftMs ? penalty : { ...penalty, until: now + Math.ceil(leftMs) };
  }

  function get(key: string, now: number): Penalty | undefined {
    const entry = live(key, now);
    return entry && shown(entry, now);
  }

  function end(key: string, { isOwn }: Entry): void {
    entries.delete(key);
    if (isOwn) ended?.(key);
  }

  /** Ends what is over: most of the time a look at the first deadline. */
  function expire(now: number): void {
    while ((deadlines.first?.until ?? Infinity) <= now) endFirst();
  }

  /** Takes out the first deadline, and ends what still has it. Returns its key. */
  function endFirst(): string | undefined {
    const first = deadlines.takeFirst();
    const entry = first && entries.get(first.key);
    if (!entry || entry.penalty.until !== first.until) return undefined;
    end(first.key, entry);
    return first.key;
  }

  function put(key: string, penalty: Penalty, isOwn: boolean, now: number): void {
    const { since, until } = penalty;
    const endsAt = until === null ? Infinity : clock.monotonic() + Math.min(until - now, until - since) + DRIFT_MS;
    entries.set(key, { penalty, isOwn, endsAt });
    if (until !== null) deadlines.add({ key, until });
    if (entries.size > maxEntries) makeRoom(now);
    // Deadlines that were put off or given up are still inside.
    if (deadlines.size > 2 * maxEntries) deadlines = deadlinesOf(entries);
  }

  function makeRoom(now: number): void {
    expire(now);
    while (entries.size > maxEntries) {
      const gone = deadlines.size > 0 ? endFirst() : endOldest();
      if (gone === undefined) continue;
      mirror.write(gone);
      if (!wasFull)
        logger.warn({ records: prefix, maxEntries }, "too many are kept out at one time; those whose time is nearest to its end come free");
      wasFull = true;
    }
  }

  /** When all of them are permanent. */
  function endOldest(): string {
    const [key, entry] = entries.entries().next().value as [string, Entry];
    end(key, entry);
    return key;
  }

  return {
    get size() {
      return entries.size;
    },
    get isEmpty() {
      if (entries.size === 0) return true;
      expire(clock.now());
      return entries.size === 0;
    },
    get,
    set(key, penalty) {
      const now = clock.now();
      const known = live(key, now);
      if (isOver(penalty, now) || (known && !outlasts(penalty, known.penalty))) return false;
      put(key, penalty, true, now);
      mirror.write(key);
      return entries.has(key);
    },
    delete(key) {
      const known = entries.delete(key);
      if (known) mirror.write(key);
      return known;
    },
    all(now) {
      const found: (readonly [string, Penalty])[] = [];
      for (const key of [...entries.keys()]) {
        const entry = live(key, now);
        if (entry) found.push([key, shown(entry, now)]);
      }
      return found;
    },
    load: mirror.load,
    close: mirror.close,
  };
}

const isOver = ({ since, until }: Penalty, now: number): boolean => until !== null && (now >= until || since - now > MAX_AHEAD_MS);

function outlasts(one: Penalty, other: Penalty): boolean {
  if (one.until === other.until) return (one.probeAt ?? 0) > (other.probeAt ?? 0);
  return other.until !== null && (one.until === null || one.until > other.until);
}

function isPenalty(value: unknown): value is Penalty {
  if (typeof value !== "object" || value === null) return false;
  const { code, since, until, probeAt } = value as Partial<Record<keyof Penalty, unknown>>;
  const isProbe = probeAt === undefined || Number.isFinite(probeAt);
  return isProbe && Number.isInteger(code) && Number.isFinite(since) && (until === null || Number.isFinite(until));
}

function deadlinesOf(entries: ReadonlyMap<string, Entry>): Deadlines {
  const deadlines = new Deadlines();
  for (const [key, { penalty }] of entries) if (penalty.until !== null) deadlines.add({ key, until: penalty.until });
  return deadlines;
}
