import { GuardError } from "../../core/errors.ts";

/** What a request is told when the database fails under it. The place and the database's own words stay in `cause`. */
export function storeUnavailable(cause: unknown, retryAfterMs?: number): GuardError {
  if (GuardError.is(cause)) return cause;
  return new GuardError("store_unavailable", "the database of the gateway cannot be used at the moment: try again shortly", {
    cause,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs: Math.max(1, Math.ceil(retryAfterMs)) }),
  });
}
