/** The options as the guard uses them: every default filled in, units in the names, secrets wrapped, nothing left to parse. */
import type { Credential } from "../core/credential.ts";
import type { Logger } from "../core/logger.ts";
import type { Plugin } from "../core/plugin.ts";
import type { Scopes } from "../core/scope.ts";
import type { Secret } from "../core/secret.ts";
import type { StrategyFunction } from "../core/strategy.ts";
import type { Clock } from "../core/time.ts";
import type { ModelPrice } from "../metering/price.ts";
import type { ChoosingRules } from "../pool/choosing-settings.ts";
import type { FallbackChains } from "../pool/fallback-chains.ts";
import type { StrategyName } from "../pool/strategies/index.ts";
import { resolveChoosing } from "./choosing.ts";
import { resolveCredential, type ParsedCredential } from "./credentials.ts";
import { resolveFail2ban, type ResolvedFail2ban } from "./fail2ban.ts";
import { resolveIdempotency, type ResolvedIdempotency } from "./idempotency.ts";
import { resolveLimit, type ResolvedLimit } from "./limits.ts";
import { resolvePassthrough, type ResolvedPassthrough } from "./passthrough.ts";
import { resolvePlugins, type NamedPlugins } from "./plugins.ts";
import { resolvePrices, type ResolvedPrices } from "./prices.ts";
import { DEFAULT_SCOPE_HEADERS, type AuthFunction, type ParsedOptions, type ScopesFunction } from "./schema.ts";
import { resolveLedger, resolveStore, type ResolvedLedger, type ResolvedStore } from "./stores.ts";
import { PROVIDER_IDS, providerRow } from "../upstream/providers.ts";
import type { Transport } from "../upstream/transport.ts";

export interface ResolvedKey {
  readonly name: string;
  readonly key: Secret;
  readonly scopes: Scopes;
  /** Model patterns; null = all. */
  readonly models: readonly string[] | null;
  /** Wall clock, ms; null = never. */
  readonly expiresAt: number | null;
  readonly mayAssertScopes: boolean;
}

export type ResolvedCredential = Credential;

/** One whose provider a plugin has to bring. */
export interface WaitingCredential {
  /** Its place among all that are configured. */
  readonly index: number;
  readonly credential: ParsedCredential;
}

export interface ResolvedModel {
  readonly name: string;
  readonly model?: string;
  readonly credential?: string;
  /** Per minute on each credential that serves it; -1 = unlimited, absent = the default. */
  readonly rpm?: number;
  readonly tpm?: number;
  readonly price?: ModelPrice;
  readonly maxOutputTokens?: number;
}

/** Null = nobody decided: a mounted gateway must refuse to start, budgets on the host's own routes need none. */
export type ResolvedAuth =
  | { readonly kind: "host" }
  | { readonly kind: "keys"; readonly masterKey: Secret | null; readonly keys: readonly ResolvedKey[] }
  | { readonly kind: "custom"; readonly authenticate: AuthFunction };

export interface ResolvedOptions {
  readonly server: {
    readonly host: string;
    readonly port: number;
    readonly requestTimeoutMs: number;
    readonly bodyLimitBytes: number;
    readonly loggingLevel: "debug" | "info" | "warn" | "error" | "silent";
    readonly shutdownTimeoutMs: number;
    readonly trustProxy: false | number | string | readonly string[];
    readonly replaceV1Models: boolean;
    /** Per minute, model and credential; -1 = unlimited. */
    readonly defaultModelsRpm: number;
  };
  readonly store: ResolvedStore;
  /** How many processes share the limits: counted by the store, or said. */
  readonly nodes: number | "auto";
  readonly ledger: ResolvedLedger;
  /** How long the ledger keeps rows; null = for good. */
  readonly retentionMs: number | null;
  readonly auth: ResolvedAuth | null;
  readonly scopes: {
    readonly names: readonly string[];
    readonly trustHeaders: boolean;
    /** Scope -> lower-case header name. */
    readonly headers: Readonly<Record<string, string>>;
    readonly of: ScopesFunction | null;
  };
  readonly limits: readonly ResolvedLimit[];
  readonly estimate: { readonly defaultMaxOutputTokens: number; readonly capOutput: boolean; readonly tokenizer: "fast" | "exact" };
  /** Those whose providers are built in. */
  readonly credentials: readonly ResolvedCredential[];
  readonly waitingCredentials: readonly WaitingCredential[];
  readonly models: readonly ResolvedModel[];
  readonly modelAlias: Readonly<Record<string, string>>;
  /** Another name than ours is that of a plugin's strategy. */
  readonly router: {
    readonly strategy: StrategyName | (string & {}) | StrategyFunction;
    /** What holds from the start; it may be changed at run time. */
    readonly choosing: ChoosingRules;
    /** Null = nothing stays anywhere. */
    readonly sticky: { readonly by: readonly string[]; readonly ttlMs: number } | null;
    readonly fallbackChains: FallbackChains;
    /** Whether what a provider's dialect cannot express is dropped instead of refused. */
    readonly lossy: boolean;
    readonly reservation: { readonly ttlMs: number };
  };
  readonly resilience: {
    readonly maxRetries: number;
    readonly retryBudget: number;
    readonly connectTimeoutMs: number;
    readonly firstByteTimeoutMs: number;
    readonly idleTimeoutMs: number;
    /** Null = none. */
    readonly circuitBreaker: { readonly failureThreshold: number; readonly openForMs: number; readonly halfOpen: number } | null;
  };
  /** Null = nobody is banned. */
  readonly fail2ban: ResolvedFail2ban | null;
  /** Null = nothing is passed through. */
  readonly passthrough: ResolvedPassthrough | null;
  /** Null = the header means nothing. */
  readonly idempotency: ResolvedIdempotency | null;
  readonly prices: ResolvedPrices;
  readonly management: { readonly key: Secret | null; readonly path: string };
  readonly secrets: { readonly key: Secret | null; readonly replaces: string | null };
  readonly monitoring: { readonly prometheusEnabled: boolean; readonly metricsPublic: boolean };
  readonly plugins: readonly Plugin[];
  /** What was said of ours by name; null = the plugins are a list of the host's. */
  readonly namedPlugins: NamedPlugins | null;
  readonly clock: Clock | undefined;
  readonly logger: Logger | undefined;
  readonly transport: Transport | undefined;
}

/** Turns options that passed every check into what the guard uses. Frozen all the way down, except what the host brought along. */
export function resolveParsed(options: ParsedOptions): ResolvedOptions {
  const { server, router, resilience } = options;
  const plugged = resolvePlugins(options.plugins);
  const resolved: ResolvedOptions = {
    server: {
      host: server.host,
      port: server.port,
      requestTimeoutMs: server.requestTimeout,
      bodyLimitBytes: server.bodyLimit,
      loggingLevel: server.loggingLevel,
      shutdownTimeoutMs: server.shutdownTimeout,
      trustProxy: server.trustProxy,
      replaceV1Models: server.replaceV1Models,
      defaultModelsRpm: server.defaultModelsRpm,
    },
    ...resolveStore(options.store),
    ...resolveLedger(options.ledger),
    auth: authOf(options),
    scopes:
      typeof options.scopes === "function" ? { names: [], trustHeaders: false, headers: DEFAULT_SCOPE_HEADERS, of: options.scopes } : options.scopes,
    limits: options.limits.map(resolveLimit),
    estimate: options.estimate,
    credentials: options.credentials.filter(isBuiltIn).map((credential) => resolveCredential(credential, providerRow(credential.provider))),
    waitingCredentials: options.credentials.flatMap((credential, index) => (isBuiltIn(credential) ? [] : [{ index, credential }])),
    models: options.models.map(modelOf),
    modelAlias: options.modelAlias,
    router: {
      strategy: router.strategy,
      sticky: router.sticky === false ? null : { by: router.sticky.by, ttlMs: router.sticky.ttl },
      fallbackChains: router.fallbackChains,
      choosing: resolveChoosing(router),
      lossy: router.lossy,
      reservation: { ttlMs: router.reservation.ttl },
    },
    resilience: {
      maxRetries: resilience.maxRetries,
      retryBudget: resilience.retryBudget,
      connectTimeoutMs: resilience.connectTimeout,
      firstByteTimeoutMs: resilience.firstByteTimeout,
      idleTimeoutMs: resilience.idleTimeout,
      circuitBreaker: breakerOf(resilience.circuitBreaker),
    },
    fail2ban: resolveFail2ban(options.fail2ban),
    passthrough: resolvePassthrough(options.passthrough),
    idempotency: resolveIdempotency(options.idempotency),
    prices: resolvePrices(options.prices),
    management: options.management,
    secrets: options.secrets,
    monitoring: options.monitoring,
    ...plugged,
    clock: options.clock,
    logger: options.logger,
    transport: options.transport,
  };
  const hosts: readonly unknown[] = [options.store, options.ledger, options.clock, options.logger, options.transport, ...plugged.plugins];
  return freeze(resolved, new Set(hosts));
}

function authOf({ auth, server, keys }: ParsedOptions): ResolvedAuth | null {
  if (auth === false) return { kind: "host" };
  if (typeof auth === "function") return { kind: "custom", authenticate: auth };
  const given = auth ?? { masterKey: server.masterKey, keys };
  if (given.masterKey === null && given.keys === null) return null;
  return {
    kind: "keys",
    masterKey: given.masterKey,
    keys: (given.keys ?? []).map(({ expires, ...key }) => ({ ...key, expiresAt: expires })),
  };
}

function breakerOf(option: ParsedOptions["resilience"]["circuitBreaker"]): ResolvedOptions["resilience"]["circuitBreaker"] {
  return option === false ? null : { failureThreshold: option.failureThreshold, openForMs: option.openFor, halfOpen: option.halfOpen };
}

const isBuiltIn = ({ provider }: ParsedCredential): boolean => PROVIDER_IDS.includes(provider);

/** Without the keys that were not written: `undefined` is not "absent" to who looks for a name. */
function modelOf(model: ParsedOptions["models"][number]): ResolvedModel {
  return Object.fromEntries(Object.entries(model).filter(([, value]) => value !== undefined)) as unknown as ResolvedModel;
}

function freeze<T>(value: T, except: ReadonlySet<unknown>): T {
  if (typeof value !== "object" || value === null || except.has(value)) return value;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (prototype !== Object.prototype && prototype !== Array.prototype && prototype !== null) return value;
  for (const member of Object.values(value)) freeze(member, except);
  return Object.freeze(value);
}
