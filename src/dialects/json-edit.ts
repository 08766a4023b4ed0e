/**
 * Edits a top-level field of a JSON object in its bytes, so that everything else stays as the client wrote it: number formats, key order,
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

/** Where the values of the named top-level keys stand: every occurrence, because parsers disagree on which duplicate counts. */
function valuesOf(bytes: Buffer, keys: ReadonlySet<string>): ReadonlyMap<string, readonly Span[]> {
  const found = new Map<string, Span[]>();
  eachMember(bytes, (at, value) => {
    const key = JSON.parse(bytes.toString("utf8", at.start, at.end)) as string;
    if (keys.has(key)) {
      const spans = found.get(key);
      if (spans) spans.push(value);
      else found.set(key, [value]);
    }
    return false;
  });
  return found;
}

/**
 * Sets top-level fields of a JSON object. `fields` maps a key to the new value; `present` tells which of them the parsed object already has
 * (those are replaced wherever they stand, the others are added in front).
 */
export function setFields(bytes: Buffer, fields: ReadonlyMap<string, unknown>, present: (key: string) => boolean): Buffer {
  const replaced = [...fields.keys()].filter(present);
  const pieces: Buffer[] = [];
  const open = bytes.indexOf(OPEN_BRACE);
  let added = "";
  for (const [key, value] of fields) {
    if (!present(key)) added += `${JSON.stringify(key)}:${JSON.stringify(value)},`;
  }
  let copied = 0;
  if (added !== "") {
    // `{}` never comes here: a call has at least its model.
    pieces.push(bytes.subarray(0, open + 1), Buffer.from(added));
    copied = open + 1;
  }
  if (replaced.length > 0) {
    const spans = [...valuesOf(bytes, new Set(replaced))]
      .flatMap(([key, list]) => list.map((span) => ({ ...span, text: JSON.stringify(fields.get(key)) })))
      .toSorted((a, b) => a.start - b.start);
    for (const span of spans) {
      pieces.push(bytes.subarray(copied, span.start), Buffer.from(span.text));
      copied = span.end;
    }
  }
  pieces.push(bytes.subarray(copied));
  return Buffer.concat(pieces);
}
