import type { Call } from "../../core/call.ts";
import type { CallPath, RequestChanges } from "../dialect.ts";
import { flagOf, invalid } from "../fields.ts";
import { editFields } from "../json-edit.ts";
import type { JsonObject } from "../message.ts";

const MOST_OUTPUT_TOKENS = 10_000_000;
const MAX_MODEL_LENGTH = 256;

/** Reads what the gateway itself needs to know; everything else is the provider's to judge. */
export function readRequest({ operation }: CallPath, bytes: Buffer, body: JsonObject): Call {
  const { model, max_tokens: cap } = body;
  if (typeof model !== "string" || model === "" || model.length > MAX_MODEL_LENGTH)
    throw invalid("model", `is required and must be a string of 1 to ${MAX_MODEL_LENGTH} characters`);
  if (!Array.isArray(body.messages)) throw invalid("messages", "is required and must be an array");
  const isChat = operation === "chat";
  if (isChat && cap !== undefined && (typeof cap !== "number" || !Number.isInteger(cap) || cap < 1 || cap > MOST_OUTPUT_TOKENS))
    throw invalid("max_tokens", `must be an integer from 1 to ${MOST_OUTPUT_TOKENS}`);
  return {
    dialect: "anthropic",
    operation,
    model,
    stream: isChat && flagOf(body.stream, "stream") === true,
    maxOutputTokens: isChat ? ((cap as number | undefined) ?? null) : 0,
    choices: 1,
    wantsUsage: true,
    body,
    bytes,
  };
}

/** Makes the changes in the bytes; returns the same buffer when there is nothing to change. */
export function rewriteRequest({ body, bytes, model }: Call, changes: RequestChanges): Buffer {
  const set = new Map<string, unknown>();
  if (changes.model !== undefined && changes.model !== model) set.set("model", changes.model);
  const cap = body.max_tokens;
  if (changes.outputCap !== undefined && (typeof cap !== "number" || cap > changes.outputCap)) set.set("max_tokens", changes.outputCap);
  return set.size === 0 ? bytes : editFields(bytes, { set, rename: new Map(), remove: new Set() }, (key) => Object.hasOwn(body, key));
}
