/** Makes a JSON schema of what Gemini takes: only the schema, and never a property that happens to be named like a keyword. */
import type { JsonObject } from "../message.ts";
import { fieldsOf } from "../usage.ts";

/** Deeper and larger schemas are cut: a few references make a schema without end. */
const MOST_DEPTH = 32;
const MOST_PARTS = 5_000;

/** As much work as a part of a schema. */
const MEMBERS_PER_PART = 100;

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

/** Where a schema is being cleaned. */
interface Work {
  readonly root: JsonObject;
  /** Parts that may still be looked at. */
  left: number;
}

export function cleanSchema(schema: JsonObject | null): JsonObject {
  const root = schema ?? {};
  const clean = cleaned(root, { root, left: MOST_PARTS }, ["#"]);
  return { ...clean, type: "object", properties: clean.properties ?? {} };
}

type Fields = Record<string, unknown>;

/** `within` = the references that led here: one that leads back into itself is told in words. */
function cleaned(value: unknown, work: Work, within: readonly string[]): Fields {
  const given = fieldsOf(value);
  // `true` takes anything; a malformed schema is repaired rather than refused.
  if (!given || (work.left -= 1) < 0 || within.length > MOST_DEPTH) return { type: "string" };
  const { schema, path } = merged(given, work, within);
  const out: Fields = {};
  for (const name of KEPT) if (schema[name] !== undefined) out[name] = schema[name];
  setType(out, schema);
  setEnum(out, schema);
  const deeper = [...path, ""];
  const properties = fieldsOf(schema.properties);
  if (out.type === "object" || properties) {
    out.type = "object";
    const shown = properties ? Object.entries(properties).map(([name, each]): [string, unknown] => [name, cleaned(each, work, deeper)]) : [];
    out.properties = Object.fromEntries(shown);
    const required = texts(schema.required).filter((name) => properties && Object.hasOwn(properties, name));
    if (required.length > 0) out.required = required;
  }
  if (out.type === "array") {
    const items: unknown = Array.isArray(schema.items) ? (schema.items as readonly unknown[])[0] : schema.items;
    out.items = items === undefined ? { type: "string" } : cleaned(items, work, deeper);
  }
  const hints = HINTS.flatMap((name) => (schema[name] === undefined ? [] : [`${name}: ${JSON.stringify(schema[name])}`]));
  const described = [typeof schema.description === "string" ? schema.description : "", hints.length > 0 ? `(${hints.join(", ")})` : ""].filter(
    (each) => each !== "",
  );
  if (described.length > 0) out.description = described.join(" ");
  else delete out.description;
  return out;
}

interface Merged {
  readonly schema: JsonObject;
  /** The references that led here, with those that it was made of. */
  readonly path: readonly string[];
}

/** A schema without references and without unions: of several branches the richest one stands. */
function merged(given: JsonObject, work: Work, within: readonly string[]): Merged {
  let { schema, path } = dereferenced(given, work, within);
  const parts = [...listed(schema.allOf), ...[schema.then, schema.else].map((part) => fieldsOf(part)).filter((part) => part !== null)];
  const take = (part: JsonObject): JsonObject => {
    if ((work.left -= 1) < 0 || path.length > MOST_DEPTH) return {};
    const inner = merged(part, work, [...path, ""]);
    path = [...new Set([...path, ...inner.path])];
    return inner.schema;
  };
  if (parts.length > 0) schema = joined([schema, ...parts.map(take)]);
  for (const union of ["anyOf", "oneOf"]) {
    const branches = listed(schema[union]);
    if (branches.length === 0) continue;
    const real = branches.filter((branch) => branch.type !== "null");
    if (real.length < branches.length) schema.nullable = true;
    const [best] = real.map(take).sort((a, b) => richness(b) - richness(a));
    if (best) schema = joined([schema, best]);
  }
  return { schema, path };
}

function dereferenced(given: JsonObject, work: Work, within: readonly string[]): { schema: Fields; path: readonly string[] } {
  let schema: Fields = { ...given };
  let path = within;
  while (typeof schema.$ref === "string") {
    const { $ref, ...rest } = schema as Fields & { readonly $ref: string };
    const target = path.includes($ref) || path.length > MOST_DEPTH ? null : resolved($ref, work.root);
    if (target) path = [...path, $ref];
    // What is copied again and again is work as well.
    if (target) work.left -= Math.floor(Object.keys(target).length / MEMBERS_PER_PART);
    schema = target ? { ...target, ...rest } : { ...rest, description: [...texts([rest.description]), `see ${$ref}`].join(" ") };
  }
  delete schema.$ref;
  return { schema, path };
}

const listed = (value: unknown): readonly JsonObject[] =>
  Array.isArray(value) ? value.map((each) => fieldsOf(each)).filter((each) => each !== null) : [];

const richness = (schema: JsonObject): number => (fieldsOf(schema.properties) ? 3 : schema.type === "array" ? 2 : schema.type === undefined ? 0 : 1);

/** All of them in one; what stands in two of them is as the first has it. There may be thousands: none is copied for each of the others. */
function joined(schemas: readonly JsonObject[]): Fields {
  const all = new Map<string, unknown>();
  const properties = new Map<string, unknown>();
  const required = new Set<string>();
  for (const schema of schemas) {
    for (const [name, value] of Object.entries(schema)) if (!all.has(name)) all.set(name, value);
    for (const [name, value] of Object.entries(fieldsOf(schema.properties) ?? {})) if (!properties.has(name)) properties.set(name, value);
    for (const name of texts(schema.required)) required.add(name);
  }
  if (properties.size > 0) all.set("properties", Object.fromEntries(properties));
  if (required.size > 0) all.set("required", [...required]);
  return Object.fromEntries(all);
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
