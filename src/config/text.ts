/** Text from a file or the environment as option values: variables, numbers, switches, paths. */
import { homedir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import type { OptionNode } from "../options/tree.ts";
import type { Environment } from "./file.ts";

const REFERENCE = /\$\{([A-Za-z_][A-Za-z0-9_]*)\}/g;
/** How LiteLLM and auto_ai_router write it: the whole value. */
const OS_ENVIRON = /^os\.environ\/([A-Za-z_][A-Za-z0-9_]*)$/;

export interface Interpolated {
  readonly text: string;
  /** Variables that are not set. */
  readonly missing: readonly string[];
  readonly changed: boolean;
}

/** Replaces `${NAME}` and a whole `os.environ/NAME`. Every other `$` is itself, and what a variable holds is not looked into again. */
export function interpolate(text: string, env: Environment): Interpolated {
  const missing: string[] = [];
  const valueOf = (name: string): string => {
    const value = env[name];
    if (value === undefined) missing.push(name);
    return value ?? "";
  };
  const whole = OS_ENVIRON.exec(text)?.[1];
  const result = whole === undefined ? text.replace(REFERENCE, (_match, name: string) => valueOf(name)) : valueOf(whole);
  return { text: result, missing, changed: missing.length > 0 || result !== text };
}

const NUMBER = /^-?\d+(?:\.\d+)?$/;

/** Variables hold text; an option that takes no text gets the number or switch that the text spells. */
export function fromText(text: string, node: OptionNode | undefined): unknown {
  const value = text.trim();
  if (!node || node.options.size > 0 || node.item) return text;
  if (node.accepts.has("boolean") && /^(?:true|false)$/i.test(value)) return value.toLowerCase() === "true";
  if (node.accepts.has("string")) return text;
  if (node.accepts.has("number") && NUMBER.test(value)) return Number(value);
  return text;
}

/** TokenGuard's truth table. */
export const isTrue = (text: string): boolean => /^(?:true|1|yes|on)$/i.test(text.trim());

/** A path as written in a folder; `~/` is the user's home. */
export function pathFrom(path: string, folder: string): string {
  if (path === "~" || path.startsWith("~/")) return join(homedir(), path.slice(1));
  return isAbsolute(path) ? path : resolve(folder, path);
}

/** Makes the path in a `sqlite:` URL independent of the working folder. Every other URL stays. */
export function storeUrlFrom(url: string, folder: string): string {
  const path = /^sqlite:(?:\/\/)?(.+)$/.exec(url)?.[1];
  return path === undefined || path === ":memory:" ? url : `sqlite:${pathFrom(path, folder)}`;
}
