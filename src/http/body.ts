import type { IncomingMessage } from "node:http";
import { diagnose } from "../core/diagnostics.ts";
import { GuardError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { MaybePromise } from "../core/time.ts";

/** What body parsers of Express and Nest may have left on the request. */
interface ParsedRequest extends IncomingMessage {
  rawBody?: unknown;
  body?: unknown;
}

const tooLarge = (limit: number): GuardError =>
  new GuardError("body_too_large", `the body is larger than ${limit} bytes`, { headers: { connection: "close" } });

const LOST =
  "the body was read before it came here, and nothing of it is left; the host must mount the gateway before its body parsers, or keep the bytes in req.rawBody";

/**
 * The request's bytes: what a parser before us kept (`rawBody`), else what it parsed, else the stream itself. Rejects with `body_too_large`
 * without buffering beyond the limit, and with `body_invalid` when somebody else has read the body and kept nothing. The logger is told once of a host
 * that reads bodies first.
 */
export function readBody(req: IncomingMessage, limit: number, logger?: Logger): MaybePromise<Buffer> {
  const encoding = req.headers["content-encoding"];
  const { rawBody, body } = req as ParsedRequest;
  if (Buffer.isBuffer(rawBody)) return capped(rawBody, limit);
  // Parsers set `body` to an empty object (or leave undefined) when the content type was not theirs: then the stream is still unread.
  if (body !== undefined && req.readableEnded) {
    if (logger && req.readableDidRead) diagnose(logger, "QG_BODY_PARSED");
    return capped(bytesOf(body), limit);
  }
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
  // A part of it is nothing either. Only of a connection that broke it is the client's doing.
  if (req.readableDidRead && (req.readableEnded || !req.destroyed)) {
    if (logger) diagnose(logger, "QG_BODY_LOST");
    return Promise.reject(new GuardError("body_invalid", LOST));
  }
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
    if (req.readableEnded) {
      // There was none.
      onEnd();
      return;
    }
    if (req.destroyed) {
      onClose();
      return;
    }
    req.on("data", onData).on("end", onEnd).on("error", onClose).on("close", onClose);
  });
}
