import type { Admin, CredentialView } from "./admin.ts";
import type { AccountFields, Credential } from "./credential.ts";
import type { GuardEvents } from "./events.ts";
import type { Logger } from "./logger.ts";
import type { ProviderDefinition } from "./provider.ts";
import type { QuotaFact } from "./quota-fact.ts";
import type { Secret } from "./secret.ts";
import type { Step } from "./step.ts";
import type { RecordStore } from "./store.ts";
import type { StrategyFunction } from "./strategy.ts";
import type { Clock, MaybePromise } from "./time.ts";

export type { QuotaFact, QuotaSource, QuotaUnit } from "./quota-fact.ts";

/**
 * A service inside the guard. Its value may carry more than this: whatever API it has for the host's code. Set up in the order of `plugins` once the store
 * is ready, torn down in reverse.
 */
export interface Plugin {
  /** 1 to 32 characters of a-z 0-9 -, beginning with a letter; once per guard. Names its records, secrets, routes and log lines. */
  readonly name: string;
  /**
   * May return what ends it. It has 30 s; a throw stops the start: `ready()` rejects with `plugin_failed`, and plugins before it are torn down. The end has 5 s,
   * after at most 5 s for running timers; by then nothing of the plugin begins any more (listeners, timers, watchers, routes), and the rest of `host` still works. The guard's own requests wait for
   * `setup`, so it must not make one.
   */
  setup(host: PluginHost): MaybePromise<void | (() => MaybePromise<void>)>;
}

/** What a plugin may do. Ours have exactly this. After the teardown everything but `logger` and `clock` refuses with `plugin_failed`. */
export interface PluginHost {
  /** Lines carry the plugin's name. */
  readonly logger: Logger;
  readonly clock: Clock;
  /** What operators can do. */
  readonly admin: Admin;
  /**
   * JSON records of the plugin's own, kept in the store (`store.url`): shared by all processes when it is. Keys are paths such as `reports/today`, of printable
   * ASCII; no others are within reach.
   */
  readonly records: RecordStore;
  /** Encrypted at rest; kept in the ledger's store (`ledger.url`), which outlives the counters. */
  readonly secrets: PluginSecrets;
  readonly credentials: PluginCredentials;
  /** Calls `listener` after each event. A throw is logged and counted, never felt by a request. Returns a function that stops it. */
  on<K extends keyof GuardEvents>(event: K, listener: (event: GuardEvents[K]) => void): () => void;
  /**
   * Serves `<management path>/plugins/<plugin><path>`: behind the management key unless `public`. A path is matched as a whole: no parameters, no patterns.
   * The step reads `ctx.method`, `ctx.query`, `ctx.headers` and `ctx.body()` (up to `server.bodyLimit`; `ctx.host` is the Express request) and returns an Answer,
   * which may stream (`jsonAnswer()` makes a plain one). A GuardError that it throws is answered as a problem document; anything else, or no answer within
   * `server.requestTimeout`, is 500 `plugin_failed`, logged and counted.
   *
   * @throws ConfigError for a path, method or option that cannot be, and for a route that is there already.
   */
  route(path: string, step: Step, options?: RouteOptions): void;
  /**
   * Calls `fn` every `ms`, first after one turn; never two at a time (a turn that comes too early is left out), never after the teardown, which waits for the
   * one that runs. A throw is logged and counted. Keeps no process alive. Returns a function that stops it.
   */
  every(ms: number, fn: () => MaybePromise<void>): () => void;
  /**
   * The right to do something alone, among all processes that share the store; null = somebody else has it. It ends by itself after `ttlMs` unless
   * it is extended.
   */
  lock(name: string, ttlMs: number): Promise<PluginLock | null>;
  /**
   * `fetch` that dials no private or loopback address unless `allow` names its origin, never a metadata service, and refuses redirects. It keeps no cookies and
   * says `user-agent: quotaguard/<version>` unless told otherwise. Rejects with a GuardError `upstream_unreachable`, `upstream_timeout` or
   * `upstream_protocol` (too large, a redirect); with the signal's reason when it is aborted; any status is an answer.
   */
  readonly fetch: GuardedFetch;
  /**
   * A counter of the guard's metrics, `quotaguard_<name>`: call the function to count one, with a value for each label. Series share the guard's bound: beyond it
   * values are `other`. Without metrics it counts nothing.
   *
   * @throws ConfigError for a name that does not end in `_total` or is there already, and beyond 16 counters.
   */
  counter(name: string, help: string, labels: readonly string[]): PluginCounter;
  /** Makes `router.strategy: name` choose by `fn`. */
  strategy(name: string, fn: StrategyFunction): void;
  /** A provider that credentials may name. */
  provider(row: ProviderDefinition): void;
}

export interface RouteOptions {
  /** True = no management key: the step itself decides who may call it. Default false. */
  readonly public?: boolean;
  /** Default `GET`. */
  readonly method?: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
}

export type GuardedFetch = (url: string | URL, init?: GuardedFetchInit) => Promise<Response>;

export interface GuardedFetchInit extends RequestInit {
  /** Largest answer, bytes. Default 10 MB. */
  readonly maxBytes?: number;
  /** Until the whole answer is there, ms. Default 10 s. */
  readonly timeoutMs?: number;
  /** Origins (`http://127.0.0.1:8317`) that may be private because the operator's options name them. */
  readonly allow?: readonly string[];
  /** An HTTP proxy that the operator's options name; null or absent = none. */
  readonly proxyUrl?: string | null;
}

/** Counts one. Values in the order of the labels. */
export type PluginCounter = (values: readonly string[]) => void;

export interface PluginLock {
  /** False = it was lost: somebody else may have it by now. */
  extend(): Promise<boolean>;
  release(): Promise<void>;
}

/**
 * Values that nobody reads in the database without the guard's secret key: `secrets.key`, or a file that is made beside a SQLite ledger
 * (`quotaguard.db.key`, mode 600). Rejects with a ConfigError when there is no key, or when another one encrypted the value.
 */
export interface PluginSecrets {
  get(key: string): Promise<Secret | undefined>;
  /** Text of 1 to 65,536 characters. */
  put(key: string, value: Secret | string, options?: { readonly ttlMs?: number }): Promise<void>;
  delete(key: string): Promise<boolean>;
  /** The keys below a prefix, in order. */
  keys(prefix?: string): Promise<readonly string[]>;
}

/** A credential as a plugin brings it: as in `credentials` of the options. */
export interface PluginCredential extends Omit<AccountFields, "serviceAccount"> {
  readonly name: string;
  readonly provider: string;
  readonly apiKey: Secret | string | null;
  readonly baseUrl?: string;
  readonly models?: readonly string[] | null;
  readonly priority?: number;
  readonly weight?: number;
  readonly isFallback?: boolean;
  readonly tier?: string | null;
  readonly rpm?: number;
  readonly tpm?: number;
  readonly maxConcurrent?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly proxyUrl?: string | null;
  readonly allowPrivate?: boolean;
  /** The JSON key of a service account of Google: its path, or itself. */
  readonly serviceAccount?: string | Readonly<Record<string, unknown>>;
  /** When `apiKey` ends, wall clock, ms; null = never. A refresher of the provider is asked for another one before that. */
  readonly expiresAt?: number | null;
}

export interface RefreshedToken {
  readonly apiKey: Secret | string;
  readonly expiresAt: number | null;
}

/** The accounts that requests are sent with. All changes count at once, for this process. */
export interface PluginCredentials {
  list(): readonly CredentialView[];
  /** What requests are sent with, its key included, whoever brought it; undefined = nobody has the name. Tokens are renewed: ask each time. */
  get(name: string): Credential | undefined;
  /**
   * Adds one, or replaces one that this plugin added. Requests that run keep the one they have.
   *
   * @throws ConfigError naming the field at fault, or that the name belongs to the configuration or to another plugin.
   */
  upsert(credential: PluginCredential): void;
  /** Takes one that this plugin added out. False = there is none. */
  remove(name: string): boolean;
  /** Lends any credential to nobody until `until` (wall clock, ms; null = until {@link enable}), whatever the strategy. Counts in all processes, and after a restart. */
  disable(name: string, reason: string, until?: number | null): Promise<void>;
  /** False = it was not disabled. */
  enable(name: string): Promise<boolean>;
  /** Tells what is left of a quota: strategies and operators see it, in all processes. */
  report(fact: QuotaFact): Promise<void>;
  /**
   * Gets new tokens for the credentials of a provider: before they expire, and once when a provider no longer takes one. One process asks at a time. Returns a
   * function that stops it.
   */
  refresher(provider: string, fn: (credential: Credential) => Promise<RefreshedToken>): () => void;
}

/** What the pool does for plugins. Each plugin's part is known by the plugin's name. */
export interface CredentialControl {
  forPlugin(name: string): PluginCredentials;
  strategy(name: string, fn: StrategyFunction): void;
  provider(row: ProviderDefinition): void;
  /** The plugin is gone: takes out its credentials and refreshers. */
  drop(name: string): void;
}
