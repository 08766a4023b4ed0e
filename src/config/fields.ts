/** Options as plain objects, before anything is known to be right about them. */
import type { OptionPath } from "../options/tree.ts";

export type Fields = Readonly<Record<string, unknown>>;

/** Not a store, a clock, a Secret or a list. */
export function isPlain(value: unknown): value is Fields {
  return typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;
}

/** Objects are merged, everything else is replaced. */
export function merge(below: Fields, above: Fields): Fields {
  const result: Record<string, unknown> = { ...below };
  for (const [key, value] of Object.entries(above)) {
    const old = result[key];
    if (value !== undefined) result[key] = isPlain(old) && isPlain(value) ? merge(old, value) : value;
  }
  return result;
}

/** A copy with one value set; objects and lists on the way are made as needed. */
export function setAt(target: unknown, path: OptionPath, value: unknown): unknown {
  const [part, ...rest] = path;
  if (part === undefined) return value;
  if (typeof part === "number") {
    const items: unknown[] = Array.isArray(target) ? [...(target as unknown[])] : [];
    items[part] = setAt(items[part], rest, value);
    return items;
  }
  const fields = isPlain(target) ? target : {};
  return { ...fields, [part]: setAt(fields[part], rest, value) };
}

/** Everything that is set, lists themselves included. */
export function leavesOf(value: unknown, path: OptionPath): OptionPath[] {
  if (isPlain(value)) return Object.entries(value).flatMap(([key, child]) => (child === undefined ? [] : leavesOf(child, [...path, key])));
  if (Array.isArray(value)) return [path, ...value.flatMap((item: unknown, index) => leavesOf(item, [...path, index]))];
  return [path];
}
