/** The schema seen as a tree of option names: which names exist where, and whether a map's keys are names or data. Built once, at start. */
import type { z } from "zod";
import { nearest } from "../core/nearest.ts";

export type OptionPath = readonly (string | number)[];

export interface Problem {
  /** In camelCase; keys of maps as written. */
  readonly path: OptionPath;
  readonly message: string;
}

/** What may stand at one place. Several at once for a union. */
export interface OptionNode {
  /** An object with these options. */
  readonly options: Map<string, OptionNode>;
  /** A list of these. */
  item?: OptionNode;
  /** A map of data keys to these. */
  value?: OptionNode;
  /** Kinds of plain values: `string`, `number`, `boolean`, `null`, `custom` … */
  readonly accepts: Set<string>;
}

const emptyNode = (): OptionNode => ({ options: new Map(), accepts: new Set() });

export function optionTree(schema: z.core.$ZodType): OptionNode {
  const node = emptyNode();
  collect(schema, node);
  return node;
}

function collect(schema: z.core.$ZodType, into: OptionNode): void {
  const { def } = (schema as z.core.$ZodTypes)._zod;
  switch (def.type) {
    case "object":
      for (const [name, child] of Object.entries(def.shape)) {
        const node = into.options.get(name) ?? emptyNode();
        collect(child, node);
        into.options.set(name, node);
      }
      return;
    case "array":
      into.item ??= emptyNode();
      return collect(def.element, into.item);
    case "record":
      into.value ??= emptyNode();
      return collect(def.valueType, into.value);
    case "union":
      for (const option of def.options) collect(option, into);
      return;
    case "pipe":
      return collect(def.in, into);
    case "optional":
    case "nullable":
    case "default":
    case "prefault":
    case "readonly":
      if (def.type === "nullable") into.accepts.add("null");
      return collect(def.innerType, into);
    case "enum":
      into.accepts.add("string");
      return;
    case "literal":
      for (const value of def.values) into.accepts.add(value === null ? "null" : typeof value);
      return;
    default:
      into.accepts.add(def.type);
  }
}

export function nodeAt(root: OptionNode, path: OptionPath): OptionNode | undefined {
  let node: OptionNode | undefined = root;
  for (const part of path) {
    if (!node) return undefined;
    node = typeof part === "number" ? node.item : (node.options.get(part) ?? node.value);
  }
  return node;
}

const toSnake = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

export type PathStyle = "code" | "file";

/** `limits[0].bucket.refillPerSec`, or `…refill_per_sec` as a config file spells it. Keys that are data stay as they are. */
export function formatPath(root: OptionNode, path: OptionPath, style: PathStyle): string {
  let node: OptionNode | undefined = root;
  let text = "";
  for (const part of path) {
    if (typeof part === "number") {
      text += `[${part}]`;
      node = node?.item;
      continue;
    }
    const isData = node?.value !== undefined && !node.options.has(part);
    text += `${text === "" ? "" : "."}${style === "file" && !isData ? toSnake(part) : part}`;
    node = node?.options.get(part) ?? node?.value;
  }
  return text === "" ? "options" : text;
}

/** What other products call the same thing. */
const SYNONYMS: Readonly<Record<string, string>> = {
  type: "provider",
  token: "apiKey",
  apiBase: "baseUrl",
  endpoint: "baseUrl",
  alias: "modelAlias",
  maxBodySizeMb: "bodyLimit",
  timezone: "timeZone",
};

/** What was probably meant by an unknown option: a sibling first, then one level down, then one level up. */
export function suggestOption(root: OptionNode, parent: OptionPath, key: string, style: PathStyle): string {
  const here = nodeAt(root, parent);
  const write = (name: string): string => (style === "file" ? toSnake(name) : name);
  const synonym = SYNONYMS[key];
  if (synonym !== undefined && here?.options.has(synonym)) return `; did you mean ${write(synonym)}?`;

  const candidates = new Map<string, string>();
  const offer = (name: string, shown: string): void => {
    if (!candidates.has(name)) candidates.set(name, shown);
  };
  for (const name of here?.options.keys() ?? []) offer(name, write(name));
  for (const [name, child] of here?.options ?? []) for (const below of child.options.keys()) offer(below, `${write(name)}.${write(below)}`);
  if (parent.length > 0) {
    const above = parent.slice(0, typeof parent.at(-1) === "number" ? -2 : -1);
    for (const name of nodeAt(root, above)?.options.keys() ?? []) offer(name, formatPath(root, [...above, name], style));
  }
  const found = nearest(key, candidates.keys());
  if (found !== undefined) return `; did you mean ${candidates.get(found)}?`;
  const known = [...(here?.options.keys() ?? [])].map(write);
  return known.length > 0 && known.length <= 14 ? `; known here: ${known.join(", ")}` : "";
}
