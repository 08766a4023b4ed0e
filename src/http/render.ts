import type { Answer } from "../core/answer.ts";
import type { DialectId } from "../core/call.ts";
import type { Context } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import { dialect } from "../dialects/index.ts";

/** SDKs sleep through a short wait by themselves; beyond this they must hand the refusal to their caller instead of hammering or hanging. */
const SDK_WAIT_MS = 10_000;

/** A provider may name weeks. Nobody is told to wait longer than a day: then somebody has looked again. */
const MOST_TOLD_MS = 24 * 60 * 60_000;

/** The wait that a caller is told of. */
export const toldWait = (waitMs: number | null): { readonly retryAfterMs?: number } =>
  waitMs === null ? {} : { retryAfterMs: Math.min(waitMs, MOST_TOLD_MS) };

/** The error as a GuardError: whatever else was thrown is a fault of ours, logged and not shown. */
export function asGuardError(thrown: unknown, ctx: Context): GuardError {
  if (GuardError.is(thrown)) {
    if (thrown.cause !== undefined) ctx.services.logger.warn({ err: thrown.cause, code: thrown.code, requestId: ctx.requestId }, thrown.message);
    return thrown;
  }
  ctx.services.logger.error({ err: thrown, requestId: ctx.requestId }, "a request failed unexpectedly");
  return new GuardError("internal", "an internal error occurred; the request id helps to find it in the server's log", { cause: thrown });
}

/** Headers of a refusal: how long to wait, and whether an SDK should retry by itself. */
export function refusalHeaders(error: GuardError, alwaysFinal: boolean): string[] {
  const headers: string[] = [];
  for (const [name, value] of Object.entries(error.headers)) headers.push(name, value);
  if (error.retryAfterMs !== undefined) headers.push("retry-after", String(Math.max(1, Math.ceil(error.retryAfterMs / 1000))));
  const waitsLong = error.retryAfterMs === undefined ? error.status === 429 : error.retryAfterMs > SDK_WAIT_MS;
  if ((alwaysFinal || waitsLong) && error.headers["x-should-retry"] === undefined) headers.push("x-should-retry", "false");
  return headers;
}

/** A refusal in the caller's dialect. */
export function dialectRefusal(error: GuardError, id: DialectId, alwaysFinal: boolean): Answer {
  return {
    status: error.status,
    headers: ["content-type", "application/json; charset=utf-8", ...refusalHeaders(error, alwaysFinal)],
    body: Buffer.from(JSON.stringify(dialect(id).errorBody(error))),
  };
}

/** A refusal on a host's own route or an admin route: RFC 9457. */
export function problemRefusal(error: GuardError): Answer {
  const { message, code, status, limit, scope, needed, available, retryAfterMs, requestId, param } = error;
  const problem = {
    type: "about:blank",
    title: code.replaceAll("_", " "),
    status,
    detail: message,
    code,
    param,
    limit,
    scope,
    needed,
    available,
    retry_after_ms: retryAfterMs,
    request_id: requestId,
  };
  return {
    status,
    headers: ["content-type", "application/problem+json; charset=utf-8", ...refusalHeaders(error, false)],
    body: Buffer.from(JSON.stringify(problem)),
  };
}
