/** Everything a guard is made of once its store is there. Built once; handlers only run what is built. */
import type { Admin } from "./core/admin.ts";
import type { Call } from "./core/call.ts";
import { closeAll } from "./core/close-all.ts";
import type { Services } from "./core/context.ts";
import { diagnose } from "./core/diagnostics.ts";
import type { ScopesInput } from "./core/scope.ts";
import type { Ledger } from "./core/store.ts";
import type { Step } from "./core/step.ts";
import { NO_USAGE, type Usage } from "./core/usage.ts";
import { adminOf } from "./admin.ts";
import { books } from "./books.ts";
import { chainCautions } from "./chain-cautions.ts";
import { callCosts, operationCosts, routeCosts, silentCosts, type CostParts } from "./costs.ts";
import { bounded, boundedMemo } from "./limits/bounded.ts";
import { estimator, LONG_OUTPUT_TOKENS } from "./limits/estimate.ts";
import { holds } from "./limits/holds.ts";
import type { LimitDefinition } from "./limits/limit.ts";
import { planner } from "./limits/plan.ts";
import { limitRegistry } from "./limits/registry.ts";
import { exactTokenizer, fastTokenizer } from "./limits/tokenizer.ts";
import type { Metrics } from "./metering/metrics.ts";
import { budgetsStep } from "./middleware/budgets.ts";
import { credentialsStep } from "./middleware/credentials.ts";
import { sessions } from "./middleware/credentials/session.ts";
import type { PassthroughLane } from "./middleware/passthrough/lane.ts";
import { holderOfFiles } from "./middleware/passthrough/named-files.ts";
import { directNames, ownership } from "./middleware/passthrough/ownership.ts";
import { idempotencyOf } from "./idempotency.ts";
import type { GuardPrices } from "./guard-prices.ts";
import { inProcessBudgets, type InProcessBudgets } from "./in-process-budgets.ts";
import { modelsStep } from "./middleware/models.ts";
import type { AttemptSettings } from "./middleware/proxy/attempt-settings.ts";
import { proxyStep } from "./middleware/proxy/proxy.ts";
import type { ResolvedRouteBudget } from "./options/budgets.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { explainer, type Admission } from "./explainer.ts";
import { clientFence } from "./client-fence.ts";
import { credentialControl, type GuardCredentialControl } from "./credential-control.ts";
import { credentialPauses, notPaused } from "./credential-pauses.ts";
import { lastRows } from "./last-rows.ts";
import { lateLane } from "./late-lane.ts";
import { lending } from "./lending.ts";
import { modelListing } from "./pool/listing.ts";
import { loadMetrics, withDeadlines, type OpenStores } from "./open-stores.ts";
import type { Offered } from "./offered.ts";
import { outputCaps } from "./output-caps.ts";
import { openSpooling, type SpoolingStores } from "./spooling.ts";
import type { PluginSet } from "./plugin-set.ts";
import { retentionOf } from "./ledger-retention.ts";
import { rebuilding } from "./rebuilding.ts";
import { keptRecords, reselling, type Reselling } from "./reselling.ts";
import { recordLock } from "./record-lock.ts";
import { remainingRows, type Remaining } from "./remaining.ts";
import { budgetWatch, recorder } from "./recorder.ts";
import { retryBudget } from "./resilience/retry-budget.ts";
import { sending } from "./sending.ts";
import { storeWatch, type StoreWatch } from "./store-watch.ts";
import { sweeper } from "./sweeper.ts";
import { memoryStore } from "./stores/memory.ts";
import { providerTable } from "./upstream/provider-table.ts";
import { undiciTransport } from "./upstream/transport.ts";

/** Nobody calls anything from within what is only passed through. */
const NOBODY = { isOn: false };
/** How long the end waits for rows to be written. */
const FLUSH_MS = 5_000;

export interface Runtime {
  readonly ledger: Ledger;
  readonly metrics: Metrics | null;
  readonly admin: Admin;
  /** All limits, for model calls; in-process ones demand their scopes. */
  callBudgets(requiredByDefault: boolean): Step;
  /** How the limits stand that these scope values have. */
  remaining(scopes: ScopesInput): Promise<readonly Remaining[]>;
  /** The limits of one part. */
  partBudgets(part: ResolvedRouteBudget): Step;
  /** For what a host calls itself, in this process. */
  readonly inProcess: InProcessBudgets;
  readonly attempts: AttemptSettings;
  readonly fail2ban: Step;
  readonly idempotency: Step;
  readonly credentials: Step;
  readonly proxy: Step;
  readonly models: Step;
  /** All limits, for what is passed through unread. */
  readonly laneBudgets: Step;
  lane(): Promise<PassthroughLane>;
  /** Null = there are none. */
  readonly plugins: PluginSet | null;
  /** Keys of clients, organisations, numbers of limits. */
  readonly reselling: Pick<Reselling, "keys" | "orgs">;
  /** What the pool does for plugins. */
  readonly credentialControl: GuardCredentialControl;
  close(): Promise<void>;
}

export interface RuntimeInit {
  readonly options: ResolvedOptions;
  readonly services: Services & { recorder: Services["recorder"] };
  /** All limits, also those of parts that no request has reached yet. */
  readonly declared: () => Iterable<LimitDefinition>;
  /** Whether there are clients in this process. */
  readonly inProcess: { readonly isOn: boolean };
  readonly prices: GuardPrices;
  /** Who may come in, for whoever asks what would become of a call. */
  readonly admission: () => Admission;
  readonly openRequests: () => number;
  readonly status: () => "ok" | "starting" | "closing" | "unavailable";
}

export async function buildRuntime(init: RuntimeInit, offered: Offered): Promise<Runtime> {
  const { options, services } = init;
  const { clock, logger } = services;
  const stores = await openSpooling(options, clock, logger);
  let watch: StoreWatch | undefined;
  let runtime: Runtime;
  let metrics: Metrics | null;
  try {
    metrics = options.monitoring.prometheusEnabled ? await loadMetrics(options, logger) : null;
    const { spool } = stores;
    watch = storeWatch({ ...withDeadlines(stores, options, clock), spool, clock, logger, failed: (op, mode) => metrics?.storeError(op, mode) });
    runtime = await assemble(init, offered, stores, watch, metrics);
  } catch (error) {
    watch?.stop();
    await stores.close().catch(() => {});
    throw error;
  }
  const started = options.plugins.length === 0 ? runtime : await withPlugins(runtime, init, stores, watch, metrics);
  for (const caution of chainCautions(options, offered)) diagnose(logger, "QG_FALLBACK_CHAIN", {}, caution);
  return started;
}

/** Plugins come last: what they are given works. They go first. */
async function withPlugins(
  runtime: Runtime,
  { options, services: { clock, logger, events } }: RuntimeInit,
  stores: OpenStores,
  { store: { records } }: StoreWatch,
  metrics: Metrics | null,
): Promise<Runtime> {
  const { admin, credentialControl: control } = runtime;
  const kept = keptRecords(stores, records, options, clock);
  const failed = (plugin: string, part: string): void => metrics?.pluginError(plugin, part);
  let plugins: PluginSet | undefined;
  const close = (): Promise<void> => closeAll([() => plugins?.close(), () => runtime.close()]);
  try {
    const { pluginSet } = await import("./plugin-set.ts");
    plugins = await pluginSet({ options, clock, logger, events, admin, records, kept, control, metrics, failed });
    control.settle();
    return { ...runtime, plugins, close };
  } catch (error) {
    await close().catch((problem: unknown) => logger.warn({ err: problem }, "not everything could be closed after a failed start"));
    throw error;
  }
}

async function assemble(
  init: RuntimeInit,
  { credentials, offers: offered, catalogue }: Offered,
  stores: SpoolingStores,
  watch: StoreWatch,
  metrics: Metrics | null,
): Promise<Runtime> {
  const { options, services, prices } = init;
  const { clock, logger } = services;
  const { store } = watch;
  // Also one whose calls end may say only when its database is back that everything is written: whoever asks for a report does not wait for that.
  const flushed = bounded({ clock, deadlineMs: FLUSH_MS });
  const ledger: Ledger = { ...watch.ledger, flush: () => flushed(() => watch.ledger.flush()) };
  const kept = books({ options, ledger, seals: stores.rows.seals, records: store.records, prices, metrics, clock, logger });
  services.recorder = recorder(ledger, metrics, kept.closing);

  // It belongs to the ledger, or to a store of the host.
  const isOurs = options.store.kind !== "given" && options.ledger.kind !== "given";
  const memo = stores.memo === null || isOurs ? stores.memo : boundedMemo(stores.memo, clock);
  const registry = limitRegistry({ records: store.records, memo, clock, logger });
  for (const limit of options.limits) registry.add(limit);
  await registry.load();
  const resold = await reselling({ options, stores, store, registry, declared: init.declared, clock, logger });
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
    defaultMaxOutputTokens: options.estimate.defaultMaxOutputTokens,
    maxOutputTokensOf: (model) => outputMaxima.get(model) ?? null,
    resolve: offered.resolve,
  };
  const calls = callCosts(costs, offered);
  const local = memoryStore({ clock });
  const nodes = (): number => (options.nodes === "auto" ? Math.max(1, store.nodes?.() ?? 1) : options.nodes);
  const lent = await lending({ options, services, store, local, nodes, holds: keeper, offers: offered, metrics });
  const pauses = credentialPauses({ credentials, pauses: lent.pauses, clock, logger });
  const lock = recordLock({ records: store.records, clock });
  const control = credentialControl({ options, credentials, providers: providerTable(), lent, pauses, lock, clock, logger });
  const idempotency = await idempotencyOf(options, services, store, keeper, metrics);
  const fence = await clientFence(options, services, store, metrics);
  const shared = {
    resolve: offered.resolve,
    store: store.limits,
    local: local.limits,
    nodes,
    outageMs: watch.outageMs,
    holds: keeper,
    watch: budgetWatch(metrics, resold.reports),
    inProcess: init.inProcess,
    admit: resold.orgs.check,
  };
  const { maxOutputTokensOf } = costs;
  const outputCapOf = outputCaps(costs, offered);
  const attempts = sending(options, { clock, countTokens, maxOutputTokensOf, outputCapOf, inputTokens: (call) => estimate(call, null).inputTokens });
  // Limits that a route brings along are its own; what was set at run time counts wherever its scope has a value.
  const everywhere = { registry, names: options.limits.map(({ name }) => name), andSet: true };
  const rows = remainingRows({
    registry,
    store: store.limits,
    holds: keeper,
    declaredScopes: [...options.scopes.names, ...Object.keys(options.scopes.headers)],
    resolve: offered.resolve,
    clock,
    logger,
  });
  const transport = options.transport ?? undiciTransport({ connectTimeoutMs: options.resilience.connectTimeoutMs, clock });
  // Without the lane no client can have files, and those of the account are the operator's to hand out.
  const holderOf = options.passthrough
    ? holderOfFiles(ownership({ records: store.records, credentials: directNames(credentials), now: clock.now }))
    : () => null;
  const unreadCosts = operationCosts(costs, options.passthrough?.cost ?? {});
  const lane = lateLane({ options, services, pool: lent.pool, records: store.records, credentials, resolve: offered.resolve, transport });

  const tokensOf = (call: Call): number => {
    const { inputTokens, expectedOutputTokens } = estimate(call, null);
    return call.operation === "count_tokens" ? 0 : inputTokens + expectedOutputTokens;
  };
  const usageOf = (call: Call): Usage => {
    if (call.operation === "count_tokens") return NO_USAGE;
    const { inputTokens, expectedOutputTokens } = estimate(call, null);
    return { ...NO_USAGE, inputTokens, outputTokens: Math.min(expectedOutputTokens, LONG_OUTPUT_TOKENS * call.choices) };
  };
  const { sticky } = options.router;
  const sessionOf = sticky === null ? undefined : sessions(sticky.by);
  const choosing = { tokensOf, usageOf, holderOf, sessionOf };
  const listed = { offers: offered, catalogue, models: options.models, aliases: options.modelAlias };
  const models = modelsStep({ ...listed, asked: notPaused(credentials, lent.pauses), transport, clock, logger });
  const listing = modelListing(listed);
  const sweep = sweeper(store, clock, services);
  const flush = bounded({ clock, deadlineMs: FLUSH_MS });
  metrics?.onScrape(() => metrics.store(watch.state().state !== "ok", keeper.waiting, stores.spool?.state()));
  const { isLedgerShared } = stores;
  const { continuity } = store.limits;
  const shares = { records: store.records, resolve: offered.resolve, ledger, isLedgerShared, nodes, memo };
  const rebuild = continuity ? rebuilding({ continuity, registry, declared: init.declared, ...shares, clock, logger }) : null;
  // The last thing that may fail, and before anything is decided.
  await rebuild?.start();
  const retention = retentionOf({ options, stores, store, registry, declared: init.declared, clock, logger });
  await retention?.start();
  await prices.load();
  kept.begin();

  return {
    ledger: watch.ledger,
    metrics,
    admin: adminOf({
      store,
      watch,
      ledger,
      registry,
      scopes: options.scopes,
      credentials: notPaused(credentials, lent.pauses),
      pauses,
      reselling: resold,
      lent,
      fence,
      async discoverModels() {
        await models.refresh();
        return [...listing.all().values()].filter(({ isConfigured }) => !isConfigured).map(({ id }) => id);
      },
      openCounters: async () => rebuild?.openCounters(),
      audit: kept.audit,
      explain: explainer({
        options,
        services,
        admission: init.admission(),
        keys: resold.keys,
        fence: options.fail2ban?.clients ? fence.step : null,
        budgets: { ...shared, calls, route: routeCosts(costs, null) },
        planner: planner({ ...everywhere, requiredByDefault: false }),
        calls,
        choosing,
        pool: lent.pool,
        attempts,
        ledger,
      }),
      holds: keeper,
      transport,
      services,
      openRequests: init.openRequests,
      status: init.status,
    }),
    callBudgets: (requiredByDefault) =>
      budgetsStep({ ...shared, calls, route: routeCosts(costs, null), planner: planner({ ...everywhere, requiredByDefault }) }),
    remaining(scopes) {
      for (const limit of init.declared()) registry.add(limit);
      return rows(scopes);
    },
    partBudgets({ limits, cost, pricesCalls, headers }) {
      for (const limit of limits) registry.add(limit);
      const names = limits.map(({ name }) => name);
      return budgetsStep({
        ...shared,
        calls: cost === null && pricesCalls ? calls : null,
        route: cost === null ? silentCosts(costs, unreadCosts) : routeCosts(costs, cost),
        headers,
        holdsMore: cost !== null,
        planner: planner({ registry, requiredByDefault: true, names }),
      });
    },
    inProcess: inProcessBudgets({ shared, costs, unread: unreadCosts, everywhere }),
    attempts,
    fail2ban: fence.step,
    idempotency: idempotency.step,
    credentials: credentialsStep({ pool: lent.pool, ...choosing }),
    proxy: proxyStep({
      services,
      transport,
      retryBudget: retryBudget(clock, options.resilience.retryBudget),
      maxRetries: options.resilience.maxRetries,
      onAnswer: lent.readQuotas,
      ...attempts,
    }),
    models,
    laneBudgets: budgetsStep({
      ...shared,
      inProcess: NOBODY,
      calls: null,
      route: unreadCosts,
      holdsMore: true,
      planner: planner({ ...everywhere, requiredByDefault: false }),
    }),
    lane: lane.open,
    plugins: null,
    reselling: resold,
    credentialControl: control,
    close: () =>
      closeAll([
        () => rebuild?.close(),
        () => retention?.close(),
        () => sweep.stop(),
        () => kept.stop(),
        () => keeper.flush(),
        () => keeper.close(),
        () => registry.close(),
        () => resold.close(),
        () => lane.close(),
        () => control.close(),
        () => lent.close(),
        () => idempotency.close(),
        () => prices.close(),
        () => fence.close(),
        () => lastRows(() => flush(() => watch.ledger.flush())),
        () => watch.stop(),
        () => stores.close(),
        () => (options.transport ? undefined : transport.close()),
      ]),
  };
}
