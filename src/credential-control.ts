/** What plugins may do with credentials: bring them, keep them out, tell what is left of them, and renew their tokens. */
import type { CredentialView } from "./core/admin.ts";
import type { Credential } from "./core/credential.ts";
import { ConfigError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import { hint } from "./core/nearest.ts";
import type { CredentialControl, PluginCredential, PluginCredentials, QuotaFact, RefreshedToken } from "./core/plugin.ts";
import type { StrategyFunction } from "./core/strategy.ts";
import type { Clock } from "./core/time.ts";
import type { CredentialPauses } from "./credential-pauses.ts";
import { credentialRefresh, type RefreshFunction } from "./credential-refresh.ts";
import type { Lending } from "./lending.ts";
import { unknownStrategy } from "./options/checks.ts";
import { demandsOf, resolveCredential, unknownProvider, type FieldProblem } from "./options/credentials.ts";
import { parsePluginCredential, parseQuotaFact, parseToken } from "./options/plugin-credentials.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import type { ChangingCredentials } from "./pool/credential-set.ts";
import { isStrategyName, STRATEGY_NAMES } from "./pool/strategies/index.ts";
import type { RecordLock } from "./record-lock.ts";
import type { ProviderTable } from "./upstream/provider-table.ts";

/** Of all plugins. */
const MAX_STRATEGIES = 1_000;
const MAX_REFRESHERS = 1_000;

export interface CredentialControlParts {
  readonly options: Pick<ResolvedOptions, "credentials" | "waitingCredentials" | "router">;
  readonly credentials: ChangingCredentials;
  readonly providers: ProviderTable;
  readonly lent: Pick<Lending, "credentials" | "quotas" | "expiry" | "chooseBy" | "onUnauthorized">;
  readonly pauses: CredentialPauses;
  readonly lock: RecordLock;
  readonly clock: Clock;
  readonly logger: Logger;
}

export interface GuardCredentialControl extends CredentialControl {
  /**
   * All plugins are set up: credentials of the configuration whose providers they brought are lent from now on, and the configured strategy is taken into
   * use. Throws ConfigError naming the options that still mean nothing.
   */
  settle(): void;
  close(): void;
}

const nameOf = (input: unknown): string => {
  const name: unknown = typeof input === "object" && input !== null ? (input as { readonly name?: unknown }).name : undefined;
  return typeof name === "string" ? `credential ${name.slice(0, 64)}` : "credential";
};

export function credentialControl(parts: CredentialControlParts): GuardCredentialControl {
  const { options, credentials, providers, lent, pauses, clock, logger } = parts;
  const strategies = new Map<string, StrategyFunction>();
  /** What ends a plugin's refreshers. */
  const refreshers = new Map<string, Set<() => void>>();
  const waiting = new Set(options.waitingCredentials.map(({ credential }) => credential.name));
  const refresh = credentialRefresh({
    credentials,
    lock: parts.lock,
    clock,
    logger,
    isOurs: (name) => typeof credentials.ownerOf(name) === "string",
    replace: replaceToken,
    changed: () => lent.expiry.renew(),
  });
  lent.expiry.renewedBy(refresh);
  lent.onUnauthorized(refresh.unauthorized);

  function replaceToken(credential: Credential, token: RefreshedToken): void {
    const { apiKey, expiresAt } = parseToken(token, `a new token of ${credential.name}`);
    if (expiresAt !== null && expiresAt <= clock.now())
      throw new ConfigError([`a new token of ${credential.name}: expiresAt: it has expired already`]);
    const owner = credentials.ownerOf(credential.name);
    if (typeof owner === "string") credentials.put(owner, Object.freeze({ ...credential, apiKey, expiresAt }));
  }

  /** Throws unless the name is free, or the plugin's own. */
  function checkOwner(plugin: string, name: string): void {
    const owner = waiting.has(name) ? null : credentials.ownerOf(name);
    if (owner === null) throw new ConfigError([`credential ${name}: name: it belongs to the configuration; give this one another`]);
    if (owner !== undefined && owner !== plugin)
      throw new ConfigError([`credential ${name}: name: it belongs to the plugin ${owner}; give this one another`]);
  }

  function upsert(plugin: string, input: PluginCredential): void {
    const what = nameOf(input);
    const { expiresAt, ...credential } = parsePluginCredential(input, what);
    const refuse = (problems: readonly FieldProblem[]): void => {
      if (problems.length > 0) throw new ConfigError(problems.map(({ field, message }) => `${what}: ${field}: ${message}`));
    };
    checkOwner(plugin, credential.name);
    const row = providers.find(credential.provider);
    if (!row) return refuse([unknownProvider(credential.provider, providers.ids)]);
    refuse(demandsOf(row, input as unknown as Readonly<Record<string, unknown>>));
    const made = Object.freeze({ ...resolveCredential(credential, row), expiresAt });
    if (!credentials.put(plugin, made)) throw new ConfigError([`${what}: there are too many credentials; remove some first`]);
  }

  function checkName(name: string, what: string): void {
    if (credentials.find(name)) return;
    const names = credentials.all.map((credential) => credential.name);
    throw new ConfigError([`${what}: there is no credential ${name.slice(0, 64)}${hint(name, names)}`]);
  }

  function addRefresher(plugin: string, provider: string, fn: RefreshFunction): () => void {
    if (typeof fn !== "function") throw new ConfigError(["refresher: expected a function (credential) => { apiKey, expiresAt }"]);
    if (!providers.find(provider)) throw new ConfigError([`refresher: ${unknownProvider(provider, providers.ids).message}`]);
    const own = refreshers.get(plugin) ?? new Set();
    if (own.size >= MAX_REFRESHERS) throw new ConfigError([`refresher: the plugin ${plugin} has ${MAX_REFRESHERS} already; stop one first`]);
    const end = refresh.add(provider, fn);
    const stop = (): void => {
      own.delete(stop);
      end();
    };
    refreshers.set(plugin, own.add(stop));
    return stop;
  }

  /** The configured credentials with those whose providers are known by now, in the order of the configuration. */
  function configured(): readonly Credential[] {
    const all = [...options.credentials];
    const problems: string[] = [];
    for (const { index, credential } of options.waitingCredentials) {
      const row = providers.find(credential.provider);
      const found = row ? demandsOf(row, credential) : [unknownProvider(credential.provider, providers.ids)];
      problems.push(...found.map(({ field, message }) => `credentials[${index}].${field}: ${message}`));
      if (row && found.length === 0) all.splice(index, 0, Object.freeze(resolveCredential(credential, row)));
    }
    if (problems.length > 0) throw new ConfigError(problems);
    return all;
  }

  function useStrategy(): void {
    const { strategy } = options.router;
    if (typeof strategy === "function" || isStrategyName(strategy)) return;
    const fn = strategies.get(strategy);
    if (!fn) throw new ConfigError([`router.strategy: ${unknownStrategy(strategy, [...STRATEGY_NAMES, ...strategies.keys()])}`]);
    lent.chooseBy(strategy, fn);
  }

  return {
    forPlugin(plugin): PluginCredentials {
      return {
        list: (): readonly CredentialView[] => lent.credentials(),
        get: (name) => credentials.find(name),
        upsert: (credential) => upsert(plugin, credential),
        remove: (name) => credentials.ownerOf(name) === plugin && credentials.remove(name),
        disable: (name, reason, until = null) => pauses.pause(name, { reason, until }),
        enable: (name) => pauses.resume(name),
        async report(fact: QuotaFact) {
          const known = parseQuotaFact(fact, "report");
          checkName(known.credential, "report");
          lent.quotas.report(known);
        },
        refresher: (provider, fn) => addRefresher(plugin, provider, fn),
      };
    },

    strategy(name, fn) {
      if (typeof fn !== "function") throw new ConfigError([`strategy ${name}: expected a function (candidates, call) => candidate`]);
      if (isStrategyName(name)) throw new ConfigError([`strategy ${name}: there is one of this name already; give yours another`]);
      if (strategies.size >= MAX_STRATEGIES) throw new ConfigError([`strategy ${name}: there are ${MAX_STRATEGIES} already`]);
      if (strategies.has(name)) throw new ConfigError([`strategy ${name}: another plugin has brought one of this name; give yours another`]);
      strategies.set(name, fn);
    },

    provider(definition) {
      providers.add(definition, (member, error) => {
        logger.warn(
          { err: error, provider: definition.id, member },
          "a plugin's provider failed at a request; the row that it extends was asked instead",
        );
      });
    },

    drop(plugin) {
      for (const stop of refreshers.get(plugin) ?? []) stop();
      refreshers.delete(plugin);
      for (const { name } of credentials.all) if (credentials.ownerOf(name) === plugin) credentials.remove(name);
    },

    settle() {
      const all = configured();
      useStrategy();
      waiting.clear();
      credentials.configure(all);
    },

    close: () => refresh.close(),
  };
}
