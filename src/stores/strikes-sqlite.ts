import RateLimiterRes from "rate-limiter-flexible/lib/RateLimiterRes.js";
import RateLimiterStoreAbstract from "rate-limiter-flexible/lib/RateLimiterStoreAbstract.js";
import type { StrikeStore } from "../core/store.ts";
import type { Clock } from "../core/time.ts";
import { LocalLimiter, type StrikeStoreOptions } from "./strikes.ts";

/** The part of an open SQLite database that counting needs. */
export interface StrikeDatabase {
  prepare(sql: string): {
    get(...values: readonly (string | number)[]): Readonly<Record<string, unknown>> | undefined;
    run(...values: readonly (string | number)[]): { readonly changes: number | bigint };
  };
}

export interface SqliteStrikesOptions extends StrikeStoreOptions {
  /** The database, with its table `quotaguard_strike`. Throws while there is none. */
  readonly database: () => StrikeDatabase;
}

/** Each statement may wait for a lock and stop the event loop for so long, so a database that failed is left alone for a while. */
const REST_MS = 1000;

/** How many new keys one process counts before it looks for some that can go, and how many go then. */
const SWEEP_EVERY = 1000;
const SWEEP_ROWS = 2000;

/** Strikes without a window end here. */
const NEVER = Number.MAX_SAFE_INTEGER;

interface Row {
  readonly points: number;
  /** Wall clock, ms. */
  readonly endsAt: number;
}

/** All statements on one database. */
class StrikeTable {
  readonly database: StrikeDatabase;
  readonly #add;
  readonly #get;
  readonly #delete;
  readonly #deleteEnded;
  readonly #count;
  readonly #deleteOldest;

  constructor(database: StrikeDatabase) {
    this.database = database;
    // What ends later than its window allows was written before the clock was put back: its window begins now, so that it is not kept for ever.
    this.#add = database.prepare(
      `insert into quotaguard_strike (key, points, ends_at, window_ms) values (?1, ?2, ?3 + ?4, ?4)
       on conflict (key) do update set
         points = excluded.points + case when ends_at > ?3 and not ?5 then points else 0 end,
         ends_at = case when ends_at > ?3 and not ?5 then min(ends_at, ?3 + window_ms) else excluded.ends_at end,
         window_ms = case when ends_at > ?3 and not ?5 then window_ms else excluded.window_ms end
       returning points, ends_at`,
    );
    this.#get = database.prepare("select points, ends_at from quotaguard_strike where key = ?1 and ends_at > ?2");
    this.#delete = database.prepare("delete from quotaguard_strike where key = ?1 and ends_at > ?2");
    this.#deleteEnded = database.prepare(
      "delete from quotaguard_strike where key in (select key from quotaguard_strike where ends_at <= ?1 order by ends_at limit ?2)",
    );
    this.#count = database.prepare("select count(*) as n from quotaguard_strike");
    this.#deleteOldest = database.prepare("delete from quotaguard_strike where key in (select key from quotaguard_strike order by ends_at limit ?1)");
  }

  add(key: string, points: number, now: number, windowMs: number, anew: boolean): Row {
    return rowFrom(this.#add.get(key, points, now, windowMs, anew ? 1 : 0) ?? {});
  }

  get(key: string, now: number): Row | null {
    const found = this.#get.get(key, now);
    return found === undefined ? null : rowFrom(found);
  }

  delete(key: string, now: number): boolean {
    return Number(this.#delete.run(key, now).changes) > 0;
  }

  /** Deletes some of what has ended, and of what is too many that which ends first. */
  sweep(now: number, maxKeys: number): void {
    this.#deleteEnded.run(now, SWEEP_ROWS);
    const surplus = Number(this.#count.get()?.["n"]) - maxKeys;
    if (surplus > 0) this.#deleteOldest.run(Math.min(surplus, SWEEP_ROWS));
  }
}

const rowFrom = (row: Readonly<Record<string, unknown>>): Row => ({ points: Number(row["points"]), endsAt: Number(row["ends_at"]) });

class SqliteLimiter extends RateLimiterStoreAbstract<Row> {
  readonly #clock: Clock;
  readonly #database: () => StrikeDatabase;
  readonly #maxKeys: number;
  #table: StrikeTable | undefined;
  #newKeys = SWEEP_EVERY;
  /** Monotonic ms. */
  #restsUntil = -Infinity;

  constructor({ clock, database, maxKeys }: Required<SqliteStrikesOptions>, insurance: LocalLimiter) {
    super({ storeClient: null, keyPrefix: "", points: 0, duration: 0, insuranceLimiter: insurance });
    this.#clock = clock;
    this.#database = database;
    this.#maxKeys = maxKeys;
  }

  // The methods are async so that whatever is thrown becomes the rejection that makes the library ask its insurance.
  protected override async _upsert(key: string, points: number, msDuration: number, forceExpire: boolean): Promise<Row> {
    return this.#ask((table, now) => {
      // Whole ms: the library turns them to seconds and back.
      const windowMs = msDuration > 0 ? Math.round(msDuration) : NEVER - now;
      const row = table.add(key, points, now, windowMs, forceExpire);
      if (row.points === points) this.#sweep(table, now);
      return row;
    });
  }

  protected override async _get(key: string): Promise<Row | null> {
    return this.#ask((table, now) => table.get(key, now));
  }

  protected override async _delete(key: string): Promise<boolean> {
    return this.#ask((table, now) => table.delete(key, now));
  }

  protected override _getRateLimiterRes(_key: string, changedPoints: number, { points, endsAt }: Row): RateLimiterRes {
    const msLeft = endsAt === NEVER ? -1 : Math.max(0, endsAt - this.#clock.now());
    return new RateLimiterRes(Math.max(0, this.points - points), msLeft, points, points === changedPoints);
  }

  #ask<T>(question: (table: StrikeTable, now: number) => T): T {
    if (this.#clock.monotonic() < this.#restsUntil) throw new Error("the database failed a moment ago");
    const database = this.#database();
    try {
      if (this.#table?.database !== database) this.#table = new StrikeTable(database);
      return question(this.#table, Math.floor(this.#clock.now()));
    } catch (error) {
      this.#restsUntil = this.#clock.monotonic() + REST_MS;
      throw error;
    }
  }

  #sweep(table: StrikeTable, now: number): void {
    this.#newKeys += 1;
    if (this.#newKeys < SWEEP_EVERY) return;
    this.#newKeys = 0;
    table.sweep(now, this.#maxKeys);
  }
}

/**
 * Strikes that all processes on one SQLite file count together and that outlive them. While the database is away or locked each process counts by
 * itself; those strikes end with their windows and are not added to the file's. Time is the wall clock, because no other outlives a process: setting
 * it forward forgives, setting it back keeps nobody longer than one more window.
 */
export function sqliteStrikes({ clock, database, maxKeys = 100_000 }: SqliteStrikesOptions): StrikeStore {
  const local = new LocalLimiter(clock, maxKeys);
  const limiter = new SqliteLimiter({ clock, database, maxKeys }, local);
  return {
    async strike(key, windowMs) {
      const { consumedPoints } = await limiter.penalty(key, 1, { customDuration: windowMs / 1_000 });
      return consumedPoints;
    },
    async clear(key) {
      await Promise.all([limiter.delete(key), local.delete(key)]);
    },
  };
}
