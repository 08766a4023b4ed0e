import type { Usage } from "../../core/usage.ts";
import type { Codec } from "../codec.ts";
import type { Dialect, ObserverOptions, StreamObserver } from "../dialect.ts";
import { lazyObserver } from "../lazy-observer.ts";
import type { JsonObject } from "../message.ts";
import { anthropicUsage, fieldsOf } from "../usage.ts";
import { decodeAnswer, decodeError, encodeAnswer, encodeUsage } from "./answer.ts";
import { decodeRequest } from "./decode-request.ts";
import { anthropicDecoder } from "./decode-stream.ts";
import { encodeRequest } from "./encode-request.ts";
import { anthropicEncoder } from "./encode-stream.ts";
import { errorBody, errorEvent } from "./errors.ts";
import { readRequest, rewriteRequest } from "./request.ts";
import { parsedObject } from "../parsed-object.ts";

/** Messages from and to the neutral form. */
export const anthropicCodec: Codec = {
  decodeRequest,
  encodeRequest,
  decodeAnswer,
  encodeAnswer,
  decoder: anthropicDecoder,
  encoder: anthropicEncoder,
  encodeUsage,
  decodeError,
};

const same = (name: string): string => name;

function readResponse(bytes: Buffer): { readonly usage: Usage } | { readonly text: string } | null {
  const body = parsedObject(bytes.toString());
  if (!body) return null;
  const usage = anthropicUsage(body.usage);
  if (usage) return { usage };
  const blocks = decodeAnswer(body, same)?.choices[0]?.blocks ?? [];
  return { text: blocks.map((block) => ("text" in block ? block.text : block.type === "tool_call" ? block.name + block.input : "")).join("") };
}

const observer = (options: ObserverOptions): StreamObserver =>
  lazyObserver({ options, decoder: () => anthropicDecoder({ toolName: same, unwrap: undefined }), ends: usageAtEnds });

/** The data of the first or last event of a type. A quote inside a string is escaped, so the marker cannot come from generated text. */
function eventData(text: string, type: string, from: "first" | "last"): JsonObject | null {
  const marker = `data: {"type":"${type}"`;
  const at = from === "first" ? text.indexOf(marker) : text.lastIndexOf(marker);
  if (at < 0) return null;
  const end = text.indexOf("\n", at);
  return parsedObject(text.slice(at + 6, end < 0 ? undefined : end).trimEnd());
}

/** The first event tells the input, the last but one the output. */
function usageAtEnds(head: string, tail: string): { readonly usage: Usage } | null {
  if (!eventData(tail, "message_stop", "last")) return null;
  const begun = fieldsOf(fieldsOf(eventData(head, "message_start", "first")?.message)?.usage);
  const ended = fieldsOf(eventData(tail, "message_delta", "last")?.usage);
  if (!begun || typeof ended?.output_tokens !== "number") return null;
  const told = Object.entries(ended).filter(([, count]) => count !== null && count !== undefined);
  const usage = anthropicUsage({ ...begun, ...Object.fromEntries(told) });
  return usage && { usage };
}

/** Anthropic's Messages and its count of tokens. */
export const anthropic: Dialect = {
  id: "anthropic",
  routes: [
    { method: "POST", path: "/v1/messages", operation: "chat" },
    { method: "POST", path: "/v1/messages/count_tokens", operation: "count_tokens" },
  ],
  read: readRequest,
  rewrite: rewriteRequest,
  readResponse,
  observer,
  countBody: (tokens) => ({ input_tokens: tokens }),
  errorBody,
  codec: anthropicCodec,
  errorEvent,
};
