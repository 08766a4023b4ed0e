import type { ErrorCode } from "./core/errors.ts";
import { GuardError } from "./core/errors.ts";
import type { ExplainedRequest } from "./core/explain.ts";
import type { LedgerRow, TriedAttempt } from "./core/ledger.ts";
import { nanoToUsd } from "./core/money.ts";
import type { Ledger } from "./core/store.ts";

/** A client may choose its request's id, so anything can be asked for; no id is longer. */
const MAX_ID = 256;

/** What the ledger knows of a request. Rejects with `not_found`, and with `store_unavailable` while the ledger cannot tell. */
export async function explainedRequest(ledger: Pick<Ledger, "get" | "flush">, id: string): Promise<ExplainedRequest> {
  if (id === "" || id.length > MAX_ID) throw notFound();
  // What ended a moment ago may still be on its way to the database.
  await ledger.flush();
  const row = await ledger.get(id);
  if (!row) throw notFound();
  return told(row);
}

const notFound = (): GuardError =>
  new GuardError(
    "not_found",
    "the ledger has no request of this id; take the x-request-id of the answer. Requests with a wrong key or none are counted and not written down, and rows older than ledger.retention are gone",
  );

function told(row: LedgerRow): ExplainedRequest {
  const { id, requestId, at, key, scopes, route, dialect, model, stream, tag, state, limit, usage, provenance, priceVersion } = row;
  const { usd, ...held } = row.held;
  return {
    kind: "request",
    id,
    requestId,
    at,
    identity: { key, org: scopes.org ?? null },
    scopes,
    route,
    dialect,
    model,
    stream,
    tag,
    state,
    limit,
    held: usd === undefined ? held : { ...held, usd: nanoToUsd(usd) },
    attempts: attemptsOf(row),
    usage,
    provenance,
    rawUsd: row.rawNanoUsd === null ? null : nanoToUsd(row.rawNanoUsd),
    billedUsd: row.billedNanoUsd === null ? null : nanoToUsd(row.billedNanoUsd),
    priceVersion,
    latencyMs: row.latencyMs,
    firstByteMs: row.firstByteMs,
    outcome: {
      served: isServed(row) ? { credential: row.credential ?? "", provider: row.provider ?? "", model: row.servedModel ?? "" } : null,
      status: row.status,
      code: row.code,
      message: messageOf(row),
      retryAfterMs: null,
    },
  };
}

const isServed = ({ state, code, credential }: LedgerRow): boolean => state !== "intent" && code === null && credential !== null;

function attemptsOf({ tried, attempts, credential, servedModel, status, code }: LedgerRow): readonly TriedAttempt[] {
  const before = tried ?? [];
  if (credential === null || attempts === 0) return before;
  return [...before, { credential, model: servedModel ?? "", status, code: code === "client_closed" ? null : code }];
}

/** A row keeps codes, not what the client was told. */
const MEANINGS: Readonly<Partial<Record<ErrorCode | "client_closed", string>>> = {
  client_closed: "the client left before the answer was complete",
  budget_exhausted: "a limit had no room for it",
  budget_too_small: "a limit is smaller than what it asked for",
  model_not_allowed: "its key may not use this model",
  model_not_found: "no credential offers this model",
  model_not_priced: "the model has no price, and a money limit applies",
  all_credentials_limited: "every credential that could serve it was at its limit or cooling down",
  no_credential: "all credentials that could serve it were banned, paused or failing",
  banned: "its client was banned",
  upstream_refused: "the provider refused it",
  upstream_timeout: "the provider did not answer in time",
  upstream_unreachable: "the provider could not be reached",
  store_unavailable: "a limit, a key or the ledger could not be read or written",
};

function messageOf({ state, code }: LedgerRow): string | null {
  if (state === "intent") return "it still runs";
  if (state === "unknown") return "the process died while it ran; it is charged as held";
  return code === null ? null : (MEANINGS[code] ?? null);
}
