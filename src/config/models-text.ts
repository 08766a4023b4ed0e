/** Adds entries to the text of a models file. The text around them is not written anew, so that comments and layout stay a person's own. */
import { isDeepStrictEqual } from "node:util";
import {
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parse,
  parseDocument,
  stringify,
  visit,
  type Document,
  type ParsedNode,
  type YAMLMap,
  type YAMLSeq,
} from "yaml";
import { ConfigError } from "../core/errors.ts";
import { MAX_BYTES } from "./file.ts";
import { MAX_NODES } from "./yaml.ts";

const MAX_ENTRIES = 10_000;
/** An entry and its two values. */
const NODES_AN_ENTRY = 3;

type Fields = Readonly<Record<string, unknown>>;

/** Where new entries go, and what each looks like there. */
interface Place {
  /** This part of the text gives way to them. */
  readonly from: number;
  readonly to: number;
  readonly head: string;
  entry(id: string, isFirst: boolean): string;
}

/**
 * The text with an entry for each id that has none, as far as the file may grow. `shown` names the file in errors. Throws ConfigError for a text
 * that is no list of models, or one that entries cannot be added to without writing it anew.
 */
export function addModels(
  shown: string,
  text: string,
  ids: readonly string[],
  rpm: number,
): { readonly text: string; readonly added: readonly string[] } {
  const document = read(shown, text);
  const before = valueOf(shown, document);
  const listed = (before.models ?? []) as readonly unknown[];
  const known = new Set(listed.map((entry) => (entry as Fields | null)?.name));
  const room = Math.min(MAX_ENTRIES - listed.length, Math.floor((MAX_NODES - 1 - nodesIn(document)) / NODES_AN_ENTRY));
  const missing = ids.filter((id) => !known.has(id)).slice(0, Math.max(0, room));
  if (missing.length === 0) return { text, added: [] };

  const place = placeIn(shown, document, text, rpm);
  let entries = "";
  let bytes = Buffer.byteLength(text) + Buffer.byteLength(place.head);
  const added: string[] = [];
  for (const id of missing) {
    const entry = place.entry(id, added.length === 0 && listed.length === 0);
    bytes += Buffer.byteLength(entry);
    if (bytes > MAX_BYTES) break;
    entries += entry;
    added.push(id);
  }
  if (added.length === 0) return { text, added };
  const result = `${text.slice(0, place.from)}${place.head}${entries}${text.slice(place.to)}`;
  // YAML can be written in more ways than anybody foresees: what the text says now is compared with what it should say.
  const wanted = { ...before, models: [...listed, ...added.map((name) => ({ name, rpm }))] };
  if (!isDeepStrictEqual(valueOf(shown, read(shown, result)), wanted)) throw unusual(shown);
  return { text: result, added };
}

const unusual = (shown: string): ConfigError =>
  new ConfigError([`${shown}: is written in a way that nothing can be added to; write models: and below it one "- name: …" for each model`]);

function read(shown: string, text: string): Document.Parsed {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, keepSourceTokens: true, prettyErrors: false, logLevel: "error" });
  const [error] = document.errors;
  if (!error) return document;
  const { line, col } = lines.linePos(error.pos[0]);
  throw new ConfigError([`${shown}:${line}:${col}: is not valid YAML, so no models are added to it; check indentation and quotes there`]);
}

function valueOf(shown: string, document: Document.Parsed): Fields {
  let value: unknown;
  try {
    value = document.toJS();
  } catch {
    // Aliases that multiply beyond reason.
    throw unusual(shown);
  }
  if (value === null || value === undefined) return {};
  const models = typeof value === "object" && !Array.isArray(value) ? ((value as Fields).models ?? []) : null;
  if (!Array.isArray(models)) throw new ConfigError([`${shown}: expected a list of models under models:, so none are added`]);
  return value as Fields;
}

function nodesIn(document: Document.Parsed): number {
  let nodes = 0;
  visit(document, { Node: (key) => void (nodes += key === "key" ? 0 : 1) });
  return nodes;
}

function placeIn(shown: string, { contents }: Document.Parsed, text: string, rpm: number): Place {
  if (!isMap(contents)) return { ...emptyLines(text, text.length, 0), entry: lineEntry(text, 2, rpm) };
  if (contents.flow) throw unusual(shown);
  const pairs = (contents as YAMLMap<ParsedNode, ParsedNode | null>).items;
  const pair = pairs.find(({ key }) => isScalar(key) && key.value === "models");
  const indent = columnOf(text, pairs[0]?.key.range[0] ?? 0);
  if (!pair) return { ...emptyLines(text, contents.range[2], indent), entry: lineEntry(text, indent + 2, rpm) };
  if (isSeq<ParsedNode>(pair.value)) return pair.value.flow ? inBrackets(pair.value, rpm) : belowLast(shown, pair.value, text, rpm);
  // Nothing, `null` or `~`. An alias stands for a list that is somewhere else.
  if (!isScalar(pair.value)) throw unusual(shown);
  const [from, end] = pair.value.range;
  const { offset: to, lead } = nextLine(text, end);
  return { from, to, head: `${text.slice(end, to)}${lead}`, entry: lineEntry(text, indent + 2, rpm) };
}

/** A `models:` of its own, below everything else. */
function emptyLines(text: string, after: number, indent: number): Omit<Place, "entry"> {
  const { offset, lead } = nextLine(text, after);
  return { from: offset, to: offset, head: `${lead}${" ".repeat(indent)}models:${newlineOf(text)}` };
}

function belowLast(shown: string, list: YAMLSeq<ParsedNode>, text: string, rpm: number): Place {
  const token = list.srcToken?.type === "block-seq" ? list.srcToken.items[0]?.start.find(({ type }) => type === "seq-item-ind") : undefined;
  const last = list.items.at(-1);
  if (!token || !last) throw unusual(shown);
  const { offset, lead } = nextLine(text, last.range[2]);
  return { from: offset, to: offset, head: lead, entry: lineEntry(text, columnOf(text, token.offset), rpm) };
}

function inBrackets(list: YAMLSeq<ParsedNode>, rpm: number): Place {
  const last = list.items.at(-1);
  const offset = last ? last.range[1] : (list.range?.[0] ?? 0) + 1;
  return { from: offset, to: offset, head: "", entry: (id, isFirst) => `${isFirst ? "" : ", "}{ name: ${JSON.stringify(id)}, rpm: ${rpm} }` };
}

const newlineOf = (text: string): string => (text.includes("\r\n") ? "\r\n" : "\n");

const columnOf = (text: string, offset: number): number => offset - (text.lastIndexOf("\n", offset - 1) + 1);

/** The beginning of the line after `offset`, unless it begins one itself; `lead` ends a last line that has no end. */
function nextLine(text: string, offset: number): { readonly offset: number; readonly lead: string } {
  if (offset === 0 || text[offset - 1] === "\n") return { offset, lead: "" };
  const end = text.indexOf("\n", offset);
  return end < 0 ? { offset: text.length, lead: newlineOf(text) } : { offset: end + 1, lead: "" };
}

function lineEntry(text: string, indent: number, rpm: number): Place["entry"] {
  const newline = newlineOf(text);
  const pad = " ".repeat(indent);
  return (id) => `${pad}- name: ${scalar(id)}${newline}${pad}  rpm: ${rpm}${newline}`;
}

/** Plain where that reads back as the same text, else quoted. */
function scalar(id: string): string {
  const plain = stringify(id, { lineWidth: 0 }).trimEnd();
  return !plain.includes("\n") && parse(plain) === id ? plain : JSON.stringify(id);
}
