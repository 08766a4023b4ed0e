import type { Call } from "../../core/call.ts";
import type { CallPath, RequestChanges } from "../dialect.ts";
import { invalid, objectOf } from "../fields.ts";
import { editFields } from "../json-edit.ts";
import type { JsonObject } from "../message.ts";
import { member } from "./names.ts";

const MOST_OUTPUT_TOKENS = 10_000_000;
const MOST_CANDIDATES = 128;
const MAX_MODEL_LENGTH = 256;

/** One may be read here and the other at the provider. */
function onceNamed(fields: JsonObject, name: string, other: string, at: string): void {
  if (Object.hasOwn(fields, name) && Object.hasOwn(fields, other))
    throw invalid(at, `stands here twice, as ${name} and as ${other}; send one of them`);
}

function positiveInteger(config: JsonObject, name: string, most: number): number | null {
  const value = member(config, name);
  if (value === undefined || value === null) return null;
  if (typeof value !== "number" || !Number.isInteger(value) || value < 1 || value > most)
    throw invalid(`generationConfig.${name}`, `must be an integer from 1 to ${most}`);
  return value;
}

/** Reads what the gateway itself needs to know; everything else is the provider's to judge. The model stands in the path. */
export function readRequest({ operation, model, stream }: CallPath, bytes: Buffer, body: JsonObject): Call {
  if (model === null || model === "" || model.length > MAX_MODEL_LENGTH)
    throw invalid("model", "in the path must be 1 to 256 characters, as in /v1beta/models/gemini-2.5-flash:generateContent");
  const isChat = operation === "chat";
  if (isChat && !Array.isArray(body.contents)) throw invalid("contents", "is required and must be an array");
  onceNamed(body, "generationConfig", "generation_config", "generationConfig");
  const config = objectOf(member(body, "generationConfig"), "generationConfig") ?? {};
  onceNamed(config, "maxOutputTokens", "max_output_tokens", "generationConfig.maxOutputTokens");
  onceNamed(config, "candidateCount", "candidate_count", "generationConfig.candidateCount");
  return {
    dialect: "gemini",
    operation,
    model,
    stream: isChat && stream === true,
    maxOutputTokens: isChat ? positiveInteger(config, "maxOutputTokens", MOST_OUTPUT_TOKENS) : 0,
    choices: isChat ? (positiveInteger(config, "candidateCount", MOST_CANDIDATES) ?? 1) : 1,
    wantsUsage: true,
    body,
    bytes,
  };
}

/** Makes the changes in the bytes; returns the same buffer when there is nothing to change. The model's name is the path's business. */
export function rewriteRequest({ body, bytes }: Call, { outputCap }: RequestChanges): Buffer {
  if (outputCap === undefined) return bytes;
  const name = Object.hasOwn(body, "generation_config") && !Object.hasOwn(body, "generationConfig") ? "generation_config" : "generationConfig";
  const config = objectOf(body[name], name) ?? {};
  const cap = member(config, "maxOutputTokens");
  if (typeof cap === "number" && cap <= outputCap) return bytes;
  const { max_output_tokens: _legacy, ...rest } = config;
  const set = new Map<string, unknown>([[name, { ...rest, maxOutputTokens: outputCap }]]);
  return editFields(bytes, { set, rename: new Map(), remove: new Set() }, (key) => Object.hasOwn(body, key));
}
