/**
 * Edits top-level members of a JSON object in its bytes, so that everything else stays as the client wrote it: number formats, key order,
 * white space, duplicate keys. The text is known to be valid JSON (it was parsed before).
 */

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COLON = 0x3a;
const COMMA = 0x2c;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;

const isSpace = (byte: number | undefined): boolean => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;

function skipSpace(bytes: Buffer, at: number): number {
  while (isSpace(bytes[at])) at += 1;
  return at;
}

/** Index just behind the string that starts at `at`. */
function skipString(bytes: Buffer, at: number): number {
  // Byte by byte: searching from quote to quote would make a string of escaped quotes expensive.
  for (let i = at + 1; i < bytes.length; i += 1) {
    const byte = bytes[i];
    if (byte === BACKSLASH) i += 1;
    else if (byte === QUOTE) return i + 1;
  }
  return bytes.length;
}

/** Index just behind the value that starts at `at`. */
function skipValue(bytes: Buffer, at: number): number {
  const first = bytes[at];
  if (first === QUOTE) return skipString(bytes, at);
  if (first === OPEN_BRACE || first === OPEN_BRACKET) {
    for (let depth = 0, i = at; i < bytes.length; i += 1) {
      const byte = bytes[i];
      if (byte === QUOTE) i = skipString(bytes, i) - 1;
      else if (byte === OPEN_BRACE || byte === OPEN_BRACKET) depth += 1;
      else if (byte === CLOSE_BRACE || byte === CLOSE_BRACKET) {
        depth -= 1;
        if (depth === 0) return i + 1;
      }
    }
    return bytes.length;
  }
  let end = at;
  while (end < bytes.length && bytes[end] !== COMMA && bytes[end] !== CLOSE_BRACE && !isSpace(bytes[end])) end += 1;
  return end;
}

interface Span {
  readonly start: number;
  readonly end: number;
}

/** Walks the top-level members: where the key's text stands (with its quotes) and where its value does. Stops when `visit` returns true. */
function eachMember(bytes: Buffer, visit: (key: Span, value: Span) => boolean): void {
  let at = skipSpace(bytes, bytes.indexOf(OPEN_BRACE) + 1);
  while (at < bytes.length && bytes[at] === QUOTE) {
    const key = { start: at, end: skipString(bytes, at) };
    at = skipSpace(bytes, key.end);
    if (bytes[at] === COLON) at = skipSpace(bytes, at + 1);
    const value = { start: at, end: skipValue(bytes, at) };
    if (visit(key, value)) return;
    at = skipSpace(bytes, value.end);
    if (bytes[at] === COMMA) at = skipSpace(bytes, at + 1);
  }
}

/** How many members stand at the top level, or -1 when a key among them is spelled with an escape. Works on any bytes, also on what is no JSON. */
export function countMembers(bytes: Buffer): number {
  let members = 0;
  let backslash = bytes.indexOf(BACKSLASH);
  eachMember(bytes, ({ start, end }) => {
    if (backslash >= 0 && backslash < start) backslash = bytes.indexOf(BACKSLASH, start);
    members = backslash >= 0 && backslash < end ? -1 : members + 1;
    return members < 0;
  });
  return members;
}

/** Changes to the top-level members of an object. One key may be renamed and set: it is set under the name that it has in the bytes. */
export interface FieldEdits {
  /** The new value by key. A key that the object does not have is added in front. */
  readonly set: ReadonlyMap<string, unknown>;
  /** The new key by key. The object must not have the new one, unless that is removed. */
  readonly rename: ReadonlyMap<string, string>;
  readonly remove: ReadonlySet<string>;
}

interface Splice extends Span {
  readonly text: string;
}

const NONE: readonly Splice[] = [];

/**
 * Where the members that an object has are changed, in order: every occurrence, because parsers disagree on which duplicate counts. `isEmptied` =
 * no member is left.
 */
function splicesOf(bytes: Buffer, edits: FieldEdits): { readonly splices: readonly Splice[]; readonly isEmptied: boolean } {
  const splices: Splice[] = [];
  let keptEnd = -1;
  /** Where members begin that are removed, with the comma behind each; -1 = the last one stays. */
  let cutStart = -1;
  let cutEnd = -1;
  eachMember(bytes, (key, value) => {
    const name = JSON.parse(bytes.toString("utf8", key.start, key.end)) as string;
    if (edits.remove.has(name)) {
      if (cutStart < 0) cutStart = key.start;
      cutEnd = value.end;
      return false;
    }
    if (cutStart >= 0) splices.push({ start: cutStart, end: key.start, text: "" });
    cutStart = -1;
    keptEnd = value.end;
    const newName = edits.rename.get(name);
    if (newName !== undefined) splices.push({ ...key, text: JSON.stringify(newName) });
    if (edits.set.has(name)) splices.push({ ...value, text: JSON.stringify(edits.set.get(name)) });
    return false;
  });
  // Nothing that stays comes behind them: the comma before them goes instead.
  if (cutStart >= 0) splices.push({ start: keptEnd < 0 ? cutStart : keptEnd, end: cutEnd, text: "" });
  return { splices, isEmptied: keptEnd < 0 };
}

/** Edits the members of a JSON object. `present` tells which keys the parsed object has: bytes that hold none of the edited ones are not searched. */
export function editFields(bytes: Buffer, edits: FieldEdits, present: (key: string) => boolean): Buffer {
  let added = "";
  let isTouched = false;
  for (const [key, value] of edits.set) {
    if (present(key)) isTouched = true;
    else added += `${JSON.stringify(key)}:${JSON.stringify(value)},`;
  }
  for (const key of edits.rename.keys()) isTouched ||= present(key);
  for (const key of edits.remove) isTouched ||= present(key);
  const open = bytes.indexOf(OPEN_BRACE) + 1;
  const { splices, isEmptied } = isTouched ? splicesOf(bytes, edits) : { splices: NONE, isEmptied: bytes[skipSpace(bytes, open)] === CLOSE_BRACE };
  const pieces: Buffer[] = [];
  let copied = 0;
  if (added !== "") {
    pieces.push(bytes.subarray(0, open), Buffer.from(isEmptied ? added.slice(0, -1) : added));
    copied = open;
  }
  for (const { start, end, text } of splices) {
    pieces.push(bytes.subarray(copied, start), Buffer.from(text));
    copied = end;
  }
  pieces.push(bytes.subarray(copied));
  return Buffer.concat(pieces);
}
