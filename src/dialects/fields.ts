/** Reads the members of a caller's request, each of which may be anything. */
import { GuardError } from "../core/errors.ts";
import type { JsonObject } from "./message.ts";
import { fieldsOf } from "./usage.ts";

export const invalid = (field: string, message: string): GuardError => new GuardError("body_invalid", `${field} ${message}`, { param: field });

const isAbsent = (value: unknown): value is undefined | null => value === undefined || value === null;

/** Null = absent. */
export function textOf(value: unknown, field: string): string | null {
  if (isAbsent(value)) return null;
  if (typeof value !== "string") throw invalid(field, "must be a string");
  return value;
}

export function requiredText(value: unknown, field: string): string {
  const text = textOf(value, field);
  if (text === null) throw invalid(field, "is required and must be a string");
  return text;
}

export function numberOf(value: unknown, field: string): number | null {
  if (isAbsent(value)) return null;
  if (typeof value !== "number" || !Number.isFinite(value)) throw invalid(field, "must be a number");
  return value;
}

export function flagOf(value: unknown, field: string): boolean | null {
  if (isAbsent(value)) return null;
  if (typeof value !== "boolean") throw invalid(field, "must be true or false");
  return value;
}

export function objectOf(value: unknown, field: string): JsonObject | null {
  if (isAbsent(value)) return null;
  const fields = fieldsOf(value);
  if (!fields) throw invalid(field, "must be an object");
  return fields;
}

export function requiredObject(value: unknown, field: string): JsonObject {
  const fields = fieldsOf(value);
  if (!fields) throw invalid(field, "must be an object");
  return fields;
}

/** Empty = absent. */
export function listOf(value: unknown, field: string): readonly unknown[] {
  if (isAbsent(value)) return [];
  if (!Array.isArray(value)) throw invalid(field, "must be an array");
  return value;
}

/** One string, or several. */
export function textsOf(value: unknown, field: string): readonly string[] {
  if (typeof value === "string") return [value];
  return listOf(value, field).map((each, i) => requiredText(each, `${field}[${i}]`));
}

const DATA_URL = /^data:([a-z0-9.+-]+\/[a-z0-9.+-]+)(?:;[a-z0-9-]+=[^;,]*)*;base64,/i;

/** A medium given as an address: its bytes stand in a `data:` URL. Nothing is fetched. */
export function mediaFrom(
  url: string,
  field: string,
):
  | { readonly kind: "base64"; readonly mediaType: string; readonly data: string }
  | { readonly kind: "url"; readonly url: string; readonly mediaType: null } {
  if (!/^data:/i.test(url)) return { kind: "url", url, mediaType: null };
  const found = DATA_URL.exec(url.slice(0, 256));
  if (!found) throw invalid(field, "is a data URL that is not base64 with a media type, such as data:image/png;base64,…");
  return { kind: "base64", mediaType: (found[1] as string).toLowerCase(), data: url.slice(found[0].length) };
}
