/** Whether the rows of a ledger say what upstreams billed (I2), and whether there is one for each request that reached one (I6). */
import type { LedgerRow } from "../../core/ledger.ts";
import { totalInputTokens, totalOutputTokens } from "../../core/usage.ts";
import { ownerOf, type Violation } from "../../metering/conservation.ts";
import type { TokenCount, TruthEntry } from "../truth-log.ts";

export interface TruthQuestion {
  readonly rows: readonly LedgerRow[];
  readonly entries: readonly TruthEntry[];
  /** Whose key the request came with; null = nobody knows. */
  readonly credentialOf: (entry: TruthEntry) => string | null;
  /** The `requestId` of the row that a request belongs to, when the test can tell. */
  readonly requestOf?: ((entry: TruthEntry) => string | undefined) | undefined;
  /** What a settled row must cost, in nano-USD; null = nobody knows. */
  readonly costOf: (row: LedgerRow) => { readonly rawNanoUsd: number; readonly billedNanoUsd: number } | null;
}

/** Tokens on both sides: what rows settle, and what upstreams billed for it. */
export interface Billing {
  readonly requests: number;
  readonly settledTokens: number;
  readonly billedTokens: number;
}

export interface TruthAnswer {
  readonly violations: readonly Violation[];
  /** Rows with the provider's own figures: both sides are equal. */
  readonly exact: Billing;
  /** Where no exact figure can be had: broken off, counted, estimated. */
  readonly apart: Billing;
}

interface Tally {
  requests: number;
  settledTokens: number;
  billedTokens: number;
}

interface Exchange {
  readonly entry: TruthEntry;
  readonly credential: string | null;
  /** What the upstream told in an answer; null = nothing, or it refused. */
  readonly told: TokenCount | null;
}

const inputOf = ({ usage }: LedgerRow): number => (usage ? totalInputTokens(usage) : 0);
const outputOf = ({ usage }: LedgerRow): number => (usage ? totalOutputTokens(usage) : 0);
const tokensOf = (row: LedgerRow): number => inputOf(row) + outputOf(row);
const sum = ({ inputTokens, outputTokens }: TokenCount): number => inputTokens + outputTokens;

/** A row that claims to know the upstream's own figures. */
const isExact = ({ state, provenance }: LedgerRow): boolean => state === "settled" && provenance === "exact";
/** A row of a call that we sent, and understood. */
const wasSent = ({ attempts, dialect, state }: LedgerRow): boolean => dialect !== null && (attempts > 0 || state === "unknown" || state === "intent");

export function truthAnswer(question: TruthQuestion): TruthAnswer {
  const { credentialOf, requestOf, costOf } = question;
  const rows = question.rows.filter(wasSent);
  const exchanges = question.entries
    .filter(({ call }) => call !== null)
    .map((entry): Exchange => ({ entry, credential: credentialOf(entry), told: (entry.status ?? 0) < 300 ? entry.told : null }));
  /** A key that nobody knows may be anybody's: then keys tell nothing. */
  const knowsKeys = exchanges.every(({ credential }) => credential !== null);
  // Not by whether it is a stream: some providers know nothing else, whatever the caller asked for.
  const nameOfRow = (row: LedgerRow): string => (requestOf ? row.requestId : JSON.stringify([knowsKeys ? row.credential : null, row.servedModel]));
  const nameOf = ({ credential, entry }: Exchange): string =>
    requestOf ? (requestOf(entry) ?? "") : JSON.stringify([knowsKeys ? credential : null, entry.call?.model ?? null]);
  const violations: Violation[] = [];
  const exact: Tally = { requests: 0, settledTokens: 0, billedTokens: 0 };
  const apart: Tally = { requests: 0, settledTokens: 0, billedTokens: 0 };

  function add(tally: Tally, row: LedgerRow | undefined, exchange: Exchange | undefined): void {
    tally.requests += 1;
    if (row) tally.settledTokens += tokensOf(row);
    if (exchange) tally.billedTokens += sum(exchange.told ?? exchange.entry.billed);
  }

  /** The rows and the exchanges of one kind, or of one request. */
  function compare(some: readonly LedgerRow[], heard: readonly Exchange[]): void {
    const waiting = heard.filter(({ told }) => told !== null);
    const unmatched: LedgerRow[] = [];
    for (const row of some.filter(isExact)) {
      const at = waiting.findIndex(({ told }) => told?.inputTokens === inputOf(row) && told.outputTokens === outputOf(row));
      if (at >= 0) add(exact, row, waiting.splice(at, 1)[0]);
      else unmatched.push(row);
    }
    for (const row of unmatched) {
      const exchange = waiting.shift();
      const billed = exchange ? `billed upstream ${wordsOf(exchange)}` : "no upstream billed such a request";
      violations.push({
        invariant: "I2",
        message: `${ownerOf(row)} tokens: settled ${inputOf(row)}+${outputOf(row)}, ${billed} (request ${row.requestId}${at(row)})`,
      });
    }
    // Where the upstream said nothing we could use, or was not heard to the end, we charged by our own count, or as held.
    const inexact = some.filter((row) => !isExact(row));
    const isFree = ({ state }: LedgerRow): boolean => state === "released" || state === "refused";
    const silent = heard.filter(({ told, entry }) => told === null && entry.billed.inputTokens > 0);
    for (const row of inexact) if (!isFree(row)) add(apart, row, waiting.shift() ?? silent.shift());
    for (const exchange of waiting) {
      // What was broken off may not be billed at all.
      if (exchange.entry.end !== "done") continue;
      const free = inexact.find(isFree);
      const whose = free ? `the row of ${ownerOf(free)} is ${free.state} (request ${free.requestId})` : "no row was charged for it";
      violations.push({ invariant: "I2", message: `billed upstream ${wordsOf(exchange)}, and ${whose}` });
    }
  }

  const missing = requestOf ? strangers(rows, exchanges, requestOf) : surplus(rows, exchanges);
  if (missing !== null) violations.unshift({ invariant: "I6", message: missing });
  // With a surplus nobody can say which exchange belongs to which row.
  if (missing === null) {
    const heard = Map.groupBy(exchanges, nameOf);
    const kept = Map.groupBy(rows, nameOfRow);
    for (const name of new Set([...kept.keys(), ...heard.keys()])) compare(kept.get(name) ?? [], heard.get(name) ?? []);
  }
  for (const row of rows) {
    const cost = row.state === "settled" ? costOf(row) : null;
    if (cost === null || (cost.rawNanoUsd === row.rawNanoUsd && cost.billedNanoUsd === row.billedNanoUsd)) continue;
    violations.push({
      invariant: "I2",
      message: `${ownerOf(row)} usd: settled ${row.billedNanoUsd} nanoUSD (raw ${row.rawNanoUsd}), its usage costs ${cost.billedNanoUsd} (raw ${cost.rawNanoUsd}) (request ${row.requestId}${at(row)})`,
    });
  }
  return { violations, exact, apart };
}

const at = ({ credential, servedModel }: LedgerRow): string => `, ${credential ?? "?"}/${servedModel ?? "?"}`;

function wordsOf({ entry, credential, told }: Exchange): string {
  const { inputTokens, outputTokens } = told ?? entry.billed;
  return `${inputTokens}+${outputTokens} (its request ${entry.id}, ${credential ?? "?"}/${entry.call?.model ?? "?"})`;
}

/** Each request that reached an upstream belongs to a row that knows of so many attempts. */
function strangers(rows: readonly LedgerRow[], exchanges: readonly Exchange[], requestOf: (entry: TruthEntry) => string | undefined): string | null {
  const known = new Set(rows.map(({ requestId }) => requestId));
  for (const { entry } of exchanges) {
    const requestId = requestOf(entry);
    if (requestId === undefined || !known.has(requestId))
      return `request ${entry.id} at the upstream (${requestId ?? "of an unknown request"}) has no row`;
  }
  return null;
}

function surplus(rows: readonly LedgerRow[], exchanges: readonly Exchange[]): string | null {
  const attempts = rows.reduce((total, row) => total + Math.max(1, row.attempts), 0);
  if (exchanges.length <= attempts) return null;
  const models = new Set(rows.map(({ servedModel }) => servedModel));
  const stranger = exchanges.find(({ entry }) => !models.has(entry.call?.model ?? null));
  const which = stranger ? `, among them request ${stranger.entry.id} for ${stranger.entry.call?.model ?? "no model"}` : "";
  return `${exchanges.length} requests reached the upstream${which}; the ledger has ${rows.length} rows of such requests with ${attempts} attempts`;
}
