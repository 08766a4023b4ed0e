/** Options of later versions. They are refused by name: an option that is read and ignored would be believed. */
import { isPluginMap, PLUGINS_EXPECTED, splitPlugins, UNBUILT_PLUGINS } from "./plugins.ts";
import type { OptionNode, OptionPath, Problem } from "./tree.ts";

/** The values that mean "I do not use this" everywhere. */
const isOff = (value: unknown): boolean =>
  value === undefined || value === null || value === false || value === -1 || (Array.isArray(value) && value.length === 0);

/** Options that this version does not have. Lists are written `[]`. */
const OPTIONS: readonly { readonly path: string }[] = [{ path: "monitoring.opentelemetry" }, { path: "monitoring.requestLog" }, { path: "telegram" }];

const PROVIDERS = ["bedrock", "proxy"];

/** Values that this version does not have, of options that it has; `refuse` returns what to use instead. */
const VALUES: readonly { readonly path: string; readonly refuse: (value: unknown, bringsMore: boolean) => string | null }[] = [
  {
    path: "credentials[].provider",
    refuse: (value, bringsMore) =>
      PROVIDERS.includes(String(value)) && !bringsMore ? "use a provider of docs/credentials.md, or openai-compatible with a base_url" : null,
  },
];

const NOT_YET = "not yet available in this version";

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const partsOf = (path: string): readonly string[] => path.replaceAll("[]", ".[]").split(".");

/** Calls `visit` with what stands at the path, and returns a copy without it if `visit` says so. Nothing is copied in vain: stores and clocks stay themselves. */
function visitPath(value: unknown, parts: readonly string[], at: OptionPath, visit: (found: unknown, path: OptionPath) => boolean): unknown {
  const [part, ...rest] = parts;
  if (part === undefined) return value;
  if (part === "[]") {
    if (!Array.isArray(value)) return value;
    const items = value.map((item: unknown, index) => visitPath(item, rest, [...at, index], visit));
    return items.some((item, index) => item !== value[index]) ? items : value;
  }
  if (!isObject(value) || !Object.hasOwn(value, part)) return value;
  const path = [...at, part];
  if (rest.length > 0) {
    const child = visitPath(value[part], rest, path, visit);
    return child === value[part] ? value : { ...value, [part]: child };
  }
  if (!visit(value[part], path)) return value;
  const { [part]: _removed, ...kept } = value;
  return kept;
}

/** Whether plugins may bring providers, strategies and credentials that nobody knows yet. Ours by name bring none. */
export function hasPlugins(options: unknown): boolean {
  const plugins = isObject(options) ? options.plugins : undefined;
  return !isOff(plugins) && !isPluginMap(plugins);
}

/** Reports what is asked for and not there, and returns the options without those that only say "off". */
export function splitUnbuilt(options: unknown): { readonly options: unknown; readonly problems: readonly Problem[] } {
  const problems: Problem[] = [];
  let rest = options;
  for (const { path } of OPTIONS) {
    rest = visitPath(rest, partsOf(path), [], (value, at) => {
      if (!isOff(value)) problems.push({ path: at, message: NOT_YET });
      return true;
    });
  }
  const { plugins, ...others } = isObject(rest) ? rest : { plugins: undefined };
  if (isPluginMap(plugins)) {
    const split = splitPlugins(plugins, ["plugins"], NOT_YET);
    problems.push(...split.problems);
    rest = { ...others, plugins: split.rest };
  } else if (isObject(plugins)) {
    // A single plugin, which would be read as a map.
    problems.push({ path: ["plugins"], message: PLUGINS_EXPECTED });
    rest = others;
  } else if (isObject(rest) && isOff(plugins)) rest = others;
  const bringsMore = hasPlugins(options);
  for (const { path, refuse } of VALUES) {
    visitPath(rest, partsOf(path), [], (value, at) => {
      const instead = refuse(value, bringsMore);
      if (instead !== null) problems.push({ path: at, message: `${NOT_YET}; ${instead}` });
      return false;
    });
  }
  return { options: rest, problems };
}

/** Makes the names known to suggestions and to the file reader, which must not take them for data. */
export function addUnbuilt(root: OptionNode): void {
  for (const path of [...OPTIONS.map((option) => option.path), ...UNBUILT_PLUGINS.map((name) => `plugins.${name}`)]) {
    let node: OptionNode | undefined = root;
    const parts = partsOf(path);
    for (const part of parts.slice(0, -1)) node = part === "[]" ? node?.item : node?.options.get(part);
    const last = parts.at(-1) as string;
    if (node && !node.options.has(last)) node.options.set(last, { options: new Map(), accepts: new Set(["unknown"]) });
  }
}
