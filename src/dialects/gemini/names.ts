import type { JsonObject } from "../message.ts";

const snake = new Map<string, string>();

/** A member by its name in camel case; Google's clients may write it in snake case as well. */
export function member(fields: JsonObject | null | undefined, name: string): unknown {
  if (!fields) return undefined;
  if (Object.hasOwn(fields, name)) return fields[name];
  let other = snake.get(name);
  if (other === undefined) snake.set(name, (other = name.replaceAll(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)));
  return Object.hasOwn(fields, other) ? fields[other] : undefined;
}
