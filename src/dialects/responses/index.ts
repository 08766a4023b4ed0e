import type { Usage } from "../../core/usage.ts";
import type { Codec } from "../codec.ts";
import type { Dialect, ObserverOptions, StreamObserver } from "../dialect.ts";
import { lazyObserver } from "../lazy-observer.ts";
import { errorBody } from "../openai/response.ts";
import { fieldsOf, openaiUsage } from "../usage.ts";
import { decodeAnswer, encodeAnswer, encodeUsage } from "./answer.ts";
import { decodeRequest } from "./decode-request.ts";
import { responsesDecoder } from "./decode-stream.ts";
import { encodeRequest } from "./encode-request.ts";
import { responsesEncoder } from "./encode-stream.ts";
import { decodeError, errorEvent } from "./errors.ts";
import { readRequest, rewriteRequest } from "./request.ts";
import { parsedObject } from "../parsed-object.ts";

/** Responses from and to the neutral form. */
export const responsesCodec: Codec = {
  decodeRequest,
  encodeRequest,
  decodeAnswer,
  encodeAnswer,
  decoder: responsesDecoder,
  encoder: responsesEncoder,
  encodeUsage,
  decodeError,
};

const same = (name: string): string => name;

function readResponse(bytes: Buffer): { readonly usage: Usage } | { readonly text: string } | null {
  const body = parsedObject(bytes.toString());
  if (!body) return null;
  const usage = openaiUsage(body.usage);
  if (usage) return { usage };
  const blocks = decodeError(body) ? [] : (decodeAnswer(body, same)?.choices[0]?.blocks ?? []);
  return { text: blocks.map((block) => ("text" in block ? block.text : block.type === "tool_call" ? block.name + block.input : "")).join("") };
}

const observer = (options: ObserverOptions): StreamObserver =>
  lazyObserver({ options, decoder: () => responsesDecoder({ toolName: same, unwrap: undefined }), ends: usageAtEnd });

const TERMINAL = /(?:^|[\r\n])data: ?(\{"type":"response\.(?:completed|incomplete)".*)/g;

/** The last event tells all of it, if it is short enough to be seen whole. */
function usageAtEnd(_head: string, tail: string): { readonly usage: Usage } | null {
  const data = [...tail.matchAll(TERMINAL)].at(-1)?.[1];
  const usage = data === undefined ? null : openaiUsage(fieldsOf(parsedObject(data)?.response)?.usage);
  return usage && { usage };
}

/** OpenAI's Responses. */
export const responses: Dialect = {
  id: "responses",
  routes: [{ method: "POST", path: "/v1/responses", operation: "chat" }],
  read: readRequest,
  rewrite: rewriteRequest,
  readResponse,
  observer,
  errorBody,
  codec: responsesCodec,
  errorEvent,
};
