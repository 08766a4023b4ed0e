import fc from "fast-check";
import { expect, test } from "vitest";
import { setFields } from "../../src/dialects/json-edit.ts";

/** A JSON text made piece by piece, so that the test knows where each top-level value stands without parsing it. */
interface Piece {
  readonly text: string;
  /** The key whose value this is; null = anything else. */
  readonly valueOf: string | null;
}

// No key holds a backslash: V8 13.6 takes an escaped key for one that does, if an object of that shape was parsed before.
const KEYS = ["model", "stream_options", "max_tokens", "messages", "", "model2", "имя", 'a"b', "\u2028", "__proto__", "n{", "x]"];

const space = fc.string({ unit: fc.constantFrom(" ", "\t", "\n", "\r"), maxLength: 3 });

/** The same text as another writer would escape it. */
const escaped = (text: string): fc.Arbitrary<string> =>
  fc.array(fc.boolean(), { minLength: text.length, maxLength: text.length }).map((asCode) => {
    const body = [...Array(text.length).keys()]
      .map((i) => {
        const unit = text.charAt(i);
        return asCode[i] ? `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}` : JSON.stringify(unit).slice(1, -1);
      })
      .join("");
    return `"${body}"`;
  });

const scalar = fc.oneof(
  fc.constantFrom(
    "1e400",
    "-0",
    "1.10",
    "1E+2",
    "123456789012345678901234567890",
    "true",
    "false",
    "null",
    '""',
    '"\\""',
    '"}"',
    '"\\\\"',
    '"a\\\\\\"b,{["',
  ),
  fc.string({ unit: "grapheme", maxLength: 8 }).chain(escaped),
);

const value: fc.Arbitrary<string> = fc.letrec<{ value: string }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 3, depthIdentifier: "json" },
    scalar,
    fc
      .tuple(space, fc.array(fc.tuple(space, tie("value"), space), { maxLength: 3 }))
      .map(([lead, items]) => `[${lead}${items.map((item) => item.join("")).join(",")}]`),
    fc
      .tuple(space, fc.array(fc.tuple(space, fc.constantFrom(...KEYS).chain(escaped), space, space, tie("value"), space), { maxLength: 3 }))
      .map(([lead, members]) => `{${lead}${members.map(([a, key, b, c, item, d]) => `${a}${key}${b}:${c}${item}${d}`).join(",")}}`),
  ),
})).value;

const document: fc.Arbitrary<readonly Piece[]> = fc
  .tuple(
    space,
    fc.array(
      fc.constantFrom(...KEYS).chain((key) => fc.tuple(space, escaped(key), space, space, value, space).map((parts) => ({ key, parts }))),
      { minLength: 1, maxLength: 6 },
    ),
    space,
  )
  .map(([lead, members, tail]) => {
    const pieces: Piece[] = [{ text: `${lead}{`, valueOf: null }];
    members.forEach(({ key, parts: [a, name, b, c, text, d] }, i) => {
      pieces.push({ text: `${i === 0 ? "" : ","}${a}${name}${b}:${c}`, valueOf: null }, { text, valueOf: key }, { text: d, valueOf: null });
    });
    pieces.push({ text: `}${tail}`, valueOf: null });
    return pieces;
  });

const fields = fc.uniqueArray(fc.tuple(fc.constantFrom(...KEYS), fc.jsonValue({ maxDepth: 2 })), { selector: ([key]) => key, maxLength: 3 });

const inOrder = (members: ReadonlyMap<string, unknown>): readonly unknown[] => [...members].toSorted(([a], [b]) => (a < b ? -1 : 1));

test("whatever the text: the edited values change, everywhere they stand, and no other byte does", () => {
  fc.assert(
    fc.property(document, fields, (pieces, wanted) => {
      const bytes = Buffer.from(pieces.map(({ text }) => text).join(""));
      const body = JSON.parse(bytes.toString()) as Record<string, unknown>;
      const has = (key: string): boolean => Object.hasOwn(body, key);
      const edits = new Map<string, unknown>(wanted);
      const result = setFields(bytes, edits, has).toString();

      const added = wanted.filter(([key]) => !has(key)).map(([key, to]) => `${JSON.stringify(key)}:${JSON.stringify(to)},`);
      const kept = pieces.map(({ text, valueOf }) => (valueOf !== null && edits.has(valueOf) ? JSON.stringify(edits.get(valueOf)) : text));
      kept.splice(1, 0, ...added);
      expect(result).toBe(kept.join(""));

      // JSON.parse gives `__proto__` an own property, as assignment would not.
      const expected = new Map([...Object.entries(body), ...wanted.map(([key, to]): [string, unknown] => [key, JSON.parse(JSON.stringify(to))])]);
      const found = new Map(Object.entries(JSON.parse(result) as object));
      expect(JSON.stringify(inOrder(found))).toBe(JSON.stringify(inOrder(expected)));
    }),
    { numRuns: 1_000 },
  );
});

const edit = (text: string, changes: Record<string, unknown>): string => {
  const body = JSON.parse(text) as object;
  return setFields(Buffer.from(text), new Map(Object.entries(changes)), (key) => Object.hasOwn(body, key)).toString();
};

test.each<[string, string, Record<string, unknown>, string]>([
  ["a value, with its white space", '{ "model" :\n"a" , "n":1.10}', { model: "b" }, '{ "model" :\n"b" , "n":1.10}'],
  ["a key spelled with escapes", '{"mod\\u0065l":"a"}', { model: "b" }, '{"mod\\u0065l":"b"}'],
  ["every duplicate", '{"model":"a","n":1,"model":"b"}', { model: "c" }, '{"model":"c","n":1,"model":"c"}'],
  [
    "not the same key deeper down",
    '{"x":{"model":"a"},"y":["model",{"model":1}],"model":"b"}',
    { model: "c" },
    '{"x":{"model":"a"},"y":["model",{"model":1}],"model":"c"}',
  ],
  ["not the same text as a value", '{"x":"model","model":"a"}', { model: "c" }, '{"x":"model","model":"c"}'],
  ["a missing key, in front", '{\n  "model": "a"\n}', { max_tokens: 5 }, '{"max_tokens":5,\n  "model": "a"\n}'],
  [
    "an object",
    '{"model":"a","stream_options":null}',
    { stream_options: { include_usage: true } },
    '{"model":"a","stream_options":{"include_usage":true}}',
  ],
  ["a string with every kind of quote", '{"a":"\\\\\\"}","model":"a"}', { model: '"\\' }, '{"a":"\\\\\\"}","model":"\\"\\\\"}'],
])("%s", (_name, text, changes, expected) => {
  expect(edit(text, changes)).toBe(expected);
});

test("bytes that are no UTF-8 stay as they were", () => {
  const bytes = Buffer.concat([Buffer.from('{"x":"'), Buffer.from([0xff, 0xc3, 0x28]), Buffer.from('","model":"a"}')]);
  const result = setFields(bytes, new Map([["model", "b"]]), () => true);
  expect(result).toEqual(Buffer.concat([bytes.subarray(0, bytes.length - 3), Buffer.from('b"}')]));
});
