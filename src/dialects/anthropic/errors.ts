import type { GuardError } from "../../core/errors.ts";

const TYPES: Readonly<Record<number, string>> = {
  401: "authentication_error",
  402: "billing_error",
  403: "permission_error",
  404: "not_found_error",
  413: "request_too_large",
  429: "rate_limit_error",
  503: "overloaded_error",
  504: "timeout_error",
  529: "overloaded_error",
};

/** Anthropic's envelope; the extra members are ours. */
export function errorBody(error: GuardError): Record<string, unknown> {
  return {
    type: "error",
    error: {
      type: TYPES[error.status] ?? (error.status >= 500 ? "api_error" : "invalid_request_error"),
      message: error.message,
      code: error.code,
      param: error.param,
      limit: error.limit,
      scope: error.scope,
      needed: error.needed,
      available: error.available,
      retry_after_ms: error.retryAfterMs,
    },
    request_id: error.requestId,
  };
}

export const errorEvent = (error: GuardError): Buffer => Buffer.from(`event: error\ndata: ${JSON.stringify(errorBody(error))}\n\n`);
