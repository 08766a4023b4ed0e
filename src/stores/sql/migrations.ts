import { type Kysely, sql } from "kysely";
import { type Migration, Migrator } from "kysely/migration";

const MIGRATION_TABLE = "quotaguard_migration";

export type SqlFlavour = "sqlite" | "postgres";

/** Text that sorts by its bytes, whatever the database's language: SQLite does so by itself. */
const bytewise = (flavour: SqlFlavour) => (flavour === "sqlite" ? "text" : sql`text collate "C"`);

/**
 * Every change of the schema, in order, for SQLite and Postgres alike. A migration that was released is never edited: the next change is a
 * new entry. They only add; none of them drops or rewrites rows.
 */
const migrations = (flavour: SqlFlavour): Readonly<Record<string, Migration>> => ({
  "0001_records_and_ledger": {
    async up(db: Kysely<unknown>) {
      await db.schema
        .createTable("quotaguard_ledger")
        .addColumn("id", bytewise(flavour), (column) => column.primaryKey().notNull())
        .addColumn("request_id", "text", (column) => column.notNull())
        .addColumn("at", "bigint", (column) => column.notNull())
        .addColumn("key", "text")
        .addColumn("org", "text")
        .addColumn("team", "text")
        .addColumn("user", "text")
        .addColumn("scopes", "json")
        .addColumn("route", "text", (column) => column.notNull())
        .addColumn("dialect", "text")
        .addColumn("model", "text")
        .addColumn("served_model", "text")
        .addColumn("provider", "text")
        .addColumn("credential", "text")
        .addColumn("stream", "bigint", (column) => column.notNull())
        .addColumn("held", "json", (column) => column.notNull())
        .addColumn("state", "text", (column) => column.notNull())
        .addColumn("status", "bigint", (column) => column.notNull())
        .addColumn("code", "text")
        .addColumn("latency_ms", "bigint", (column) => column.notNull())
        .addColumn("first_byte_ms", "bigint")
        .addColumn("attempts", "bigint", (column) => column.notNull())
        .addColumn("input_tokens", "bigint")
        .addColumn("cache_read_tokens", "bigint")
        .addColumn("cache_write_tokens", "bigint")
        .addColumn("output_tokens", "bigint")
        .addColumn("reasoning_tokens", "bigint")
        .addColumn("reported_usd", "double precision")
        .addColumn("provenance", "text", (column) => column.notNull())
        .addColumn("raw_nano_usd", "bigint")
        .addColumn("billed_nano_usd", "bigint")
        .addColumn("limit", "text")
        .execute();
      await db.schema.createIndex("quotaguard_ledger_at").on("quotaguard_ledger").column("at").execute();
      // Most requests let us choose the client-visible id too, so that only the client-chosen ones cost an entry.
      await sql`create index quotaguard_ledger_request_id on quotaguard_ledger (request_id) where request_id <> id`.execute(db);

      await db.schema
        .createTable("quotaguard_intent")
        // SQLite's autoincrement keeps its own table: one page more in every commit.
        .addColumn("seq", flavour === "sqlite" ? "integer" : "bigserial", (column) => column.primaryKey())
        .addColumn("owner", "text", (column) => column.notNull())
        .addColumn("body", "text", (column) => column.notNull())
        .execute();
      await db.schema
        .createTable("quotaguard_owner")
        .addColumn("id", "text", (column) => column.primaryKey().notNull())
        .addColumn("host", "text", (column) => column.notNull())
        .addColumn("pid", "bigint", (column) => column.notNull())
        .addColumn("beat", "bigint", (column) => column.notNull())
        .execute();

      await db.schema
        .createTable("quotaguard_record")
        .addColumn("key", bytewise(flavour), (column) => column.primaryKey().notNull())
        .addColumn("value", "text", (column) => column.notNull())
        .addColumn("version", "bigint", (column) => column.notNull())
        .addColumn("expires_at", "bigint")
        .execute();
      await sql`create index quotaguard_record_expires_at on quotaguard_record (expires_at) where expires_at is not null`.execute(db);
      await db.schema
        .createTable("quotaguard_meta")
        .addColumn("key", "text", (column) => column.primaryKey().notNull())
        .addColumn("value", "bigint", (column) => column.notNull())
        .execute();
      await sql`insert into quotaguard_meta (key, value) values ('record_version', 0)`.execute(db);
    },
  },
  "0002_strikes": {
    async up(db: Kysely<unknown>) {
      // Postgres keeps rows and records, but no counters.
      if (flavour === "postgres") return;
      await db.schema
        .createTable("quotaguard_strike")
        .addColumn("key", "text", (column) => column.primaryKey().notNull())
        .addColumn("points", "integer", (column) => column.notNull())
        .addColumn("ends_at", "integer", (column) => column.notNull())
        .addColumn("window_ms", "integer", (column) => column.notNull())
        .modifyEnd(sql`without rowid`)
        .execute();
      await db.schema.createIndex("quotaguard_strike_ends_at").on("quotaguard_strike").column("ends_at").execute();
    },
  },
  "0003_price_version": {
    async up(db: Kysely<unknown>) {
      await db.schema.alterTable("quotaguard_ledger").addColumn("price_version", "text").execute();
    },
  },
  "0004_usage_classes_tag_tried": {
    async up(db: Kysely<unknown>) {
      const counts = ["cache_write_long_tokens", "audio_input_tokens", "image_input_tokens", "audio_output_tokens", "image_output_tokens"];
      // SQLite adds one column at a time.
      for (const name of [...counts, "prediction_tokens", "images", "requests"])
        await db.schema.alterTable("quotaguard_ledger").addColumn(name, "bigint").execute();
      for (const name of ["raw_usage", "tried"]) await db.schema.alterTable("quotaguard_ledger").addColumn(name, "json").execute();
      await db.schema.alterTable("quotaguard_ledger").addColumn("tag", "text").execute();
    },
  },
  "0005_rollups": {
    async up(db: Kysely<unknown>) {
      let table = db.schema
        .createTable("quotaguard_rollup")
        .addColumn("id", "text", (column) => column.primaryKey().notNull())
        .addColumn("at", "bigint", (column) => column.notNull())
        .addColumn("state", "text", (column) => column.notNull())
        .addColumn("route", "text", (column) => column.notNull())
        .addColumn("scopes", "json");
      for (const name of ["key", "org", "team", "user", "model", "provider", "credential", "tag"]) table = table.addColumn(name, "text");
      const input = [
        "input_tokens",
        "cache_read_tokens",
        "cache_write_tokens",
        "cache_write_long_tokens",
        "audio_input_tokens",
        "image_input_tokens",
      ];
      const output = ["output_tokens", "reasoning_tokens", "audio_output_tokens", "image_output_tokens", "prediction_tokens"];
      for (const name of ["row_count", "unpriced_count", ...input, ...output, "raw_nano_usd", "billed_nano_usd"])
        table = table.addColumn(name, "bigint", (column) => column.notNull());
      await table.execute();
      await db.schema.createIndex("quotaguard_rollup_at").on("quotaguard_rollup").column("at").execute();
    },
  },
  "0006_row_digest": {
    async up(db: Kysely<unknown>) {
      await db.schema.alterTable("quotaguard_ledger").addColumn("digest", "text").execute();
    },
  },
});

/**
 * Whether there is nothing to migrate. Throws a {@link NewerSchemaError} when the database was written by a newer version of this package.
 * Changes nothing.
 */
export async function isCurrent<T>(db: Kysely<T>, flavour: SqlFlavour, schema?: string): Promise<boolean> {
  const known = Object.keys(migrations(flavour));
  const applied = await appliedMigrations(db, schema);
  const newer = applied.filter((name) => !known.includes(name));
  if (newer.length > 0) throw new NewerSchemaError(newer);
  return applied.length === known.length;
}

/**
 * Brings the schema up to date. The caller has asked {@link isCurrent} and holds the lock that keeps a second process out. With a `schema` (Postgres),
 * which is created if need be, the caller has put it on the search path.
 */
export async function migrate<T>(db: Kysely<T>, flavour: SqlFlavour, schema?: string): Promise<void> {
  const known = migrations(flavour);
  const migrator = new Migrator({
    db,
    provider: { getMigrations: async () => known },
    migrationTableName: MIGRATION_TABLE,
    migrationLockTableName: `${MIGRATION_TABLE}_lock`,
    ...(schema === undefined ? {} : { migrationTableSchema: schema }),
  });
  const { error } = await migrator.migrateToLatest();
  if (error !== undefined) throw error as Error;
}

/** The database holds migrations that this version does not know. */
export class NewerSchemaError extends Error {
  constructor(names: readonly string[]) {
    super(`it was written by a newer version of quotaguard (migration ${names.join(", ")}): install that version, or name another database`);
    this.name = "NewerSchemaError";
  }
}

async function appliedMigrations<T>(db: Kysely<T>, schema: string | undefined): Promise<readonly string[]> {
  const table = schema === undefined ? sql.table(MIGRATION_TABLE) : sql.id(schema, MIGRATION_TABLE);
  const found = schema === undefined ? sql`name from sqlite_schema where name = ${MIGRATION_TABLE}` : sql`1 where ${hasTable(schema)}`;
  if ((await sql`select ${found}`.execute(db)).rows.length === 0) return [];
  const { rows } = await sql<{ name: string }>`select name from ${table}`.execute(db);
  return rows.map((row) => row.name);
}

/** Asked of the catalogue itself: Kysely's introspection would list all tables of a host's database. */
function hasTable(schema: string) {
  return sql`exists (
    select 1 from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where n.nspname = ${schema} and c.relname = ${MIGRATION_TABLE}
  )`;
}
