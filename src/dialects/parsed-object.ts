import type { JsonObject } from "./message.ts";
import { fieldsOf } from "./usage.ts";

/** The JSON object that a text is; null = it is none. */
export function parsedObject(text: string): JsonObject | null {
  try {
    return fieldsOf(JSON.parse(text));
  } catch {
    return null;
  }
}
