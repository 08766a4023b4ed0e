import type { JsonObject } from "../message.ts";
import { fieldsOf } from "../usage.ts";

const UNIONS = ["anyOf", "oneOf", "allOf"] as const;

const texts = (value: unknown): readonly string[] => (Array.isArray(value) ? value.filter((each): each is string => typeof each === "string") : []);

/**
 * Anthropic takes an object without a union at its root. The branches become one object: all properties of all of them, required is what each branch (of an
 * `allOf`: any) requires.
 */
export function objectSchema(schema: JsonObject | null): JsonObject {
  if (!schema) return { type: "object", properties: {} };
  const merged = UNIONS.some((union) => Array.isArray(schema[union])) ? withoutUnion(schema) : schema;
  return { ...merged, type: "object", properties: fieldsOf(merged.properties) ?? {} };
}

function withoutUnion(schema: JsonObject): JsonObject {
  const { anyOf, oneOf, allOf, ...rest } = schema;
  const properties = new Map(Object.entries(fieldsOf(schema.properties) ?? {}));
  const required = new Set(texts(schema.required));
  for (const [branches, isAll] of [
    [anyOf, false],
    [oneOf, false],
    [allOf, true],
  ] as const) {
    const objects = (Array.isArray(branches) ? branches : []).flatMap((branch: unknown) => {
      const fields = fieldsOf(branch);
      return fields ? [objectSchema(fields)] : [];
    });
    if (objects.length === 0) continue;
    for (const branch of objects)
      for (const [name, property] of Object.entries(fieldsOf(branch.properties) ?? {})) if (!properties.has(name)) properties.set(name, property);
    const wanted = objects.map((branch) => new Set(texts(branch.required)));
    const names = isAll
      ? wanted.flatMap((list) => [...list])
      : [...(wanted[0] as ReadonlySet<string>)].filter((name) => wanted.every((list) => list.has(name)));
    for (const name of names) required.add(name);
  }
  return { ...rest, properties: Object.fromEntries(properties), required: [...required] };
}
