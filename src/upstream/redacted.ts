import type { Credential } from "../core/credential.ts";
import { issuedToken } from "./access-tokens.ts";

/** Bytes of a provider's refusal that may go to a client: a provider may repeat the key or token that it refused, and that is ours, not the caller's. */
export function redacted(bytes: Buffer, credential: Credential): Buffer {
  return without(without(bytes, credential.apiKey?.reveal()), issuedToken(credential)?.reveal());
}

function without(bytes: Buffer, secret: string | undefined): Buffer {
  if (!secret || !bytes.includes(secret)) return bytes;
  return Buffer.from(bytes.toString("latin1").replaceAll(Buffer.from(secret).toString("latin1"), "[redacted]"), "latin1");
}
