/** Everything a guard is made of once its store is there. Built once; handlers only run what is built. */
import type { Admin } from "./core/admin.ts";
import type { Call } from "./core/call.ts";
import { closeAll } from "./core/close-all.ts";
import type { Services } from "./core/context.ts";
import { GuardError } from "./core/errors.ts";
import type { Ledger, Store } from "./core/store.ts";
import type { Clock, MaybePromise } from "./core/time.ts";
import type { Step } from "./core/step.ts";
import { dialect } from "./dialects/index.ts";
import { adminOf } from "./admin.ts";
import { callCosts, operationCosts, routeCosts, silentCosts, type CostParts } from "./costs.ts";
import { bounded, boundedLedger, boundedMemo, boundedStore } from "./limits/bounded.ts";
import { estimator } from "./limits/estimate.ts";
import { holds } from "./limits/holds.ts";
import type { LimitDefinition } from "./limits/limit.ts";
import { planner } from "./limits/plan.ts";
import { limitRegistry } from "./limits/registry.ts";
import { exactTokenizer, fastTokenizer } from "./limits/tokenizer.ts";
import type { Metrics } from "./metering/metrics.ts";
import type { PriceBook } from "./metering/prices.ts";
import { budgetsStep } from "./middleware/budgets.ts";
import { credentialsStep } from "./middleware/credentials.ts";
import type { PassthroughLane } from "./middleware/passthrough/lane.ts";
import { holderOfFiles } from "./middleware/passthrough/named-files.ts";
import { lanePaths } from "./middleware/passthrough/operations.ts";
import { ownership } from "./middleware/passthrough/ownership.ts";
import { modelsStep } from "./middleware/models.ts";
import { proxyStep } from "./middleware/proxy/proxy.ts";
import type { ResolvedRouteBudget } from "./options/budgets.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { clientFence } from "./client-fence.ts";
import { lending } from "./lending.ts";
import { modelCatalogue, type ModelCatalogue } from "./pool/catalogue.ts";
import { modelListing } from "./pool/listing.ts";
import { offers, type Offers } from "./pool/offers.ts";
import { loadMetrics, openStores, type OpenStores } from "./open-stores.ts";
import { rebuilding } from "./rebuilding.ts";
import { budgetWatch, recorder } from "./recorder.ts";
import { retryBudget } from "./resilience/retry-budget.ts";
import { storeWatch, type StoreWatch } from "./store-watch.ts";
import { memoryStore } from "./stores/memory.ts";
import { undiciTransport } from "./upstream/transport.ts";

/** How often overdue holds are looked for. Correctness never waits for it. */
const SWEEP_MS = 15_000;
const SWEEP_MOST = 1_000;
/** How long the end waits for rows to be written. */
const FLUSH_MS = 5_000;

export interface Runtime {
  readonly ledger: Ledger;
  readonly metrics: Metrics | null;
  readonly admin: Admin;
  /** All limits, for model calls; in-process ones demand their scopes. */
  callBudgets(requiredByDefault: boolean): Step;
  /** The limits of one part. */
  partBudgets(part: ResolvedRouteBudget): Step;
  readonly fail2ban: Step;
  readonly credentials: Step;
  readonly proxy: Step;
  readonly models: Step;
  /** All limits, for what is passed through unread. */
  readonly laneBudgets: Step;
  /** Made with the first request for it: most gateways never pass anything through. */
  lane(): Promise<PassthroughLane>;
  close(): Promise<void>;
}

export interface RuntimeInit {
  readonly options: ResolvedOptions;
  readonly services: Services & { recorder: Services["recorder"] };
  /** All limits, also those of parts that no request has reached yet. */
  readonly declared: () => Iterable<LimitDefinition>;
  readonly prices: PriceBook;
  readonly openRequests: () => number;
  readonly status: () => "ok" | "starting" | "closing" | "unavailable";
}

/** What is offered, and by whom: known before the store is. */
export interface Offered {
  readonly offers: Offers;
  readonly catalogue: ModelCatalogue;
}

export function offeredBy({ credentials, models, modelAlias }: ResolvedOptions): Offered {
  const catalogue = modelCatalogue(credentials);
  return { catalogue, offers: offers({ credentials, models, aliases: modelAlias, lists: catalogue }) };
}

export async function buildRuntime(init: RuntimeInit, offered: Offered): Promise<Runtime> {
  const { options, services } = init;
  const { clock, logger } = services;
  const stores = await openStores(options, clock, logger);
  let watch: StoreWatch | undefined;
  try {
    const metrics = options.monitoring.prometheusEnabled ? await loadMetrics(options, logger) : null;
    watch = storeWatch({ ...withDeadlines(stores, options, clock), clock, logger, failed: (op, mode) => metrics?.storeError(op, mode) });
    return await assemble(init, offered, stores, watch, metrics);
  } catch (error) {
    watch?.stop();
    await stores.close().catch(() => {});
    throw error;
  }
}

/** Ours end each call by themselves; a host's own may never answer. */
function withDeadlines(stores: OpenStores, { store: wanted, ledger: rows }: ResolvedOptions, clock: Clock): Pick<OpenStores, "store" | "ledger"> {
  const store = wanted.kind === "given" ? boundedStore(stores.store, clock) : stores.store;
  if (stores.ledger === stores.store.ledger) return { store, ledger: store.ledger };
  const isBounded = rows.kind !== "given" || rows.store.isBounded === true;
  return { store, ledger: isBounded ? stores.ledger : boundedLedger(stores.ledger, clock) };
}

async function assemble(
  init: RuntimeInit,
  { offers: offered, catalogue }: Offered,
  stores: OpenStores,
  watch: StoreWatch,
  metrics: Metrics | null,
): Promise<Runtime> {
  const { options, services, prices } = init;
  const { clock, logger } = services;
  const { store } = watch;
  // Also one whose calls end may say only when its database is back that everything is written: whoever asks for a report does not wait for that.
  const flushed = bounded({ clock, deadlineMs: FLUSH_MS });
  const ledger: Ledger = { ...watch.ledger, flush: () => flushed(() => watch.ledger.flush()) };
  services.recorder = recorder(ledger, metrics);

  // It belongs to the ledger, or to a store of the host.
  const isOurs = options.store.kind !== "given" && options.ledger.kind !== "given";
  const memo = stores.memo === null || isOurs ? stores.memo : boundedMemo(stores.memo, clock);
  const registry = limitRegistry({ records: store.records, memo, clock, logger });
  for (const limit of options.limits) registry.add(limit);
  await registry.load();
  const keeper = holds({ clock, logger, ttlMs: options.router.reservation.ttlMs });
  const countTokens = options.estimate.tokenizer === "exact" ? await exactTokenizer() : fastTokenizer;
  const estimate = estimator({ tokenizer: countTokens, defaultMaxOutputTokens: options.estimate.defaultMaxOutputTokens });
  const outputMaxima = new Map(
    options.models.flatMap(({ name, maxOutputTokens }) => (maxOutputTokens === undefined ? [] : [[name, maxOutputTokens] as const])),
  );
  const costs: CostParts = {
    estimate,
    countTokens,
    prices,
    capOutput: options.estimate.capOutput,
    maxOutputTokensOf: (model) => outputMaxima.get(model) ?? null,
  };
  const calls = callCosts(costs, offered);
  const local = memoryStore({ clock });
  const nodes = (): number => (options.nodes === "auto" ? Math.max(1, store.nodes?.() ?? 1) : options.nodes);
  const lent = await lending({ options, services, store, local, nodes, holds: keeper, offers: offered, metrics });
  const fence = await clientFence(options, services, store, metrics);
  const shared = {
    resolve: offered.resolve,
    store: store.limits,
    local: local.limits,
    nodes,
    outageMs: watch.outageMs,
    holds: keeper,
    watch: budgetWatch(metrics),
  };
  const transport = options.transport ?? undiciTransport({ connectTimeoutMs: options.resilience.connectTimeoutMs, clock });
  const direct = options.credentials.filter(({ proxyUrl }) => proxyUrl === null).map(({ name }) => name);
  // Without the lane no client can have files, and those of the account are the operator's to hand out.
  const holderOf = options.passthrough ? holderOfFiles(ownership({ records: store.records, credentials: direct, now: clock.now })) : () => null;
  const unreadCosts = operationCosts(costs, options.passthrough?.cost ?? {});
  let lane: Promise<PassthroughLane> | undefined;
  async function openLane(): Promise<PassthroughLane> {
    const { passthroughLane } = await import("./middleware/passthrough/lane.ts");
    const { resilience, server } = options;
    return passthroughLane({
      services,
      pool: lent.pool,
      records: store.records,
      credentials: options.credentials,
      resolve: offered.resolve,
      transport,
      paths: lanePaths(options.passthrough?.paths ?? "default", false),
      bodyLimit: server.bodyLimitBytes,
      connectTimeoutMs: resilience.connectTimeoutMs,
      idleTimeoutMs: resilience.idleTimeoutMs,
      requestTimeoutMs: server.requestTimeoutMs,
    });
  }

  const tokensOf = (call: Call): number => {
    const { inputTokens, expectedOutputTokens } = estimate(call, null);
    return inputTokens + expectedOutputTokens;
  };
  const listed = { offers: offered, catalogue, models: options.models, aliases: options.modelAlias };
  const models = modelsStep({ ...listed, transport, clock, logger });
  const listing = modelListing(listed);
  const sweep = sweeper(store, clock, services);
  const flush = bounded({ clock, deadlineMs: FLUSH_MS });
  metrics?.onScrape(() => metrics.store(watch.state().state !== "ok", keeper.waiting));
  const { isLedgerShared } = stores;
  const { continuity } = store.limits;
  const shares = { records: store.records, resolve: offered.resolve, ledger, isLedgerShared, nodes, memo };
  const rebuild = continuity ? rebuilding({ continuity, registry, declared: init.declared, ...shares, clock, logger }) : null;
  // The last thing that may fail, and before anything is decided.
  await rebuild?.start();

  return {
    ledger: watch.ledger,
    metrics,
    admin: adminOf({
      store,
      watch,
      ledger,
      registry,
      credentials: options.credentials,
      lent,
      fence,
      async discoverModels() {
        await models.refresh();
        return [...listing.all().values()].filter(({ isConfigured }) => !isConfigured).map(({ id }) => id);
      },
      openCounters: async () => rebuild?.openCounters(),
      holds: keeper,
      transport,
      services,
      openRequests: init.openRequests,
      status: init.status,
    }),
    callBudgets: (requiredByDefault) =>
      budgetsStep({ ...shared, calls, route: routeCosts(costs, null), planner: planner({ registry, requiredByDefault }) }),
    partBudgets({ limits, cost }) {
      for (const limit of limits) registry.add(limit);
      const names = limits.map(({ name }) => name);
      return budgetsStep({
        ...shared,
        calls: cost === null ? calls : null,
        route: cost === null ? silentCosts(costs, unreadCosts) : routeCosts(costs, cost),
        planner: planner({ registry, requiredByDefault: true, names }),
      });
    },
    fail2ban: fence.step,
    credentials: credentialsStep({ pool: lent.pool, tokensOf, holderOf }),
    proxy: proxyStep({
      services,
      transport,
      retryBudget: retryBudget(clock, options.resilience.retryBudget),
      maxRetries: options.resilience.maxRetries,
      dialectOf: (call) => dialect(call.dialect),
      firstByteTimeoutMs: options.resilience.firstByteTimeoutMs,
      idleTimeoutMs: options.resilience.idleTimeoutMs,
      requestTimeoutMs: options.server.requestTimeoutMs,
      countTokens,
      inputTokens: (call) => estimate(call, null).inputTokens,
    }),
    models,
    laneBudgets: budgetsStep({ ...shared, calls: null, route: unreadCosts, planner: planner({ registry, requiredByDefault: false }) }),
    lane: () => (lane ??= openLane()),
    close: () =>
      closeAll([
        () => rebuild?.close(),
        () => sweep.stop(),
        () => keeper.flush(),
        () => keeper.close(),
        () => registry.close(),
        async () => (await lane)?.close(),
        () => lent.close(),
        () => fence.close(),
        () => lastRows(() => flush(() => watch.ledger.flush())),
        () => watch.stop(),
        () => stores.close(),
        () => (options.transport ? undefined : transport.close()),
      ]),
  };
}

/** Who stops a process is told what that may cost, and not which call was late. */
async function lastRows(flush: () => MaybePromise<void>): Promise<void> {
  try {
    await flush();
  } catch (error) {
    if (!GuardError.is(error) || error.code !== "store_unavailable") throw error;
    throw new GuardError("store_unavailable", "the ledger has not taken its last rows in time: those still in memory may be lost", { cause: error });
  }
}

/** Frees what crashed requests held. */
function sweeper(store: Store, clock: Clock, services: Services): { stop(): void } {
  let stopped = false;
  const timer = clock.timer(SWEEP_MS, () => void run());
  async function run(): Promise<void> {
    try {
      const expired = await store.limits.expire(SWEEP_MOST);
      if (expired.length > 0) services.logger.warn({ count: expired.length }, "holds ran out without being settled; they stay charged as estimated");
    } catch (error) {
      // That the store is away is said once, and not by each round.
      if (!GuardError.is(error)) services.logger.warn({ err: error }, "overdue holds could not be looked for; the next round tries again");
    }
    if (!stopped) timer.refresh();
  }
  return {
    stop() {
      stopped = true;
      timer.cancel();
    },
  };
}
