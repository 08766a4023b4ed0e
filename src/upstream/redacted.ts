import type { Credential } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import { issuedToken } from "./access-tokens.ts";

const REDACTED = "[redacted]";

/** The key, and the token that it was exchanged for. */
const secretsOf = (credential: Credential): readonly string[] =>
  [credential.apiKey, issuedToken(credential)].flatMap((secret) => (secret ? [secret.reveal()] : []));

/** Bytes of a provider's refusal that may go to a client: a provider may repeat the key or token that it refused, and that is ours, not the caller's. */
export function redacted(bytes: Buffer, credential: Credential): Buffer {
  return secretsOf(credential).reduce(without, bytes);
}

function without(bytes: Buffer, secret: string): Buffer {
  if (secret === "" || !bytes.includes(secret)) return bytes;
  return Buffer.from(bytes.toString("latin1").replaceAll(Buffer.from(secret).toString("latin1"), REDACTED), "latin1");
}

/** The same for an error with a provider's own words in it. */
export function redactedError(error: GuardError, credential: Credential): GuardError {
  const message = secretsOf(credential).reduce((text, secret) => (secret === "" ? text : text.replaceAll(secret, REDACTED)), error.message);
  if (message === error.message) return error;
  const { code, status, retryAfterMs } = error;
  return new GuardError(code, message, { status, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) });
}
