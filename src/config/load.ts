/** The options that file and environment give: the only place that reads either. */
import { ConfigError } from "../core/errors.ts";
import { Secret } from "../core/secret.ts";
import { checkOptions, optionNames, type GuardOptions } from "../options.ts";
import { nearest } from "../core/nearest.ts";
import { formatPath, type OptionPath, type Problem } from "../options/tree.ts";
import { environmentOptions, environmentProblems, environmentReader, OTHER_PROVIDERS, OWN_VARIABLES, type EnvironmentReader } from "./env.ts";
import { findConfigFile, readDotEnv, type ConfigFile, type Environment } from "./file.ts";
import { liteLlmProblems } from "./litellm.ts";
import { originLabel, originOf, sourceLabel, type Origin, type Origins } from "./origin.ts";
import { storeUrlFrom } from "./text.ts";
import { readYaml } from "./yaml.ts";

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
  /** What looks like a mistake but need not be one. */
  readonly warnings: readonly string[];
}

type Fields = Record<string, unknown>;

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
  const read = file ? readFile(file, { ...dotEnv, ...real }) : { options: {}, origins: new Map<string, Origin>(), problems: [] };
  const { origins } = read;

  let merged = merge(merge({}, options.defaults ?? {}), read.options);
  const names = optionNames();
  for (const { path, value, origin } of environmentOptions(env, merged, names)) {
    merged = setAt(merged, path, value) as Fields;
    replaceOrigin(origins, formatPath(names, path, "file"), origin);
  }
  if (options.flags) {
    merged = merge(merged, options.flags);
    for (const path of leavesOf(options.flags, [])) origins.set(formatPath(names, path, "file"), { kind: "flag" });
  }

  const checked = checkOptions(merged, "file");
  const lines = [...environmentProblems(env), ...linesOf([...read.problems, ...(checked.ok ? [] : checked.problems)], origins)];
  if (lines.length > 0) throw new ConfigError(lines);
  const sources = new Map([...origins].map(([path, origin]) => [path, sourceLabel(origin)]));
  return Object.defineProperties(wrapSecrets(merged), {
    sources: { value: sources },
    file: { value: file?.path ?? null },
    warnings: { value: warningsOf(env) },
  }) as unknown as LoadedConfig;
}

/** What stood below a replaced option came from somewhere else and is gone. */
function replaceOrigin(origins: Origins, option: string, origin: Origin | undefined): void {
  for (const known of origins.keys()) if (known.startsWith(`${option}.`) || known.startsWith(`${option}[`)) origins.delete(known);
  if (origin) origins.set(option, origin);
  else origins.delete(option);
}

function readFile(file: ConfigFile, env: Environment): ReturnType<typeof readYaml> {
  const read = readYaml(file, env, optionNames());
  const foreign = liteLlmProblems(read.options);
  if (foreign) throw new ConfigError(foreign.map((line) => `${file.shown}: ${line}`));
  let options = read.options as Fields;
  for (const section of ["store", "ledger"]) {
    const url = isPlain(options[section]) ? options[section].url : undefined;
    if (typeof url === "string") options = setAt(options, [section, "url"], storeUrlFrom(url, file.folder)) as Fields;
  }
  return { ...read, options };
}

/** One line a problem, in the order of the file. What the reader found has its place; options that it spoke about are not spoken about again. */
function linesOf(problems: readonly (Problem & { readonly origin?: Origin })[], origins: Origins): readonly string[] {
  const names = optionNames();
  const seen = new Set<string>();
  const lines = problems.flatMap(({ path, message, origin }) => {
    const option = formatPath(names, path, "file");
    if (seen.has(option) && !origin) return [];
    if (path.length > 0) seen.add(option);
    const from = origin ?? originOf(origins, names, path);
    const note = from?.kind === "env" && from.note !== undefined ? ` (${from.note})` : "";
    const where = from ? `${originLabel(from)}: ` : "";
    return {
      text: `${where}${path.length > 0 ? `${option}: ` : ""}${message}${note}`,
      at: from?.kind === "file" ? from.line * 10_000 + from.column : Infinity,
    };
  });
  return lines.toSorted((a, b) => (a.at === b.at ? 0 : a.at - b.at)).map(({ text }) => text);
}

function warningsOf(env: EnvironmentReader): readonly string[] {
  const unknown = env.names().filter((name) => name.startsWith("QUOTAGUARD_") && !OWN_VARIABLES.includes(name));
  const warnings = unknown.map((name) => {
    const meant = nearest(name, OWN_VARIABLES);
    return `env ${name}: unknown variable, ignored${meant === undefined ? "" : `; did you mean ${meant}?`}`;
  });
  if (env.get("OPENAI_BASE_URL") !== undefined && env.get("OPENAI_API_KEY") === undefined) {
    warnings.push("env OPENAI_BASE_URL: ignored, because OPENAI_API_KEY is not set");
  }
  for (const name of OTHER_PROVIDERS) {
    if (env.get(name) !== undefined) warnings.push(`env ${name}: ignored, because this version does not have that provider yet`);
  }
  return warnings;
}

function isPlain(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Objects are merged, everything else is replaced. */
function merge(below: Fields, above: Readonly<Record<string, unknown>>): Fields {
  const result: Fields = { ...below };
  for (const [key, value] of Object.entries(above)) {
    const old = result[key];
    if (value !== undefined) result[key] = isPlain(old) && isPlain(value) ? merge(old, value) : value;
  }
  return result;
}

/** A copy with one value set; objects and lists on the way are made as needed. */
function setAt(target: unknown, path: OptionPath, value: unknown): unknown {
  const [part, ...rest] = path;
  if (part === undefined) return value;
  if (typeof part === "number") {
    const items: unknown[] = Array.isArray(target) ? [...(target as unknown[])] : [];
    items[part] = setAt(items[part], rest, value);
    return items;
  }
  const fields = isPlain(target) ? target : {};
  return { ...fields, [part]: setAt(fields[part], rest, value) };
}

function leavesOf(value: unknown, path: OptionPath): OptionPath[] {
  if (isPlain(value)) return Object.entries(value).flatMap(([key, child]) => (child === undefined ? [] : leavesOf(child, [...path, key])));
  if (Array.isArray(value)) return [path, ...value.flatMap((item: unknown, index) => leavesOf(item, [...path, index]))];
  return [path];
}

const SECRETS: readonly (readonly string[])[] = [
  ["server", "masterKey"],
  ["management", "key"],
  ["secrets", "key"],
  ["keys", "[]", "key"],
  ["credentials", "[]", "apiKey"],
];

/** From here on the keys cannot be logged by accident. */
function wrapSecrets(options: Fields): Fields {
  const wrap = (value: unknown, [part, ...rest]: readonly string[]): unknown => {
    if (part === undefined) return typeof value === "string" ? new Secret(value) : value;
    if (part === "[]") return Array.isArray(value) ? value.map((item: unknown) => wrap(item, rest)) : value;
    return isPlain(value) && value[part] !== undefined ? { ...value, [part]: wrap(value[part], rest) } : value;
  };
  return SECRETS.reduce<Fields>((result, path) => wrap(result, path) as Fields, options);
}
