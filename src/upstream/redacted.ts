import type { Credential } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";

/** Bytes of a provider's refusal that may go to a client: a provider may repeat the key that it refused, and that is ours, not the caller's. */
export function redacted(bytes: Buffer, { apiKey }: Credential): Buffer {
  const secret = apiKey?.reveal();
  if (!secret || !bytes.includes(secret)) return bytes;
  return Buffer.from(bytes.toString("latin1").replaceAll(Buffer.from(secret).toString("latin1"), "[redacted]"), "latin1");
}

/** The same for an error with a provider's own words in it. */
export function redactedError(error: GuardError, { apiKey }: Credential): GuardError {
  const secret = apiKey?.reveal();
  if (!secret || !error.message.includes(secret)) return error;
  const { code, status, retryAfterMs } = error;
  return new GuardError(code, error.message.replaceAll(secret, "[redacted]"), { status, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) });
}
