import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { addModels } from "../../src/config/models-text.ts";
import { ConfigError } from "../../src/core/errors.ts";

const add = (text: string, ...ids: readonly string[]): string => addModels("models.yaml", text, ids, 5).text;

describe("adding models to a text", () => {
  test.each<readonly [string, string, string]>([
    ["an empty one", "", "models:\n  - name: new\n    rpm: 5\n"],
    ["one with comments only", "# mine\n", "# mine\nmodels:\n  - name: new\n    rpm: 5\n"],
    ["one that says models: and no more", "models:\n", "models:\n  - name: new\n    rpm: 5\n"],
    ["one without an end of line", "models:", "models:\n  - name: new\n    rpm: 5\n"],
    ["one that says null", "models: null # none yet\n# end\n", "models:  # none yet\n  - name: new\n    rpm: 5\n# end\n"],
    ["a list", "models:\n  - name: a\n", "models:\n  - name: a\n  - name: new\n    rpm: 5\n"],
    ["a list without an end of line", "models:\n  - name: a", "models:\n  - name: a\n  - name: new\n    rpm: 5\n"],
    ["a list that is not indented", "models:\n- name: a\nother: 1\n", "models:\n- name: a\n- name: new\n  rpm: 5\nother: 1\n"],
    ["a list that is indented by four", "models:\n    - name: a\n", "models:\n    - name: a\n    - name: new\n      rpm: 5\n"],
    [
      "comments at every place",
      "# top\nmodels: # list\n  # first\n  - name: a # a\n    rpm: 1 # one\n  # last\n\n# end\n",
      "# top\nmodels: # list\n  # first\n  - name: a # a\n    rpm: 1 # one\n  - name: new\n    rpm: 5\n  # last\n\n# end\n",
    ],
    ["entries in braces", "models:\n  - { name: a } # a\n\n\nother: 1\n", "models:\n  - { name: a } # a\n  - name: new\n    rpm: 5\n\n\nother: 1\n"],
    ["a list in brackets", "models: [{ name: a }, ] # x\n", 'models: [{ name: a }, { name: "new", rpm: 5 }, ] # x\n'],
    ["an empty list in brackets", "models: []\n", 'models: [{ name: "new", rpm: 5 }]\n'],
    ["line ends of Windows", "models:\r\n  - name: a\r\n", "models:\r\n  - name: a\r\n  - name: new\r\n    rpm: 5\r\n"],
    ["a document that ends itself", "models:\n  - name: a\n...\n", "models:\n  - name: a\n  - name: new\n    rpm: 5\n...\n"],
    ["a file with other sections", "other:\n  a: 1\n", "other:\n  a: 1\nmodels:\n  - name: new\n    rpm: 5\n"],
    ["a list with an anchor", "models: &all\n  - name: a\n", "models: &all\n  - name: a\n  - name: new\n    rpm: 5\n"],
  ])("%s", (_what, before, after) => {
    expect(add(before, "new")).toBe(after);
    expect(add(after, "new")).toBe(after);
  });

  test("an entry that is there keeps everything, whatever it says", () => {
    const text = "models:\n  - name: gpt-4o\n    rpm: 0 # never\n    credential: main\n";
    expect(addModels("models.yaml", text, ["gpt-4o"], 5)).toEqual({ text, added: [] });
  });

  test("odd names read back as they are", () => {
    const ids = [
      "a: b",
      "*star",
      "&and",
      "- dash",
      "# hash",
      "é",
      "模型",
      "null",
      "true",
      "1e3",
      "0x1f",
      "~",
      "'q'",
      '"q"',
      " spaced ",
      "a,b]}",
      "@at",
      "\\n",
      "?",
      "=",
      "<<",
      "2024-01-01",
      "🤖",
      "a\u2028b",
    ];
    for (const before of ["", "models: []\n"]) {
      const { text, added } = addModels("models.yaml", before, ids, -1);
      expect(added).toEqual(ids);
      expect(parse(text)).toEqual({ models: ids.map((name) => ({ name, rpm: -1 })) });
    }
  });

  test.each<readonly [string, string, string]>([
    [
      "a syntax error",
      "models:\n  - name: 'a\n",
      "models.yaml:3:1: is not valid YAML, so no models are added to it; check indentation and quotes there",
    ],
    [
      "two documents",
      "models: []\n---\nmodels: []\n",
      "models.yaml:2:1: is not valid YAML, so no models are added to it; check indentation and quotes there",
    ],
    ["a list at the top", "- name: a\n", "models.yaml: expected a list of models under models:, so none are added"],
    ["plain text", "hello\n", "models.yaml: expected a list of models under models:, so none are added"],
    ["models that are no list", "models: { a: 1 }\n", "models.yaml: expected a list of models under models:, so none are added"],
    ["a file in braces", "{ models: [] }\n", "models.yaml: is written in a way that nothing can be added to"],
    ["a list that stands elsewhere", "all: &all [{ name: a }]\nmodels: *all\n", "models.yaml: is written in a way that nothing can be added to"],
    ["a list that stands for another too", "models: &m\n  - name: a\nother: *m\n", "models.yaml: is written in a way that nothing can be added to"],
  ])("%s is refused", (_what, text, line) => {
    expect(() => add(text, "new")).toThrow(ConfigError);
    expect(() => add(text, "new")).toThrow(line);
  });

  const IDS = Array.from({ length: 10_050 }, (_, index) => `m${index}`);

  test("the file has at most 10,000 entries", () => {
    const { text, added } = addModels("models.yaml", "models:\n  - name: mine\n", IDS, 5);
    expect(added).toEqual(IDS.slice(0, 9_999));
    expect(addModels("models.yaml", text, ["one-more"], 5)).toEqual({ text, added: [] });
  });

  test("the file has at most 1 MiB, beyond which it would not be read", () => {
    const ids = IDS.slice(0, 4_000).map((id) => id.padEnd(256, "x"));
    const { text, added } = addModels("models.yaml", "", ids, 5);
    expect(added.length).toBeLessThan(ids.length);
    expect(Buffer.byteLength(text)).toBeLessThanOrEqual(1_048_576);
    expect(Buffer.byteLength(text)).toBeGreaterThan(1_048_576 - 300);
  });

  test("the file has at most 50,000 values, beyond which it would not be read", () => {
    const values = Array.from({ length: 49_990 }, () => "1").join(", ");
    const text = `models:\n  - { name: mine, scopes: [${values}] }\n`;
    expect(addModels("models.yaml", text, IDS, 5).added).toEqual(["m0"]);
    expect(addModels("models.yaml", text.replace("[1,", "[1, 1, 1, 1,"), IDS, 5).added).toEqual([]);
  });

  test("whatever the layout, old bytes stay and new entries are read back", () => {
    const id = fc.string({ minLength: 1, maxLength: 20, unit: "grapheme" }).filter((text) => !/\p{Cc}/u.test(text) && text.isWellFormed());
    const layout = fc.record({
      indent: fc.integer({ min: 0, max: 4 }),
      newline: fc.constantFrom("\n", "\r\n"),
      head: fc.constantFrom("", "# head", "a: 1", "---"),
      tail: fc.constantFrom("", "# tail", "z: [1, 2]", "z: |\n  text"),
      braces: fc.boolean(),
      comment: fc.constantFrom("", " # note"),
      last: fc.boolean(),
    });
    fc.assert(
      fc.property(layout, fc.uniqueArray(id, { maxLength: 5 }), fc.uniqueArray(id, { minLength: 1, maxLength: 5 }), (how, old, ids) => {
        const pad = " ".repeat(how.indent);
        const entries = old.map((name) => {
          const written = JSON.stringify(name);
          return how.braces
            ? `${pad}- { name: ${written}, rpm: 1 }${how.comment}`
            : `${pad}- name: ${written}${how.comment}\n${pad}  rpm: 1${how.comment}`;
        });
        const lines = [how.head, `models:${how.comment}`, ...entries, how.tail].filter((line) => line !== "");
        const before = (lines.join("\n") + (how.last ? "\n" : "")).replaceAll("\n", how.newline);
        const { text, added } = addModels("models.yaml", before, ids, 5);
        expect(added).toEqual(ids.filter((name) => !old.includes(name)));
        const { models, ...rest } = parse(text) as { models: unknown };
        expect(models ?? []).toEqual([...old.map((name) => ({ name, rpm: 1 })), ...added.map((name) => ({ name, rpm: 5 }))]);
        const { models: _before, ...kept } = parse(before) as { models: unknown };
        expect(rest).toEqual(kept);
        let same = 0;
        while (same < before.length && before[same] === text[same]) same += 1;
        expect(text.endsWith(before.slice(same))).toBe(true);
        expect(addModels("models.yaml", text, ids, 5)).toEqual({ text, added: [] });
      }),
      { numRuns: 500 },
    );
  });
});
