import type { Call } from "../../core/call.ts";
import { GuardError } from "../../core/errors.ts";
import type { CallPath, RequestChanges } from "../dialect.ts";
import { editFields, type FieldEdits } from "../json-edit.ts";
import { fieldsOf } from "../usage.ts";
import { parameterRule, REASONING_CAP, type ParameterRule } from "./parameters.ts";

/** More than any model writes; larger figures are mistakes that would only distort a hold. */
const MOST_OUTPUT_TOKENS = 10_000_000;
const MOST_CHOICES = 128;
const MAX_MODEL_LENGTH = 256;

const CAPS = [REASONING_CAP, "max_tokens"] as const;
const MAX_TOKENS_RENAMED: ReadonlyMap<string, string> = new Map([["max_tokens", REASONING_CAP]]);

type Body = Readonly<Record<string, unknown>>;
type Adjustment = Omit<FieldEdits, "set">;

const UNCHANGED: Adjustment = { rename: new Map(), remove: new Set() };

function invalid(param: string, message: string): GuardError {
  return new GuardError("body_invalid", message, { param });
}

function positiveInteger(body: Body, field: string, most: number): number | null {
  const value = body[field];
  if (value === undefined || value === null) return null;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > most) {
    throw invalid(field, `${field} must be an integer from 1 to ${most}`);
  }
  return value;
}

function boolean(body: Body, field: string): boolean {
  const value = body[field];
  if (value === undefined || value === null) return false;
  if (typeof value !== "boolean") throw invalid(field, `${field} must be true or false`);
  return value;
}

/** A list of prompts is answered one by one; a list of numbers is one prompt's tokens. */
const promptCount = (prompt: unknown): number => (Array.isArray(prompt) && prompt.length > 1 && typeof prompt[0] !== "number" ? prompt.length : 1);

/** Reads what the gateway itself needs to know; everything else is the provider's to judge. */
export function readRequest({ operation }: CallPath, bytes: Buffer, body: Body): Call {
  const model = body.model;
  if (typeof model !== "string" || model === "" || model.length > MAX_MODEL_LENGTH) {
    throw invalid("model", `model is required and must be a string of 1 to ${MAX_MODEL_LENGTH} characters`);
  }
  if (operation === "chat" && !Array.isArray(body.messages)) throw invalid("messages", "messages is required and must be an array");
  if (operation === "embeddings") {
    if (body.input === undefined || body.input === null) throw invalid("input", "input is required");
    return { dialect: "openai", operation, model, stream: false, maxOutputTokens: 0, choices: 1, wantsUsage: false, body, bytes };
  }
  const stream = boolean(body, "stream");
  const legacyCap = positiveInteger(body, "max_tokens", MOST_OUTPUT_TOKENS);
  const cap = operation === "chat" ? positiveInteger(body, "max_completion_tokens", MOST_OUTPUT_TOKENS) : null;
  const n = positiveInteger(body, "n", MOST_CHOICES) ?? 1;
  // Completions' `best_of` are generated and billed, though only `n` of them are returned.
  const bestOf = operation === "completions" ? (positiveInteger(body, "best_of", MOST_CHOICES) ?? 1) : 1;
  const prompts = operation === "completions" ? promptCount(body.prompt) : 1;
  const options = body.stream_options;
  if (options !== undefined && options !== null && !fieldsOf(options)) throw invalid("stream_options", "stream_options must be an object");
  return {
    dialect: "openai",
    operation,
    model,
    stream,
    // With both fields sent, a provider may honour either: the larger one is what may be spent.
    maxOutputTokens: cap === null || legacyCap === null ? (cap ?? legacyCap) : Math.max(cap, legacyCap),
    choices: Math.max(n, bestOf) * prompts,
    wantsUsage: fieldsOf(options)?.include_usage === true,
    body,
    bytes,
  };
}

/** Makes the changes in the bytes; returns the same buffer when there is nothing to change. */
export function rewriteRequest(call: Call, changes: RequestChanges): Buffer {
  const { body } = call;
  const model = changes.model ?? call.model;
  const rule = call.operation === "chat" ? parameterRule(model) : null;
  const { rename, remove } = rule ? renamedAndRemoved(body, rule) : UNCHANGED;
  const set = new Map<string, unknown>();
  if (model !== call.model) set.set("model", model);
  if (changes.includeUsage && !call.wantsUsage) set.set("stream_options", { ...fieldsOf(body.stream_options), include_usage: true });
  if (changes.outputCap !== undefined) {
    const sent = CAPS.filter((field) => typeof body[field] === "number" && !remove.has(field));
    if (sent.length === 0) set.set(rule ? REASONING_CAP : (changes.capField ?? "max_tokens"), changes.outputCap);
    for (const field of sent) if ((body[field] as number) > changes.outputCap) set.set(field, changes.outputCap);
  }
  if (set.size === 0 && rename.size === 0 && remove.size === 0) return call.bytes;
  return editFields(call.bytes, { set, rename, remove }, (key) => Object.hasOwn(body, key));
}

/** Takes out what a reasoning model refuses. Its own cap wins over `max_tokens`; a null is no cap. */
function renamedAndRemoved(body: Body, { drop }: ParameterRule): Adjustment {
  const remove = new Set(drop.filter((field) => Object.hasOwn(body, field)));
  if (!Object.hasOwn(body, "max_tokens")) return remove.size === 0 ? UNCHANGED : { ...UNCHANGED, remove };
  if (body.max_tokens === null || typeof body[REASONING_CAP] === "number") return { ...UNCHANGED, remove: remove.add("max_tokens") };
  if (Object.hasOwn(body, REASONING_CAP)) remove.add(REASONING_CAP);
  return { rename: MAX_TOKENS_RENAMED, remove };
}
