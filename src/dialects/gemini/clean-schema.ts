/** Makes a JSON schema of what Gemini takes: only the schema, and never a property that happens to be named like a keyword. */
import type { JsonObject } from "../message.ts";
import { fieldsOf } from "../usage.ts";

/** Deeper schemas are cut: a chain of references may go on for ever. */
const MOST_DEPTH = 32;

/** Told to the model in words, because Gemini refuses them as keywords. */
const HINTS = [
  "minLength",
  "maxLength",
  "pattern",
  "minItems",
  "maxItems",
  "uniqueItems",
  "format",
  "default",
  "examples",
  "exclusiveMinimum",
  "exclusiveMaximum",
  "multipleOf",
] as const;

/** All that is left of a schema. */
const KEPT = ["type", "description", "title", "enum", "minimum", "maximum", "nullable"] as const;

export const cleanSchema = (schema: JsonObject | null): JsonObject => {
  const clean = cleaned(schema ?? {}, schema ?? {}, MOST_DEPTH);
  return { ...clean, type: "object", properties: clean.properties ?? {} };
};

type Fields = Record<string, unknown>;

function cleaned(value: unknown, root: JsonObject, depth: number): Fields {
  const given = fieldsOf(value);
  // `true` takes anything; a malformed schema is repaired rather than refused.
  if (!given || depth <= 0) return { type: "string" };
  const schema = merged(given, root, depth);
  const out: Fields = {};
  for (const name of KEPT) if (schema[name] !== undefined) out[name] = schema[name];
  setType(out, schema);
  setEnum(out, schema);
  const properties = fieldsOf(schema.properties);
  if (out.type === "object" || properties) {
    out.type = "object";
    const shown = properties ? Object.entries(properties).map(([name, each]): [string, unknown] => [name, cleaned(each, root, depth - 1)]) : [];
    out.properties = Object.fromEntries(shown);
    const required = Array.isArray(schema.required)
      ? schema.required.filter((name) => typeof name === "string" && properties && Object.hasOwn(properties, name))
      : [];
    if (required.length > 0) out.required = required;
  }
  if (out.type === "array") {
    const items: unknown = Array.isArray(schema.items) ? (schema.items as readonly unknown[])[0] : schema.items;
    out.items = items === undefined ? { type: "string" } : cleaned(items, root, depth - 1);
  }
  const hints = HINTS.flatMap((name) => (schema[name] === undefined ? [] : [`${name}: ${JSON.stringify(schema[name])}`]));
  const described = [typeof schema.description === "string" ? schema.description : "", hints.length > 0 ? `(${hints.join(", ")})` : ""].filter(
    (each) => each !== "",
  );
  if (described.length > 0) out.description = described.join(" ");
  else delete out.description;
  return out;
}

/** A schema without references and without unions: of several branches the richest one stands. */
function merged(given: JsonObject, root: JsonObject, depth: number): JsonObject {
  if (depth <= 0) return given;
  let schema: Fields = { ...given };
  for (let hops = 0; typeof schema.$ref === "string" && hops < depth; hops += 1) {
    const { $ref, ...rest } = schema as Fields & { readonly $ref: string };
    const target = resolved($ref, root);
    schema = target ? { ...target, ...rest } : { ...rest, description: [rest.description, `see ${$ref}`].filter(Boolean).join(" ") };
  }
  delete schema.$ref;
  for (const part of listed(schema.allOf)) schema = joined(schema, merged(part, root, depth - 1));
  for (const name of ["then", "else"]) {
    const part = fieldsOf(schema[name]);
    if (part) schema = joined(schema, merged(part, root, depth - 1));
  }
  for (const union of ["anyOf", "oneOf"]) {
    const branches = listed(schema[union]);
    if (branches.length === 0) continue;
    const real = branches.filter((branch) => branch.type !== "null");
    if (real.length < branches.length) schema.nullable = true;
    const [best] = real.map((branch) => merged(branch, root, depth - 1)).sort((a, b) => richness(b) - richness(a));
    if (best) schema = joined(schema, best);
  }
  return schema;
}

const listed = (value: unknown): readonly JsonObject[] =>
  Array.isArray(value) ? value.map((each) => fieldsOf(each)).filter((each) => each !== null) : [];

const richness = (schema: JsonObject): number => (fieldsOf(schema.properties) ? 3 : schema.type === "array" ? 2 : schema.type === undefined ? 0 : 1);

function joined(schema: JsonObject, more: JsonObject): Fields {
  const properties = { ...fieldsOf(more.properties), ...fieldsOf(schema.properties) };
  const required = [...new Set([...texts(schema.required), ...texts(more.required)])];
  return {
    ...more,
    ...schema,
    ...(Object.keys(properties).length > 0 ? { properties } : {}),
    ...(required.length > 0 ? { required } : {}),
  };
}

const texts = (value: unknown): readonly string[] => (Array.isArray(value) ? value.filter((each): each is string => typeof each === "string") : []);

/** Only what stands in the same schema. */
function resolved(ref: string, root: JsonObject): JsonObject | null {
  if (ref === "#") return root;
  if (!ref.startsWith("#/")) return null;
  let at: unknown = root;
  for (const step of ref.slice(2).split("/")) {
    const fields = fieldsOf(at);
    const name = step.replaceAll("~1", "/").replaceAll("~0", "~");
    if (!fields || !Object.hasOwn(fields, name)) return null;
    at = fields[name];
  }
  return fieldsOf(at);
}

function setType(out: Fields, schema: JsonObject): void {
  const { type } = schema;
  if (Array.isArray(type)) {
    const named = type.filter((each): each is string => typeof each === "string");
    if (named.includes("null")) out.nullable = true;
    out.type = named.find((each) => each !== "null") ?? "string";
  } else if (typeof type === "string") out.type = type.toLowerCase();
  else {
    delete out.type;
    if (fieldsOf(schema.properties)) out.type = "object";
    else if (schema.items !== undefined) out.type = "array";
    else if (schema.enum === undefined && schema.const === undefined) out.type = "string";
  }
}

/** Values of an enumeration are texts here. */
function setEnum(out: Fields, schema: JsonObject): void {
  const values = Array.isArray(schema.enum) ? schema.enum : schema.const === undefined ? null : [schema.const];
  if (!values) return;
  out.enum = values.filter((value) => value !== null).map((value) => (typeof value === "string" ? value : JSON.stringify(value)));
  out.type = "string";
  if (values.includes(null)) out.nullable = true;
}
