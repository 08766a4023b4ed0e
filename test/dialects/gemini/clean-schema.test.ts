import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { cleanSchema } from "../../../src/dialects/gemini/clean-schema.ts";

const of = (value: object) => (cleanSchema({ type: "object", properties: { a: value } }).properties as { a: object }).a;

describe("a schema for Gemini", () => {
  test("schema-encrypted-keyword-removed, and everything that it does not know; what matters is told in words", () => {
    const a = { type: "string", minLength: 3, pattern: "^a", "x-own": 1, description: "the a" };
    expect(cleanSchema({ $schema: "x", type: "object", additionalProperties: false, encrypted: true, properties: { a } })).toEqual({
      type: "object",
      properties: { a: { type: "string", description: 'the a (minLength: 3, pattern: "^a")' } },
    });
  });

  test("schema-property-named-like-keyword-survives", () => {
    const names = ["title", "format", "default", "pattern", "$ref", "enum", "type", "properties"];
    const properties = Object.fromEntries(names.map((name) => [name, { type: "string" }]));
    expect(cleanSchema({ type: "object", properties }).properties).toEqual(properties);
  });

  test("schema-required-cleaned-for-gemini, missing-object-properties-added", () => {
    expect(cleanSchema({ type: "object", properties: { a: { type: "object" } }, required: ["a", "gone", 5] })).toEqual({
      type: "object",
      properties: { a: { type: "object", properties: {} } },
      required: ["a"],
    });
    expect(cleanSchema(null)).toEqual({ type: "object", properties: {} });
  });

  test("references are put in, also those that go round in circles", () => {
    const node = { type: "object", properties: { next: { $ref: "#/$defs/node" }, id: { type: "integer" } } };
    const clean = cleanSchema({ type: "object", properties: { a: { $ref: "#/$defs/node" } }, $defs: { node } });
    expect(clean).toEqual({
      type: "object",
      properties: { a: { type: "object", properties: { id: { type: "integer" }, next: { type: "string", description: "see #/$defs/node" } } } },
    });
    expect(JSON.stringify(clean)).not.toContain("$ref");
    expect(of({ $ref: "https://elsewhere.test/x" })).toEqual({ type: "string", description: "see https://elsewhere.test/x" });
    expect(of({ $ref: "#/$defs/none" })).toEqual({ type: "string", description: "see #/$defs/none" });
  });

  test("unions, constants, null and lists of types", () => {
    expect(of({ anyOf: [{ type: "null" }, { type: "string" }] })).toEqual({ type: "string", nullable: true });
    expect(of({ type: ["null", "integer"] })).toEqual({ type: "integer", nullable: true });
    expect(of({ const: 5 })).toEqual({ type: "string", enum: ["5"] });
    expect(of({ enum: [1, "b", null] })).toEqual({ type: "string", enum: ["1", "b"], nullable: true });
    const rich = { type: "object", properties: { b: { type: "number" } } };
    expect(of({ oneOf: [{ type: "string" }, rich] })).toEqual(rich);
    expect(of({ allOf: [{ ...rich, required: ["b"] }, { properties: { c: { type: "string" } } }] })).toEqual({
      type: "object",
      properties: { b: { type: "number" }, c: { type: "string" } },
      required: ["b"],
    });
    expect(of({ type: "array" })).toEqual({ type: "array", items: { type: "string" } });
  });

  test("whatever comes, something that Gemini takes comes out, soon", () => {
    const few = { maxKeys: 3, size: "small" } as const;
    const keyword = fc.constantFrom(
      "type",
      "properties",
      "items",
      "anyOf",
      "allOf",
      "$ref",
      "enum",
      "required",
      "const",
      "description",
      "$defs",
      "then",
    );
    const leaf = fc.oneof(fc.constantFrom("#", "#/$defs/a", "object", "array", null, true, 5), fc.jsonValue({ maxDepth: 1 }));
    const level = (inner: fc.Arbitrary<unknown>) => fc.oneof(leaf, fc.dictionary(keyword, inner, few), fc.array(inner, { maxLength: 3 }));
    fc.assert(
      fc.property(fc.dictionary(keyword, level(level(level(leaf))), few), (schema) => {
        expect(cleanSchema(schema).type).toBe("object");
      }),
      { numRuns: 1_000 },
    );
  });

  test("one that refers to itself many times over does not grow without end", () => {
    const properties = Object.fromEntries(Array.from({ length: 10 }, (_each, i) => [`p${i}`, { $ref: "#" }]));
    expect(JSON.stringify(cleanSchema({ type: "object", properties })).length).toBeLessThan(1_000);
    const wide = (name: string) => ({
      type: "object",
      properties: Object.fromEntries(Array.from({ length: 10 }, (_each, i) => [`p${i}`, { $ref: `#/$defs/${name}` }])),
    });
    const chain = Object.fromEntries(Array.from({ length: 20 }, (_each, i) => [`d${i}`, wide(`d${i + 1}`)]));
    expect(JSON.stringify(cleanSchema({ ...wide("d0"), $defs: chain })).length).toBeLessThan(1_000_000);
    const twice = (name: string) => ({ allOf: [{ $ref: `#/$defs/${name}` }, { $ref: `#/$defs/${name}` }] });
    const doubled = Object.fromEntries(Array.from({ length: 40 }, (_each, i) => [`d${i}`, twice(`d${i + 1}`)]));
    expect(JSON.stringify(cleanSchema({ ...twice("d0"), $defs: doubled })).length).toBeLessThan(1_000_000);
  });
});
