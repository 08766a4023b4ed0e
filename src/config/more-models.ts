/** Models beside the config: `serve` keeps what providers list in a file of its own, so that a person's config is never rewritten. */
import { formatPath, type OptionNode, type Problem } from "../options/tree.ts";
import { translateModels, AS_WRITTEN } from "./auto-ai-router.ts";
import { isPlain } from "./fields.ts";
import type { ConfigFile, Environment } from "./file.ts";
import type { Origin, Origins } from "./origin.ts";
import { readYaml, type FileOptions } from "./yaml.ts";

export const MODELS_FILE = "models.yaml";

export interface MoreModelsOptions {
  readonly env: Environment;
  readonly names: OptionNode;
  /** The config's own models. */
  readonly models: unknown;
  /** Set when the config is one of auto_ai_router, which wrote such files too: its credentials as they are written. */
  readonly translate: { readonly credentials: unknown } | null;
}

export interface MoreModels {
  readonly models: readonly unknown[];
  /** As they stand in the whole list. */
  readonly origins: Origins;
  readonly problems: readonly (Problem & { readonly origin: Origin })[];
  readonly warnings: readonly string[];
}

/** The entries of a models file for what the config does not describe itself: the same model of the same credential is the config's. */
export function moreModels(file: ConfigFile, { env, names, models, translate }: MoreModelsOptions): MoreModels {
  const known = Array.isArray(models) ? (models as readonly unknown[]) : [];
  const { options, origins, problems, warnings } = translate
    ? translateModels(file, readYaml(file, env, AS_WRITTEN), names, translate.credentials)
    : readOwn(file, env, names);
  const entries = Array.isArray(options.models) ? (options.models as readonly unknown[]) : [];
  const taken = new Set(known.map(pairOf));
  const added: unknown[] = [];
  /** Place in this file -> place in the whole list. */
  const places = new Map<number, number>();
  for (const [index, entry] of entries.entries()) {
    if (taken.has(pairOf(entry))) continue;
    places.set(index, known.length + added.length);
    added.push(entry);
  }
  return { models: added, origins: moved(origins, places), problems: [...problems, ...repeated(entries, origins)], warnings };
}

/** Every malformed entry is a pair of its own, so that it is reported. */
function pairOf(entry: unknown): unknown {
  return isPlain(entry) && typeof entry.name === "string" ? JSON.stringify([entry.name, entry.credential ?? null]) : entry;
}

function readOwn(file: ConfigFile, env: Environment, names: OptionNode): FileOptions & { readonly warnings: readonly string[] } {
  const { models } = { models: names.options.get("models") };
  const tree: OptionNode = { options: new Map(models ? [["models", models]] : []), accepts: new Set() };
  const read = readYaml(file, env, tree);
  const problems = [...read.problems];
  const refuse = (option: string, message: string): void => {
    const origin = read.origins.get(formatPath(tree, [option], "file"));
    if (origin) problems.push({ path: [option], message, origin });
  };
  for (const option of Object.keys(read.options)) if (option !== "models") refuse(option, "unknown option; only models are read from this file");
  if (read.options.models !== undefined && !Array.isArray(read.options.models)) refuse("models", "expected a list");
  return { ...read, problems, warnings: [] };
}

/** The origins of the list's entries at their new places; messages keep the old ones, by which a person finds them. */
function moved(origins: Origins, places: ReadonlyMap<number, number>): Origins {
  const result: Origins = new Map();
  for (const [option, origin] of origins) {
    const [, index, rest] = /^models\[(\d+)\](.*)$/s.exec(option) ?? [];
    const place = index === undefined ? undefined : places.get(Number(index));
    if (place === undefined || origin.kind !== "file") continue;
    result.set(`models[${place}]${rest}`, { ...origin, name: origin.name ?? option });
  }
  return result;
}

function repeated(entries: readonly unknown[], origins: Origins): MoreModels["problems"] {
  const first = new Map<unknown, number>();
  return entries.flatMap((entry, index) => {
    const pair = pairOf(entry);
    const before = first.get(pair);
    if (before === undefined) first.set(pair, index);
    const origin = origins.get(`models[${index}].name`);
    if (before === undefined || !origin) return [];
    return [{ path: ["models", index, "name"], message: `models[${before}] already describes it for the same credential`, origin }];
  });
}
