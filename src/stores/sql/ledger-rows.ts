import type { Selectable } from "kysely";

import { openRow, type LedgerIntent, type LedgerRow } from "../../core/ledger.ts";
import type { Scopes } from "../../core/scope.ts";
import type { Amounts } from "../../core/store.ts";
import type { TokenClass, Usage } from "../../core/usage.ts";
import type { LedgerTable } from "./schema.ts";

/** The order in which {@link rowValues} gives the values. */
export const LEDGER_COLUMNS = [
  "id",
  "request_id",
  "at",
  "key",
  "org",
  "team",
  "user",
  "scopes",
  "route",
  "dialect",
  "model",
  "served_model",
  "provider",
  "credential",
  "stream",
  "held",
  "state",
  "status",
  "code",
  "latency_ms",
  "first_byte_ms",
  "attempts",
  "input_tokens",
  "cache_read_tokens",
  "cache_write_tokens",
  "output_tokens",
  "reasoning_tokens",
  "reported_usd",
  "provenance",
  "raw_nano_usd",
  "billed_nano_usd",
  "limit",
  "price_version",
  "cache_write_long_tokens",
  "audio_input_tokens",
  "image_input_tokens",
  "audio_output_tokens",
  "image_output_tokens",
  "prediction_tokens",
  "images",
  "requests",
  "raw_usage",
  "tag",
  "tried",
] as const satisfies readonly (keyof LedgerTable)[];

/** What a row is stored as: what it says, and its seal. */
export const STORED_COLUMNS = [...LEDGER_COLUMNS, "digest"] as const satisfies readonly (keyof LedgerTable)[];

export type SqlValue = string | number | null;

/** One row as values by {@link LEDGER_COLUMNS}. */
export function rowValues(row: LedgerRow): SqlValue[] {
  const { scopes, usage } = row;
  return [
    row.id,
    row.requestId,
    row.at,
    row.key,
    scopes.org ?? null,
    scopes.team ?? null,
    scopes.user ?? null,
    otherScopes(scopes),
    row.route,
    row.dialect,
    row.model,
    row.servedModel,
    row.provider,
    row.credential,
    row.stream ? 1 : 0,
    JSON.stringify(row.held),
    row.state,
    row.status,
    row.code,
    // Durations come from a monotonic clock with fractions.
    Math.round(row.latencyMs),
    row.firstByteMs === null ? null : Math.round(row.firstByteMs),
    row.attempts,
    usage === null ? null : usage.inputTokens,
    usage === null ? null : usage.cacheReadTokens,
    usage === null ? null : usage.cacheWriteTokens,
    usage === null ? null : usage.outputTokens,
    usage === null ? null : usage.reasoningTokens,
    usage?.reportedUsd ?? null,
    row.provenance,
    row.rawNanoUsd,
    row.billedNanoUsd,
    row.limit,
    row.priceVersion,
    usage?.cacheWriteLongTokens ?? null,
    usage?.audioInputTokens ?? null,
    usage?.imageInputTokens ?? null,
    usage?.audioOutputTokens ?? null,
    usage?.imageOutputTokens ?? null,
    usage?.predictionTokens ?? null,
    usage?.images ?? null,
    usage?.requests ?? null,
    usage?.raw === undefined ? null : JSON.stringify(usage.raw),
    row.tag,
    row.tried === null ? null : JSON.stringify(row.tried),
  ];
}

/** The other way round. */
export function rowFrom(columns: Selectable<LedgerTable>): LedgerRow {
  return {
    id: columns.id,
    requestId: columns.request_id,
    at: Number(columns.at),
    key: columns.key,
    scopes: scopesFrom(columns),
    route: columns.route,
    dialect: columns.dialect,
    model: columns.model,
    servedModel: columns.served_model,
    provider: columns.provider,
    credential: columns.credential,
    stream: Number(columns.stream) === 1,
    held: parsed<Amounts>(columns.held),
    state: columns.state as LedgerRow["state"],
    status: Number(columns.status),
    code: columns.code as LedgerRow["code"],
    latencyMs: Number(columns.latency_ms),
    firstByteMs: numberOrNull(columns.first_byte_ms),
    attempts: Number(columns.attempts),
    usage: usageFrom(columns),
    provenance: columns.provenance as LedgerRow["provenance"],
    rawNanoUsd: numberOrNull(columns.raw_nano_usd),
    billedNanoUsd: numberOrNull(columns.billed_nano_usd),
    limit: columns.limit,
    priceVersion: columns.price_version,
    tag: columns.tag,
    tried: columns.tried === null ? null : parsed<LedgerRow["tried"]>(columns.tried),
  };
}

/**
 * One intent as a JSON array. The positions are part of the file format: a new field goes to the end, and a reader must do without it.
 * An intent lives for one request and is read only after a crash or by a query, so a few columns less per request are worth more than names.
 */
export function packIntent(row: LedgerIntent): string {
  return JSON.stringify([
    row.id,
    row.requestId,
    row.at,
    row.key,
    row.scopes,
    row.route,
    row.dialect,
    row.model,
    row.servedModel,
    row.provider,
    row.credential,
    row.stream ? 1 : 0,
    row.held,
    row.tag,
  ]);
}

type PackedIntent = [
  id: string,
  requestId: string,
  at: number,
  key: string | null,
  scopes: Scopes,
  route: string,
  dialect: string | null,
  model: string | null,
  servedModel: string | null,
  provider: string | null,
  credential: string | null,
  stream: number,
  held: Amounts,
  tag?: string | null,
];

/** Reads a JSON array of packed intents as open rows: nothing is known about their end. */
export function unpackIntents(body: string): LedgerRow[] {
  return (JSON.parse(body) as PackedIntent[]).map(
    ([id, requestId, at, key, scopes, route, dialect, model, servedModel, provider, credential, stream, held, tag = null]) =>
      openRow({ id, requestId, at, key, scopes, route, dialect, model, servedModel, provider, credential, stream: stream === 1, held, tag }),
  );
}

/** How an open row ends when its process died. It may have reached the provider: one attempt, and the hold stands as its price. */
export function orphanRow(row: LedgerRow): LedgerRow {
  return { ...row, state: "unknown", attempts: 1, provenance: "estimated", billedNanoUsd: row.held.usd ?? null };
}

/** A request's scopes object is frozen and shared by all requests of its key, so that its JSON is made once. */
const OTHER_SCOPES = new WeakMap<Scopes, string>();

/** The scopes that have no column of their own, as JSON. */
export function otherScopes(scopes: Scopes): string | null {
  let others: Record<string, string> | null = null;
  for (const name in scopes) {
    if (name === "org" || name === "team" || name === "user") continue;
    const known = OTHER_SCOPES.get(scopes);
    if (known !== undefined) return known;
    (others ??= {})[name] = scopes[name] as string;
  }
  if (others === null) return null;
  const json = JSON.stringify(others);
  if (Object.isFrozen(scopes)) OTHER_SCOPES.set(scopes, json);
  return json;
}

function scopesFrom({ org, team, user, scopes }: Selectable<LedgerTable>): Scopes {
  return {
    ...(org === null ? {} : { org }),
    ...(team === null ? {} : { team }),
    ...(user === null ? {} : { user }),
    ...(scopes === null ? {} : parsed<Scopes>(scopes)),
  };
}

/** Each token class and its column. */
export const TOKEN_COLUMNS = {
  inputTokens: "input_tokens",
  cacheReadTokens: "cache_read_tokens",
  cacheWriteTokens: "cache_write_tokens",
  cacheWriteLongTokens: "cache_write_long_tokens",
  audioInputTokens: "audio_input_tokens",
  imageInputTokens: "image_input_tokens",
  outputTokens: "output_tokens",
  reasoningTokens: "reasoning_tokens",
  audioOutputTokens: "audio_output_tokens",
  imageOutputTokens: "image_output_tokens",
  predictionTokens: "prediction_tokens",
} as const satisfies Readonly<Record<TokenClass, keyof LedgerTable>>;

/** The columns of the usage that most rows leave empty. */
const RARE_USAGE = {
  cacheWriteLongTokens: "cache_write_long_tokens",
  audioInputTokens: "audio_input_tokens",
  imageInputTokens: "image_input_tokens",
  audioOutputTokens: "audio_output_tokens",
  imageOutputTokens: "image_output_tokens",
  predictionTokens: "prediction_tokens",
  images: "images",
  requests: "requests",
} as const satisfies Partial<Record<keyof Usage, keyof LedgerTable>>;

function rareUsageFrom(columns: Selectable<LedgerTable>): Partial<Usage> {
  const found: { -readonly [name in keyof typeof RARE_USAGE]?: number } = {};
  for (const name of Object.keys(RARE_USAGE) as (keyof typeof RARE_USAGE)[]) {
    const count = columns[RARE_USAGE[name]];
    if (count !== null) found[name] = Number(count);
  }
  return found;
}

function usageFrom(columns: Selectable<LedgerTable>): Usage | null {
  if (columns.input_tokens === null) return null;
  return {
    inputTokens: Number(columns.input_tokens),
    cacheReadTokens: Number(columns.cache_read_tokens),
    cacheWriteTokens: Number(columns.cache_write_tokens),
    outputTokens: Number(columns.output_tokens),
    reasoningTokens: Number(columns.reasoning_tokens),
    ...rareUsageFrom(columns),
    ...(columns.reported_usd === null ? {} : { reportedUsd: columns.reported_usd }),
    ...(columns.raw_usage === null ? {} : { raw: parsed<NonNullable<Usage["raw"]>>(columns.raw_usage) }),
  };
}

const parsed = <T>(json: string | T): T => (typeof json === "string" ? (JSON.parse(json) as T) : json);

const numberOrNull = (value: bigint | number | string | null): number | null => (value === null ? null : Number(value));
