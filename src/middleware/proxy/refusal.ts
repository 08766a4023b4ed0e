/** A provider's refusal: what it means for us, and what the caller is told. */
import type { AttemptOutcome, Credential } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { ProviderCodec } from "../../dialects/codec.ts";
import type { Dialect } from "../../dialects/dialect.ts";
import { fieldsOf } from "../../dialects/usage.ts";
import { toldWait } from "../../http/render.ts";
import { rowOf } from "../../upstream/providers.ts";
import { redacted } from "../../upstream/redacted.ts";

export type UpstreamHeaders = Readonly<Record<string, string | string[] | undefined>>;

export interface Refused {
  /** Without the provider's own words. */
  readonly error: GuardError;
  readonly outcome: Extract<AttemptOutcome, { readonly kind: "refused" }>;
}

/** `bytes` = the answer's body. */
export function refusedBy(credential: Credential, status: number, headers: UpstreamHeaders, bytes: Buffer, nowMs: number): Refused {
  const row = rowOf(credential);
  const { fault, isAccountWide, waitMs: usualWaitMs, isTokenStale } = row.classify(status, headers, bytes, nowMs);
  const isRateLimit = status === 429 && fault === "capacity";
  const waitMs = row.retryAfterMs(headers, nowMs, isRateLimit) ?? usualWaitMs;
  const error = new GuardError("upstream_refused", `the provider answered with status ${status}`, {
    status: status >= 400 ? status : 502,
    ...toldWait(waitMs),
  });
  const stale = isTokenStale ? { isTokenStale } : {};
  return { error, outcome: { kind: "refused", status, fault, isAccountWide, waitMs, ...stale } };
}

/**
 * A provider's refusal as the caller's dialect says it: the provider's own words and status, and what it calls the fault in `upstream_type`. Null = the body
 * says nothing.
 */
export function retold(bytes: Buffer, theirs: ProviderCodec, ours: Dialect, error: GuardError, credential: Credential): Buffer | null {
  const said = read(bytes, theirs);
  if (!said || said.message === "") return null;
  const { status, retryAfterMs } = error;
  const body = ours.errorBody(new GuardError(error.code, said.message, { status, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) }));
  const inner = fieldsOf(body.error);
  const told = Buffer.from(JSON.stringify(inner && said.kind !== null ? { ...body, error: { ...inner, upstream_type: said.kind } } : body));
  // A secret that was written with escapes is one again now.
  return redacted(told, credential);
}

function read(bytes: Buffer, codec: ProviderCodec): ReturnType<ProviderCodec["decodeError"]> {
  try {
    const value: unknown = JSON.parse(bytes.toString());
    // Gemini's streams are refused in a list of one.
    const body = fieldsOf(Array.isArray(value) ? value[0] : value);
    return body && codec.decodeError(body);
  } catch {
    return null;
  }
}
