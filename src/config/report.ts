/** The options in force, one row each, for `quotaguard check`. */
import { Secret } from "../core/secret.ts";
import type { ModelPrice } from "../metering/price.ts";
import { optionNames } from "../options.ts";
import type { ResolvedCost } from "../options/cost.ts";
import type { ResolvedClientBans, ResolvedFail2ban } from "../options/fail2ban.ts";
import type { ResolvedIdempotency } from "../options/idempotency.ts";
import type { ResolvedLimit } from "../options/limits.ts";
import type { ResolvedPassthrough } from "../options/passthrough.ts";
import type { ResolvedPrices } from "../options/prices.ts";
import type { ResolvedAuth, ResolvedCredential, ResolvedModel, ResolvedOptions } from "../options/resolved.ts";
import { placeOf, type ResolvedSpool } from "../options/stores.ts";
import { formatPath, type OptionPath } from "../options/tree.ts";
import { formatDuration, formatSize } from "../options/values.ts";

export interface OptionRow {
  /** As a config file spells it. */
  readonly path: string;
  /** The effective value, ready to show; secrets are `[redacted]`. */
  readonly value: string;
  /** `quotaguard.yaml:12`, `env NAME`, `flag`, `default of <program>` or `default`. */
  readonly source: string;
}

/** Every effective option with its source. `sources` as `loadConfig()` returns them; options given in code have none and show as `default`. */
export function describeOptions(resolved: ResolvedOptions, sources: ReadonlyMap<string, string> = new Map()): readonly OptionRow[] {
  const rows: OptionRow[] = [];
  const names = optionNames();
  flatten(asWritten(resolved), [], (path, value) => {
    const option = formatPath(names, path, "file");
    rows.push({ path: option, value, source: sources.get(option) ?? "default" });
  });
  return rows;
}

/** A value that is shown as it stands. */
type Shown = string | number | boolean | Secret | null | undefined | readonly Shown[] | { readonly [name: string]: Shown };

function flatten(value: Shown, path: OptionPath, row: (path: OptionPath, value: string) => void): void {
  if (value === undefined) return;
  if (value === null) return row(path, "none");
  if (value instanceof Secret || typeof value !== "object") return row(path, String(value));
  if (Array.isArray(value)) {
    const items = value as readonly Shown[];
    if (items.every((item) => typeof item !== "object")) return row(path, items.length === 0 ? "none" : items.join(", "));
    for (const [index, item] of items.entries()) flatten(item, [...path, index], row);
    return;
  }
  const entries = Object.entries(value as { readonly [name: string]: Shown });
  if (entries.length === 0) return row(path, "none");
  for (const [name, child] of entries) flatten(child, [...path, name], row);
}

function choosingRows({
  thresholds,
  antiFlapping,
  policy,
  policies,
  ignoreEstimated,
}: ResolvedOptions["router"]["choosing"]): Readonly<Record<string, Shown>> {
  const { minDwellTimeMs, cooldownAfterSwitchMs, hysteresisMargin } = antiFlapping;
  const [minDwellTime, cooldownAfterSwitch] = [formatDuration(minDwellTimeMs), formatDuration(cooldownAfterSwitchMs)];
  return {
    thresholds: { ...thresholds },
    antiFlapping: { minDwellTime, cooldownAfterSwitch, hysteresisMargin },
    policy,
    policies: policies.map(({ name, weights }) => ({ name, weights: { ...weights } })),
    ignoreEstimated,
  };
}

/** The options in the spelling that one writes them in. */
function asWritten(options: ResolvedOptions): Shown {
  const { server, resilience, router, scopes } = options;
  const { masterKey, keys, auth } = authRows(options.auth);
  return {
    server: {
      host: server.host,
      port: server.port,
      masterKey,
      requestTimeout: formatDuration(server.requestTimeoutMs),
      bodyLimit: formatSize(server.bodyLimitBytes),
      loggingLevel: server.loggingLevel,
      shutdownTimeout: formatDuration(server.shutdownTimeoutMs),
      trustProxy: server.trustProxy,
      replaceV1Models: server.replaceV1Models,
      defaultModelsRpm: numberOf(server.defaultModelsRpm),
    },
    store: { url: placeOf(options.store), nodes: options.nodes },
    ledger: {
      url: placeOf(options.ledger),
      spool: options.ledger.kind === "postgres" ? spoolRow(options.ledger.spool) : undefined,
      retention: options.retentionMs === null ? null : formatDuration(options.retentionMs),
    },
    auth,
    keys,
    scopes: { names: scopes.names, trustHeaders: scopes.trustHeaders, headers: scopes.headers, of: scopes.of ? "a function" : undefined },
    limits: options.limits.map(limitRow),
    estimate: options.estimate,
    credentials: options.credentials.map(credentialRow),
    models: options.models.map(modelRow),
    modelAlias: options.modelAlias,
    router: {
      strategy: typeof router.strategy === "function" ? "a function" : router.strategy,
      ...choosingRows(router.choosing),
      sticky: router.sticky === null ? false : { by: router.sticky.by, ttl: formatDuration(router.sticky.ttlMs) },
      fallbackChains: router.fallbackChains,
      lossy: router.lossy,
      reservation: { ttl: formatDuration(router.reservation.ttlMs) },
    },
    resilience: {
      maxRetries: resilience.maxRetries,
      retryBudget: resilience.retryBudget,
      connectTimeout: formatDuration(resilience.connectTimeoutMs),
      firstByteTimeout: formatDuration(resilience.firstByteTimeoutMs),
      idleTimeout: formatDuration(resilience.idleTimeoutMs),
      circuitBreaker: breakerRow(resilience.circuitBreaker),
    },
    fail2ban: bansRow(options.fail2ban),
    passthrough: passthroughRow(options.passthrough),
    idempotency: idempotencyRow(options.idempotency),
    prices: pricesRow(options.prices),
    management: options.management,
    secrets: options.secrets,
    monitoring: options.monitoring,
    plugins: pluginRows(options),
    clock: options.clock && "an object",
    logger: options.logger && "an object",
    transport: options.transport && "an object",
  };
}

function pluginRows({ plugins, namedPlugins }: ResolvedOptions): Shown {
  if (!namedPlugins) return plugins.map(({ name }) => name);
  const { collectors } = namedPlugins;
  if (!collectors) return { collectors: false };
  const { interval, jitter, timeout, endpoints, antigravity, ...rest } = collectors;
  const shownEndpoints = Object.fromEntries(Object.entries(endpoints).filter(([, url]) => url !== undefined));
  return {
    collectors: {
      interval: formatDuration(interval),
      jitter: formatDuration(jitter),
      timeout: formatDuration(timeout),
      ...rest,
      endpoints: shownEndpoints,
      antigravity: { ...antigravity, startTimeout: formatDuration(antigravity.startTimeout) },
    },
  };
}

function spoolRow(spool: ResolvedSpool | null): Shown {
  if (!spool) return false;
  return { path: spool.path, maxBytes: formatSize(spool.maxBytes), maxTime: formatDuration(spool.maxTimeMs) };
}

function authRows(auth: ResolvedAuth | null): { readonly masterKey?: Shown; readonly keys?: Shown; readonly auth?: Shown } {
  if (auth === null) return { auth: "undecided: a gateway needs server.master_key, keys or auth" };
  if (auth.kind === "host") return { auth: "the app in front of the gateway" };
  if (auth.kind === "custom") return { auth: "a function" };
  return {
    masterKey: auth.masterKey,
    keys: auth.keys.map(({ expiresAt, models, ...key }) => ({
      ...key,
      models: models ?? "all",
      expires: expiresAt === null ? null : new Date(expiresAt).toISOString(),
    })),
  };
}

const numberOf = (value: unknown): string => (typeof value === "function" ? "a function" : value === -1 ? "-1 (unlimited)" : String(value));

function limitRow({ kind, enforceFrom, ...limit }: ResolvedLimit): Shown {
  return { ...limit, ...kindRow(kind), enforceFrom: enforceFrom === undefined ? undefined : new Date(enforceFrom).toISOString() };
}

function kindRow(kind: ResolvedLimit["kind"]): { readonly [name: string]: Shown } {
  if ("bucket" in kind) return { bucket: { capacity: numberOf(kind.bucket.capacity), refillPerSec: kind.bucket.refillPerSec } };
  if ("concurrency" in kind) return { concurrency: { limit: numberOf(kind.concurrency.limit) } };
  const { limit, per, timeZone } = kind.window;
  const slides = typeof per === "number";
  return { window: { limit: numberOf(limit), per: slides ? formatDuration(per) : per, timeZone: slides ? undefined : timeZone } };
}

const banOf = (ms: number | null): string => (ms === null ? "permanent" : formatDuration(ms));

function breakerRow(breaker: ResolvedOptions["resilience"]["circuitBreaker"]): Shown {
  if (!breaker) return false;
  return { failureThreshold: breaker.failureThreshold, openFor: formatDuration(breaker.openForMs), halfOpen: breaker.halfOpen };
}

function bansRow(fail2ban: ResolvedFail2ban | null): Shown {
  if (!fail2ban) return false;
  return {
    ...commonBans(fail2ban),
    errorCodes: fail2ban.codes,
    errorCodeRules: fail2ban.rules.map(({ code, maxAttempts, banMs }) => ({ code, maxAttempts, banDuration: banOf(banMs) })),
    clients: fail2ban.clients ? { ...commonBans(fail2ban.clients), validKeys: fail2ban.clients.validKeys } : false,
  };
}

const commonBans = ({ maxAttempts, windowMs, banMs }: Pick<ResolvedClientBans, "maxAttempts" | "windowMs" | "banMs">) => ({
  maxAttempts,
  window: formatDuration(windowMs),
  banDuration: banOf(banMs),
});

function passthroughRow(passthrough: ResolvedPassthrough | null): Shown {
  if (!passthrough) return false;
  return { paths: passthrough.paths, cost: Object.fromEntries(Object.entries(passthrough.cost).map(([path, cost]) => [path, costRow(cost)])) };
}

const idempotencyRow = (idempotency: ResolvedIdempotency | null): Shown =>
  idempotency ? { ttl: formatDuration(idempotency.ttlMs), maxBody: formatSize(idempotency.maxBodyBytes) } : false;

/** The input may be anything, and a row is one line. */
function costRow(cost: ResolvedCost): Shown {
  if (cost.kind === "model")
    return { model: cost.model, maxOutputTokens: cost.maxOutputTokens, input: cost.input === undefined ? undefined : "given" };
  const { kind: _kind, usd, ...tokens } = cost;
  return Object.keys(tokens).length === 0 && usd !== undefined ? usd : { usd, ...tokens };
}

function modelRow({ rpm, tpm, price, ...model }: ResolvedModel): Shown {
  return {
    ...model,
    rpm: rpm === undefined ? undefined : numberOf(rpm),
    tpm: tpm === undefined ? undefined : numberOf(tpm),
    price: price && priceRow(price),
  };
}

const priceRow = ({ tiers, ...price }: ModelPrice): { readonly [name: string]: Shown } => ({ ...price, tiers: tiers?.map((tier) => ({ ...tier })) });

const dateOf = (ms: number | undefined): string | undefined => (ms === undefined ? undefined : new Date(ms).toISOString());

function pricesRow({ rules, files, refreshMs, ...prices }: ResolvedPrices): Shown {
  return {
    ...prices,
    files,
    refresh: formatDuration(refreshMs),
    rules: rules.map(({ price, from, until, ...rule }) => ({ ...rule, price: price && priceRow(price), from: dateOf(from), until: dateOf(until) })),
  };
}

/** Header values and proxy passwords are secrets that no type marks. */
function credentialRow({
  origin,
  basePath,
  headers,
  proxyUrl,
  models,
  rpm,
  tpm,
  maxConcurrent,
  row: _row,
  serviceAccount,
  ...credential
}: ResolvedCredential): Shown {
  return {
    ...Object.fromEntries(Object.entries(credential).filter(([, value]) => value !== undefined)),
    ...(serviceAccount ? { serviceAccount: serviceAccount.clientEmail } : {}),
    rpm: numberOf(rpm),
    tpm: numberOf(tpm),
    maxConcurrent: numberOf(maxConcurrent),
    models: models ?? "all",
    baseUrl: `${origin}${basePath}`,
    headers: Object.fromEntries(Object.keys(headers).map((header) => [header, "[redacted]"])),
    proxyUrl: proxyUrl === null ? null : proxyUrl.replace(/\/\/[^/]*@/, "//[redacted]@"),
  };
}
