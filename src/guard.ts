/** The composition root: options in, handlers out. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { loadConfig } from "./config/load.ts";
import type { Admin } from "./core/admin.ts";
import type { Answer } from "./core/answer.ts";
import { awake } from "./core/awake.ts";
import type { Context, Recorder, Services } from "./core/context.ts";
import { DIAGNOSTICS, guardLogger } from "./core/diagnostics.ts";
import { ConfigError, GuardError } from "./core/errors.ts";
import { eventEmitter, type Events } from "./core/events.ts";
import type { Explain } from "./core/explain.ts";
import { idFactory } from "./core/id.ts";
import { OpenSet } from "./core/open-set.ts";
import type { ScopesInput } from "./core/scope.ts";
import { noStep, sequence, type Step } from "./core/step.ts";
import type { Ledger } from "./core/store.ts";
import { andThen, systemClock, type MaybePromise } from "./core/time.ts";
import { partHandler, type Handler, type Next, type OnRefused } from "./http/handler.ts";
import { ambientRequests } from "./http/ambient.ts";
import type { RequestQuota } from "./http/context-of.ts";
import type { InProcessFetch } from "./http/in-process.ts";
import type { OpenOptions } from "./http/open.ts";
import { asProblem } from "./http/problem.ts";
import { pluginEdge } from "./management/plugin-routes.ts";
import { managementRouter } from "./management/router.ts";
import { authStep, modelAccess, type AuthMode, type StoredKeys } from "./middleware/auth.ts";
import { KEY_HEADER } from "./middleware/idempotency/fingerprint.ts";
import { lanePaths } from "./middleware/passthrough/operations.ts";
import { passthroughHandler, type PassthroughHandler } from "./middleware/passthrough/passthrough.ts";
import { scopesStep } from "./middleware/scopes.ts";
import { resolveRouteBudget, type RouteBudgetOptions } from "./options/budgets.ts";
import type { HostRequest } from "./options/limits.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { resolveOptions, type GuardOptions } from "./options.ts";
import type { Remaining } from "./remaining.ts";
import { offeredBy } from "./offered.ts";
import { buildRuntime, type Runtime } from "./runtime.ts";
import { checkSurroundings } from "./check-surroundings.ts";
import type { Admission } from "./explainer.ts";
import { declare } from "./declared-limits.ts";
import { doubleCharges } from "./double-charges.ts";
import { drainer } from "./drain.ts";
import { inProcess, type FetchOptions, type RunOptions, type SdkOptions } from "./in-process.ts";
import { guardPrices } from "./guard-prices.ts";
import { gatewayOf, named, type HandleRequest } from "./gateway.ts";
import { startingAdmin } from "./starting-admin.ts";

/** How long a request waits for a guard that is still starting. */
const START_WAIT_MS = 10_000;

/** The mounted gateway. */
export interface GatewayHandler<LimitNames extends string = string> extends Handler {
  readonly guard: QuotaGuard<LimitNames>;
  /**
   * For `server.on("upgrade", …)`: takes WebSockets for `/v1/realtime`. The host's middlewares do not run before it. False = it was not ours; it is refused
   * when nobody else listens.
   */
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
  ready(): Promise<void>;
  close(): Promise<void>;
}

/** `LimitNames` are the names that the options give as literals: `budgets()` takes no others. */
export interface QuotaGuard<LimitNames extends string = string> {
  /**
   * The whole gateway. Throws ConfigError unless the options decide who may call it. With `otherPaths` it passes through every other `/v1/*` path too, for the
   * master key (as `quotaguard serve` does).
   */
  handler(more?: { readonly otherPaths?: boolean }): GatewayHandler<LimitNames>;
  auth(): Handler;
  scopes(): Handler;
  /** Keeps out clients that misbehave: before `auth`. Its numbers are those of `fail2ban.clients`, or their defaults. */
  fail2ban(): Handler;
  /**
   * Budgets of one route. Without `limits` all of the guard's apply. Limits of tokens and money need `cost`, except on the paths of model calls,
   * which are priced by what they ask for (`onCalls` says that only such paths use it; default: whether the guard has credentials). Several on one request
   * charge a limit once, at the largest cost that one of them says. Throws ConfigError that names every wrong option.
   */
  budgets(options?: RouteBudgetOptions<LimitNames>, onCalls?: boolean): Handler;
  /**
   * Answers a model call that comes again with the same `Idempotency-Key` from what the first one got. Behind `auth` and `scopes`, before `budgets`; does nothing
   * without the header, and on other paths. Throws ConfigError when `idempotency` is off.
   */
  idempotency(): Handler;
  credentials(): Handler;
  proxy(): Handler;
  models(): Handler;
  /** Streams what is not understood (files, audio, images, batches) to a provider and back, behind the other parts. */
  passthrough(): Handler;
  /** An Express router with the management routes; 404 while no key is set. */
  management(): Handler;
  /**
   * A `fetch` for SDKs that goes through the same budgets in this process, without a socket to us. Requests for a provider that the guard has credentials for are
   * sent with those: only their path counts. All others go out as they are, with the SDK's own key. Refusals are answers in the SDK's dialect and say
   * `x-should-retry: false`; an abort rejects. Make it once, not in each handler. Throws ConfigError when an option is wrong.
   */
  fetch(options?: FetchOptions): InProcessFetch;
  /** Options for an SDK's client: `new OpenAI(guard.sdk())`, `createOpenAI({ ...guard.sdk() })`. */
  sdk(options?: FetchOptions): SdkOptions;
  /**
   * Budgets for what is no request, such as a queue's jobs: holds, runs `fn` with what `contextOf(req)` gives on a route, settles when it returns, and resolves
   * to what it returned. What `fn` throws is thrown on; then as on a route what was metered is charged, or the estimate unless it was released. Calls of clients in
   * this process that `fn` makes have the job's scopes, and go on its hold. Rejects with GuardError when it is refused, ConfigError when an option is wrong.
   */
  run<T>(options: RunOptions<LimitNames>, fn: (quota: RequestQuota) => MaybePromise<T>): Promise<T>;
  /** Express error middleware that answers refusals which an SDK threw inside a handler; everything else goes on. */
  errorHandler(): (error: unknown, req: IncomingMessage, res: ServerResponse, next: Next) => void;
  /**
   * How each limit stands that these scope values have (composites need all of theirs), limits of single routes included. Changes nothing. A limit whose function
   * cannot tell its number from `{ scopes }` alone is left out, with a warning. Rejects with `scope_invalid` for a scope that nobody declares, and with
   * `store_unavailable` while the store cannot tell.
   */
  remaining(scopes: ScopesInput): Promise<readonly Remaining[]>;
  /**
   * Why a past request (by its `x-request-id`) was decided as it was, or what would become of a call now, by the gateway's own steps: a request of Express's, or
   * `{ key | scopes, model, maxTokens, … }`. The functions of the host are asked, too; nothing else notices. Rejects as `admin.explain` does.
   */
  readonly explain: Explain;
  readonly admin: Admin;
  readonly events: Events;
  /** Throws before {@link ready}. */
  readonly ledger: Ledger;
  /** Prometheus text; null when metrics are off. */
  metrics(): Promise<{ readonly contentType: string; readonly text: string } | null>;
  /** Resolves once the store is there; rejects with what to fix. */
  ready(): Promise<void>;
  /** Refuses new requests, lets open ones finish (at most `server.shutdownTimeout`), settles, and closes what it opened. Idempotent. */
  close(): Promise<void>;
}

/**
 * Builds a guard and starts to open its store. Without options it takes file and environment ({@link loadConfig}); with options it reads neither.
 * Throws ConfigError at once when an option is wrong.
 */
export function createGuard<const LimitNames extends string = string>(input?: GuardOptions<LimitNames>): QuotaGuard<LimitNames> {
  return guardOf(resolveOptions(input ?? loadConfig()));
}

/** The gateway as one middleware: exactly `createGuard(options).handler()`. */
export function quotaGuard<const LimitNames extends string = string>(input?: GuardOptions<LimitNames>): GatewayHandler<LimitNames> {
  return createGuard(input).handler();
}

const notStarted: Recorder = {
  intent() {
    throw new GuardError("store_unavailable", "the gateway is still starting; try again", { retryAfterMs: 1_000 });
  },
  attempt() {},
  close() {},
};

function guardOf(options: ResolvedOptions): QuotaGuard {
  const clock = options.clock ?? systemClock;
  const logger = guardLogger(options.logger);
  checkSurroundings(options, logger);
  const events = eventEmitter(logger);
  const offered = offeredBy(options);
  const prices = guardPrices(options, { clock, credentials: offered.credentials, logger });
  const services: { -readonly [K in keyof Services]: Services[K] } = { clock, logger, events, pricer: prices, recorder: notStarted };
  const ambient = ambientRequests();
  const open = new OpenSet<Context>();
  /** Credentials may come with plugins, too. */
  const mayServe = options.credentials.length + options.waitingCredentials.length + options.plugins.length > 0;
  const declared = new Map(options.limits.map((limit) => [limit.name, limit]));
  let runtime: Runtime | undefined;
  let broken = false;
  let closing: Promise<void> | undefined;

  const status = (): "ok" | "starting" | "closing" | "unavailable" => (closing ? "closing" : runtime ? "ok" : broken ? "unavailable" : "starting");
  const starting = awake(
    buildRuntime(
      {
        options,
        declared: () => declared.values(),
        inProcess: ambient,
        services,
        prices,
        admission: () => admitting(),
        openRequests: () => open.size,
        status,
      },
      offered,
    ),
  ).then(
    (built) => void (runtime = doubleCharges(built, services)),
    (error: unknown) => {
      broken = true;
      logger.error({ code: "QG_START_FAILED", err: error }, DIAGNOSTICS.QG_START_FAILED.wrong);
      throw error;
    },
  );
  // Whoever awaits ready() hears of it; nobody has to.
  starting.catch(() => {});

  function forget(ctx: Context): void {
    open.delete(ctx);
    ctx.services.recorder.close(ctx);
    drain.closed();
  }
  const opening: OpenOptions = {
    services,
    nextId: idFactory(clock.now),
    bodyLimit: options.server.bodyLimitBytes,
    onOpen(ctx) {
      if (closing)
        throw new GuardError("overloaded", "the gateway is shutting down; try again", { retryAfterMs: 1_000, headers: { connection: "close" } });
      open.add(ctx);
      ctx.after(forget);
    },
  };

  /** A step that needs the runtime: built on first use, so that parts can be made before the store is there. */
  function lazy(build: (built: Runtime) => Step): Step {
    let step: Step | undefined;
    return function started(ctx) {
      if (step) return step(ctx);
      if (runtime) return (step = build(runtime))(ctx);
      return waitForStart().then((built) => (step ??= build(built))(ctx));
    };
  }

  function waitForStart(): Promise<Runtime> {
    return new Promise((resolve, reject) => {
      const late = (): void => reject(new GuardError("store_unavailable", "the gateway could not start yet; try again", { retryAfterMs: 5_000 }));
      const timer = clock.timer(START_WAIT_MS, late);
      starting.then(() => resolve(runtime as Runtime), late).finally(() => timer.cancel());
    });
  }

  const stored: StoredKeys = (key) => (runtime ? runtime.reselling.keys.find(key) : waitForStart().then(({ reselling }) => reselling.keys.find(key)));

  const modeOf = (known: StoredKeys = stored): AuthMode => {
    const { auth } = options;
    if (!auth) {
      throw new ConfigError([
        "auth: decide who may call the gateway: { masterKey, keys }, a function (key, req) => principal, or false when your app authenticates before this mount",
      ]);
    }
    if (auth.kind === "keys") return { ...auth, pepper: options.secrets.key?.reveal() ?? null, stored: known };
    return auth.kind === "custom" ? { kind: "custom", authenticate: (key, host) => auth.authenticate(key, host as HostRequest) } : auth;
  };

  const fromHost = options.scopes.of;
  const scopes = scopesStep({
    headers: options.scopes.headers,
    trustHeaders: options.scopes.trustHeaders,
    of: fromHost ? (host) => fromHost(host as HostRequest) : null,
  });
  /** Of the client's key, and of whatever the host says. */
  const ofOpenOrg = lazy(({ reselling: { orgs } }) => (ctx) => {
    orgs.check(ctx.principal?.scopes);
    orgs.check(ctx.scopes);
  });
  const access = sequence(ofOpenOrg, modelAccess(offered.offers.resolve));
  const admitting = (): Admission => ({ mode: modeOf, openOrg: ofOpenOrg, scopes, access });
  const idempotent = options.idempotency ? lazy((built) => built.idempotency) : noStep;
  const credentials = lazy((built) => built.credentials);
  const proxy = lazy((built) => built.proxy);
  const keyed = sequence(access, idempotent);
  const fail2ban = lazy((built) => built.fail2ban);
  const models = lazy((built) => built.models);
  /** What is passed through unread, behind `chain`. */
  const passing = (chain: Step, isPart: boolean, otherPaths: boolean): PassthroughHandler =>
    passthroughHandler({
      opening,
      chain,
      lane: async () => (await waitForStart()).lane(),
      paths: lanePaths(options.passthrough?.paths ?? "default", otherPaths),
      isPart,
    });
  const part = (name: string, step: Step): Handler => partHandler(name, step, opening);
  const clients = inProcess({
    options,
    opening,
    ambient,
    lazy,
    call: sequence(
      access,
      idempotent,
      lazy((built) => built.callBudgets(true)),
      credentials,
      proxy,
    ),
    idempotency: idempotent,
    models,
    credentials: () => offered.credentials,
  });

  const admin = startingAdmin({ options, started: () => runtime, waitForStart, status, openRequests: () => open.size });
  let management: Handler | undefined;
  const plugins = options.plugins.length === 0 ? undefined : pluginEdge({ opening, routes: async () => (await waitForStart()).plugins?.routes });

  const drain = drainer({ clock, logger, open, timeoutMs: options.server.shutdownTimeoutMs, starting, started: () => runtime });

  const guard: QuotaGuard = {
    handler({ otherPaths = false } = {}) {
      const admission = [...(options.fail2ban?.clients ? [fail2ban] : []), authStep(modeOf()), ofOpenOrg];
      const call = sequence(
        ...admission,
        scopes,
        access,
        idempotent,
        lazy((built) => built.callBudgets(false)),
        credentials,
        proxy,
      );
      const list = sequence(...admission, models);
      const unread = options.passthrough
        ? passing(
            sequence(
              ...admission,
              scopes,
              lazy((built) => built.laneBudgets),
            ),
            false,
            otherPaths,
          )
        : null;
      const { key, path } = options.management;
      // Without a key the tree is not there, and plugins' public routes are.
      const unkeyed = plugins ? { path: `${path}/plugins`, handle: plugins.open } : null;
      const { handle, upgrade } = gatewayOf({
        opening,
        call,
        models: list,
        unread,
        management: key ? { path, handle: guard.management() } : unkeyed,
      });
      return Object.assign(handle, { step: call, guard, upgrade, ready: guard.ready, close: guard.close });
    },
    auth: () => part("auth", sequence(authStep(modeOf()), ofOpenOrg)),
    scopes: () => partHandler("scopes", scopes, opening, { ambient }),
    fail2ban: () => part("fail2ban", fail2ban),
    budgets(given = {}, onCalls = mayServe) {
      const names = new Set([...options.scopes.names, ...Object.keys(options.scopes.headers)]);
      const route = resolveRouteBudget(given, { limits: options.limits, declaredScopes: names, pricesCalls: onCalls });
      for (const limit of route.limits) declare(declared, limit);
      const { scopes: own, skip, onRefused } = route;
      const budgets = sequence(
        // On a host's own route nobody else may have said whose budgets these are.
        (ctx) => (ctx.scopes ? undefined : scopes(ctx)),
        own ? scopesStep({ headers: {}, trustHeaders: false, of: (host) => own(host as HostRequest) }) : noStep,
        lazy((built) => built.partBudgets(route)),
      );
      const step: Step = skip
        ? // Only a true lets pass: a host's code may return anything.
          (ctx) => andThen<unknown, Answer | void>(skip(ctx.host as HostRequest), (said) => (said === true ? undefined : budgets(ctx)))
        : budgets;
      const refuse: OnRefused | undefined = onRefused ? (error, req, res, next) => onRefused(error, req as HostRequest, res, next) : undefined;
      return partHandler("budgets", step, opening, { ambient, onRefused: refuse });
    },
    idempotency() {
      if (!options.idempotency) throw new ConfigError(["idempotency: is off, so guard.idempotency() has nothing to do"]);
      // What a key may not ask for now it is not told again either; elsewhere there is no call that has a model.
      return part("idempotency", (ctx) => (ctx.carriesCall && ctx.headers[KEY_HEADER] !== undefined ? keyed(ctx) : undefined));
    },
    credentials: () => part("credentials", sequence(access, credentials)),
    proxy: () => part("proxy", proxy),
    models: () => part("models", models),
    passthrough() {
      if (!options.passthrough) throw new ConfigError(["passthrough: is off, so guard.passthrough() has nothing to do"]);
      return passing(noStep, true, false);
    },
    management() {
      if (management) return management;
      const router = managementRouter({ admin, key: options.management.key, path: options.management.path, clock, logger, plugins });
      const handle = (req: IncomingMessage, res: ServerResponse, next: Next): void => (router as unknown as HandleRequest)(req, res, next);
      return (management = Object.assign(named("management", handle), { step: noStep }));
    },
    fetch: clients.fetch,
    sdk: clients.sdk,
    run: clients.run,
    errorHandler: () =>
      function quotaGuardErrors(thrown, _req, res, next) {
        const error = GuardError.from(thrown);
        if (error && !res.headersSent) asProblem(error, res);
        else next(thrown);
      },
    explain: (question) => admin.explain(question),
    remaining: async (whose) => (await waitForStart()).remaining(whose),
    admin,
    events,
    get ledger() {
      if (!runtime) throw new Error("the ledger is there once `await guard.ready()` has resolved");
      return runtime.ledger;
    },
    async metrics() {
      const { metrics } = await waitForStart();
      return metrics ? { contentType: metrics.contentType, text: await metrics.expose() } : null;
    },
    ready: () => starting,
    close: () => (closing ??= awake(drain.drain())),
  };
  return guard;
}
