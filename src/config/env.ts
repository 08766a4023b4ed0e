/** Environment variables as options. One table; where several set the same option, the first one counts. */
import { nodeAt, type OptionNode, type OptionPath } from "../options/tree.ts";
import type { Environment } from "./file.ts";
import type { Origin } from "./origin.ts";
import { fromText, isTrue, pathFrom, storeUrlFrom } from "./text.ts";

interface Setting {
  readonly name: string;
  readonly path: OptionPath;
  /** Makes the option's value; `folder` is where relative paths start. */
  readonly value?: (text: string, folder: string) => string;
  /** What to do about it when the value is refused. */
  readonly note?: string;
}

const SETTINGS: readonly Setting[] = [
  { name: "QUOTAGUARD_HOST", path: ["server", "host"] },
  { name: "QUOTAGUARD_PORT", path: ["server", "port"] },
  { name: "QUOTAGUARD_MASTER_KEY", path: ["server", "masterKey"] },
  { name: "QUOTAGUARD_MANAGEMENT_KEY", path: ["management", "key"] },
  { name: "QUOTAGUARD_SECRET_KEY", path: ["secrets", "key"] },
  { name: "QUOTAGUARD_STORE_URL", path: ["store", "url"], value: storeUrlFrom },
  { name: "QUOTAGUARD_LEDGER_URL", path: ["ledger", "url"], value: storeUrlFrom },
  { name: "QUOTAGUARD_DB_PATH", path: ["ledger", "url"], value: (path, folder) => `sqlite:${pathFrom(path, folder)}` },
  { name: "SHUTDOWN_TIMEOUT", path: ["server", "shutdownTimeout"] },
  { name: "REDIS_URL", path: ["store", "url"], note: "unset it, or set QUOTAGUARD_STORE_URL, which goes first" },
  {
    name: "DATABASE_URL",
    path: ["ledger", "url"],
    // SQLAlchemy names its driver in the scheme.
    value: (url, folder) => storeUrlFrom(url.replace(/^([a-z]+)\+[a-z0-9]+:/i, "$1:"), folder),
    note: "unset it, or set QUOTAGUARD_LEDGER_URL, which goes first",
  },
  { name: "QUOTIO_PORT", path: ["server", "port"] },
  { name: "QUOTIO_HOST", path: ["server", "host"] },
];

/** Settings of plugins: they count where the plugin is asked for, and switch none on. */
const PLUGIN_SETTINGS: readonly Setting[] = [
  { name: "QUOTAGUARD_COLLECTOR_WORKERS", path: ["plugins", "collectors", "workers"] },
  { name: "QUOTAGUARD_COLLECTOR_JITTER", path: ["plugins", "collectors", "jitter"] },
  { name: "QUOTAGUARD_ANTIGRAVITY_PORT", path: ["plugins", "collectors", "antigravity", "port"] },
  { name: "QUOTAGUARD_ANTIGRAVITY_CSRF", path: ["plugins", "collectors", "antigravity", "csrf"] },
  { name: "QUOTAGUARD_ANTIGRAVITY_START_CMD", path: ["plugins", "collectors", "antigravity", "startCmd"] },
  { name: "QUOTAGUARD_ANTIGRAVITY_START_TIMEOUT", path: ["plugins", "collectors", "antigravity", "startTimeout"] },
];

/** Variables of features of later versions. */
const UNBUILT: readonly string[] = [
  "QUOTAGUARD_CLIPROXY_AUTH_PATH",
  "QUOTAGUARD_GOOGLE_CLIENT_ID",
  "QUOTAGUARD_GOOGLE_CLIENT_SECRET",
  "QUOTAGUARD_IFLOW_CLIENT_ID",
  "QUOTAGUARD_IFLOW_CLIENT_SECRET",
  "QUOTAGUARD_TELEGRAM_TOKEN",
  "QUOTIO_AUTH_DIR",
  "QUOTIO_CONFIG_DIR",
  "QUOTIO_DEBUG",
  "QUOTIO_PASSTHROUGH_ENABLED",
  "QUOTIO_CLI_PROXY_PORT",
];

/** A provider's key in the environment makes a credential only where the configuration has none for that provider. */
const PROVIDER_KEYS: readonly { readonly name: string; readonly provider: string; readonly baseUrl?: string }[] = [
  { name: "OPENAI_API_KEY", provider: "openai", baseUrl: "OPENAI_BASE_URL" },
  { name: "ANTHROPIC_API_KEY", provider: "anthropic" },
  { name: "GEMINI_API_KEY", provider: "gemini" },
  { name: "QWEN_API_KEY", provider: "qwen", baseUrl: "QWEN_BASE_URL" },
  { name: "OPENROUTER_API_KEY", provider: "openrouter" },
  { name: "GROQ_API_KEY", provider: "groq" },
  { name: "MISTRAL_API_KEY", provider: "mistral" },
  { name: "DEEPSEEK_API_KEY", provider: "deepseek" },
  { name: "XAI_API_KEY", provider: "xai" },
  { name: "TOGETHER_API_KEY", provider: "together" },
];

const OWN_PREFIX = "QUOTAGUARD_";
const OTHER_OWN = ["QUOTAGUARD_CONFIG_PATH", "QUOTAGUARD_UTLS"];

/** All of ours, for "did you mean". */
export const OWN_VARIABLES: readonly string[] = [...[...SETTINGS, ...PLUGIN_SETTINGS].map(({ name }) => name), ...UNBUILT, ...OTHER_OWN].filter(
  (name) => name.startsWith(OWN_PREFIX),
);

/** The variable that sets an option, or the first one of a section. */
export const variableOf = (path: OptionPath): string | undefined =>
  SETTINGS.find(({ path: option }) => path.every((part, index) => part === option[index]))?.name;

export interface EnvironmentReader {
  /** Undefined when unset or empty: a compose file passes unset variables as empty ones. */
  get(name: string): string | undefined;
  names(): readonly string[];
  /** Where a relative path in this variable starts: the working folder, or that of the `.env`. */
  folderOf(name: string): string;
}

export function environmentReader(real: Environment, dotEnv: Environment, cwd: string, folder: string): EnvironmentReader {
  const all: Environment = { ...dotEnv, ...real };
  return {
    get: (name) => (all[name] === "" ? undefined : all[name]),
    names: () => Object.keys(all),
    folderOf: (name) => (real[name] === undefined ? folder : cwd),
  };
}

export interface EnvironmentOption {
  readonly path: OptionPath;
  readonly value: unknown;
  /** Undefined = a default that the variable brings along. */
  readonly origin: Origin | undefined;
}

/** What the environment sets, on top of the options so far. */
export function environmentOptions(env: EnvironmentReader, base: Readonly<Record<string, unknown>>, names: OptionNode): readonly EnvironmentOption[] {
  const options: EnvironmentOption[] = [];
  const taken = new Set<string>();
  for (const { name, path, value, note } of SETTINGS) {
    const text = env.get(name);
    if (text === undefined || taken.has(path.join("."))) continue;
    taken.add(path.join("."));
    options.push({ path, value: value ? value(text, env.folderOf(name)) : fromText(text, nodeAt(names, path)), origin: { kind: "env", name, note } });
  }
  return [...options, ...pluginOptions(env, base, names), ...keyCredentials(env, base), ...tokenGuardLimits(env, base)];
}

const pluginIn = (base: Readonly<Record<string, unknown>>, [section, plugin]: OptionPath): unknown =>
  (base[section as string] as Readonly<Record<string, unknown>> | undefined)?.[plugin as string];

const isAskedFor = (plugin: unknown): boolean => plugin === true || (typeof plugin === "object" && plugin !== null);

function pluginOptions(env: EnvironmentReader, base: Readonly<Record<string, unknown>>, names: OptionNode): readonly EnvironmentOption[] {
  return PLUGIN_SETTINGS.flatMap(({ name, path }): readonly EnvironmentOption[] => {
    const text = env.get(name);
    return text === undefined || !isAskedFor(pluginIn(base, path))
      ? []
      : [{ path, value: fromText(text, nodeAt(names, path)), origin: { kind: "env", name } }];
  });
}

/** Those of a plugin that nobody asked for do nothing, and nobody should think that they do. */
export const idlePluginSettings = (env: EnvironmentReader, base: Readonly<Record<string, unknown>>): readonly string[] =>
  PLUGIN_SETTINGS.filter(({ name, path }) => env.get(name) !== undefined && !isAskedFor(pluginIn(base, path))).map(
    ({ name, path }) => `env ${name}: ignored, because ${path.slice(0, 2).join(".")} is not on`,
  );

/** Problems that no option has: variables of later versions, and mistyped ones of ours (those only warn: they may belong to a host's own tooling). */
export function environmentProblems(env: EnvironmentReader): readonly string[] {
  const problems = UNBUILT.filter((name) => env.get(name) !== undefined).map((name) => `env ${name}: not yet available in this version; unset it`);
  if (isTrue(env.get("QUOTAGUARD_UTLS") ?? "")) {
    problems.push(
      "env QUOTAGUARD_UTLS: refused: quotaguard does not disguise itself as another TLS client; unset it, or give your own `transport` in code",
    );
  }
  return problems;
}

const rowsOf = (value: unknown): readonly Readonly<Record<string, unknown>>[] =>
  Array.isArray(value) ? (value as Readonly<Record<string, unknown>>[]) : [];

function keyCredentials(env: EnvironmentReader, base: Readonly<Record<string, unknown>>): EnvironmentOption[] {
  const credentials = rowsOf(base.credentials);
  let next = credentials.length;
  return PROVIDER_KEYS.flatMap(({ name, provider, baseUrl }): readonly EnvironmentOption[] => {
    const apiKey = env.get(name);
    if (apiKey === undefined || credentials.some((row) => (row?.provider ?? "openai") === provider)) return [];
    const at: OptionPath = ["credentials", next];
    next += 1;
    const origin: Origin = { kind: "env", name };
    const url = baseUrl === undefined ? undefined : env.get(baseUrl);
    return [
      { path: [...at, "name"], value: credentials.some((row) => row?.name === provider) ? `${provider}-env` : provider, origin },
      { path: [...at, "provider"], value: provider, origin },
      { path: [...at, "apiKey"], value: apiKey, origin },
      ...(baseUrl === undefined || url === undefined
        ? []
        : [{ path: [...at, "baseUrl"], value: url, origin: { kind: "env", name: baseUrl } as const }]),
    ];
  });
}

/** Addresses without a key do nothing, and nobody should think that they do. */
export const idleBaseUrls = (env: EnvironmentReader): readonly string[] =>
  PROVIDER_KEYS.flatMap(({ name, baseUrl }) =>
    baseUrl !== undefined && env.get(baseUrl) !== undefined && env.get(name) === undefined
      ? [`env ${baseUrl}: ignored, because ${name} is not set`]
      : [],
  );

const TOKEN_GUARD_SCOPES = ["global", "team", "rolegroup", "role", "user"] as const;
/** TokenGuard's own defaults, for when only half of a bucket is said. */
const TOKEN_GUARD_CAPACITY = 1_000;
const TOKEN_GUARD_REFILL_PER_SEC = 5;

/**
 * TokenGuard's buckets. A scope gets one when its own `CAP_` or `RATE_` is set, all of them when the common `BUCKET_` values are; `global` only
 * with `ENFORCE_GLOBAL_SCOPE`, as there. A limit of the same name in the file is replaced.
 */
function tokenGuardLimits(env: EnvironmentReader, base: Readonly<Record<string, unknown>>): EnvironmentOption[] {
  const limits = rowsOf(base.limits);
  const options: EnvironmentOption[] = [];
  let next = limits.length;
  const first = (...names: readonly string[]): { readonly name: string; readonly text: string } | undefined => {
    for (const name of names) {
      const text = env.get(name);
      if (text !== undefined) return { name, text };
    }
    return undefined;
  };
  for (const scope of TOKEN_GUARD_SCOPES) {
    const suffix = scope.toUpperCase();
    const enforceGlobal = isTrue(env.get("ENFORCE_GLOBAL_SCOPE") ?? "");
    if (scope === "global" && !enforceGlobal) continue;
    const capacity = first(`CAP_${suffix}`, "BUCKET_CAPACITY");
    const refill = first(`RATE_${suffix}`, "BUCKET_REFILL_PER_SEC");
    const by = capacity ?? refill ?? (scope === "global" ? { name: "ENFORCE_GLOBAL_SCOPE" } : undefined);
    if (!by) continue;
    const name = `budget-${scope}`;
    const known = limits.findIndex((row) => row?.name === name);
    const at: OptionPath = ["limits", known < 0 ? next : known];
    if (known < 0) next += 1;
    const origin: Origin = { kind: "env", name: by.name };
    const set = (path: OptionPath, value: unknown, from: Origin = origin): void => void options.push({ path: [...at, ...path], value, origin: from });
    const number = (path: OptionPath, found: { readonly name: string; readonly text: string } | undefined, otherwise: number): void =>
      found
        ? set(path, asNumber(found.text), { kind: "env", name: found.name })
        : void options.push({ path: [...at, ...path], value: otherwise, origin: undefined });
    set([], {});
    set(["name"], name);
    set(["scope"], scope);
    set(["unit"], "tokens");
    set(["estimate"], "expected");
    number(["bucket", "capacity"], capacity, TOKEN_GUARD_CAPACITY);
    number(["bucket", "refillPerSec"], refill, TOKEN_GUARD_REFILL_PER_SEC);
  }
  return options;
}

/** Text that is no number stays text, so that the option's own check names it. */
const asNumber = (text: string): unknown => (/^-?\d+(?:\.\d+)?$/.test(text.trim()) ? Number(text) : text);
