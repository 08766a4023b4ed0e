import { DatabaseSync } from "node:sqlite";

import { ConfigError, GuardError } from "../../core/errors.ts";
import { warningLogger } from "../../core/diagnostics.ts";
import type { Logger } from "../../core/logger.ts";
import type { LimitStore, Store } from "../../core/store.ts";
import { type Clock, systemClock, type Timer } from "../../core/time.ts";
import { ledgerQueries } from "../sql/ledger-queries.ts";
import { isCurrent, migrate } from "../sql/migrations.ts";
import { BEAT_EVERY_MS } from "../sql/owner-watch.ts";
import { RowSealer } from "../sql/row-sealer.ts";
import { rowSeals } from "../sql/row-seals.ts";
import { earlyWatchers, ledgerOnceOpen } from "../sql/unopened.ts";
import { sqliteStrikes } from "../strikes-sqlite.ts";
import { kyselyOver, transactor } from "./dialect.ts";
import { type SqliteLedger, sqliteLedger } from "./ledger.ts";
import { LIMIT_TABLES, sqliteLimits } from "./limits.ts";
import { MEMORY_PATH, openDatabase, startServing } from "./open.ts";
import { owners, type Owners } from "./owners.ts";
import { type SqliteRecords, sqliteRecords } from "./records.ts";
import { startProblem } from "./trouble.ts";

export interface SqliteStoreOptions {
  /**
   * `normal` (default): what was acknowledged survives the death of this process; a power cut may lose the last moments.
   * `full`: it survives a power cut too, at one disk flush per commit.
   */
  readonly synchronous?: "normal" | "full";
  readonly clock?: Clock;
  /** Default: process warnings of failures. */
  readonly logger?: Logger;
}

const OPTIONS: readonly string[] = ["path", "synchronous", "clock", "logger"] satisfies (keyof SqliteStoreOptions | "path")[];

/** What exists once the database is open. */
interface Live {
  readonly db: DatabaseSync;
  /** False = the host's own handle. */
  readonly ours: boolean;
  readonly limits: LimitStore;
  readonly records: SqliteRecords;
  readonly ledger: SqliteLedger;
  readonly owners: Owners;
  readonly upkeep: Timer;
}

/**
 * Limits, records and ledger in one SQLite file, on Node's built-in driver. Several processes of one machine may share the file; their limits
 * are the same counters, but the store counts as not shared, because processes of other machines cannot join. Strikes are in the file too; while it
 * is locked or gone each process counts them by itself.
 *
 * @param source a path (`./data/quota.db`, also with `sqlite:` before it; `:memory:` for tests), `{ path, …options }`, or an open `DatabaseSync`
 *   of the host. A handle on a file is duplicated with our own settings; one on an in-memory database is used as it is. It is never closed here.
 * @throws ConfigError for unknown options. `ready()` rejects with a ConfigError that names the path and what to do about it.
 * @example const store = sqliteStore("./data/quota.db");
 */
export function sqliteStore(
  source: string | ({ readonly path: string } & SqliteStoreOptions) | DatabaseSync,
  options: SqliteStoreOptions = {},
): Store {
  const { path, handle, settings } = parse(source, options);
  const { synchronous = "normal", clock = systemClock, logger = warningLogger() } = settings;
  let live: Live | undefined;
  let starting: Promise<void> | undefined;
  let closing: Promise<void> | undefined;
  const early = earlyWatchers();
  const sealer = new RowSealer();

  async function start(): Promise<void> {
    const ours = handle === undefined || path !== MEMORY_PATH;
    const db = ours ? openDatabase(path, { synchronous, logger }) : handle;
    try {
      const transact = transactor(db);
      await migrated(db);
      const records = sqliteRecords(db, transact, clock, logger);
      const self = owners(db, transact, sealer, clock, logger);
      const builder = kyselyOver(db);
      const ledger = sqliteLedger({ db, transact, queries: ledgerQueries(builder), builder, owners: self, sealer, clock, logger });
      transact(() => self.beat());
      recover(self);
      if (ours) startServing(db);
      const upkeep = clock.timer(BEAT_EVERY_MS, () => maintain());
      early.begin((prefix, fn) => records.watch(prefix, fn));
      live = { db, ours, limits: sqliteLimits(db, clock), records, ledger, owners: self, upkeep };
    } catch (error) {
      if (ours) db.close();
      throw startProblem(error, path);
    }
  }

  /** Never a reason not to start, and tried again with every upkeep. */
  function recover(self: Owners): void {
    try {
      self.recover();
    } catch (error) {
      logger.error({ err: error, path }, "the open requests of a dead process could not be closed yet");
    }
  }

  function maintain(): void {
    if (live === undefined) return;
    live.ledger.beat();
    recover(live.owners);
    try {
      live.records.sweep();
    } catch (error) {
      logger.warn({ err: error, path }, "expired records could not be deleted yet");
    }
    live.upkeep.refresh();
  }

  async function stop(): Promise<void> {
    await starting?.catch(() => {});
    if (live === undefined) return;
    const { db, ours, upkeep, records, ledger, owners: self } = live;
    live = undefined;
    upkeep.cancel();
    records.stop();
    const lost = ledger.stop();
    let problem: unknown;
    try {
      const open = self.leave();
      if (open > 0) logger.warn({ requests: open }, "the store was closed before these requests ended: state unknown, charged as held");
    } catch (error) {
      problem = error;
    }
    if (ours) db.close();
    if (lost > 0 || problem !== undefined) {
      throw new GuardError("store_unavailable", `the database failed while it was closed: ${lost} ledger rows are lost`, { cause: problem });
    }
  }

  function opened(): Live {
    if (live !== undefined) return live;
    const when = closing === undefined ? "is not ready: await store.ready() first" : "is closed";
    throw new GuardError("store_unavailable", `the SQLite store ${when}`);
  }

  return {
    name: "sqlite",
    shared: false,
    limits: {
      reserve: (opId, charges, ttlMs) => opened().limits.reserve(opId, charges, ttlMs),
      settle: (opId, actual) => opened().limits.settle(opId, actual),
      release: (opId) => opened().limits.release(opId),
      extend: (opId, ttlMs) => opened().limits.extend(opId, ttlMs),
      lapse: (opId) => opened().limits.lapse(opId),
      expire: (most) => opened().limits.expire(most),
      peek: (limits) => opened().limits.peek(limits),
    },
    strikes: sqliteStrikes({ clock, database: () => opened().db }),
    records: {
      get: (key) => opened().records.get(key),
      put: (key, value, how) => opened().records.put(key, value, how),
      delete: (key) => opened().records.delete(key),
      list: (prefix) => opened().records.list(prefix),
      watch: (prefix, fn) => (live === undefined ? early.watch(prefix, fn) : live.records.watch(prefix, fn)),
    },
    ledger: ledgerOnceOpen(
      () => opened().ledger,
      () => closing !== undefined,
      logger,
    ),
    seals: rowSeals(sealer, () => kyselyOver(opened().db)),
    ready() {
      if (closing !== undefined) throw new GuardError("store_unavailable", "the SQLite store is closed");
      starting ??= inTurn(start).catch((error: unknown) => {
        // The next call tries again: the disk may have space, the lock may be gone.
        starting = undefined;
        throw error;
      });
      return starting;
    },
    close() {
      return (closing ??= stop());
    },
  };
}

/** Migrates under the write lock, so that of two processes that start at once the second one waits and then finds nothing to do. */
async function migrated(db: DatabaseSync): Promise<void> {
  const schema = kyselyOver(db);
  // Read first: a start on an up-to-date file needs no lock.
  if (await isCurrent(schema, "sqlite")) return db.exec(LIMIT_TABLES);
  db.exec("begin immediate");
  try {
    await migrate(schema, "sqlite");
    db.exec(LIMIT_TABLES);
    db.exec("commit");
  } catch (error) {
    if (db.isTransaction) db.exec("rollback");
    throw error;
  }
}

let lastStart: Promise<unknown> = Promise.resolve();

/**
 * Starts of one process happen one after another. The migration holds its lock across awaits, and SQLite would make a second connection of
 * the same thread wait for that lock in a place where the first one cannot go on.
 */
function inTurn(start: () => Promise<void>): Promise<void> {
  const mine = lastStart.then(start);
  lastStart = mine.catch(() => {});
  return mine;
}

function parse(source: Parameters<typeof sqliteStore>[0], options: SqliteStoreOptions) {
  if (typeof options !== "object" || (options as unknown) === null) throw new ConfigError([`sqliteStore takes options: ${OPTIONS.join(", ")}`]);
  if (source instanceof DatabaseSync) return { path: source.location() ?? MEMORY_PATH, handle: source, settings: checked(options) };
  const settings = typeof source === "string" ? options : { ...source, ...options };
  // JavaScript may give anything.
  const given: unknown = typeof source === "string" ? source : (source as { readonly path?: unknown } | null | undefined)?.path;
  if (typeof given !== "string" || given.trim() === "") throw new ConfigError(["sqliteStore needs a path, for example ./data/quota.db"]);
  return { path: given.replace(/^sqlite:(?:\/\/)?/, ""), handle: undefined, settings: checked(settings) };
}

function checked(settings: SqliteStoreOptions): SqliteStoreOptions {
  const problems = Object.keys(settings)
    .filter((name) => !OPTIONS.includes(name))
    .map((name) => `sqliteStore has no option ${name}: it knows ${OPTIONS.join(", ")}`);
  const { synchronous } = settings;
  if (synchronous !== undefined && synchronous !== "normal" && synchronous !== "full") {
    problems.push(`sqliteStore's synchronous is normal or full, not ${String(synchronous)}`);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return settings;
}
