import type { ServerResponse } from "node:http";
import { HttpException } from "@nestjs/common";
import { GuardError } from "../core/errors.ts";
import { problemRefusal, refusalHeaders } from "../http/render.ts";

const CONTENT_TYPE = "application/problem+json; charset=utf-8";

/**
 * A refusal, for exception filters: the status of its code, and a problem document (RFC 9457) as its response. Without a filter of yours Nest sends just
 * that, as `application/problem+json`.
 */
export class QuotaGuardException extends HttpException {
  /** Which limit, what was needed, what is left, when to come back. */
  readonly error: GuardError;

  constructor(error: GuardError) {
    super(JSON.parse((problemRefusal(error).body as Buffer).toString()) as object, error.status, { cause: error });
    this.message = error.message;
    this.error = error;
  }
}

/** A refusal of a budget: the guard has set its headers already. */
export function refused(error: GuardError, res: ServerResponse): QuotaGuardException {
  if (!res.headersSent) res.setHeader("content-type", CONTENT_TYPE);
  return new QuotaGuardException(error);
}

/** What a handler threw: a refusal of ours inside it (of an SDK that calls through the guard) as the exception that it would be here, all else as it is. */
export function withoutSdk(thrown: unknown, res: ServerResponse): unknown {
  if (thrown instanceof HttpException) return thrown;
  const error = GuardError.from(thrown);
  if (!error) return thrown;
  if (!res.headersSent) {
    const headers = refusalHeaders(error, false);
    for (let i = 0; i < headers.length; i += 2) res.setHeader(headers[i] as string, headers[i + 1] as string);
    if (error.requestId !== undefined) res.setHeader("x-request-id", error.requestId);
  }
  return refused(error, res);
}
