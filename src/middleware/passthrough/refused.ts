/** A provider's own refusal: what it means for the credential, and what of it the client gets. */
import type { Answer } from "../../core/answer.ts";
import type { AttemptOutcome, Credential } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import { refusalHeaders, toldWait } from "../../http/render.ts";
import { responseHeaders } from "../../upstream/headers.ts";
import { rowOf } from "../../upstream/providers.ts";
import { redacted } from "../../upstream/redacted.ts";
import type { HeaderFields } from "./headers.ts";

export interface Refused {
  readonly outcome: AttemptOutcome;
  readonly error: GuardError;
  /** Null = the client gets the error instead: a redirect, or an answer that no client of this dialect could read. */
  readonly answer: Answer | null;
}

/**
 * `bytes` is the body of an answer whose status is outside 2xx; null = it broke off or was too large to be kept, which says nothing that the status has not
 * said. Errors pass as they are, but for a key that the provider repeats: it is ours.
 */
export function refusedAnswer(credential: Credential, status: number, headers: HeaderFields, bytes: Buffer | null, nowMs: number): Refused {
  const row = rowOf(credential);
  const body = redacted(bytes ?? Buffer.alloc(0), credential);
  const verdict = row.classify(status, headers, body, nowMs);
  const waitMs = row.retryAfterMs(headers, nowMs, status === 429 && verdict.fault === "capacity") ?? verdict.waitMs;
  const { fault, isAccountWide, isTokenStale } = verdict;
  const stale = isTokenStale ? { isTokenStale } : {};
  const outcome: AttemptOutcome = { kind: "refused", status, fault, isAccountWide, waitMs, ...stale };
  if (status < 400) {
    const error = new GuardError("upstream_protocol", `the provider answered with a redirect (${status}), which is never followed; check base_url`);
    return { outcome, error, answer: null };
  }
  const error = new GuardError("upstream_refused", `the provider answered with status ${status}`, { status, ...toldWait(waitMs) });
  const isReadable = bytes !== null && String(headers["content-type"] ?? "").includes("json");
  const returned = responseHeaders(headers);
  if (waitMs !== null) returned.push(...refusalHeaders(error, false));
  return { outcome, error, answer: isReadable ? { status, headers: returned, body } : null };
}
