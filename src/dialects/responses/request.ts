import type { Call } from "../../core/call.ts";
import type { CallPath, RequestChanges } from "../dialect.ts";
import { flagOf, invalid } from "../fields.ts";
import { editFields } from "../json-edit.ts";
import type { JsonObject } from "../message.ts";
import { parameterRule } from "../openai/parameters.ts";
import { fieldsOf } from "../usage.ts";
import { isForeignSeal, mayHoldForeignSeal } from "./seals.ts";

const MOST_OUTPUT_TOKENS = 10_000_000;
const MAX_MODEL_LENGTH = 256;
/** What stands for the input when the provider keeps the conversation. */
const STORED = ["previous_response_id", "conversation", "prompt"];

/** Reads what the gateway itself needs to know; everything else is the provider's to judge. */
export function readRequest({ operation }: CallPath, bytes: Buffer, body: JsonObject): Call {
  const { model, input, max_output_tokens: cap } = body;
  if (typeof model !== "string" || model === "" || model.length > MAX_MODEL_LENGTH)
    throw invalid("model", `is required and must be a string of 1 to ${MAX_MODEL_LENGTH} characters`);
  const isAbsent = (input === undefined || input === null) && STORED.some((field) => (body[field] ?? null) !== null);
  if (!isAbsent && typeof input !== "string" && !Array.isArray(input)) throw invalid("input", "is required and must be a string or an array");
  // It would be answered before it is thought of, and billed when nobody counts any more.
  if (flagOf(body.background, "background") === true)
    throw invalid("background", "must not be true: what it will cost is not known when it is answered; stream instead");
  const isCapped = cap !== undefined && cap !== null;
  if (isCapped && (typeof cap !== "number" || !Number.isInteger(cap) || cap < 1 || cap > MOST_OUTPUT_TOKENS))
    throw invalid("max_output_tokens", `must be an integer from 1 to ${MOST_OUTPUT_TOKENS}`);
  return {
    dialect: "responses",
    operation,
    model,
    stream: flagOf(body.stream, "stream") === true,
    maxOutputTokens: isCapped ? cap : null,
    choices: 1,
    wantsUsage: true,
    body,
    bytes,
  };
}

/** Makes the changes in the bytes; returns the same buffer when there is nothing to change. */
export function rewriteRequest({ body, bytes, model }: Call, changes: RequestChanges): Buffer {
  const sent = changes.model ?? model;
  const set = new Map<string, unknown>();
  if (sent !== model) set.set("model", sent);
  const cap = body.max_output_tokens;
  if (changes.outputCap !== undefined && (typeof cap !== "number" || cap > changes.outputCap)) set.set("max_output_tokens", changes.outputCap);
  const input = ownInput(bytes, body.input);
  if (input) set.set("input", input);
  const remove = new Set(parameterRule(sent)?.drop.filter((field) => Object.hasOwn(body, field)));
  if (set.size === 0 && remove.size === 0) return bytes;
  return editFields(bytes, { set, rename: new Map(), remove }, (key) => Object.hasOwn(body, key));
}

/**
 * The input without the thoughts of other families, which stand in it when another model answered before: they would be refused. Null = it has none and
 * stays as it is.
 */
function ownInput(bytes: Buffer, input: unknown): readonly unknown[] | null {
  if (!Array.isArray(input) || !mayHoldForeignSeal(bytes)) return null;
  const own = input.filter((item: unknown) => !isForeignSeal(fieldsOf(item)?.encrypted_content));
  return own.length === input.length ? null : own;
}
