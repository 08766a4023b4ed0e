import type { ErrorRequestHandler } from "express";
import { randomUUID } from "node:crypto";
import { GuardError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import { problemRefusal } from "../http/render.ts";

/** Renders what an admin route threw as RFC 9457; faults of ours are logged and not shown. */
export function problemHandler(logger: Logger): ErrorRequestHandler {
  return function problem(thrown, _req, res, next) {
    if (res.headersSent) {
      next(thrown);
      return;
    }
    const error = problemOf(thrown, logger);
    error.requestId ??= randomUUID();
    const { status, headers, body } = problemRefusal(error);
    for (let i = 0; i < headers.length; i += 2) res.setHeader(headers[i] as string, headers[i + 1] as string);
    res.setHeader("cache-control", "no-store");
    res.status(status).end(body);
  };
}

function problemOf(thrown: unknown, logger: Logger): GuardError {
  if (GuardError.is(thrown)) return thrown;
  // Express's own body parser marks what the client did wrong.
  const { status, type } = thrown as { status?: unknown; type?: unknown };
  if (type === "entity.too.large") return new GuardError("body_too_large", "the body is too large for an admin request");
  if (type === "entity.parse.failed") return new GuardError("body_invalid", "the body is not valid JSON");
  if (status === 400) return new GuardError("body_invalid", "the request's path or body could not be read");
  if (status === 415) return new GuardError("unsupported_encoding", "the body's encoding or charset is not supported");
  logger.error({ err: thrown }, "an admin request failed unexpectedly");
  return new GuardError("internal", "an internal error occurred; see the server's log", { cause: thrown });
}
