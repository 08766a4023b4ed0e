/** A model's name with a level of reasoning behind it, `name(high)`: taken off before anything is decided by the name, and said in the body instead. */
import type { Call, Family } from "../core/call.ts";
import type { Dialect } from "./dialect.ts";
import { editFields } from "./json-edit.ts";
import { losses } from "./losses.ts";
import type { ChatRequest, JsonObject, Reasoning } from "./message.ts";
import { reasoningSuffix } from "./reasoning.ts";
import { fieldsOf } from "./usage.ts";

const NONE: ReadonlyMap<string, string> = new Map();

/** The call without the suffix, which it carries as a wish of its own. */
export function withoutSuffix(call: Call): Call {
  if (!call.model.endsWith(")") || (call.operation !== "chat" && call.operation !== "count_tokens")) return call;
  const found = reasoningSuffix(call.model);
  if (!found) return call;
  const { model } = found;
  const reasoning = call.model.slice(model.length + 1, -1);
  // In some dialects the path names the model.
  if (call.body.model !== call.model) return { ...call, model, reasoning };
  const bytes = editFields(call.bytes, { set: new Map([["model", model]]), rename: NONE, remove: new Set() }, () => true);
  return { ...call, model, reasoning, body: { ...call.body, model }, bytes };
}

/** What the suffix asks for, in place of what the body does; whether thoughts are to be seen is still the body's to say. Null = there was none. */
export function reasoningOf({ reasoning }: Call, inBody: Reasoning | null): Reasoning | null {
  const found = reasoning === undefined ? null : reasoningSuffix(`m(${reasoning})`);
  return found && { ...found.reasoning, wantsThoughts: inBody?.wantsThoughts ?? null };
}

export interface SuffixTarget {
  /** As the provider knows it. */
  readonly model: string;
  readonly family: Family;
}

/**
 * The suffix as members of the body, for a provider that speaks the caller's dialect. Which members those are, and what does not go together with them, the
 * dialect's own codec knows: the body is written with the wish and without, and what differs is changed.
 */
export function withReasoning({ codec }: Dialect, call: Call, bytes: Buffer, { model, family }: SuffixTarget): Buffer {
  if (!codec) return bytes;
  const request = codec.decodeRequest(call.body, { model, stream: call.stream }, losses(true));
  const written = (each: ChatRequest): JsonObject => codec.encodeRequest(each, { losses: losses(true), family }).body;
  const before = written(request);
  const after = written({ ...request, reasoning: reasoningOf(call, request.reasoning) });
  const silent = written({ ...request, reasoning: null });
  const body = JSON.parse(bytes.toString()) as JsonObject;
  const set = new Map<string, unknown>();
  const remove = new Set<string>();
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const isOtherKind = silent[key] === undefined && isOfOtherType(body[key], after[key]);
    if (!isOtherKind && JSON.stringify(before[key]) === JSON.stringify(after[key])) continue;
    const value = isOtherKind ? after[key] : changed(body[key], before[key], after[key]);
    if (value === undefined) remove.add(key);
    else set.set(key, value);
  }
  if (set.size === 0 && remove.size === 0) return bytes;
  return editFields(bytes, { set, rename: NONE, remove }, (key) => Object.hasOwn(body, key));
}

/** What the caller wrote of reasoning has another `type` than what is wanted: the members of one go with no other. */
function isOfOtherType(own: unknown, wanted: unknown): boolean {
  const mine = fieldsOf(own)?.type;
  return mine !== undefined && mine !== fieldsOf(wanted)?.type;
}

/** Of an object only the members that differ: others of the caller's stand beside them. */
function changed(own: unknown, before: unknown, after: unknown): unknown {
  const [mine, old, wanted] = [fieldsOf(own), fieldsOf(before) ?? {}, fieldsOf(after) ?? (after === undefined ? {} : null)];
  if (!mine || !wanted) return after;
  const kept = Object.entries(mine).filter(([key]) => !(Object.hasOwn(old, key) && !Object.hasOwn(wanted, key)));
  const differing = Object.entries(wanted).filter(([key, value]) => JSON.stringify(old[key]) !== JSON.stringify(value));
  const value = Object.fromEntries([...kept, ...differing]);
  return Object.keys(value).length === 0 ? undefined : value;
}
