/** Finds and reads the config file and the `.env` beside it. */
import { readFileSync, statSync } from "node:fs";
import { dirname, relative, resolve } from "node:path";
import { parseEnv } from "node:util";
import { ConfigError } from "../core/errors.ts";

export type Environment = Readonly<Record<string, string | undefined>>;

const DEFAULT_NAMES = ["quotaguard.yaml", "config.yaml"];

/** A config is read whole and at start: a file that is larger was not meant. */
export const MAX_BYTES = 1_048_576;

export interface ConfigFile {
  /** Absolute. */
  readonly path: string;
  /** As messages name it: relative to the working folder where that is shorter. */
  readonly shown: string;
  readonly folder: string;
  readonly text: string;
}

export interface FindOptions {
  readonly path: string | undefined;
  readonly env: Environment;
  readonly cwd: string;
}

/** The file that was named, else the first default name that exists; null when there is none. Throws ConfigError for one that cannot be used. */
export function findConfigFile({ path, env, cwd }: FindOptions): ConfigFile | null {
  const named = path ?? (env.QUOTAGUARD_CONFIG_PATH === "" ? undefined : env.QUOTAGUARD_CONFIG_PATH);
  const by = path === undefined ? "QUOTAGUARD_CONFIG_PATH" : "--config";
  if (named !== undefined) {
    const file = readConfigFile(resolve(cwd, named), cwd);
    if (!file) throw new ConfigError([`${by}: there is no file ${named}`]);
    return file;
  }
  for (const name of DEFAULT_NAMES) {
    const file = readConfigFile(resolve(cwd, name), cwd);
    if (file) return file;
  }
  return null;
}

/** The variables of the `.env` in a folder; none when it has none. */
export function readDotEnv(folder: string, cwd: string): Environment {
  const file = readConfigFile(resolve(folder, ".env"), cwd);
  return file ? parseEnv(file.text) : {};
}

/** Null when there is none. Throws ConfigError for one that cannot be used. */
export function readConfigFile(path: string, cwd: string): ConfigFile | null {
  const inside = relative(cwd, path);
  const shown = inside.startsWith("..") ? path : inside;
  try {
    const stats = statSync(path);
    if (!stats.isFile()) throw new ConfigError([`${shown}: is not a file`]);
    if (stats.size > MAX_BYTES) throw new ConfigError([`${shown}: is larger than 1 MiB, so it is hardly a configuration`]);
    const bytes = readFileSync(path);
    // It may have grown, or be something whose size is not known beforehand.
    if (bytes.length > MAX_BYTES) throw new ConfigError([`${shown}: is larger than 1 MiB, so it is hardly a configuration`]);
    return { path, shown, folder: dirname(path), text: bytes.toString("utf8") };
  } catch (error) {
    if (error instanceof ConfigError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return null;
    throw new ConfigError([`${shown}: cannot be read (${code ?? "unknown error"}); check its permissions`]);
  }
}
