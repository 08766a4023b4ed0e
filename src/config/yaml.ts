/** The config file as options: snake_case to camelCase, variables filled in, and a line and column for everything. */
import { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseDocument, type Document, type ParsedNode, type YAMLParseError } from "yaml";
import { CODE_ONLY } from "../options/schema.ts";
import { formatPath, suggestOption, type OptionNode, type OptionPath, type Problem } from "../options/tree.ts";
import type { ConfigFile, Environment } from "./file.ts";
import type { Origin, Origins } from "./origin.ts";
import { fromText, interpolate } from "./text.ts";

export interface FileOptions {
  readonly options: Readonly<Record<string, unknown>>;
  readonly origins: Origins;
  /** In file spelling already; each has an origin. */
  readonly problems: readonly (Problem & { readonly origin: Origin })[];
}

/** Nodes that one file may have: an alias may stand for a big part many times over. */
export const MAX_NODES = 50_000;
/** Deeper than any option lies; an alias may also contain itself. */
const MAX_DEPTH = 32;

/** `base_url` as code writes it. */
export const toCamel = (key: string): string => key.replace(/_([a-z0-9])/g, (_match, letter: string) => letter.toUpperCase());

export function readYaml(file: ConfigFile, env: Environment, names: OptionNode): FileOptions {
  const lines = new LineCounter();
  // Pretty messages quote the source, and the source holds keys.
  const document = parseDocument(file.text, { lineCounter: lines, prettyErrors: false, logLevel: "error" });
  const reader = new YamlReader(file, env, names, lines, document);
  return reader.read();
}

class YamlReader {
  readonly #file: ConfigFile;
  readonly #env: Environment;
  readonly #names: OptionNode;
  readonly #lines: LineCounter;
  readonly #document: Document.Parsed;
  readonly #origins: Origins = new Map();
  readonly #problems: (Problem & { readonly origin: Origin })[] = [];
  #nodes = 0;

  constructor(file: ConfigFile, env: Environment, names: OptionNode, lines: LineCounter, document: Document.Parsed) {
    this.#file = file;
    this.#env = env;
    this.#names = names;
    this.#lines = lines;
    this.#document = document;
  }

  read(): FileOptions {
    const { errors, contents } = this.#document;
    this.#syntax(errors);
    let options: unknown;
    if (errors.length === 0 && contents) {
      if (isMap(contents)) options = this.#value(contents, this.#names, []);
      else if (!isScalar(contents) || contents.value !== null) {
        this.#report([], this.#originAt(contents.range[0]), "expected options such as `server:` on the first level");
      }
    }
    return { options: (options ?? {}) as Readonly<Record<string, unknown>>, origins: this.#origins, problems: this.#problems };
  }

  /** The first mistake only: what a broken parser says after it is noise. The parser's own words quote the source, which holds keys. */
  #syntax(errors: readonly YAMLParseError[]): void {
    const twice = errors.filter(({ code }) => code === "DUPLICATE_KEY");
    for (const { pos } of twice) this.#report([], this.#originAt(pos[0]), "the same name is written twice in one section");
    const [first] = errors.filter(({ code }) => code !== "DUPLICATE_KEY");
    if (!first) return;
    const [start] = first.pos;
    const line = this.#file.text.slice(this.#file.text.lastIndexOf("\n", start - 1) + 1, start + 8);
    const advice = line.includes("${")
      ? '; between { } or [ ] a variable needs quotes: "${NAME}"'
      : "; check indentation, brackets and quotes around it";
    this.#report([], this.#originAt(start), `is not valid YAML (${first.code.toLowerCase().replaceAll("_", " ")})${advice}`);
  }

  #originAt(offset: number): Origin {
    const { line, col } = this.#lines.linePos(offset);
    return { kind: "file", file: this.#file.shown, line, column: col };
  }

  #report(path: OptionPath, origin: Origin, message: string): void {
    this.#problems.push({ path, origin, message });
  }

  #value(written: unknown, node: OptionNode | undefined, path: OptionPath): unknown {
    this.#nodes += 1;
    if (this.#nodes > MAX_NODES) {
      if (this.#nodes === MAX_NODES + 1) this.#report([], this.#originAt(0), `has more than ${MAX_NODES} values, counting what aliases repeat`);
      return undefined;
    }
    if (path.length > MAX_DEPTH) {
      this.#report(path.slice(0, 1), this.#originAt(isNode(written) ? (written.range?.[0] ?? 0) : 0), `is nested more than ${MAX_DEPTH} levels deep`);
      return undefined;
    }
    const found = isAlias(written) ? written.resolve(this.#document) : written;
    if (isMap<ParsedNode, ParsedNode | null>(found)) return this.#map(found.items, node, path);
    if (isSeq<ParsedNode>(found)) {
      return found.items.map((item, index) => {
        const at = [...path, index];
        this.#origins.set(formatPath(this.#names, at, "file"), this.#originAt(item.range[0]));
        return this.#value(item, node?.item, at);
      });
    }
    if (!isScalar(found)) return undefined;
    if (typeof found.value === "string") return this.#text(found.value, node, path, this.#originAt(found.range?.[0] ?? 0));
    // A section with nothing in it asks for nothing.
    return found.value === null && node && isSection(node) ? undefined : found.value;
  }

  #map(items: readonly { readonly key: ParsedNode; readonly value: ParsedNode | null }[], node: OptionNode | undefined, path: OptionPath): unknown {
    const result: Record<string, unknown> = {};
    for (const { key, value } of items) {
      const origin = this.#originAt(key.range[0]);
      if (!isScalar(key) || key.value === null || key.value === "__proto__") {
        this.#report(path, origin, "the name of an option must be plain text");
        continue;
      }
      const written = typeof key.value === "string" ? key.value : (key.source ?? "");
      const isName = node !== undefined && node.options.size > 0;
      if (path.length === 0 && CODE_ONLY.some((name) => name === written)) {
        this.#report([written], origin, "can only be given in code");
        continue;
      }
      if (isName && /[A-Z-]/.test(written)) {
        // Reported at its section: as an option of its own it would be shown the way it should have been written.
        this.#report(path, origin, `unknown option ${written}${suggestOption(this.#names, path, written, "file")}`);
        continue;
      }
      const name = isName ? toCamel(written) : written;
      const at = [...path, name];
      this.#origins.set(formatPath(this.#names, at, "file"), origin);
      const child = node?.options.get(name) ?? node?.value;
      const read = value === null ? null : this.#value(value, child, at);
      const isNothing = read === undefined || (read === null && child !== undefined && isSection(child));
      if (!isNothing) result[name] = read;
    }
    return result;
  }

  #text(text: string, node: OptionNode | undefined, path: OptionPath, origin: Origin): unknown {
    const { text: filled, missing, changed } = interpolate(text, this.#env);
    for (const name of missing) this.#report(path, origin, `the environment variable ${name} is not set`);
    return changed && missing.length === 0 ? fromText(filled, node) : text;
  }
}

/** Objects, lists and maps; `null` is a value for some of the others. */
const isSection = (node: OptionNode): boolean =>
  !node.accepts.has("null") && (node.options.size > 0 || node.item !== undefined || node.value !== undefined);
