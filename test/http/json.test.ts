import { describe, expect, test } from "vitest";
import { parseObject } from "../../src/http/json.ts";
import { refusalOf } from "../core/context-kit.ts";

const parse = (text: string | Buffer): Record<string, unknown> => parseObject(Buffer.from(text as string));
const refused = (text: string | Buffer) => refusalOf(() => parse(text));

describe("what is no object", () => {
  test.each([
    [""],
    [" "],
    ["null"],
    ["1"],
    ['"x"'],
    ["[]"],
    ["[{}]"],
    ["{"],
    ['{"a":1,}'],
    ["{'a':1}"],
    ['{"a":NaN}'],
    ['{"a":1}{}'],
    ["undefined"],
    ["\ufeff{}"],
    ["true"],
  ])("%j is refused", (text) => {
    expect(refused(text)).toMatchObject({ code: "body_invalid", status: 400 });
  });

  test("the message never repeats the body", () => {
    expect(refused('{"apiKey":"sk-canary" oops}').message).not.toContain("canary");
  });
});

describe("nesting", () => {
  const arrays = (levels: number): string => `{"a":${"[".repeat(levels)}${"]".repeat(levels)}}`;
  const objects = (levels: number): string => `${'{"a":'.repeat(levels)}{}${"}".repeat(levels)}`;
  test("of 64 levels below the body passes", () => {
    expect(() => [parse(arrays(64)), parse(objects(64))]).not.toThrow();
  });

  test("of 65 is refused, wherever it stands", () => {
    const texts = [arrays(65), objects(65), `{"x":1,"y":[{},[],${arrays(64)}]}`, objects(10_000), arrays(100_000)];
    for (const text of texts) expect(refused(text)).toMatchObject({ code: "body_invalid" });
  });

  test("is the same in a body of any size", () => {
    const large = (nested: string): string => `{"text":"${"x".repeat(200_000)}",${nested.slice(1)}`;
    expect(() => [parse(large(arrays(64))), parse(large(objects(64)))]).not.toThrow();
    for (const nested of [arrays(65), objects(65)]) expect(refused(large(nested)).message).toContain("nested");
    // What closes again does not nest.
    expect(() => parse(large(`{"a":[${"[[]],".repeat(500)}[]]}`))).not.toThrow();
  });

  test("within text is only text", () => {
    expect(() => parse(JSON.stringify({ a: "[".repeat(500) }))).not.toThrow();
  });
});

describe("members", () => {
  const members = (count: number): string => `{"x":[${"0,".repeat(count - 2)}0]}`;
  test("of 120,000 pass, one more does not", () => {
    expect(() => parse(members(120_000))).not.toThrow();
    expect(refused(members(120_002))).toMatchObject({ code: "body_invalid" });
    expect(refused(members(120_002)).message).toContain("120000");
  });

  test.each<[string, string]>([
    ["commas and colons", ",:".repeat(150_000)],
    ["quotes", '"'.repeat(150_000)],
    ["backslashes", "\\".repeat(150_001)],
    ["backslashes in front of quotes", '\\\\"\\"'.repeat(60_000)],
  ])("within text are only text: %s", (_name, text) => {
    const body = JSON.stringify({ a: text, b: [1, 2] });
    expect(parse(body)).toEqual({ a: text, b: [1, 2] });
  });

  test("are counted behind text with escapes too", () => {
    const text = JSON.stringify('ends with a backslash \\ and "quotes"\\');
    expect(refused(`{"a":${text},"x":[${"0,".repeat(120_000)}0]}`)).toMatchObject({ code: "body_invalid" });
  });

  test("a text that never ends is no valid JSON", () => {
    expect(refused(`{"a":"${"x".repeat(130_000)}\\"`).message).toContain("not valid JSON");
  });
});

describe("the time that a hostile body of 10 MB takes", () => {
  const MB10 = 10 * 1024 * 1024;
  const keys = (): string => `{${Array.from({ length: 1_000_000 }, (_, i) => `"${i.toString(36)}":1`).join(",")}}`;
  test.each<[string, () => string]>([
    ["tiny keys", keys],
    ["nesting alone", () => `{"a":${"[".repeat(MB10 / 2)}${"]".repeat(MB10 / 2)}}`],
    ["empty objects", () => `{"a":[${"{},".repeat(MB10 / 3)}{}]}`],
    ["numbers", () => `{"a":[${"1,".repeat(MB10 / 2)}1]}`],
    ["escaped quotes", () => `{"a":"${'\\"'.repeat(MB10 / 2)}"}`],
    ["backslashes", () => `{"a":"${"\\\\".repeat(MB10 / 2)}"}`],
    [
      "as many keys as may be in front of one backslash",
      () => `{${Array.from({ length: 50_000 }, (_, i) => `"k${i}":1`).join(",")},"z":"${"x".repeat(8 * 1024 * 1024)}\\n"}`,
    ],
    ["quotes that never close", () => `{"a":${'"\\'.repeat(MB10 / 2)}`],
  ])("is bounded: %s", (_name, make) => {
    const bytes = Buffer.from(make());
    const start = process.threadCpuUsage();
    try {
      parseObject(bytes);
    } catch (error) {
      expect(error).toMatchObject({ code: "body_invalid" });
    }
    // CPU time: other tests may run beside this one. An honest body of that size takes about 20 ms; unbounded, the worst of these takes seconds.
    const { user, system } = process.threadCpuUsage(start);
    expect((user + system) / 1_000).toBeLessThan(400);
  });
});

describe("keys that mean something to JavaScript", () => {
  test("leave Object.prototype untouched", () => {
    const body = parse('{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"a":{"__proto__":{"polluted":1}}}');
    expect(({} as Record<string, unknown>).polluted).toBeUndefined();
    expect(body.polluted).toBeUndefined();
    expect(Object.hasOwn(body, "__proto__")).toBe(true);
    expect(Object.getPrototypeOf(body)).toBe(Object.prototype);
  });

  test("nest no deeper than others", () => {
    expect(refused(`${'{"__proto__":'.repeat(66)}{}${"}".repeat(66)}`)).toMatchObject({ code: "body_invalid" });
  });

  test.each([['{"model":"cheap","messages":[],"model":"dear"}'], ['{"max_tokens":1,"model":"m","max_tokens":9}'], ['{"a":1,"b":{},"a":1}']])(
    "that stand twice are refused: nobody knows which one the provider reads: %s",
    (text) => {
      expect(refused(text)).toMatchObject({ code: "body_invalid" });
    },
  );

  test("that stand twice deeper down, or in a text, are the provider's business", () => {
    const text = '{"model":"m","a":[{"x":1,"x":2}],"b":"\\"model\\":1, \\"model\\":2","c":{"model":1}}';
    expect(parse(text)).toMatchObject({ model: "m", c: { model: 1 } });
  });

  // V8 13.6 (Node 24) compares an escaped key's raw characters with the key that an earlier object of the same shape had in this place, and other
  // parsers may disagree in other ways: what we read must be what the provider reads.
  test.each([
    ["model", "mod\\u0065l"],
    ["max_tokens", "max_toke\\u006es"],
    ["a key with a backslash", "a\\\\b"],
  ])("%s spelled with an escape is refused", (_name, spelled) => {
    expect(refused(`{"a":1,"b":[],"${spelled}":2}`)).toMatchObject({ code: "body_invalid" });
    expect(parse(`{"a":"${spelled}","b":[{"${spelled}":1}],"c":2}`)).toMatchObject({ c: 2 });
  });
});
