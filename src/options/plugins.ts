/** The option `plugins`: a list of values in code, or ours by name, as a file gives them. */
import { z } from "zod";
import { hint } from "../core/nearest.ts";
import type { Plugin } from "../core/plugin.ts";
import { isPromise } from "../core/time.ts";
import { collectorsSchema, type ResolvedCollectors } from "../plugins/collectors/options.ts";
import type { OptionPath, Problem } from "./tree.ts";

/** Ours. */
const PLUGIN_NAMES = ["telegram", "cliproxy", "collectors", "oauth"] as const;

const NAME = /^[a-z][a-z0-9-]{0,31}$/;
const MOST_PLUGINS = 64;

/** Why a value is no plugin, and what to write instead; null = it is one. */
export function pluginProblem(value: unknown): string | null {
  if (typeof value === "function") {
    const name = /^[A-Za-z_$][\w$]*$/.test(value.name) ? value.name : "plugin";
    return `is a function and not the plugin that it makes: write ${name}({ … }) instead of ${name}`;
  }
  if (typeof value !== "object" || value === null) return "expected a plugin, { name, setup }, as definePlugin() returns it; only code can give one";
  if (isPromise(value)) return "is a promise: await the plugin before you list it";
  const { name, setup } = value as { name?: unknown; setup?: unknown };
  if (typeof name !== "string" || !NAME.test(name)) {
    return "needs a name: 1 to 32 characters of a-z 0-9 -, beginning with a letter; it names the plugin's records, routes and log lines";
  }
  return typeof setup === "function" ? null : `the plugin ${name} needs setup: a function (host) => …`;
}

/** Whether it is meant as a map by name. */
export const isPluginMap = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && typeof (value as { setup?: unknown }).setup !== "function";

/** What to write instead of anything else. */
export const PLUGINS_EXPECTED = "expected a list of plugins, such as plugins: [mine({ … })], or ours by name, such as plugins: { collectors: true }";

const pluginList = () =>
  z
    .custom<readonly Plugin[]>((given) => Array.isArray(given), PLUGINS_EXPECTED)
    .transform((given, ctx) => {
      const problem = (message: string, index: number): void => ctx.addIssue({ code: "custom", message, path: [index] });
      if (given.length > MOST_PLUGINS) problem(`at most ${MOST_PLUGINS} plugins`, MOST_PLUGINS);
      const first = new Map<string, number>();
      for (const [index, plugin] of (given as readonly unknown[]).slice(0, MOST_PLUGINS).entries()) {
        const found = pluginProblem(plugin);
        if (found !== null) {
          problem(found, index);
          continue;
        }
        const { name } = plugin as Plugin;
        const before = first.get(name);
        if (before === undefined) first.set(name, index);
        else problem(`${name} is already the name of plugins[${before}]; names must differ`, index);
      }
      return given;
    });

/** `true` = all defaults; `false` and null = off. */
const switched = <T extends z.ZodType>(options: T) =>
  z
    .union([z.boolean(), z.null(), options], { error: "expected true, false or its options" })
    .transform((value) => (value === true ? options.parse({}) : value === false ? null : (value as z.output<T> | null)));

/** Ours that are built. */
const named = () => z.strictObject({ collectors: switched(collectorsSchema).prefault(false) });

/** @default none */
export const pluginsOption = () => z.union([pluginList(), named()], { error: PLUGINS_EXPECTED });

/** The options of ours that were asked for by name. */
export interface NamedPlugins {
  readonly collectors: ResolvedCollectors | null;
}

export interface ResolvedPlugins {
  /** In the order of their setup. */
  readonly plugins: readonly Plugin[];
  /** Null = they were given as a list. */
  readonly namedPlugins: NamedPlugins | null;
}

export function resolvePlugins(given: readonly Plugin[] | NamedPlugins): ResolvedPlugins {
  if (Array.isArray(given)) return { plugins: given as readonly Plugin[], namedPlugins: null };
  const asked = given as NamedPlugins;
  return { plugins: asked.collectors ? [lateCollectors(asked.collectors)] : [], namedPlugins: asked };
}

/** Loaded by those who ask for it. */
const lateCollectors = (options: ResolvedCollectors): Plugin => ({
  name: "collectors",
  async setup(host) {
    const { collectors } = await import("../plugins/collectors/index.ts");
    return collectors(options).setup(host);
  },
});

const BUILT: ReadonlySet<string> = new Set(["collectors"] satisfies (keyof NamedPlugins)[]);

/** Ours that this version does not have. */
export const UNBUILT_PLUGINS: readonly string[] = PLUGIN_NAMES.filter((name) => !BUILT.has(name));

const isOff = (value: unknown): boolean => value === undefined || value === null || value === false;

/** What a map of plugins by name asks for and this version does not have; and what is left of the map. */
export function splitPlugins(
  map: Readonly<Record<string, unknown>>,
  at: OptionPath,
  notYet: string,
): { readonly rest: Readonly<Record<string, unknown>>; readonly problems: readonly Problem[] } {
  const problems = Object.entries(map).flatMap(([name, value]): Problem[] => {
    if (BUILT.has(name)) return [];
    if (UNBUILT_PLUGINS.includes(name)) return isOff(value) ? [] : [{ path: [...at, name], message: notYet }];
    const close = hint(name, PLUGIN_NAMES);
    return [{ path: [...at, name], message: `there is no plugin of this name${close}; your own are a list in code: plugins: [mine({ … })]` }];
  });
  return { rest: Object.fromEntries(Object.entries(map).filter(([name]) => BUILT.has(name))), problems };
}
