import type { Admin, CredentialView } from "./admin.ts";
import type { Credential } from "./credential.ts";
import type { GuardEvents } from "./events.ts";
import type { Logger } from "./logger.ts";
import type { ProviderDefinition } from "./provider.ts";
import type { Secret } from "./secret.ts";
import type { Step } from "./step.ts";
import type { RecordStore } from "./store.ts";
import type { StrategyFunction } from "./strategy.ts";
import type { Clock, MaybePromise } from "./time.ts";

/**
 * A service inside the guard. Its value may carry more than this: whatever API it has for the host's code. Set up in the order of `plugins` once the store
 * is ready, torn down in reverse.
 */
export interface Plugin {
  /** Lower case, digits and dashes; once per guard. Names its records, secrets, routes and log lines. */
  readonly name: string;
  /** May return what ends it. A throw stops the boot. */
  setup(host: PluginHost): MaybePromise<void | (() => MaybePromise<void>)>;
}

/** What a plugin may do. Ours have exactly this. */
export interface PluginHost {
  /** Lines carry the plugin's name. */
  readonly logger: Logger;
  readonly clock: Clock;
  /** What operators can do. */
  readonly admin: Admin;
  /** Keys are below the plugin's own; shared by all processes when the store is. */
  readonly records: RecordStore;
  /** Encrypted at rest; kept in the ledger's store. */
  readonly secrets: PluginSecrets;
  readonly credentials: PluginCredentials;
  /** Calls `listener` after each event. A throw is logged and counted, never felt by a request. Returns a function that stops it. */
  on<K extends keyof GuardEvents>(event: K, listener: (event: GuardEvents[K]) => void): () => void;
  /**
   * Serves `<management path>/plugins/<plugin><path>`: behind the management key unless `public`. The step reads `ctx.method`, `ctx.query` and
   * `ctx.body()` and returns an Answer (`jsonAnswer()` makes one); what it throws is answered as a problem document.
   */
  route(path: string, step: Step, options?: RouteOptions): void;
  /** Calls `fn` every `ms`; never two at a time, never after the teardown. A throw is logged and counted. Returns a function that stops it. */
  every(ms: number, fn: () => MaybePromise<void>): () => void;
  /**
   * The right to do something alone, among all processes that share the store; null = somebody else has it. It ends by itself after `ttlMs` unless
   * it is extended.
   */
  lock(name: string, ttlMs: number): Promise<PluginLock | null>;
  /** `fetch` that dials no private, loopback or metadata address unless the options say so literally, and follows no redirect. */
  readonly fetch: GuardedFetch;
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
}

export interface PluginLock {
  /** False = it was lost: somebody else may have it by now. */
  extend(): Promise<boolean>;
  release(): Promise<void>;
}

/** Values that nobody reads in the database without the guard's secret key (`secrets.key`). Throws `ConfigError` when there is none. */
export interface PluginSecrets {
  get(key: string): Promise<Secret | undefined>;
  put(key: string, value: Secret | string, options?: { readonly ttlMs?: number }): Promise<void>;
  delete(key: string): Promise<boolean>;
  /** The keys below a prefix, in order. */
  keys(prefix?: string): Promise<readonly string[]>;
}

/** A credential as a plugin brings it: as in `credentials` of the options. */
export interface PluginCredential {
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
  /** When `apiKey` ends, wall clock, ms; null = never. A refresher of the provider is asked for another one before that. */
  readonly expiresAt?: number | null;
}

/** What is left of one of an account's quotas. */
export interface QuotaFact {
  readonly credential: string;
  /** What is counted together: `requests`, `5h`, `weekly`, a family of models. */
  readonly group: string;
  /** 0 to 1. */
  readonly remainingRatio: number;
  /** When it is whole again, wall clock, ms; null = nobody knows. */
  readonly resetsAt: number | null;
  /** When it was seen, wall clock, ms. An older fact never replaces a newer one. */
  readonly observedAt: number;
  /** Who says so: `api`, `headers`, `estimate`. */
  readonly source: string;
}

export interface RefreshedToken {
  readonly apiKey: Secret | string;
  readonly expiresAt: number | null;
}

/** The accounts that requests are sent with. All changes count at once, for this process. */
export interface PluginCredentials {
  list(): readonly CredentialView[];
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
   * Gets new tokens for the credentials of a provider: before they expire, and once when a provider refuses one with 401. One process asks at a time. Returns a
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
