import pg from "pg";

import { ConfigError } from "../../core/errors.ts";
import type { Logger } from "../../core/logger.ts";
import type { Clock } from "../../core/time.ts";

export interface PostgresStoreOptions {
  /** How long a request may wait for the database before it is refused (503): connection and answer together. Default 2000, from 50 to 60,000. */
  readonly deadlineMs?: number;
  /** Connections of this process; one more listens for changes. Default 10, from 1 to 1000. Not with a `client`. */
  readonly poolSize?: number;
  /** The schema of our tables, created if need be; also `?schema=` in the URL. Default `public`. */
  readonly schema?: string;
  /** Default: the system's clock. What expires then expires by the clock of the database; with another clock, by that one. */
  readonly clock?: Clock;
  /** Default: process warnings of failures. */
  readonly logger?: Logger;
}

export type PostgresSource =
  | string
  | ({ readonly url: string } & PostgresStoreOptions)
  | ({ readonly client: pg.Pool } & PostgresStoreOptions)
  | pg.Pool;

const OPTIONS: readonly string[] = ["url", "client", "deadlineMs", "poolSize", "schema", "clock", "logger"] satisfies (
  | keyof PostgresStoreOptions
  | "url"
  | "client"
)[];

const EXAMPLE = "for example postgres://user:password@host:5432/database";
/** Its name is also a part of the channel's, and a name has at most 63 bytes. */
const SCHEMA = /^[a-z_][a-z0-9_]{0,49}$/i;

/** Where the tables are, and all settings that do not depend on anything. */
export function parseOptions(given: PostgresSource, more: PostgresStoreOptions) {
  const { url, client, ...own } = asSettings(given);
  const settings: PostgresStoreOptions = { ...own, ...more };
  const problems = Object.keys(settings)
    .filter((name) => !OPTIONS.includes(name))
    .map((name) => `postgresStore has no option ${name}: it knows ${OPTIONS.join(", ")}`);
  const { deadlineMs = 2000, poolSize = 10 } = settings;
  if (!(deadlineMs >= 50 && deadlineMs <= 60_000)) problems.push(`postgresStore's deadlineMs is from 50 to 60000, not ${String(deadlineMs)}`);
  if (!Number.isInteger(poolSize) || poolSize < 1 || poolSize > 1000) {
    problems.push(`postgresStore's poolSize is a whole number from 1 to 1000, not ${String(poolSize)}`);
  }
  if (client !== undefined && settings.poolSize !== undefined)
    problems.push("postgresStore's poolSize is not for a client of yours: set max in its pool");
  const source = client ?? plainUrl(url, problems);
  const schema = settings.schema ?? schemaOf(url) ?? "public";
  if (typeof schema !== "string" || !SCHEMA.test(schema)) {
    problems.push(`postgresStore's schema has letters, digits and _, at most 50, not ${JSON.stringify(schema)}`);
  }
  if (problems.length > 0) throw new ConfigError(problems);
  return { source, schema, deadlineMs, poolSize, clock: settings.clock, logger: settings.logger };
}

function asSettings(given: PostgresSource): PostgresStoreOptions & { readonly url?: unknown; readonly client?: pg.Pool } {
  if (typeof given === "string") return { url: given };
  if (isPool(given)) return { client: given };
  if (isConnection(given)) throw new ConfigError(["postgresStore needs a pg.Pool or a URL: one pg.Client cannot serve several requests at once"]);
  if (given !== null && typeof given === "object" && "client" in given && !isPool(given.client)) {
    throw new ConfigError(["postgresStore's client is a pg.Pool"]);
  }
  return { ...given };
}

/** By its shape: a host may have a copy of pg of its own. */
const isPool = (value: unknown): value is pg.Pool => isConnection(value) && "totalCount" in value && "options" in value;

function isConnection(value: unknown): value is { readonly connect: unknown } {
  const { connect, query } = (value ?? {}) as { connect?: unknown; query?: unknown };
  return typeof connect === "function" && typeof query === "function";
}

/** No message holds the URL: there may be a password in it. */
function plainUrl(url: unknown, problems: string[]): string {
  if (typeof url !== "string" || !/^postgres(?:ql)?:\/\//i.test(url)) {
    problems.push(`postgresStore needs a URL, ${EXAMPLE}, or a pg.Pool`);
    return "";
  }
  if (!URL.canParse(url)) {
    problems.push(`postgresStore's URL cannot be read, ${EXAMPLE}: characters such as @ : / # % in user and password are written percent-encoded`);
    return "";
  }
  const parsed = new URL(url);
  parsed.searchParams.delete("schema");
  try {
    // The driver reads what the URL names, such as the files of certificates.
    void new pg.Client({ connectionString: parsed.href });
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    problems.push(`postgresStore's URL cannot be used: ${code === "ENOENT" ? message : "a user, password or setting in it is not readable"}`);
  }
  return parsed.href;
}

const schemaOf = (url: unknown): string | undefined =>
  typeof url === "string" && URL.canParse(url) ? (new URL(url).searchParams.get("schema") ?? undefined) : undefined;
