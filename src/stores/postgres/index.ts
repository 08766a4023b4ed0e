import { GuardError } from "../../core/errors.ts";
import { warningLogger } from "../../core/diagnostics.ts";
import type { Logger } from "../../core/logger.ts";
import type { LedgerStore } from "../../core/store.ts";
import { systemClock, type Timer } from "../../core/time.ts";
import { ledgerQueries } from "../sql/ledger-queries.ts";
import { BEAT_EVERY_MS } from "../sql/owner-watch.ts";
import { RowSealer } from "../sql/row-sealer.ts";
import { rowSeals } from "../sql/row-seals.ts";
import { earlyWatchers, ledgerOnceOpen } from "../sql/unopened.ts";
import { type PostgresLedger, postgresLedger } from "./ledger.ts";
import { type PostgresLink, postgresLink } from "./link.ts";
import { parseOptions, type PostgresSource, type PostgresStoreOptions } from "./options.ts";
import { owners, type Owners } from "./owners.ts";
import { type RecordWatch, recordWatch } from "./record-watch.ts";
import { type PostgresRecords, postgresRecords } from "./records.ts";
import { prepareDatabase, queriesOver } from "./schema.ts";
import { startProblem } from "./trouble.ts";

export type { PostgresSource, PostgresStoreOptions } from "./options.ts";

/** What exists once the database is open. */
interface Live {
  readonly link: PostgresLink;
  readonly records: PostgresRecords;
  readonly watching: RecordWatch;
  readonly ledger: PostgresLedger;
  readonly owners: Owners;
  /** Closes what dead processes left open. Never rejects. */
  readonly recover: () => Promise<void>;
  readonly upkeep: Timer;
}

/**
 * Records and ledger in Postgres (13 or later), shared by all processes that name the same database and schema. It keeps no counters: put them into
 * Redis, or leave them in this process. Needs the package `pg`.
 *
 * When the database is away, new requests are refused (`store_unavailable`) within the deadline, and the rows of those that are running wait in
 * memory until it is back.
 *
 * @param source a URL (`postgres://user:password@host:5432/database`), `{ url, …options }`, or a `pg.Pool` of the host, alone or as
 *   `{ client, …options }`: it is used with our deadlines and never closed here.
 * @throws ConfigError for unknown or unusable options. `ready()` rejects with a ConfigError that names the place and what to do about it.
 * @example const ledger = postgresStore("postgres://quota@localhost/app", { schema: "quota" });
 */
export function postgresStore(source: PostgresSource, options: PostgresStoreOptions = {}): LedgerStore {
  const { clock = systemClock, logger = warningLogger(), ...place } = parseOptions(source, options);
  const channel = `quotaguard_${place.schema}`;
  let live: Live | undefined;
  let starting: Promise<void> | undefined;
  let closing: Promise<void> | undefined;
  const early = earlyWatchers();
  const sealer = new RowSealer();

  async function start(): Promise<void> {
    const link = postgresLink(place);
    let watching: RecordWatch | undefined;
    try {
      await prepareDatabase(link);
      const self = owners(link, sealer, clock, logger);
      const records = postgresRecords(link, self.self.id, channel, clock === systemClock ? undefined : clock.now);
      const changes = recordWatch({ link, records, self: self.self.id, channel, clock, logger });
      watching = changes;
      const builder = queriesOver(link);
      const ledger = postgresLedger({ link, queries: ledgerQueries(builder), builder, owners: self, sealer, clock, logger });
      await ledger.begin();
      await changes.start();
      early.begin((prefix, fn) => changes.watch(prefix, fn));
      const upkeep = clock.timer(BEAT_EVERY_MS, () => void maintain());
      live = { link, records, watching: changes, ledger, owners: self, recover: recoverer(self, logger), upkeep };
    } catch (error) {
      await watching?.stop();
      await link.close();
      throw startProblem(error, link.place);
    }
    await live.recover();
  }

  async function maintain(): Promise<void> {
    const current = live;
    if (current === undefined) return;
    await current.ledger.beat();
    await current.recover();
    current.upkeep.refresh();
  }

  async function stop(): Promise<void> {
    await starting?.catch(() => {});
    if (live === undefined) return;
    const { link, upkeep, watching, ledger, owners: self } = live;
    live = undefined;
    upkeep.cancel();
    await watching.stop();
    const lost = await ledger.stop();
    let problem: unknown;
    try {
      // A database that does not take rows does not take a farewell: another process closes what is open.
      const open = lost > 0 ? 0 : await self.leave();
      if (open > 0) logger.warn({ requests: open }, "the store was closed before these requests ended: state unknown, charged as held");
    } catch (error) {
      problem = error;
    }
    await link.close();
    if (lost > 0 || problem !== undefined) {
      throw new GuardError("store_unavailable", `the database failed while it was closed: ${lost} ledger rows are lost`, { cause: problem });
    }
  }

  function opened(): Live {
    if (live !== undefined) return live;
    const when = closing === undefined ? "is not ready: await store.ready() first" : "is closed";
    throw new GuardError("store_unavailable", `the Postgres store ${when}`);
  }

  return {
    name: "postgres",
    shared: true,
    records: {
      get: (key) => opened().records.get(key),
      list: (prefix) => opened().records.list(prefix),
      async put(key, value, how) {
        const json = JSON.stringify(value) as string | undefined;
        if (json === undefined) throw new TypeError(`the value of record ${key} is not JSON`);
        const { records, watching } = opened();
        const version = await records.put(key, json, how);
        if (version !== undefined) watching.wrote(key, version, { key, value: JSON.parse(json) as unknown, version });
        return version;
      },
      async delete(key) {
        const { records, watching } = opened();
        const version = await records.delete(key);
        if (version !== undefined) watching.wrote(key, version, undefined);
        return version !== undefined;
      },
      watch: (prefix, fn) => (live === undefined ? early.watch(prefix, fn) : live.watching.watch(prefix, fn)),
    },
    ledger: ledgerOnceOpen(
      () => opened().ledger,
      () => closing !== undefined,
      logger,
    ),
    seals: rowSeals(sealer, () => queriesOver(opened().link)),
    replay: async (rows, gapUntilMs) => opened().ledger.replay(rows, gapUntilMs),
    ready() {
      if (closing !== undefined) throw new GuardError("store_unavailable", "the Postgres store is closed");
      starting ??= start().catch((error: unknown) => {
        // The next call tries again: the server may be there by then.
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

/** Closes what dead processes left open. Never a reason not to start or to stop, and tried again with every upkeep. */
function recoverer(self: Owners, logger: Logger): () => Promise<void> {
  let isFailing = false;
  return async () => {
    try {
      await self.recover();
      isFailing = false;
    } catch (error) {
      if (!isFailing) logger.error({ err: error }, "the open requests of dead processes could not be closed yet");
      isFailing = true;
    }
  };
}
