import type { LedgerIntent, LedgerRow } from "./ledger.ts";
import type { RowSeals } from "./row-seal.ts";
import type { MaybePromise } from "./time.ts";
import type { Amounts, Unit } from "./units.ts";
import type { TokenClass } from "./usage.ts";

export { UNITS, type Amounts, type Unit } from "./units.ts";

/** The numbers of a limit, as they travel with each charge: a store needs no list of limits. All integers; times in ms. */
export type Rule = BucketRule | SlidingRule | CalendarRule | ConcurrencyRule;

/** Starts full and refills by `n` units per `d` ms. `capacity` at most 4e15. */
export interface BucketRule {
  readonly kind: "bucket";
  readonly capacity: number;
  readonly n: number;
  readonly d: number;
}

/** Counts in cells of `cellMs`, aligned to the epoch; a cell counts in full until it has left the period. */
export interface SlidingRule {
  readonly kind: "sliding";
  readonly limit: number;
  readonly perMs: number;
  readonly cellMs: number;
}

/** A day, week or month. `bounds` are the starts of the previous, current and next window and the end of the next (absolute ms). */
export interface CalendarRule {
  readonly kind: "calendar";
  readonly limit: number;
  readonly bounds: readonly [number, number, number, number];
}

/** At most `limit` holds at one time. */
export interface ConcurrencyRule {
  readonly kind: "concurrency";
  readonly limit: number;
}

/** One limit touched by one reservation. */
export interface Charge {
  /** Shape, limit and scope values; the same key is always the same counter. */
  readonly key: string;
  readonly rule: Rule;
  readonly unit: Unit;
  /** Integer from 0 to 9e15. */
  readonly amount: number;
  /** False = shadow: judged and counted alone, never refuses. */
  readonly enforce: boolean;
  /** True = never decided on counters that may be incomplete: `store_unavailable` while a store that lost them is being rebuilt. */
  readonly strict?: boolean;
}

/** How one limit stands after a verdict. */
export interface Standing {
  /** What is left; may be negative (debt). */
  readonly available: number;
  /** Ms until the limit is whole again; 0 = it is, null = never by itself. */
  readonly resetMs: number | null;
  /** Only of {@link Peeked} with an amount that does not fit now: ms until it does if nothing else happens; null = never. */
  readonly waitMs?: number | null;
}

/** A counter to look at. */
export interface Peeked {
  readonly key: string;
  readonly rule: Rule;
  /** Integer from 0 to 9e15: whether it would fit, and when. Absent = nobody asks. */
  readonly amount?: number;
}

export interface Shortfall {
  /** Index into the charges. */
  readonly index: number;
  readonly needed: number;
  readonly available: number;
  /** Ms until the same amount fits if nothing else happens; null = never. */
  readonly waitMs: number | null;
  /** The amount is above the capacity. */
  readonly tooSmall: boolean;
}

export type ReserveResult =
  /** Charged. `skipped` are the shadow charges that did not fit and were not charged. Standings are by charge. */
  | { readonly kind: "allowed"; readonly replayed: boolean; readonly skipped: readonly Shortfall[]; readonly standings: readonly Standing[] }
  /** Nothing was charged. `worst` has the longest wait of the enforcing limits; all of them are in `failing`. */
  | { readonly kind: "limited"; readonly worst: Shortfall; readonly failing: readonly Shortfall[]; readonly standings: readonly Standing[] }
  /** The opId was used for other charges: a bug of the caller. */
  | { readonly kind: "conflict" }
  /** The opId is already finished (or was released before it was reserved). */
  | { readonly kind: "closed" }
  /** The caller's clock lies outside a calendar window's bounds: recompute them for `now` and repeat with the same opId. */
  | { readonly kind: "skew"; readonly now: number }
  /**
   * Another process has changed the numbers of limits. The watchers of {@link LIMIT_NUMBERS} know them by now: work the charges out anew and repeat
   * with the same opId.
   */
  | { readonly kind: "stale" };

/** `applied` now · `late` applied after expiry · `done` already finished, no effect · `unknown` no such reservation: a tombstone is left. */
export type FinishResult = "applied" | "late" | "done" | "unknown";

/** A hold that ran out: everything but `concurrent` stays charged as estimated. */
export interface ExpiredReservation {
  readonly opId: string;
  readonly charges: readonly { readonly key: string; readonly unit: Unit; readonly amount: number }[];
}

/** Records below this key are the numbers of limits that were set at run time: a shared store lets no process decide by old ones. */
export const LIMIT_NUMBERS = "limit/";

/** A counter as text, in the form of `limits/codec`. */
export interface CounterState {
  readonly key: string;
  readonly state: string;
}

/**
 * What a store can say about counters that may be lost while processes live: a server that comes back empty. From the moment a loss is noticed
 * until {@link Continuity.complete} strict charges are `store_unavailable`; all others go on with empty counters.
 */
export interface Continuity {
  /** Names the counters' history; another one = they began anew. Empty before {@link Continuity.begin}. */
  readonly epoch: string;
  /** False from a noticed loss until it is made good. */
  readonly isWhole: boolean;
  /**
   * Compares the history with the one that was seen last; null = none ever was, so whatever the server holds (if nothing: the beginning) is
   * whole. Another history that is whole was made good by another process, and is. Afterwards `epoch` and `isWhole` are right.
   */
  begin(lastSeen: string | null): Promise<void>;
  /** Calls `fn` when a loss is noticed and when it is made good, by whatever process. Returns a function that stops it. */
  watch(fn: () => void): () => void;
  /** Takes (or keeps) the right to rebuild for so long. False = another process has it. */
  claim(ttlMs: number): Promise<boolean>;
  /** Puts counters in place of what stands there. Rejects, and changes nothing, without the right to rebuild. */
  restore(counters: readonly CounterState[]): Promise<void>;
  /** The counters are whole again, for all processes. Changes nothing without the right to rebuild. */
  complete(): Promise<void>;
}

/**
 * Atomic limits. Every verb is idempotent by opId, so a caller that lost a reply may repeat it. A store that cannot decide throws
 * `GuardError("store_unavailable")`; it never reports trouble as a refusal.
 */
export interface LimitStore {
  /** All or nothing over the charges. A refusal changes nothing (but a bucket whose definition changed). */
  reserve(opId: string, charges: readonly Charge[], ttlMs: number): MaybePromise<ReserveResult>;
  /** Replaces the held amounts by the actual ones: the rest goes back where it was taken, an overage is charged now, as debt. */
  settle(opId: string, actual: Amounts): MaybePromise<FinishResult>;
  /** Gives everything back. */
  release(opId: string): MaybePromise<FinishResult>;
  /** Prolongs a hold to at least now + ttlMs. False = it is unknown, finished or expired. */
  extend(opId: string, ttlMs: number): MaybePromise<boolean>;
  /** Ends a hold as if its time had run out: frees `concurrent`, leaves the rest charged as held; a settle within 24 h still replaces it. */
  lapse(opId: string): MaybePromise<FinishResult>;
  /** Marks up to `most` overdue holds as expired, frees their `concurrent` slots and returns them. */
  expire(most: number): MaybePromise<readonly ExpiredReservation[]>;
  /** Reads without changing anything. */
  peek(limits: readonly Peeked[]): MaybePromise<readonly Standing[]>;
  /** Absent = counters are lost only together with this process, or never. */
  readonly continuity?: Continuity;
}

export interface StoredRecord {
  readonly key: string;
  /** JSON. */
  readonly value: unknown;
  /** Grows with each write of this key. */
  readonly version: number;
}

export interface PutOptions {
  readonly ttlMs?: number;
  readonly ifAbsent?: boolean;
  readonly ifVersion?: number;
}

/** Small JSON records: overrides, bans, settings. Keys are `/`-separated paths. */
export interface RecordStore {
  get(key: string): MaybePromise<StoredRecord | undefined>;
  /** The new version, or undefined when a condition did not hold. */
  put(key: string, value: unknown, options?: PutOptions): MaybePromise<number | undefined>;
  delete(key: string): MaybePromise<boolean>;
  /** In key order. */
  list(prefix: string): MaybePromise<readonly StoredRecord[]>;
  /** Calls `fn` after each change below `prefix` (undefined = deleted). Returns a function that stops it. */
  watch(prefix: string, fn: (key: string, record: StoredRecord | undefined) => void): () => void;
}

/** Counts misbehaviour (fail2ban). Approximate where nodes share nothing; bounded, so the least recently struck key may be forgotten. */
export interface StrikeStore {
  /** Adds a strike and returns how many stand. The count starts with the first strike and is forgotten `windowMs` after it. */
  strike(key: string, windowMs: number): MaybePromise<number>;
  clear(key: string): MaybePromise<void>;
}

/** What a row names besides its scopes: reports filter and group by it. */
export const LEDGER_FIELDS = ["key", "model", "provider", "credential", "route", "tag"] as const;
export type LedgerField = (typeof LEDGER_FIELDS)[number];

export interface LedgerFilter {
  /** Ms since the epoch; `from` inclusive, `to` exclusive. */
  readonly from?: number;
  readonly to?: number;
  /** Values by scope; "" = rows that have no such scope. */
  readonly scopes?: Readonly<Record<string, string>>;
  /** Values by field; "" = rows that have none. */
  readonly fields?: { readonly [field in LedgerField]?: string };
  readonly state?: LedgerRow["state"];
  readonly limit?: number;
}

/** `day` is one of UTC. Any scope is `scope.<name>`; three of them have names of their own. */
export type LedgerGroup = LedgerField | "org" | "team" | "user" | "day" | `scope.${string}`;

/** Rows added up. Of the request counts the first one is of all rows, open ones too, and has the others within it. */
export interface LedgerTotal {
  /** Values by group; "" = the rows that have none. */
  readonly group: Readonly<Record<string, string>>;
  readonly requests: number;
  /** Refused by us. */
  readonly refused: number;
  /** Charged as held, because nobody said what was used: states `estimated` and `unknown`. */
  readonly estimated: number;
  /** Served at a cost that nobody knows: the model has no price. */
  readonly unpriced: number;
  readonly tokens: Readonly<Record<TokenClass, number>>;
  /** Exact, however large. */
  readonly rawNanoUsd: bigint;
  readonly billedNanoUsd: bigint;
}

/** One row a request: an intent before it is sent upstream, closed when it ends. */
export interface Ledger {
  /** Resolves once the row is committed; only then may the request be sent. Intents of one tick share a transaction. */
  intent(row: LedgerIntent): MaybePromise<void>;
  /** Queues the terminal row (of a known intent or a new one); committed within 50 ms. Repeating an id changes nothing. */
  close(row: LedgerRow): void;
  /** Resolves when everything queued is committed. */
  flush(): MaybePromise<void>;
  get(idOrRequestId: string): MaybePromise<LedgerRow | undefined>;
  /** Newest first. */
  list(filter: LedgerFilter): MaybePromise<readonly LedgerRow[]>;
  totals(filter: LedgerFilter, groupBy: readonly LedgerGroup[]): MaybePromise<readonly LedgerTotal[]>;
  /** All rows with `at` ≥ `fromMs`, open ones (state `intent`) too, in pages, oldest first as far as rows are finished. Never all in memory. */
  scan(fromMs: number): AsyncIterable<readonly LedgerRow[]>;
  /**
   * Wall clock, ms: whatever may have been charged since then has its row here, none was dropped. 0 = nothing ever was. What was only refused does not
   * count.
   */
  completeSince(): MaybePromise<number>;
  /**
   * Puts up to `most` finished rows from before `beforeMs` (the start of a UTC day), the oldest first, in with the sums of their day, and deletes them: all
   * of that or nothing, also when several processes do it at once. Totals stay what they were, where their times do not cut a day; a summed day counts at its
   * start. No row from the oldest open request on is touched, `completeSince` moves along. Returns how many rows went; 0 = there are no more. Absent = the
   * ledger bounds itself, or keeps everything.
   */
  fold?(beforeMs: number, most: number): MaybePromise<number>;
}

/** Keeps rows and records, but no counters. */
export interface LedgerStore {
  readonly name: string;
  /** Whether several processes see the same state. */
  readonly shared: boolean;
  readonly records: RecordStore;
  readonly ledger: Ledger;
  /** Absent = rows carry no seals. */
  readonly seals?: RowSeals;
  /** True = each call that a request waits for ends by itself, whatever happens to the server. Others are given a deadline by the guard. */
  readonly isBounded?: boolean;
  /**
   * Commits finished rows that were kept elsewhere while the ledger could not be written; without rows, a write that shows whether it can be. A row that
   * stands as `unknown` gives way to one that knows more; any other stays. `gapUntilMs` (wall clock): rows from before are lost. Rejects when not all of it is
   * committed, and may be repeated. Absent = nothing is kept elsewhere.
   */
  replay?(rows: readonly LedgerRow[], gapUntilMs: number | null): Promise<void>;
  /** Resolves when the store can serve; rejects with a message that names the setting at fault. */
  ready(): MaybePromise<void>;
  close(): MaybePromise<void>;
}

/** Everything that outlives a request. */
export interface Store extends LedgerStore {
  readonly limits: LimitStore;
  readonly strikes: StrikeStore;
  /** How many processes share it now, this one included. Absent = only this one. */
  nodes?(): number;
  /** Records that outlive the counters, where they are kept elsewhere. */
  readonly memo?: RecordStore;
}
