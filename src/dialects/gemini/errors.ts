import type { GuardError } from "../../core/errors.ts";

const STATUSES: Readonly<Record<number, string>> = {
  400: "INVALID_ARGUMENT",
  401: "UNAUTHENTICATED",
  403: "PERMISSION_DENIED",
  404: "NOT_FOUND",
  409: "ABORTED",
  429: "RESOURCE_EXHAUSTED",
  499: "CANCELLED",
  501: "UNIMPLEMENTED",
  503: "UNAVAILABLE",
  504: "DEADLINE_EXCEEDED",
};

/** Google's envelope: what else there is to say stands in the details. */
export function errorBody(error: GuardError): Record<string, unknown> {
  const { code, param, limit, scope, needed, available, retryAfterMs, requestId } = error;
  const told = { param, limit, scope, needed, available, retry_after_ms: retryAfterMs, request_id: requestId };
  const metadata = Object.fromEntries(Object.entries(told).flatMap(([name, value]) => (value === undefined ? [] : [[name, String(value)]])));
  return {
    error: {
      code: error.status,
      message: error.message,
      status: STATUSES[error.status] ?? (error.status >= 500 ? "INTERNAL" : "INVALID_ARGUMENT"),
      details: [
        { "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: code.toUpperCase(), domain: "quotaguard", metadata },
        ...(retryAfterMs === undefined
          ? []
          : [{ "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: `${Math.max(1, Math.ceil(retryAfterMs / 1_000))}s` }]),
      ],
    },
  };
}

export const errorEvent = (error: GuardError): Buffer => Buffer.from(`data: ${JSON.stringify(errorBody(error))}\n\n`);
