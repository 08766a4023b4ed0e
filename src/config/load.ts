/** The options that file and environment give: the only place that reads either. */
import { join } from "node:path";
import { ConfigError } from "../core/errors.ts";
import { Secret } from "../core/secret.ts";
import { checkOptions, optionNames, type GuardOptions } from "../options.ts";
import { nearest } from "../core/nearest.ts";
import { isKeyFile } from "../options/service-account.ts";
import { isPriceUrl } from "../options/prices.ts";
import { isServerUrl, SPOOL_PATH } from "../options/stores.ts";
import { formatPath, type OptionNode, type OptionPath, type Problem } from "../options/tree.ts";
import { AS_WRITTEN, likeAutoAiRouter, translateAutoAiRouter, type Translated } from "./auto-ai-router.ts";
import {
  environmentOptions,
  environmentProblems,
  environmentReader,
  idleBaseUrls,
  idlePluginSettings,
  OWN_VARIABLES,
  variableOf,
  type EnvironmentReader,
} from "./env.ts";
import { isPlain, leavesOf, merge, setAt, type Fields } from "./fields.ts";
import { findConfigFile, readConfigFile, readDotEnv, type ConfigFile, type Environment } from "./file.ts";
import { liteLlmProblems } from "./litellm.ts";
import { MODELS_FILE, moreModels, type MoreModels, type MoreModelsOptions } from "./more-models.ts";
import { originLabel, placeOf, sourceLabel, type Origin, type Origins } from "./origin.ts";
import { pathFrom, storeUrlFrom } from "./text.ts";
import { readYaml, type FileOptions } from "./yaml.ts";

export interface LoadConfigOptions {
  /** The config file. @default `QUOTAGUARD_CONFIG_PATH`, else ./quotaguard.yaml, else ./config.yaml, else none */
  readonly path?: string | undefined;
  /** @default process.env */
  readonly env?: Environment;
  /** Where relative paths of `path` and `env` start. @default process.cwd() */
  readonly cwd?: string;
  /** Plain options above everything else, such as command-line flags. */
  readonly flags?: GuardOptions;
  /** Plain options below everything else, in place of the library's defaults. */
  readonly defaults?: GuardOptions;
}

/** Options for `createGuard()`, to be given as they are or spread. What is known about them besides does not spread. */
export interface LoadedConfig extends GuardOptions {
  /** Option path (as a file spells it) -> `quotaguard.yaml:12`, `env NAME` or `flag`; what is missing is a default. */
  readonly sources: ReadonlyMap<string, string>;
  /** Absolute path of the file; null = none. */
  readonly file: string | null;
  /** Where `quotaguard serve` writes the models that providers list; null = nowhere (`server.replace_v1_models` is not on, or there is no file). */
  readonly modelsFile: string | null;
  /** What looks like a mistake but need not be one. */
  readonly warnings: readonly string[];
}

/**
 * Reads file, `.env` and environment, checks everything and returns it as options. Synchronous. Throws ConfigError with one line a problem:
 * `quotaguard.yaml:12:5: limits[0].unit: …`.
 * @example createGuard({ ...loadConfig(), scopes: (req) => ({ user: req.user?.id }) })
 */
export function loadConfig(options: LoadConfigOptions = {}): LoadedConfig {
  const real = options.env ?? process.env;
  const cwd = options.cwd ?? process.cwd();
  const file = findConfigFile({ path: options.path, env: real, cwd });
  const folder = file?.folder ?? cwd;
  const dotEnv = readDotEnv(folder, cwd);
  const env = environmentReader(real, dotEnv, cwd, folder);
  const variables = { ...dotEnv, ...real };
  const read = file
    ? readFile(file, variables)
    : { options: {}, origins: new Map<string, Origin>(), problems: [], warnings: [], foreign: null, mixed: null };
  const { origins, foreign } = read;

  let merged = merge(placed(merge({}, options.defaults ?? {}), folder), read.options);
  const names = optionNames();
  for (const { path, value, origin } of environmentOptions(env, merged, names)) {
    merged = setAt(merged, path, value) as Fields;
    replaceOrigin(origins, formatPath(names, path, "file"), origin);
  }
  if (options.flags) {
    merged = merge(merged, options.flags);
    for (const path of leavesOf(options.flags, [])) origins.set(formatPath(names, path, "file"), { kind: "flag" });
  }
  merged = withSpoolPath(merged, folder);
  const writesModels = isPlain(merged.server) && merged.server.replaceV1Models === true;
  const more =
    file && (writesModels || foreign) ? modelsBeside(file, cwd, { env: variables, names, models: merged.models, translate: foreign }) : null;
  const own = merged.models ?? [];
  if (more && more.models.length > 0 && Array.isArray(own)) {
    merged = { ...merged, models: [...(own as readonly unknown[]), ...more.models] };
    for (const [option, origin] of more.origins) origins.set(option, origin);
  }

  const checked = checkOptions(merged, "file");
  const problems = [...read.problems, ...(more?.problems ?? []), ...(checked.ok ? [] : checked.problems)];
  const lines = [...environmentProblems(env), ...(read.mixed === null ? [] : [read.mixed]), ...linesOf(problems, origins, file?.shown)];
  if (lines.length > 0) throw new ConfigError(lines);
  const sources = new Map([...origins].map(([path, origin]) => [path, sourceLabel(origin)]));
  const warnings = [...read.warnings, ...(more?.warnings ?? []), ...(foreign ? foreignWarnings(origins, env) : []), ...warningsOf(env, merged)];
  return Object.defineProperties(wrapSecrets(merged), {
    sources: { value: sources },
    file: { value: file?.path ?? null },
    modelsFile: { value: file && writesModels ? join(file.folder, MODELS_FILE) : null },
    warnings: { value: warnings },
  }) as unknown as LoadedConfig;
}

/** What stood below a replaced option came from somewhere else and is gone. */
function replaceOrigin(origins: Origins, option: string, origin: Origin | undefined): void {
  for (const known of origins.keys()) if (known.startsWith(`${option}.`) || known.startsWith(`${option}[`)) origins.delete(known);
  if (origin) origins.set(option, origin);
  else origins.delete(option);
}

interface ReadFile extends Translated {
  /** What a models file beside it needs to know; null = the file is one of ours. */
  readonly foreign: { readonly credentials: unknown } | null;
  /** What to say first about a file that is one of ours only by some words; null = it is all of a piece. */
  readonly mixed: string | null;
}

function readFile(file: ConfigFile, env: Environment): ReadFile {
  const names = optionNames();
  const written = readYaml(file, env, AS_WRITTEN);
  const { isAlike, ours } = likeAutoAiRouter(written.options, names);
  if (isAlike && !ours) {
    return { ...translateAutoAiRouter(file, written, names), foreign: { credentials: written.options.credentials }, mixed: null };
  }
  const read = readYaml(file, env, names);
  const litellm = liteLlmProblems(read.options);
  if (litellm) throw new ConfigError(litellm.map((line) => `${file.shown}: ${line}`));
  const mixed = isAlike && ours && written.options.version === undefined ? mixedLine(ours, read, names) : null;
  return { ...read, options: placed(read.options, file.folder), warnings: [], foreign: null, mixed };
}

/** Relative paths of stores, key files and price files start at the folder. */
function placed(options: Fields, folder: string): Fields {
  let result = options;
  for (const section of ["store", "ledger"]) {
    const url = isPlain(options[section]) ? options[section].url : undefined;
    if (typeof url === "string") result = setAt(result, [section, "url"], storeUrlFrom(url, folder)) as Fields;
  }
  const { credentials } = options;
  for (const [index, credential] of (Array.isArray(credentials) ? (credentials as readonly unknown[]) : []).entries()) {
    const key = isPlain(credential) ? credential.serviceAccount : undefined;
    if (isKeyFile(key)) result = setAt(result, ["credentials", index, "serviceAccount"], pathFrom(key, folder)) as Fields;
  }
  const files = isPlain(options.prices) ? options.prices.files : undefined;
  if (!Array.isArray(files)) return result;
  const from = (file: unknown): unknown => (typeof file === "string" && !isPriceUrl(file) ? pathFrom(file, folder) : file);
  return setAt(result, ["prices", "files"], files.map(from)) as Fields;
}

/** Without it, whoever adds one option of ours to a file that worked is told that everything else in it is wrong. */
function mixedLine(path: OptionPath, { origins }: FileOptions, names: OptionNode): string {
  const { origin, name } = placeOf(origins, names, path);
  const where = origin ? `${originLabel(origin)}: ` : "";
  const variable = variableOf(path);
  const instead = `take it out${variable === undefined ? "" : ` and set ${variable}`}, or write the rest in quotaguard's words`;
  return `${where}${name}: is an option of quotaguard in a file of auto_ai_router, so all of it was read as quotaguard's; ${instead}`;
}

function modelsBeside(config: ConfigFile, cwd: string, options: MoreModelsOptions): MoreModels | null {
  const path = join(config.folder, MODELS_FILE);
  if (path === config.path) throw new ConfigError([`${config.shown}: a config of this name would be written to as the list of models; rename it`]);
  const file = readConfigFile(path, cwd);
  return file && moreModels(file, options);
}

/** The default lies beside the config, as every relative path does; whether there is a spool depends on a URL that may come from the environment. */
function withSpoolPath(options: Fields, folder: string): Fields {
  const { url, spool } = isPlain(options.ledger) ? options.ledger : {};
  if (typeof url !== "string" || !isServerUrl(url)) return options;
  const path = spool === undefined ? SPOOL_PATH : isPlain(spool) ? (spool.path ?? SPOOL_PATH) : undefined;
  return typeof path === "string" ? (setAt(options, ["ledger", "spool", "path"], pathFrom(path, folder)) as Fields) : options;
}

/** One line a problem, in the order of the file. What the reader found has its place; options that it spoke about are not spoken about again. */
function linesOf(problems: readonly (Problem & { readonly origin?: Origin })[], origins: Origins, config: string | undefined): readonly string[] {
  const names = optionNames();
  const seen = new Set<string>();
  const lines = problems.flatMap(({ path, message, origin: own }) => {
    const found = placeOf(origins, names, path);
    const origin = own ?? found.origin;
    const option = (own?.kind === "file" ? own.name : undefined) ?? found.name;
    if (seen.has(option) && !own) return [];
    if (path.length > 0) seen.add(option);
    const note = origin?.kind === "env" && origin.note !== undefined ? ` (${origin.note})` : "";
    const where = origin ? `${originLabel(origin)}: ` : "";
    return { text: `${where}${path.length > 0 ? `${option}: ` : ""}${message}${note}`, at: orderOf(origin, config) };
  });
  return lines.toSorted((a, b) => (a.at === b.at ? 0 : a.at - b.at)).map(({ text }) => text);
}

/** The config from top to bottom, then the file beside it, then what stands in no file. */
function orderOf(origin: Origin | undefined, config: string | undefined): number {
  if (origin?.kind !== "file") return Infinity;
  return (origin.file === config ? 0 : 1e12) + origin.line * 10_000 + origin.column;
}

/** What the switch from auto_ai_router changes although its file says nothing about it. */
function foreignWarnings(origins: Origins, env: EnvironmentReader): readonly string[] {
  const ignored = FOREIGN_VARIABLES.filter(([name]) => env.get(name) !== undefined);
  return [
    ...(origins.get("server.host")?.kind !== "assumed"
      ? []
      : ["server.host: 0.0.0.0, every address of this machine, as there; QUOTAGUARD_HOST or --host choose another"]),
    ...ignored.map(([name, instead]) => `env ${name}: ignored; ${instead}`),
  ];
}

const PROXIES = "a proxy is named by a credential's proxy_url in a quotaguard.yaml";

const FOREIGN_VARIABLES: readonly (readonly [name: string, instead: string])[] = [
  ["HTTP_PROXY", PROXIES],
  ["HTTPS_PROXY", PROXIES],
  ["UI_USERNAME", "there is no login page here"],
  ["UI_PASSWORD", "there is no login page here"],
];

function warningsOf(env: EnvironmentReader, options: Fields): readonly string[] {
  const unknown = env.names().filter((name) => name.startsWith("QUOTAGUARD_") && !OWN_VARIABLES.includes(name));
  const warnings = unknown.map((name) => {
    const meant = nearest(name, OWN_VARIABLES);
    return `env ${name}: unknown variable, ignored${meant === undefined ? "" : `; did you mean ${meant}?`}`;
  });
  return [...warnings, ...idleBaseUrls(env), ...idlePluginSettings(env, options)];
}

const SECRETS: readonly (readonly string[])[] = [
  ["server", "masterKey"],
  ["management", "key"],
  ["secrets", "key"],
  ["keys", "[]", "key"],
  ["credentials", "[]", "apiKey"],
  ["plugins", "collectors", "antigravity", "csrf"],
];

/** From here on the keys cannot be logged by accident. */
function wrapSecrets(options: Fields): Fields {
  const wrap = (value: unknown, [part, ...rest]: readonly string[]): unknown => {
    if (part === undefined) return typeof value === "string" ? new Secret(value) : value;
    if (part === "[]") return Array.isArray(value) ? value.map((item: unknown) => wrap(item, rest)) : value;
    return isPlain(value) && value[part] !== undefined ? { ...value, [part]: wrap(value[part], rest) } : value;
  };
  const wrapped = SECRETS.reduce<Fields>((result, path) => wrap(result, path) as Fields, options);
  // Of these only the URLs of servers may hold passwords; the others are paths, and people read them.
  return ["store", "ledger"].reduce<Fields>((result, section) => {
    const url = isPlain(result[section]) ? result[section].url : undefined;
    return typeof url === "string" && isServerUrl(url) ? (wrap(result, [section, "url"]) as Fields) : result;
  }, wrapped);
}
