import type { JsonObject, Tool } from "./message.ts";

const INPUT = "input";

/** A tool that takes text, for providers whose tools take JSON: its text is one field. */
export const flattenedTool = ({
  description,
}: Extract<Tool, { kind: "custom" }>): { readonly description: string | null; readonly schema: JsonObject } => ({
  description,
  schema: { type: "object", properties: { [INPUT]: { type: "string" } }, required: [INPUT] },
});

/** The input of a flattened tool's call, as the provider writes and reads it. */
export const flattenedInput = (text: string): string => JSON.stringify({ [INPUT]: text });

/** The text again. What is no such object is taken as it is. */
export function restoredInput(json: string): string {
  try {
    const value: unknown = (JSON.parse(json) as JsonObject)[INPUT];
    return typeof value === "string" ? value : json;
  } catch {
    return json;
  }
}
