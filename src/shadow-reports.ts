/**
 * Who would have been refused by limits that only watch. A request only adds to a table in memory; every few seconds that is added to what the store has: one
 * record for each limit and day, shared by all processes and gone by itself after the last day that is reported.
 */
import { GuardError } from "./core/errors.ts";
import type { ShadowReport, WouldRefuse } from "./core/limit-admin.ts";
import type { Logger } from "./core/logger.ts";
import type { RecordStore, Shortfall, Unit } from "./core/store.ts";
import type { Clock, Timer } from "./core/time.ts";
import { outside } from "./middleware/budgets/refusal.ts";

const RECORDS = "shadow/";
const DAY_MS = 86_400_000;
const DAYS = 30;
const WRITE_EVERY_MS = 5_000;
/** Of one limit. Values may be made by clients: all others are counted together. */
const MOST_VALUES = 200;
const MOST_VALUE_LENGTH = 512;
/** How often a write is tried that another process gets ahead of; what is left waits for the next round. */
const MOST_TRIES = 5;

/** In the limit's inner unit. */
interface Tally {
  readonly count: number;
  readonly firstAt: number;
  readonly lastAt: number;
  readonly needed: number;
  readonly available: number;
}

/** By value; null = all others. */
type Tallies = Map<string | null, Tally>;

/** As it is stored: no value is ever the name of a member. */
interface Stored {
  readonly rows: readonly (readonly [value: string | null, count: number, firstAt: number, lastAt: number, needed: number, available: number])[];
}

interface Pending {
  readonly limit: string;
  /** Since the epoch, UTC. */
  readonly day: number;
  readonly tallies: Tallies;
}

export interface ShadowReports {
  /** Never waits and never throws. */
  note(limit: string, value: string, short: Shortfall): void;
  read(limit: string, unit: Unit): Promise<Pick<ShadowReport, "from" | "count" | "values" | "other">>;
  /** Writes what is not written yet. */
  close(): Promise<void>;
}

export interface ShadowReportsParts {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
}

export function shadowReports({ records, clock, logger }: ShadowReportsParts): ShadowReports {
  const pending = new Map<string, Pending>();
  let timer: Timer | undefined;
  /** Rounds go one after the other. */
  let last: Promise<void> = Promise.resolve();
  let isClosed = false;

  const today = (): number => Math.floor(clock.now() / DAY_MS);
  const firstDay = (): number => today() - DAYS + 1;

  function pendingOf(limit: string, day: number): Pending {
    const key = `${limit}\n${day}`;
    let found = pending.get(key);
    if (!found) pending.set(key, (found = { limit, day, tallies: new Map() }));
    return found;
  }

  function schedule(): void {
    if (!isClosed) timer ??= clock.timer(WRITE_EVERY_MS, () => void inTime());
  }

  async function inTime(): Promise<void> {
    timer = undefined;
    try {
      await write();
    } catch (error) {
      // That the store is away is said once, and not by each round.
      if (!GuardError.is(error)) logger.warn({ err: error }, "who would have been refused could not be written; the next round tries again");
    }
    if (pending.size > 0) schedule();
  }

  /** Rejects when the store is away: nothing is lost by that. */
  const write = (): Promise<void> => (last = last.catch(() => {}).then(round));

  async function round(): Promise<void> {
    const oldest = firstDay();
    for (const [key, { limit, day, tallies }] of [...pending]) {
      pending.delete(key);
      if (day < oldest) continue;
      let isSaved = false;
      try {
        isSaved = await save(limit, day, tallies);
      } finally {
        // A write whose reply was lost is repeated, too: better counted twice than never.
        if (!isSaved) addAll(pendingOf(limit, day).tallies, tallies);
      }
    }
  }

  async function save(limit: string, day: number, tallies: Tallies): Promise<boolean> {
    const key = `${below(limit)}${day}`;
    const ttlMs = Math.max(1, (day + DAYS + 1) * DAY_MS - clock.now());
    for (let n = 0; n < MOST_TRIES; n += 1) {
      const found = await records.get(key);
      const all = found ? talliesIn(found.value as Stored) : new Map<string | null, Tally>();
      addAll(all, tallies);
      const condition = found ? { ifVersion: found.version } : { ifAbsent: true };
      if ((await records.put(key, asStored(withMost(all)), { ttlMs, ...condition })) !== undefined) return true;
    }
    return false;
  }

  return {
    note(limit, value, { needed, available }) {
      const now = clock.now();
      const { tallies } = pendingOf(limit, Math.floor(now / DAY_MS));
      const shown = value
        .slice(0, MOST_VALUE_LENGTH)
        .toWellFormed()
        .replace(/\p{Cc}/gu, "\uFFFD");
      add(tallies, tallies.has(shown) || tallies.size < MOST_VALUES ? shown : null, { count: 1, firstAt: now, lastAt: now, needed, available });
      schedule();
    },

    async read(limit, unit) {
      await write();
      const oldest = firstDay();
      const all: Tallies = new Map();
      for (const { key, value } of await records.list(below(limit))) {
        if (Number(key.slice(below(limit).length)) >= oldest) addAll(all, talliesIn(value as Stored));
      }
      const most = [...withMost(all)];
      const outer = ({ count, firstAt, lastAt, needed, available }: Tally): WouldRefuse => ({
        count,
        firstAt,
        lastAt,
        largest: { needed: outside(unit, needed), available: outside(unit, available) },
      });
      const others = most.find(([value]) => value === null)?.[1];
      return {
        from: oldest * DAY_MS,
        count: most.reduce((sum, [, { count }]) => sum + count, 0),
        values: most.flatMap(([value, tally]) => (value === null ? [] : [{ value, ...outer(tally) }])),
        other: others ? outer(others) : null,
      };
    },

    async close() {
      isClosed = true;
      timer?.cancel();
      try {
        await write();
      } catch (error) {
        logger.warn({ err: error }, "who would have been refused in the last seconds could not be written");
      }
    },
  };
}

const below = (limit: string): string => `${RECORDS}${encodeURIComponent(limit)}/`;

function add(tallies: Tallies, value: string | null, more: Tally): void {
  const known = tallies.get(value);
  tallies.set(value, known ? sumOf(known, more) : more);
}

function addAll(tallies: Tallies, more: Tallies): void {
  for (const [value, tally] of more) add(tallies, value, tally);
}

function sumOf(a: Tally, b: Tally): Tally {
  const isLarger = b.needed > a.needed || (b.needed === a.needed && b.available < a.available);
  const { needed, available } = isLarger ? b : a;
  return { count: a.count + b.count, firstAt: Math.min(a.firstAt, b.firstAt), lastAt: Math.max(a.lastAt, b.lastAt), needed, available };
}

/** The values with the most, those first; the rest together. */
function withMost(tallies: Tallies): Tallies {
  const named = [...tallies].filter(([value]) => value !== null).toSorted(([, a], [, b]) => b.count - a.count || b.lastAt - a.lastAt);
  const kept: Tallies = new Map(named.slice(0, MOST_VALUES));
  const others = tallies.get(null);
  if (others) add(kept, null, others);
  for (const [, tally] of named.slice(MOST_VALUES)) add(kept, null, tally);
  return kept;
}

const talliesIn = ({ rows }: Stored): Tallies =>
  new Map(rows.map(([value, count, firstAt, lastAt, needed, available]) => [value, { count, firstAt, lastAt, needed, available }]));

const asStored = (tallies: Tallies): Stored => ({
  rows: [...tallies].map(([value, { count, firstAt, lastAt, needed, available }]) => [value, count, firstAt, lastAt, needed, available]),
});
