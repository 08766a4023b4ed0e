import { AssertionError } from "node:assert";
import type { Invariant } from "../../core/audit.ts";
import { awake } from "../../core/awake.ts";
import type { LedgerRow } from "../../core/ledger.ts";
import type { Ledger, Store } from "../../core/store.ts";
import { systemClock } from "../../core/time.ts";
import type { QuotaGuard } from "../../guard.ts";
import { rowViolations, type Violation } from "../../metering/conservation.ts";
import { guardPrices } from "../../guard-prices.ts";
import { resolveOptions, type GuardOptions } from "../../options.ts";
import { credentialSet } from "../../pool/credential-set.ts";
import { rowCosts } from "../../row-costs.ts";
import type { FakeUpstream } from "../fake-upstream.ts";
import type { StoreRecording } from "../recording-store.ts";
import { digestOf, type TruthEntry } from "../truth-log.ts";
import { admissionViolations } from "./admissions.ts";
import { bookViolations } from "./books.ts";
import { baselinesOf, counterViolations } from "./counters.ts";
import { openHolds, reservationsOf } from "./reservations.ts";
import { truthAnswer, type Billing } from "./truth.ts";

/** A store that records: `recordingStore()` or `faultyStore()`. */
type RecordedStore = Store & { readonly recording: StoreRecording };

export interface ConservationOptions {
  /** The guard whose ledger is read, and which is waited for. */
  readonly guard?: QuotaGuard;
  /** The guard's store, made by `recordingStore()` or `faultyStore()`: with it the limits are checked. Several = one for each guard that shares it. */
  readonly store?: RecordedStore | readonly RecordedStore[];
  /** Where the guard's requests went: with them the bill is checked. */
  readonly upstreams?: readonly Pick<FakeUpstream, "log" | "forgotten">[];
  /** The options of the guard: with them each bill is checked by credential, and each cost by its price. */
  readonly options?: GuardOptions;
  /** All rows, instead of those of the guard's or the store's ledger: of several processes. */
  readonly rows?: readonly LedgerRow[];
  /**
   * The request id (`x-request-id`) of the request that an upstream saw, where a test can tell, e.g. because its message says so. Without it requests are
   * told apart by credential, model and figures.
   */
  readonly requestOf?: (entry: TruthEntry) => string | undefined;
  /** How long it waits for requests that are still open, ms of real time. Default 2000. */
  readonly waitMs?: number;
}

/** What was found to be in order. */
export interface Conserved {
  /** The invariants that could be checked with what was given. */
  readonly checked: readonly Invariant[];
  readonly rows: number;
  readonly reservations: number;
  /** Requests with the upstream's own figures: what rows settle equals what was billed. */
  readonly exact: Billing;
  /** Requests that were broken off, or counted or estimated by us: no figure of the upstream's to compare with. */
  readonly apart: Billing;
}

/** Tells the first broken equation with its numbers, and lists all. */
export class ConservationError extends AssertionError {
  override readonly name = "ConservationError";
  readonly violations: readonly Violation[];

  constructor(violations: readonly Violation[]) {
    const [first] = violations;
    const more = violations.length > 1 ? `\n(and ${violations.length - 1} more, see .violations)` : "";
    super({ message: `${first?.invariant} ${first?.message}${more}`, actual: violations.map(lineOf), expected: [], operator: "expectConserved" });
    this.violations = violations;
  }

  get invariant(): Invariant | undefined {
    return this.violations[0]?.invariant;
  }
}

const lineOf = ({ invariant, message }: Violation): string => `${invariant} ${message}`;

/**
 * Recomputes at a quiet moment what must always hold: every operation balances (I1), what was settled is what the upstream billed (I2), no limit let through
 * more than it may (I3), each reservation ended once (I4), none is still held (I5), and each request that reached an upstream has a row (I6). It waits for
 * open requests, reads, and changes nothing.
 *
 * @throws ConservationError that names the first broken equation with its numbers; an Error when it does not become quiet, or there is nothing to check.
 * @example
 * const store = recordingStore();
 * const guard = createGuard({ ...options, store });
 * // … requests …
 * await expectConserved({ guard, store, upstreams: [upstream], options });
 */
export async function expectConserved(options: ConservationOptions): Promise<Conserved> {
  return awake(examine(options));
}

async function examine(given: ConservationOptions): Promise<Conserved> {
  const stores = given.store === undefined ? [] : "limits" in given.store ? [given.store] : given.store;
  const upstreams = given.upstreams ?? [];
  const entries = (): TruthEntry[] => upstreams.flatMap(({ log }) => log);
  const ledger: Ledger | undefined = given.guard?.ledger ?? stores[0]?.ledger;
  if (!ledger && !given.rows) throw new Error("expectConserved() needs `guard`, `store` or `rows`");
  const forgotten = upstreams.reduce((sum, upstream) => sum + upstream.forgotten, 0);
  if (forgotten > 0)
    throw new Error(
      `${forgotten} requests have left the upstream's log: give fakeUpstream() a larger \`logLimit\`, and reset() none that is to be checked`,
    );
  await quiet(given, stores, entries);
  await ledger?.flush();
  const rows = given.rows ?? (await allRows(ledger as Ledger));

  const checked = new Set<Invariant>(["I1", "I4"]);
  const violations: Violation[] = [...rowViolations(rows)];
  const verbs = verbsOf(stores);
  const { reservations, violations: endings } = reservationsOf(verbs);
  if (stores.length > 0) {
    for (const each of ["I2", "I3", "I5"] as const) checked.add(each);
    // Counters that were lost have begun anew: what they let through is no longer what was reserved.
    const isWhole = stores.every(({ recording }) => recording.losses === 0);
    const counted = isWhole ? await countersOf(stores, verbs, reservations) : [];
    const nowMs = (stores[0] as RecordedStore).recording.clock.monotonic();
    violations.push(...counted, ...bookViolations(reservations, rows), ...(isWhole ? admissionViolations(reservations) : []));
    violations.push(...endings, ...openHolds(reservations, nowMs), ...closedTwice(stores));
  }
  const truth = truthAnswer({ rows, entries: entries(), requestOf: given.requestOf, ...(await knowledgeOf(given.options)) });
  if (upstreams.length > 0) {
    for (const each of ["I2", "I6"] as const) checked.add(each);
    violations.push(...truth.violations);
  }
  if (violations.length > 0) throw new ConservationError(violations.toSorted((a, b) => (a.invariant < b.invariant ? -1 : 1)));
  const { exact, apart } = truth;
  return { checked: [...checked].toSorted(), rows: rows.length, reservations: reservations.length, exact, apart };
}

/** Resolves when nothing is open any more. */
async function quiet({ guard, waitMs = 2_000 }: ConservationOptions, stores: readonly RecordedStore[], entries: () => TruthEntry[]): Promise<void> {
  const untilMs = systemClock.monotonic() + waitMs;
  for (;;) {
    const health = guard?.admin.health();
    const open = [
      [health?.openRequests ?? 0, "requests are still open"],
      [health?.waitingSettlements ?? 0, "settlements still wait for the store"],
      [stores.reduce((sum, { recording }) => sum + recording.pending, 0), "calls of the store are not answered"],
      [entries().filter(({ end }) => end === null).length, "requests are still open at the upstream"],
    ] as const;
    const busy = open.find(([count]) => count > 0);
    if (!busy) return;
    if (systemClock.monotonic() >= untilMs) throw new Error(`expectConserved() needs a quiet moment: ${busy[0]} ${busy[1]} after ${waitMs} ms`);
    await new Promise<void>((resolve) => void systemClock.timer(2, resolve));
  }
}

async function allRows(ledger: Ledger): Promise<LedgerRow[]> {
  const rows: LedgerRow[] = [];
  for await (const page of ledger.scan(0)) rows.push(...page);
  return rows;
}

function verbsOf(stores: readonly RecordedStore[]) {
  const lost = stores.reduce((sum, { recording }) => sum + recording.unrecorded, 0);
  if (lost > 0) throw new Error(`the recording of the store is full: ${lost} verbs or rows are missing; give recordingStore() a larger \`limit\``);
  return stores.flatMap(({ recording }) => recording.verbs).toSorted((a, b) => a.endOrder - b.endOrder);
}

/** Looks at the counters behind whatever faults are on. */
async function countersOf(
  stores: readonly RecordedStore[],
  verbs: ReturnType<typeof verbsOf>,
  reservations: ReturnType<typeof reservationsOf>["reservations"],
): Promise<readonly Violation[]> {
  const [{ recording }] = stores as [RecordedStore];
  const baselines = baselinesOf(verbs);
  const fromMs = recording.clock.monotonic();
  const standings = await recording.peek(baselines);
  return counterViolations(baselines, standings, reservations, { fromMs, toMs: recording.clock.monotonic(), wallMs: recording.clock.now() });
}

/** A row that the ledger is told to close twice must say the same both times (I4). */
function closedTwice(stores: readonly RecordedStore[]): Violation[] {
  const first = new Map<string, LedgerRow>();
  const violations: Violation[] = [];
  for (const row of stores.flatMap(({ recording }) => recording.closed)) {
    const before = first.get(row.id);
    if (before && before.state !== row.state)
      violations.push({ invariant: "I4", message: `the row of request ${row.requestId} was closed as ${before.state}, then as ${row.state}` });
    first.set(row.id, before ?? row);
  }
  return violations;
}

/** What the guard's options say of keys and prices. */
async function knowledgeOf(input: GuardOptions | undefined): Promise<Pick<Parameters<typeof truthAnswer>[0], "credentialOf" | "costOf">> {
  if (input === undefined) return { credentialOf: () => null, costOf: () => null };
  const options = resolveOptions(input);
  const names = new Map<string, string>();
  for (const { name, apiKey } of options.credentials) {
    if (apiKey === null) continue;
    for (const sent of [apiKey.reveal(), `Bearer ${apiKey.reveal()}`]) names.set(digestOf(sent), name);
  }
  const prices = guardPrices(options, { clock: systemClock, credentials: credentialSet(options.credentials) });
  // A file may have changed since, and comes before the book: without one, nobody knows.
  if (options.prices.files.length === 0) await prices.load();
  return {
    credentialOf({ headers }) {
      for (const header of ["authorization", "x-api-key", "x-goog-api-key", "api-key"]) {
        const name = names.get(String(headers[header]));
        if (name !== undefined) return name;
      }
      return null;
    },
    costOf: rowCosts(prices, options),
  };
}
