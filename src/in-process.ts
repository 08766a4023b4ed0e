/** What a guard offers to code in its own process: a `fetch` for SDKs, and budgets for jobs. */
import { Context, type CallReader } from "./core/context.ts";
import type { Credential } from "./core/credential.ts";
import { ConfigError, GuardError } from "./core/errors.ts";
import { hint } from "./core/nearest.ts";
import { BUILT_IN_SCOPES, scopesFrom, type Scopes, type ScopesInput } from "./core/scope.ts";
import { sequence, type Step } from "./core/step.ts";
import type { MaybePromise } from "./core/time.ts";
import type { Matched } from "./dialects/index.ts";
import type { Ambient } from "./http/ambient.ts";
import { quotaOf, type RequestQuota } from "./http/context-of.ts";
import { inProcessFetch, type InProcessFetch, type SdkRequest } from "./http/in-process.ts";
import { admit, type OpenOptions } from "./http/open.ts";
import { asGuardError } from "./http/render.ts";
import { resolveRouteBudget, type CostValue } from "./options/budgets.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { keyOf, ownKeyCall, ownKeyOperation, PLACEHOLDER_KEY } from "./own-key.ts";
import type { Runtime } from "./runtime.ts";
import type { Fetch } from "./upstream/fetch-exchange.ts";
import { providerRow } from "./upstream/providers.ts";

export interface FetchOptions {
  /**
   * Whose budgets the calls touch: values, or a function of each call's `init`. Inside a request that passed `guard.scopes()` or `guard.budgets()` they are added
   * to that request's, in place of what it says of the same scope. @default those of the request
   */
  readonly scopes?: ScopesInput | ((init: RequestInit) => MaybePromise<ScopesInput>);
  /** A label of the calls: in the `request` events, not in the ledger. */
  readonly tag?: string;
  /** Sends what goes out with the SDK's own key. @default the global `fetch`, as it is when this one is made */
  readonly fetch?: Fetch;
}

/** Options for an SDK's client: `new OpenAI(guard.sdk())`. */
export interface SdkOptions {
  /** Absent when the guard has no credentials, so that the client keeps its own. */
  readonly apiKey?: string;
  readonly fetch: InProcessFetch;
  /** What can be tried again has been. */
  readonly maxRetries: 0;
}

export interface RunOptions<LimitNames extends string = string> {
  /** Whose budgets the job touches; inside a request, added to that request's. */
  readonly scopes?: ScopesInput;
  /** The most that the job may cost. Limits of tokens and money need it. */
  readonly cost?: CostValue;
  /** Names of the guard's limits. @default all of them */
  readonly limits?: readonly LimitNames[];
  /** Aborts the calls of clients in this process that the job makes, and the quota's own signal. */
  readonly signal?: AbortSignal;
}

export interface InProcess {
  fetch(options?: FetchOptions): InProcessFetch;
  sdk(options?: FetchOptions): SdkOptions;
  run<T>(options: RunOptions, fn: (quota: RequestQuota) => MaybePromise<T>): Promise<T>;
}

export interface InProcessParts {
  readonly options: ResolvedOptions;
  readonly opening: OpenOptions;
  readonly ambient: Ambient;
  /** Makes a step of what is there once the guard has started. */
  readonly lazy: (build: (built: Runtime) => Step) => Step;
  /** Through the guard's credentials. */
  readonly call: Step;
  /** For calls that go out with the SDK's own key, too. */
  readonly idempotency: Step;
  readonly models: Step;
  readonly credentials: () => Iterable<Credential>;
}

const MAX_TAG = 128;

export function inProcess(parts: InProcessParts): InProcess {
  const { options, opening, ambient, lazy } = parts;
  const declaredScopes = new Set([...options.scopes.names, ...Object.keys(options.scopes.headers)]);
  const hasCredentials = (): boolean => options.plugins.length > 0 || !parts.credentials()[Symbol.iterator]().next().done;

  /** Whether the guard has credentials for a request: then only its path counts, and the SDK's own host and key are dropped. */
  function isForCredentials({ matched, headers }: SdkRequest): boolean {
    let isAny = false;
    for (const { provider, row } of parts.credentials()) {
      const { dialect, also } = row ?? providerRow(provider);
      if (!matched || dialect === matched.dialect || also?.[matched.dialect]) return true;
      isAny = true;
    }
    // Those of other dialects serve a client that has no key of its own; plugins may still bring the first.
    if (!isAny && options.plugins.length === 0) return false;
    const key = keyOf(headers);
    return key === null || key === PLACEHOLDER_KEY;
  }

  function stepFor(request: SdkRequest, fetch: Fetch): Step {
    const { matched, method, url, headers } = request;
    if (isForCredentials(request)) return stepOfGateway(matched, method, url);
    const isUnderstood = method === matched?.method;
    // A list of models is nobody's bill.
    if (isUnderstood && matched.kind === "models") return lazy(({ attempts }) => ownKeyOperation({ ...attempts, fetch, isBilled: false }, request));
    return lazy(({ attempts, inProcess: { ownCalls, ownOperations } }) =>
      isUnderstood
        ? sequence(
            (ctx) => void (ctx.account = `${url.origin} ${keyOf(headers) ?? ""}`),
            parts.idempotency,
            ownCalls,
            ownKeyCall({ ...attempts, fetch }, request),
          )
        : sequence(ownOperations, ownKeyOperation({ ...attempts, fetch, isBilled: true }, request)),
    );
  }

  function stepOfGateway(matched: Matched | undefined, method: string, { pathname }: URL): Step {
    if (!matched) throw new GuardError("not_found", `${pathname} is not a path of a known dialect`);
    if (method !== matched.method)
      throw new GuardError("method_not_allowed", `use ${matched.method} for ${matched.route}`, { headers: { allow: matched.method } });
    return matched.kind === "call" ? parts.call : parts.models;
  }

  function checkedScopes(what: string, given: ScopesInput): Scopes {
    const known = [...BUILT_IN_SCOPES, ...declaredScopes];
    if (!isRecord(given)) throw new ConfigError([`${what} scopes: expected values such as { user: "alice" }`]);
    for (const name of Object.keys(given))
      if (!known.includes(name)) throw new ConfigError([`${what} scopes.${name}: nobody declares this scope${hint(name, known)}; scopes.names does`]);
    return scopesFrom(given);
  }

  /** Scopes that are written down are looked at when the client is made. */
  function fixedScopes(given: ScopesInput): Scopes {
    try {
      return checkedScopes("fetch()", given);
    } catch (error) {
      throw GuardError.is(error) ? new ConfigError([`fetch() scopes: ${error.message}`]) : error;
    }
  }

  function fetchFrom(given: FetchOptions = {}): InProcessFetch {
    checkNames("fetch()", given, ["scopes", "tag", "fetch"]);
    const { scopes: source = {}, tag = null, fetch = globalThis.fetch } = given;
    if (tag !== null && (typeof tag !== "string" || tag === "" || tag.length > MAX_TAG)) {
      throw new ConfigError([`fetch() tag: expected 1 to ${MAX_TAG} characters`]);
    }
    if (typeof fetch !== "function") throw new ConfigError(["fetch() fetch: expected a function like the global fetch"]);
    const fixed = typeof source === "function" ? null : fixedScopes(source);
    ambient.switchOn();
    return inProcessFetch({
      ...opening,
      ambient,
      tag,
      fetch,
      stepFor: (request) => stepFor(request, fetch),
      async scopesOf(init) {
        return typeof source === "function" ? scopesFrom(await source(init)) : (fixed as Scopes);
      },
    });
  }

  function jobOf({ limits, cost }: RunOptions): Step {
    if (typeof cost === "function") throw new ConfigError(["run() cost: there is no request to ask; expected USD or an object"]);
    if (Array.isArray(limits) && limits.some((limit) => typeof limit !== "string"))
      throw new ConfigError(["run() limits: expected names of the guard's limits"]);
    let route;
    try {
      const given = { ...(limits ? { limits } : {}), ...(cost === undefined ? {} : { cost }) };
      route = resolveRouteBudget(given, { limits: options.limits, declaredScopes, pricesCalls: false, mayHaveNone: true });
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw new ConfigError(error.problems.map((problem) => problem.replace(/^budgets\(\)/, "run()")));
    }
    const names = route.limits.map(({ name }) => name);
    const held = typeof route.cost === "function" ? null : route.cost;
    return lazy((built) => built.inProcess.run(names, held));
  }

  /** Opens the request that a job is. */
  function contextOf(given: RunOptions, scopes: Scopes, around: Context | undefined): Context {
    const id = opening.nextId();
    const ctx = new Context({
      id,
      requestId: id,
      method: "RUN",
      path: "/",
      headers: {},
      services: opening.services,
      reader,
      carriesCall: false,
      address: null,
      host: around?.host ?? given,
    });
    ctx.route = around?.route ?? "run";
    const inherited = around?.scopes ?? {};
    ctx.scopes = Object.freeze({ ...inherited, ...scopes });
    ctx.principal = around?.principal;
    if (Object.keys(scopes).every((name) => inherited[name] === undefined || inherited[name] === scopes[name])) ctx.outer = around;
    admit(ctx, opening);
    return ctx;
  }

  function refused(ctx: Context, thrown: unknown): GuardError {
    const error = asGuardError(thrown, ctx);
    error.requestId = ctx.requestId;
    ctx.failure = error;
    if (ctx.services.events.has("refused")) ctx.services.events.emit("refused", { requestId: ctx.requestId, scopes: ctx.scopes ?? {}, error });
    return error;
  }

  async function run<T>(given: RunOptions, fn: (quota: RequestQuota) => MaybePromise<T>): Promise<T> {
    checkNames("run()", given, ["scopes", "cost", "limits", "signal"]);
    const { signal } = given;
    // Before anything is held: what nobody can call would leave the estimate charged.
    if (typeof fn !== "function") throw new ConfigError(["run(options, fn) needs the job: a function that gets the quota"]);
    const budgets = jobOf(given);
    const scopes = checkedScopes("run()", given.scopes ?? {});
    ambient.switchOn();
    const around = ambient.current();
    const signals = [signal, around?.signal].filter((each) => each !== undefined);
    for (const each of signals) each.throwIfAborted();
    const ctx = contextOf(given, scopes, around);
    const leave = (): void => ctx.leave();
    for (const each of signals) each.addEventListener("abort", leave, { once: true });
    const close = async (status: number, error: GuardError | null): Promise<void> => {
      for (const each of signals) each.removeEventListener("abort", leave);
      await ctx.close({ status, code: ctx.gone ? "client_closed" : (error?.code ?? null), error });
    };
    try {
      if (ctx.failure) throw ctx.failure;
      await budgets(ctx);
    } catch (thrown) {
      const error = refused(ctx, thrown);
      await close(error.status, error);
      throw error;
    }
    if (ctx.gone) {
      // Nothing has begun, so nothing is charged.
      ctx.charged = { kind: "nothing" };
      await close(499, null);
      for (const each of signals) each.throwIfAborted();
      throw new GuardError("overloaded", "the gateway is shutting down; try again", { retryAfterMs: 1_000 });
    }
    let status = 500;
    try {
      const value = await ambient.run(ctx, () => fn(quotaOf(ctx)));
      status = 200;
      return value;
    } finally {
      // As on a route: a job that failed may have spent what it was held for.
      await close(status, null);
    }
  }

  return {
    fetch: fetchFrom,
    sdk(given) {
      const fetch = fetchFrom(given);
      return hasCredentials() ? { apiKey: PLACEHOLDER_KEY, fetch, maxRetries: 0 } : { fetch, maxRetries: 0 };
    },
    run,
  };
}

const reader: CallReader = {
  call() {
    throw new GuardError("body_invalid", "a job does not carry a model call");
  },
};

const isRecord = (value: unknown): boolean => typeof value === "object" && value !== null && !Array.isArray(value);

function checkNames(what: string, given: object, known: readonly string[]): void {
  if (!isRecord(given)) throw new ConfigError([`${what} expects an object with any of ${known.join(", ")}`]);
  for (const name of Object.keys(given))
    if (!known.includes(name)) throw new ConfigError([`${what} ${name}: there is no such option${hint(name, known)}`]);
}
