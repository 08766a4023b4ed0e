import type { Operation } from "../../core/call.ts";
import type { Usage } from "../../core/usage.ts";
import type { Codec } from "../codec.ts";
import type { Dialect, DialectRoute, ObserverOptions, StreamObserver } from "../dialect.ts";
import { lazyObserver } from "../lazy-observer.ts";
import { fieldsOf } from "../usage.ts";
import { decodeAnswer, decodeError, encodeAnswer, encodeUsage, usageIn } from "./answer.ts";
import { decodeRequest } from "./decode-request.ts";
import { geminiDecoder } from "./decode-stream.ts";
import { encodeRequest } from "./encode-request.ts";
import { geminiEncoder } from "./encode-stream.ts";
import { errorBody, errorEvent } from "./errors.ts";
import { member } from "./names.ts";
import { readRequest, rewriteRequest } from "./request.ts";
import { parsedObject } from "../parsed-object.ts";

/** GenerateContent from and to the neutral form. */
export const geminiCodec: Codec = {
  decodeRequest,
  encodeRequest,
  decodeAnswer,
  encodeAnswer,
  decoder: geminiDecoder,
  encoder: geminiEncoder,
  encodeUsage,
  decodeError,
};

const same = (name: string): string => name;

function readResponse(bytes: Buffer): { readonly usage: Usage } | { readonly text: string } | null {
  const body = parsedObject(bytes.toString());
  if (!body) return null;
  const usage = usageIn(body);
  if (usage) return { usage };
  const blocks = (decodeAnswer(body, same)?.choices ?? []).flatMap((choice) => choice.blocks);
  return { text: blocks.map((block) => ("text" in block ? block.text : block.type === "tool_call" ? block.name + block.input : "")).join("") };
}

const observer = (options: ObserverOptions): StreamObserver =>
  lazyObserver({ options, decoder: () => geminiDecoder({ toolName: same, unwrap: undefined }), ends: usageAtEnd });

/** The last fragment says why it is the last, and what was used. With several answers all of them must have ended: then the stream is read in full. */
function usageAtEnd(_head: string, tail: string): { readonly usage: Usage } | null {
  const at = tail.lastIndexOf("data: {");
  const body = at < 0 ? null : parsedObject(tail.slice(at + 6).trimEnd());
  const candidates = body?.candidates;
  if (!body || !Array.isArray(candidates) || candidates.length !== 1) return null;
  const candidate = fieldsOf(candidates[0]);
  if ((candidate?.index ?? 0) !== 0 || typeof member(candidate, "finishReason") !== "string") return null;
  const usage = usageIn(body);
  return usage && { usage };
}

const OPERATIONS: readonly { readonly verb: string; readonly operation: Operation; readonly stream: boolean }[] = [
  { verb: "generateContent", operation: "chat", stream: false },
  { verb: "streamGenerateContent", operation: "chat", stream: true },
  { verb: "countTokens", operation: "count_tokens", stream: false },
];

const routes: readonly DialectRoute[] = ["/v1beta", "/v1"].flatMap((version) =>
  OPERATIONS.map(({ verb, operation, stream }): DialectRoute => ({ method: "POST", path: `${version}/models/{model}:${verb}`, operation, stream })),
);

/** Google's generateContent, its stream, and its count of tokens. */
export const gemini: Dialect = {
  id: "gemini",
  routes,
  read: readRequest,
  rewrite: rewriteRequest,
  readResponse,
  observer,
  countBody: (tokens) => ({ totalTokens: tokens }),
  errorBody,
  codec: geminiCodec,
  errorEvent,
};
