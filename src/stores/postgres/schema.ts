import { Kysely, PostgresDialect, sql } from "kysely";
import type pg from "pg";

import { ConfigError } from "../../core/errors.ts";
import { isCurrent, migrate } from "../sql/migrations.ts";
import type { Database } from "../sql/schema.ts";
import { answer, type PostgresLink, type Session } from "./link.ts";

const OLDEST_VERSION = 13;
/** A migration, and the wait for one that another process has begun. */
const MIGRATION_MS = 30_000;

/** Kysely over connections of ours. Never destroyed through Kysely. */
function kyselyOver(acquire: () => Promise<Session>): Kysely<Database> {
  const pool = { connect: acquire, end: () => Promise.resolve(), options: {} };
  // Kysely's own type of a client also has cursors, which only streaming would use.
  return new Kysely<Database>({ dialect: new PostgresDialect({ pool: pool as unknown as pg.Pool }) });
}

/** For reading: each query has the link's deadline. */
export const queriesOver = (link: PostgresLink): Kysely<Database> => kyselyOver(() => link.acquire()).withSchema(link.schema);

/** Refuses servers that we cannot serve from, and brings the tables up to date. Several processes may start at once. */
export async function prepareDatabase(link: PostgresLink): Promise<void> {
  const [server] = await link.query(
    "select current_setting('server_version_num') as version, current_setting('server_encoding') as encoding",
    [],
    () => {},
  );
  checkServer(Number(server?.version), String(server?.encoding));
  // Read first: a start on an up-to-date database needs no lock and no right to create tables.
  if (await isCurrent(queriesOver(link), "postgres", link.schema)) return;
  await migrated(link);
}

export function checkServer(versionNumber: number, encoding: string): void {
  const version = Math.floor(versionNumber / 10_000);
  if (version < OLDEST_VERSION) {
    throw new ConfigError([
      `Postgres ${version} is too old for ledger.url (or postgresStore's first argument): version ${OLDEST_VERSION} or later is needed`,
    ]);
  }
  if (encoding !== "UTF8") {
    throw new ConfigError([
      `the database of ledger.url (or postgresStore's first argument) has the encoding ${encoding}: create one with encoding 'UTF8' and name that`,
    ]);
  }
}

/**
 * In one transaction, so that a process that dies in the middle leaves nothing behind, and under a lock, so that of two that start at once the
 * second one waits and then finds nothing to do. On a connection of its own, which takes all locks along when it ends.
 */
async function migrated(link: PostgresLink): Promise<void> {
  const client = link.client();
  client.on("error", () => {});
  const untilMs = performance.now() + MIGRATION_MS;
  /** Kysely then gives back its own lock, in a transaction that is already lost, and would report only that. */
  let firstError: unknown;
  const session: Session = {
    query: (text, values = []) =>
      answer(client, text, values, untilMs).catch((error: unknown) => {
        firstError ??= error;
        throw error;
      }),
    release: () => {},
  };
  const db = kyselyOver(() => Promise.resolve(session));
  try {
    await client.connect();
    await db.transaction().execute(async (trx) => {
      await sql`set local statement_timeout = ${sql.lit(MIGRATION_MS)}`.execute(trx);
      await sql`set local lock_timeout = ${sql.lit(MIGRATION_MS)}`.execute(trx);
      await sql`set local search_path to ${sql.id(link.schema)}`.execute(trx);
      await sql`select pg_advisory_xact_lock(hashtextextended(${`quotaguard ${link.schema}`}, 0))`.execute(trx);
      if (!(await isCurrent(trx, "postgres", link.schema))) await migrate(trx, "postgres", link.schema);
    });
  } catch (error) {
    throw firstError ?? error;
  } finally {
    client.end().catch(() => {});
    // A frozen server would never say goodbye.
    if (performance.now() >= untilMs) client.connection.stream.destroy();
  }
}
