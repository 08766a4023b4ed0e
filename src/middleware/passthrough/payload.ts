/** What a request of the lane sends on. JSON is read, because it names models and files; everything else streams by and is never kept. */
import type { IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import { diagnose } from "../../core/diagnostics.ts";
import { GuardError } from "../../core/errors.ts";
import type { Logger } from "../../core/logger.ts";
import { andThen, type MaybePromise } from "../../core/time.ts";
import { editFields } from "../../dialects/json-edit.ts";
import { readBody } from "../../http/body.ts";
import { parseObject } from "../../http/json.ts";

/** `kept`: somebody in front of us has read it and kept the bytes. */
export type Payload =
  | { readonly kind: "none" }
  | { readonly kind: "json"; readonly bytes: Buffer; readonly fields: Readonly<Record<string, unknown>> }
  | { readonly kind: "kept"; readonly bytes: Buffer }
  /** `length` in bytes; null = the client did not say. */
  | { readonly kind: "stream"; readonly length: number | null };

/** What body parsers of the host may have left. */
interface ParsedRequest extends IncomingMessage {
  readonly rawBody?: unknown;
  readonly body?: unknown;
}

const NONE: Payload = { kind: "none" };
const JSON_TYPE = /^application\/json\b/i;
const WITHOUT_BODY: ReadonlySet<string> = new Set(["GET", "HEAD", "DELETE"]);
const MAX_MODEL_LENGTH = 256;

function invalid(message: string, param?: string): GuardError {
  return new GuardError("body_invalid", message, param === undefined ? {} : { param });
}

const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers["transfer-encoding"] !== undefined || (headers["content-length"] !== undefined && headers["content-length"] !== "0");

/** Reads a JSON body within `limit` bytes; looks at any other only to see that it is still there. */
export function payloadOf(req: IncomingMessage, limit: number, logger: Logger): MaybePromise<Payload> {
  if (!hasBody(req)) return NONE;
  // Node frames no body of theirs that has no length: its bytes would be the provider's next request.
  if (WITHOUT_BODY.has(req.method ?? "GET")) throw invalid(`a ${req.method} request must not have a body here`);
  const { rawBody, body } = req as ParsedRequest;
  if (JSON_TYPE.test(req.headers["content-type"] ?? "")) {
    return andThen(readBody(req, limit, logger), (bytes): Payload => ({ kind: "json", bytes, fields: parseObject(bytes) }));
  }
  const encoding = req.headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity") {
    throw new GuardError("unsupported_encoding", "request bodies must not be compressed", { headers: { "accept-encoding": "identity" } });
  }
  const kept = [rawBody, body].find((each) => Buffer.isBuffer(each));
  if (kept) return { kind: "kept", bytes: kept };
  if (req.readableDidRead) {
    diagnose(logger, "QG_BODY_LOST");
    throw invalid(
      "the body was read before it came here, and only JSON can be put together again; the host must mount the gateway before its body parsers",
    );
  }
  const length = req.headers["content-length"];
  return { kind: "stream", length: length === undefined ? null : Number(length) };
}

/** The model that a JSON body names; null = it names none that can be seen. */
export function modelIn(payload: Payload): string | null {
  if (payload.kind !== "json") return null;
  const { model } = payload.fields;
  if (model === undefined || model === null) return null;
  if (typeof model !== "string" || model === "" || model.length > MAX_MODEL_LENGTH)
    throw invalid(`model must be a string of 1 to ${MAX_MODEL_LENGTH} characters`, "model");
  return model;
}

/** The body as it is sent. */
export interface SentBody {
  readonly source: Readable;
  /** Bytes; null = unknown, it is sent in chunks. */
  readonly length: number | null;
}

/** `model` replaces the name in a JSON body; null leaves it. */
export function sentBody(req: IncomingMessage, payload: Payload, model: string | null): SentBody {
  if (payload.kind === "stream") return { source: req, length: payload.length };
  if (payload.kind === "none") return { source: Readable.from([]), length: WITHOUT_BODY.has(req.method ?? "GET") ? null : 0 };
  const bytes = payload.kind === "json" && model !== null ? renamed(payload, model) : payload.bytes;
  return { source: Readable.from([bytes], { objectMode: false }), length: bytes.length };
}

function renamed({ bytes, fields }: Extract<Payload, { kind: "json" }>, model: string): Buffer {
  if (fields.model === model) return bytes;
  return editFields(bytes, { set: new Map([["model", model]]), rename: NO_NAMES, remove: NO_KEYS }, (key) => Object.hasOwn(fields, key));
}

const NO_NAMES: ReadonlyMap<string, string> = new Map();
const NO_KEYS: ReadonlySet<string> = new Set();
