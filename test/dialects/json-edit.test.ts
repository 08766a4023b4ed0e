import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { editFields, type FieldEdits } from "../../src/dialects/json-edit.ts";

/** A member of a JSON text made piece by piece, so that the test knows where everything stands without parsing it. */
interface Member {
  readonly key: string;
  /** Before the key, the key as it is spelled, between key and value, the value, behind it. */
  readonly texts: readonly [before: string, name: string, between: string, value: string, behind: string];
}

interface Document {
  readonly lead: string;
  readonly members: readonly Member[];
  readonly tail: string;
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

const member: fc.Arbitrary<Member> = fc
  .constantFrom(...KEYS)
  .chain((key) =>
    fc
      .tuple(space, escaped(key), space, space, value, space)
      .map(([before, name, a, b, text, behind]) => ({ key, texts: [before, name, `${a}:${b}`, text, behind] })),
  );

const document: fc.Arbitrary<Document> = fc.record({ lead: space, members: fc.array(member, { maxLength: 6 }), tail: space });

const textOf = ({ lead, members, tail }: Document): string => `${lead}{${members.map(({ texts }) => texts.join("")).join(",")}}${tail}`;

/** Some keys are removed; of the others some are renamed, to keys that stand nowhere, and some are set, or both. */
const edits: fc.Arbitrary<FieldEdits> = fc
  .record({
    set: fc.uniqueArray(fc.tuple(fc.constantFrom(...KEYS), fc.jsonValue({ maxDepth: 2 })), { selector: ([key]) => key, maxLength: 3 }),
    rename: fc.uniqueArray(fc.tuple(fc.constantFrom(...KEYS), fc.constantFrom("new", 'n"w\n', "ню", "{")), {
      comparator: ([a, x], [b, y]) => a === b || x === y,
      maxLength: 3,
    }),
    remove: fc.uniqueArray(fc.constantFrom(...KEYS), { maxLength: 6 }),
  })
  .map(({ set, rename, remove }) => {
    const stays = ([key]: readonly [string, unknown]): boolean => !remove.includes(key);
    return { set: new Map(set.filter(stays)), rename: new Map(rename.filter(stays)), remove: new Set(remove) };
  });

/** What the bytes should be: with a removed member goes all up to the next one's key, or at the end all behind the last that stays. */
function edited({ lead, members, tail }: Document, { set, rename, remove }: FieldEdits): string {
  const kept = members.filter(({ key }) => !remove.has(key));
  const bodies = kept.map(({ key, texts: [, name, between, text] }) => {
    const newName = rename.get(key);
    return `${newName === undefined ? name : JSON.stringify(newName)}${between}${set.has(key) ? JSON.stringify(set.get(key)) : text}`;
  });
  const gaps = kept.map((each) => `${each.texts[4]},${members[members.indexOf(each) + 1]?.texts[0]}`);
  const inner = bodies.map((body, i) => (i === bodies.length - 1 ? body : body + gaps[i])).join("");
  const added = [...set]
    .filter(([key]) => !members.some((each) => each.key === key))
    .map(([key, to]) => `${JSON.stringify(key)}:${JSON.stringify(to)}`);
  const front = added.join(",") + (added.length > 0 && kept.length > 0 ? "," : "");
  return `${lead}{${front}${members[0]?.texts[0] ?? ""}${inner}${members.at(-1)?.texts[4] ?? ""}}${tail}`;
}

const inOrder = (members: ReadonlyMap<string, unknown>): readonly unknown[] => [...members].toSorted(([a], [b]) => (a < b ? -1 : 1));

test("whatever the text: the edited members change, everywhere they stand, no other byte does, and it stays JSON", () => {
  fc.assert(
    fc.property(document, edits, (doc, wanted) => {
      const text = textOf(doc);
      const body = JSON.parse(text) as Record<string, unknown>;
      const result = editFields(Buffer.from(text), wanted, (key) => Object.hasOwn(body, key)).toString();
      expect(result).toBe(edited(doc, wanted));

      // JSON.parse gives `__proto__` an own property, as assignment would not.
      const expected = new Map(Object.entries(body));
      for (const [key, to] of wanted.set) expected.set(key, JSON.parse(JSON.stringify(to)));
      for (const [key, to] of wanted.rename) {
        if (Object.hasOwn(body, key)) expected.set(to, expected.get(key)).delete(key);
      }
      for (const key of wanted.remove) expected.delete(key);
      const found = new Map(Object.entries(JSON.parse(result) as object));
      expect(JSON.stringify(inOrder(found))).toBe(JSON.stringify(inOrder(expected)));
    }),
    { numRuns: 2_000 },
  );
});

interface Wanted {
  readonly set?: Record<string, unknown>;
  readonly rename?: Record<string, string>;
  readonly remove?: readonly string[];
}

const edit = (text: string, { set = {}, rename = {}, remove = [] }: Wanted): string => {
  const body = JSON.parse(text) as object;
  const wanted = { set: new Map(Object.entries(set)), rename: new Map(Object.entries(rename)), remove: new Set(remove) };
  return editFields(Buffer.from(text), wanted, (key) => Object.hasOwn(body, key)).toString();
};

describe("setting", () => {
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
  ])("%s", (_name, text, set, expected) => {
    expect(edit(text, { set })).toBe(expected);
  });
});

describe("removing", () => {
  test.each<[string, string, readonly string[], string]>([
    ["the first", '{ "a": 1 , "b":2}', ["a"], '{ "b":2}'],
    ["one in the middle", '{"a":1 ,\n "b": [2,{"b":3}] ,\n "c":3}', ["b"], '{"a":1 ,\n "c":3}'],
    ["the last", '{"a":1 ,\n "b":2\n}', ["b"], '{"a":1\n}'],
    ["the only one", '{ "a" : 1 }', ["a"], "{  }"],
    ["the last two, with the comma before them", '{"a":1, "b":2, "c":3 }', ["c", "b"], '{"a":1 }'],
    ["the first two", '{"a":1, "b":2, "c":3 }', ["a", "b"], '{"c":3 }'],
    ["around one that stays", '{"a":1, "b":2, "c":3}', ["a", "c"], '{"b":2}'],
    ["every duplicate", '{"a":1,"b":2,"a":3}', ["a"], '{"b":2}'],
    ["what is not there", '{"a":1}', ["b"], '{"a":1}'],
    ["not the same key deeper down", '{"x":{"a":1},"y":[{"a":2}]}', ["a"], '{"x":{"a":1},"y":[{"a":2}]}'],
    ["commas and braces inside the value", '{"a":"},{\\"","b":2}', ["a"], '{"b":2}'],
  ])("%s", (_name, text, remove, expected) => {
    expect(edit(text, { remove })).toBe(expected);
  });

  test("everything, with something new in its place", () => {
    expect(edit('{ "a":1, "b":2 }', { remove: ["a", "b"], set: { c: 3 } })).toBe('{"c":3  }');
    expect(edit("{ }", { set: { c: 3 } })).toBe('{"c":3 }');
  });
});

describe("renaming", () => {
  test.each<[string, string, Wanted, string]>([
    ["the key only", '{"a" : 1.10,"b":2}', { rename: { a: "z" } }, '{"z" : 1.10,"b":2}'],
    ["with a new value", '{"b":2,"a":1}', { rename: { a: "z" }, set: { a: 5 } }, '{"b":2,"z":5}'],
    ["to a key that is removed", '{"a":1,"z":null,"b":2}', { rename: { a: "z" }, remove: ["z"] }, '{"z":1,"b":2}'],
    ["what is not there", '{"b":2}', { rename: { a: "z" } }, '{"b":2}'],
    ["not the same text as a value", '{"x":"a","a":1}', { rename: { a: "z" } }, '{"x":"a","z":1}'],
  ])("%s", (_name, text, wanted, expected) => {
    expect(edit(text, wanted)).toBe(expected);
  });
});

test("bytes that are no UTF-8 stay as they were", () => {
  const bytes = Buffer.concat([Buffer.from('{"x":"'), Buffer.from([0xff, 0xc3, 0x28]), Buffer.from('","model":"a"}')]);
  const result = editFields(bytes, { set: new Map([["model", "b"]]), rename: new Map(), remove: new Set() }, () => true);
  expect(result).toEqual(Buffer.concat([bytes.subarray(0, bytes.length - 3), Buffer.from('b"}')]));
});
