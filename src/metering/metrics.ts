import { ConfigError } from "../core/errors.ts";
import type { QuotaFact } from "../core/quota-fact.ts";
import type { LedgerRow } from "../core/ledger.ts";
import { nanoToUsd } from "../core/money.ts";
import { UNITS, type Unit } from "../core/store.ts";
import type { MaybePromise } from "../core/time.ts";
import { totalInputTokens, totalOutputTokens } from "../core/usage.ts";
import { OPEN, seriesBudget, type Cell, type Observer, type PromClient, type PromRegistry, type Show } from "./series.ts";

/**
 * Prometheus metrics. A request pays for one look-up and a few additions: counters and gauges are kept here and handed to prom-client when somebody
 * scrapes. No client can make a series: its model is a label only where the config knows that model, and the number of series is capped.
 */
export interface Metrics {
  /** A request is over: counts, durations, tokens, cost and what was settled. */
  request(row: LedgerRow): void;
  /** An attempt ended; `status` null = no answer. */
  attempt(credential: string, model: string, status: number | null): void;
  /** Time that a phase of ours took, without waiting for the upstream. */
  overhead(phase: string, seconds: number): void;
  decision(limit: string, outcome: "allowed" | "refused" | "would_refuse"): void;
  /** Charged beyond what was held. Money in nano-USD, shown as USD; so in all of these. */
  debt(limit: string, unit: Unit, amount: number): void;
  /** The cells of one limit, to be kept by the caller: they are touched by every request. */
  limit(name: string, unit: Unit): LimitCells;
  /** How a credential stands now; `banned` also when only one of its models is. Null = it is gone, and so are its numbers. */
  credential(credential: string, standing: CredentialStanding | null): void;
  /** What is left of a credential's quotas: these, and no others any more. */
  quotas(credential: string, left: readonly Pick<QuotaFact, "group" | "models" | "remainingRatio">[]): void;
  /** More names that may be labels; patterns among them are passed over. */
  knowModels(names: Iterable<string>): void;
  /** A ban began, or ended by time or by a person. */
  ban(change: "began" | "ended"): void;
  storeError(op: string, mode: string): void;
  /** How the store fares now, how many settlements wait for it, and what waits in files for the ledger's database. */
  store(degraded: boolean, waitingSettlements: number, spool?: { readonly rows: number; readonly bytes: number }): void;
  conservationViolation(): void;
  /** What became of a request with an `Idempotency-Key`. */
  idempotency(outcome: string): void;
  /** A strategy of a host's or a plugin's threw, or picked nobody that it may. */
  strategyFailed(strategy: string): void;
  /** A candidate was passed over. */
  selectionRejected(reason: string): void;
  /** Something that a plugin brought failed: a listener, a timer, a route. */
  pluginError(plugin: string, part: string): void;
  /** One of a plugin's; null = the name is there already. */
  counter(name: string, help: string, labels: readonly string[]): ((values: readonly string[]) => void) | null;
  /** Called before each scrape, to set gauges that nobody pushes. A failure leaves them as they were. */
  onScrape(fn: () => MaybePromise<void>): void;
  expose(): Promise<string>;
  readonly contentType: string;
}

/** What every request changes about a limit that it touches. Amounts in the limit's unit, money in nano-USD. */
export interface LimitCells {
  readonly allowed: Cell;
  /** What is held for open requests. */
  readonly reserved: Cell;
  /** The lowest that was left since the last scrape: of thousands of users a gauge can only show who is worst off. */
  lowest: number;
}

export interface CredentialStanding {
  readonly ready: boolean;
  readonly banned: boolean;
  readonly cooling: boolean;
  readonly limited: boolean;
  readonly paused: boolean;
  readonly breaker: "closed" | "half-open" | "open";
}

export interface MetricsOptions {
  /** Model names of the config; patterns among them are passed over. Any other model is `other`. */
  readonly knownModels: Iterable<string>;
  /** The host's own registry. Default: one of this instance's own. */
  readonly registry?: PromRegistry;
  /** Time series at most, histograms counted with all their buckets. Default 2,000. */
  readonly maxSeries?: number;
}

const PREFIX = "quotaguard_";
const DEFAULT_MAX_SERIES = 2_000;
/** Names that may be labels. Beyond it a model is `other`, as beyond the cap of series. */
const MAX_KNOWN = 10_000;
const OTHER = "other";
const NONE = "none";

const REQUEST_SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300];
const FIRST_BYTE_SECONDS = [0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];
const OVERHEAD_SECONDS = [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1];

/** Where a request of one kind is counted: looked up once for all of it. */
interface RequestCells {
  readonly requests: Cell;
  readonly duration: Observer;
  readonly input: Cell;
  readonly output: Cell;
  readonly cost: Cell;
}

/** Upstreams may invent a status, too. */
const statusLabel = (status: number | null): string =>
  status !== null && Number.isInteger(status) && status >= 100 && status <= 599 ? String(status) : NONE;

/** Money is kept in nano-USD, so that no sum of small costs loses a digit, and shown as USD. */
const inUsd: Show = (value, { unit }) => (unit === undefined || unit === "usd" ? nanoToUsd(value) : value);

const STATES: readonly LedgerRow["state"][] = ["intent", "settled", "released", "refused", "estimated", "unknown"];
const BREAKER_STATES = { closed: 0, "half-open": 1, open: 2 } as const;
const OUTCOMES = 3;
const DIRECTIONS = 2;

/** Registers all families. `client` is the module prom-client. Throws {@link ConfigError} when another guard already uses the registry. */
export function metrics(client: PromClient, options: MetricsOptions): Metrics {
  const registry = options.registry ?? new client.Registry();
  if (registry.getSingleMetric(`${PREFIX}requests_total`)) {
    throw new ConfigError(["monitoring: this prom-client registry already has the metrics of a guard; give each guard a registry of its own"]);
  }
  const known = new Set<string>();
  const knowModels = (names: Iterable<string>): void => {
    for (const name of names) if (known.size < MAX_KNOWN && !name.includes("*")) known.add(name);
  };
  knowModels(options.knownModels);
  const maxSeries = options.maxSeries ?? DEFAULT_MAX_SERIES;
  const series = seriesBudget({ client, registry, maxSeries, prefix: PREFIX, overflow: OTHER });

  const requests = series.counter("requests_total", "Requests that ended", {
    route: OPEN,
    dialect: OPEN,
    provider: OPEN,
    model: OPEN,
    stream: OPEN,
    status: OPEN,
  });
  const duration = series.histogram(
    "request_duration_seconds",
    "From a request's arrival to the end of its answer",
    { route: OPEN, stream: OPEN },
    REQUEST_SECONDS,
  );
  const overhead = series.histogram("overhead_seconds", "Time spent in the guard itself", { phase: OPEN }, OVERHEAD_SECONDS);
  const firstByte = series.histogram(
    "time_to_first_byte_seconds",
    "From a request's arrival to the first byte of its answer",
    {},
    FIRST_BYTE_SECONDS,
  );
  const attempts = series.counter("attempts_total", "Requests sent to a provider", { credential: OPEN, model: OPEN, status: OPEN });
  const decisions = series.counter("decisions_total", "Verdicts of limits", { limit: OPEN, outcome: OUTCOMES });
  const debts = series.counter("debt_units_total", "Charged beyond what was held, in the limit's unit", { limit: OPEN, unit: UNITS.length }, inUsd);
  const reserved = series.gauge("reserved_units", "Held for open requests, in the limit's unit", { limit: OPEN, unit: UNITS.length }, inUsd);
  const settled = series.counter(
    "settled_units_total",
    "Charged in the end, by how it became known",
    { unit: UNITS.length, state: STATES.length },
    inUsd,
  );
  const tokens = series.counter("tokens_total", "Tokens that models read and wrote", { direction: DIRECTIONS, model: OPEN });
  const cost = series.counter("cost_usd_total", "Billed, in USD", { model: OPEN }, inUsd);
  const remaining = series.gauge("bucket_remaining", "What is left of a limit, in its unit", { limit: OPEN });
  const ready = series.gauge("credential_ready", "1 = the credential can be chosen", { credential: OPEN });
  const banned = series.gauge("credential_banned", "1 = the credential is banned, for one model at least", { credential: OPEN });
  const cooling = series.gauge("credential_cooling", "1 = the credential cools down, for one model at least", { credential: OPEN });
  const limited = series.gauge("credential_limited", "1 = the credential's own limits have no room", { credential: OPEN });
  const paused = series.gauge("credential_paused", "1 = a person or a plugin keeps the credential out", { credential: OPEN });
  const quotaLeft = series.gauge("quota_remaining_ratio", "What is left of an account's quota, 0 to 1", { credential: OPEN, group: OPEN });
  const strategyFailures = series.counter("strategy_failures_total", "Choices that a host's strategy did not make", { strategy: OPEN });
  const quotaGroups = new Map<string, Set<string>>();
  const breakers = series.gauge("breaker_state", "0 = closed, 1 = half-open, 2 = open", { credential: OPEN });
  const bans = series.counter("bans_total", "Bans of credentials and clients", {})();
  const unbans = series.counter("unbans_total", "Bans that ended, by time or by a person", {})();
  const storeErrors = series.counter("store_errors_total", "Store operations that failed", { op: OPEN, mode: OPEN });
  const degraded = series.gauge("store_degraded", "1 = the store or the ledger cannot be used, or lost counters are being rebuilt", {})();
  const waiting = series.gauge("waiting_settlements", "Settlements that wait for the store", {})();
  const spoolRows = series.gauge("spool_rows", "Rows in files that wait for the ledger's database", {})();
  const spoolBytes = series.gauge("spool_bytes", "Bytes of the files that wait for the ledger's database", {})();
  const violations = series.counter("conservation_violations_total", "Ledger rows that do not balance; anything but 0 is a bug", {})();
  const keyed = series.counter("idempotency_total", "Requests with an Idempotency-Key, by what became of them", { outcome: OPEN });
  const rejections = series.counter("selection_rejected_total", "Candidates that were passed over", { reason: OPEN });
  const pluginErrors = series.counter("plugin_errors_total", "Failures of what plugins brought", { plugin: OPEN, part: OPEN });
  const firstBytes = firstByte();

  /** A quota of one model by itself has the model's name in its own, and that may be a client's. */
  function groupLabel({ group, models = [] }: Pick<QuotaFact, "group" | "models">): string {
    const own = models.find((model) => group.endsWith(`/${model}`));
    return own === undefined || known.has(own) ? group : `${group.slice(0, -own.length)}${OTHER}`;
  }

  const modelLabel = (model: string | null): string => (model === null ? NONE : known.has(model) ? model : OTHER);

  const settledByUsage = {
    requests: settled("requests", "settled"),
    input: settled("input_tokens", "settled"),
    output: settled("output_tokens", "settled"),
    tokens: settled("tokens", "settled"),
    usd: settled("usd", "settled"),
  };

  const kinds = new Map<string, RequestCells>();

  function cellsOf(row: LedgerRow): RequestCells {
    const model = modelLabel(row.model);
    const dialect = row.dialect ?? NONE;
    const provider = row.provider ?? NONE;
    const stream = row.stream ? "true" : "false";
    const status = statusLabel(row.status);
    const key = `${row.route}\n${dialect}\n${provider}\n${model}\n${stream}\n${status}`;
    let cells = kinds.get(key);
    if (!cells) {
      cells = {
        requests: requests(row.route, dialect, provider, model, stream, status),
        duration: duration(row.route, stream),
        input: tokens("input", model),
        output: tokens("output", model),
        cost: cost(model),
      };
      // Beyond the cap everything new ends in the overflow, and that needs no remembering.
      if (kinds.size < maxSeries) kinds.set(key, cells);
    }
    return cells;
  }

  function countSettled(row: LedgerRow): void {
    const { state, usage, held, billedNanoUsd } = row;
    if (state === "settled" && usage) {
      const input = totalInputTokens(usage);
      const output = totalOutputTokens(usage);
      settledByUsage.requests.add(1);
      settledByUsage.input.add(input);
      settledByUsage.output.add(output);
      settledByUsage.tokens.add(input + output);
      if (billedNanoUsd !== null) settledByUsage.usd.add(billedNanoUsd);
    } else if (state === "estimated" || state === "unknown") {
      for (const unit of UNITS) {
        const amount = held[unit];
        if (amount !== undefined && unit !== "concurrent") settled(unit, state).add(amount);
      }
    }
  }

  return {
    request(row) {
      const cells = cellsOf(row);
      cells.requests.add(1);
      cells.duration.observe(row.latencyMs / 1000);
      if (row.firstByteMs !== null) firstBytes.observe(row.firstByteMs / 1000);
      if (row.usage) {
        cells.input.add(totalInputTokens(row.usage));
        cells.output.add(totalOutputTokens(row.usage));
      }
      if (row.billedNanoUsd !== null) cells.cost.add(row.billedNanoUsd);
      countSettled(row);
    },
    attempt: (credential, model, status) => attempts(credential, modelLabel(model), statusLabel(status)).add(1),
    overhead: (phase, seconds) => overhead(phase).observe(seconds),
    decision: (limit, outcome) => decisions(limit, outcome).add(1),
    debt: (limit, unit, amount) => debts(limit, unit).add(amount),
    limit(name, unit) {
      const cells: LimitCells = { allowed: decisions(name, "allowed"), reserved: reserved(name, unit), lowest: Infinity };
      const left = remaining(name);
      series.onScrape(() => {
        if (cells.lowest !== Infinity) left.set(unit === "usd" ? nanoToUsd(cells.lowest) : cells.lowest);
        cells.lowest = Infinity;
      });
      return cells;
    },
    credential(credential, standing) {
      const flag = (value: boolean | undefined): number => (value === undefined ? Number.NaN : Number(value));
      ready(credential).set(flag(standing?.ready));
      banned(credential).set(flag(standing?.banned));
      cooling(credential).set(flag(standing?.cooling));
      limited(credential).set(flag(standing?.limited));
      paused(credential).set(flag(standing?.paused));
      breakers(credential).set(standing ? BREAKER_STATES[standing.breaker] : Number.NaN);
    },
    quotas(credential, left) {
      const scarcest = new Map<string, number>();
      for (const fact of left) {
        const group = groupLabel(fact);
        scarcest.set(group, Math.min(scarcest.get(group) ?? 1, fact.remainingRatio));
      }
      for (const group of quotaGroups.get(credential) ?? []) quotaLeft(credential, group).set(Number.NaN);
      for (const [group, remainingRatio] of scarcest) quotaLeft(credential, group).set(remainingRatio);
      if (left.length === 0) quotaGroups.delete(credential);
      else quotaGroups.set(credential, new Set(scarcest.keys()));
    },
    knowModels,
    strategyFailed: (strategy) => strategyFailures(strategy).add(1),
    ban: (change) => (change === "began" ? bans : unbans).add(1),
    storeError: (op, mode) => storeErrors(op, mode).add(1),
    store(isDegraded, waitingSettlements, spool) {
      degraded.set(isDegraded ? 1 : 0);
      waiting.set(waitingSettlements);
      spoolRows.set(spool?.rows ?? 0);
      spoolBytes.set(spool?.bytes ?? 0);
    },
    conservationViolation: () => violations.add(1),
    idempotency: (outcome) => keyed(outcome).add(1),
    selectionRejected: (reason) => rejections(reason).add(1),
    pluginError: (plugin, part) => pluginErrors(plugin, part).add(1),
    counter(name, help, labels) {
      if (registry.getSingleMetric(PREFIX + name)) return null;
      const find = series.counter(name, help, Object.fromEntries(labels.map((label) => [label, OPEN])));
      return (values) => find(...values).add(1);
    },
    onScrape: (fn) => series.onScrape(fn),
    expose: () => registry.metrics(),
    contentType: registry.contentType,
  };
}
