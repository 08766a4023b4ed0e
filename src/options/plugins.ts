/** The option `plugins`: a list of values in code. By name, as a file would give them, they do not exist yet. */
import { z } from "zod";
import { hint } from "../core/nearest.ts";
import type { Plugin } from "../core/plugin.ts";
import { isPromise } from "../core/time.ts";
import type { OptionPath, Problem } from "./tree.ts";

/** Ours. */
export const PLUGIN_NAMES = ["telegram", "cliproxy", "collectors", "oauth"] as const;

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

/** @default none */
export const pluginsOption = () =>
  z.custom<readonly Plugin[]>().transform((given, ctx) => {
    const problem = (message: string, ...path: number[]): void => ctx.addIssue({ code: "custom", message, path });
    if (!Array.isArray(given)) problem("expected a list of plugins, such as plugins: [mine({ … })]");
    else if (given.length > MOST_PLUGINS) problem(`at most ${MOST_PLUGINS} plugins`);
    else {
      const first = new Map<string, number>();
      for (const [index, plugin] of (given as readonly unknown[]).entries()) {
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
    }
    return given;
  });

const isOff = (value: unknown): boolean => value === undefined || value === null || value === false;

/** What a map of plugins by name asks for and this version does not have. */
export function namedPluginProblems(map: Readonly<Record<string, unknown>>, at: OptionPath, notYet: string): Problem[] {
  return Object.entries(map).flatMap(([name, value]): Problem[] => {
    if (PLUGIN_NAMES.some((known) => known === name)) return isOff(value) ? [] : [{ path: [...at, name], message: notYet }];
    const close = hint(name, PLUGIN_NAMES);
    return [{ path: [...at, name], message: `there is no plugin of this name${close}; your own are a list in code: plugins: [mine({ … })]` }];
  });
}
