import type { ColumnType } from "kysely";

import type { LedgerRow } from "../../core/ledger.ts";

/** SQLite gives integers as bigint, Postgres as text: a sum of money must not pass through a double on its way. */
export type SqlInteger = ColumnType<bigint | number | string, number, number>;
export type SqlIntegerOrNull = ColumnType<bigint | number | string | null, number | null, number | null>;

/** JSON text. Postgres' driver hands it out parsed. */
export type SqlJson<T> = ColumnType<string | T, string, string>;

/** Finished requests. Money in nano-USD, times in ms. */
export interface LedgerTable {
  id: string;
  request_id: string;
  at: SqlInteger;
  key: string | null;
  org: string | null;
  team: string | null;
  user: string | null;
  /** The scopes that have no column of their own; null when there are none. */
  scopes: SqlJson<Readonly<Record<string, string>>> | null;
  route: string;
  dialect: string | null;
  model: string | null;
  served_model: string | null;
  provider: string | null;
  credential: string | null;
  stream: SqlInteger;
  held: SqlJson<LedgerRow["held"]>;
  state: string;
  status: SqlInteger;
  code: string | null;
  latency_ms: SqlInteger;
  first_byte_ms: SqlIntegerOrNull;
  attempts: SqlInteger;
  /** All five are null when the usage is not known. */
  input_tokens: SqlIntegerOrNull;
  cache_read_tokens: SqlIntegerOrNull;
  cache_write_tokens: SqlIntegerOrNull;
  output_tokens: SqlIntegerOrNull;
  reasoning_tokens: SqlIntegerOrNull;
  reported_usd: number | null;
  provenance: string;
  raw_nano_usd: SqlIntegerOrNull;
  billed_nano_usd: SqlIntegerOrNull;
  limit: string | null;
  price_version: string | null;
  /** The classes that few calls have; null when the usage is not known or has none of them. */
  cache_write_long_tokens: SqlIntegerOrNull;
  audio_input_tokens: SqlIntegerOrNull;
  image_input_tokens: SqlIntegerOrNull;
  audio_output_tokens: SqlIntegerOrNull;
  image_output_tokens: SqlIntegerOrNull;
  prediction_tokens: SqlIntegerOrNull;
  images: SqlIntegerOrNull;
  requests: SqlIntegerOrNull;
  raw_usage: SqlJson<readonly Readonly<Record<string, unknown>>[]> | null;
  tag: string | null;
  tried: SqlJson<LedgerRow["tried"]> | null;
  /** The seal of all the others; null = the row was written without a key. */
  digest: string | null;
}

/** Sums are only written by adding to them. */
type SqlSum = ColumnType<bigint | number | string, bigint, bigint>;

/** What finished requests of one day add up to once they are too old for rows of their own. The columns that rows have, too, mean the same. */
export interface RollupTable {
  /** A digest of all that the sums are kept apart by. */
  id: string;
  /** The start of the UTC day, ms. */
  at: SqlInteger;
  state: string;
  key: string | null;
  org: string | null;
  team: string | null;
  user: string | null;
  scopes: SqlJson<Readonly<Record<string, string>>> | null;
  route: string;
  model: string | null;
  provider: string | null;
  credential: string | null;
  tag: string | null;
  row_count: SqlSum;
  unpriced_count: SqlSum;
  input_tokens: SqlSum;
  cache_read_tokens: SqlSum;
  cache_write_tokens: SqlSum;
  cache_write_long_tokens: SqlSum;
  audio_input_tokens: SqlSum;
  image_input_tokens: SqlSum;
  output_tokens: SqlSum;
  reasoning_tokens: SqlSum;
  audio_output_tokens: SqlSum;
  image_output_tokens: SqlSum;
  prediction_tokens: SqlSum;
  raw_nano_usd: SqlSum;
  billed_nano_usd: SqlSum;
}

/** Open requests, packed: one row holds all intents of one tick of one process. It goes when the last of them has its row in the ledger. */
export interface IntentTable {
  seq: SqlInteger;
  owner: string;
  body: string;
}

/** The running processes that write intents. */
export interface OwnerTable {
  id: string;
  host: string;
  pid: SqlInteger;
  /** Grows while the process lives. */
  beat: SqlInteger;
}

export interface RecordTable {
  key: string;
  value: string;
  version: SqlInteger;
  expires_at: SqlIntegerOrNull;
}

/** Named counters. `record_version` is the last version that was given to a record. */
export interface MetaTable {
  key: string;
  value: SqlInteger;
}

/** The prefix keeps our tables apart from a host's own in a shared database. */
export interface Database {
  quotaguard_ledger: LedgerTable;
  quotaguard_rollup: RollupTable;
  quotaguard_intent: IntentTable;
  quotaguard_owner: OwnerTable;
  quotaguard_record: RecordTable;
  quotaguard_meta: MetaTable;
}
