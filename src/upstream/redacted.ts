import type { Credential } from "../core/credential.ts";

/** Bytes of a provider's refusal that may go to a client: a provider may repeat the key that it refused, and that is ours, not the caller's. */
export function redacted(bytes: Buffer, { apiKey }: Credential): Buffer {
  const secret = apiKey?.reveal();
  if (!secret || !bytes.includes(secret)) return bytes;
  return Buffer.from(bytes.toString("latin1").replaceAll(Buffer.from(secret).toString("latin1"), "[redacted]"), "latin1");
}
