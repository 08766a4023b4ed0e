import type { GuardError } from "../../core/errors.ts";
import { failure, protocolError, type Stage } from "../../upstream/failure.ts";

/** What Node's HTTP client reports, as the error for the caller. */
export function laneFailure(error: Error, stage: Stage): GuardError {
  const code = (error as NodeJS.ErrnoException).code ?? "";
  if (code === "HPE_HEADER_OVERFLOW") return protocolError("its headers are too large");
  // Without Node's error itself: it carries the bytes that could not be read, and causes are logged.
  if (code.startsWith("HPE_")) return protocolError("it does not follow HTTP/1.1", new Error(error.message));
  return failure(error, stage);
}
