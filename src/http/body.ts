import type { IncomingMessage } from "node:http";
import { GuardError } from "../core/errors.ts";
import type { MaybePromise } from "../core/time.ts";

/** What body parsers of Express and Nest may have left on the request. */
interface ParsedRequest extends IncomingMessage {
  rawBody?: unknown;
  body?: unknown;
}

const tooLarge = (limit: number): GuardError =>
  new GuardError("body_too_large", `the body is larger than ${limit} bytes`, { headers: { connection: "close" } });

/**
 * The request's bytes: what a parser before us kept (`rawBody`), else what it parsed, else the stream itself. Rejects with `body_too_large`
 * without buffering beyond the limit.
 */
export function readBody(req: IncomingMessage, limit: number): MaybePromise<Buffer> {
  const encoding = req.headers["content-encoding"];
  const { rawBody, body } = req as ParsedRequest;
  if (Buffer.isBuffer(rawBody)) return capped(rawBody, limit);
  // Parsers set `body` to an empty object (or leave undefined) when the content type was not theirs: then the stream is still unread.
  if (body !== undefined && req.readableEnded) return capped(bytesOf(body), limit);
  if (encoding !== undefined && encoding !== "identity") {
    throw new GuardError(
      "unsupported_encoding",
      `request bodies must not be compressed (content-encoding: ${/^[\w, -]{1,40}$/.test(encoding) ? encoding : "?"})`,
      {
        headers: { "accept-encoding": "identity" },
      },
    );
  }
  const declared = Number(req.headers["content-length"]);
  if (declared > limit) throw tooLarge(limit);
  return stream(req, limit);
}

function capped(bytes: Buffer, limit: number): Buffer {
  if (bytes.length > limit) throw tooLarge(limit);
  return bytes;
}

function bytesOf(body: unknown): Buffer {
  if (Buffer.isBuffer(body)) return body;
  return Buffer.from(typeof body === "string" ? body : JSON.stringify(body));
}

function stream(req: IncomingMessage, limit: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    let first: Buffer | undefined;
    let more: Buffer[] | undefined;
    let size = 0;
    const stop = (): void => {
      req.off("data", onData).off("end", onEnd).off("error", onClose).off("close", onClose);
    };
    const onData = (chunk: Buffer): void => {
      size += chunk.length;
      if (size > limit) {
        stop();
        // Not read further: the connection closes after the answer.
        req.pause();
        reject(tooLarge(limit));
      } else if (first === undefined) first = chunk;
      else (more ??= [first]).push(chunk);
    };
    const onEnd = (): void => {
      stop();
      resolve(more ? Buffer.concat(more, size) : (first ?? Buffer.alloc(0)));
    };
    const onClose = (): void => {
      stop();
      reject(new GuardError("body_invalid", "the connection closed before the body was complete"));
    };
    if (req.readableEnded || req.destroyed) {
      onClose();
      return;
    }
    req.on("data", onData).on("end", onEnd).on("error", onClose).on("close", onClose);
  });
}
