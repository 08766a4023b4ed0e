import { GuardError } from "../core/errors.ts";
import type { Codec } from "./codec.ts";
import type { JsonObject } from "./message.ts";

const WORDS = ["error", "failed"];
const same = (name: string): string => name;

/** Whether a stream's first bytes tell nothing but that it failed: then nothing has been said yet, and somebody else can say it. Looks closer only at bytes that mention a failure. */
export function firstFault(codec: Codec | undefined, bytes: Buffer, unwrap?: (body: JsonObject) => JsonObject): GuardError | null {
  // A coding that nobody announced. No text begins so.
  if (bytes[0] === 0x1f && bytes[1] === 0x8b)
    return new GuardError("upstream_protocol", "the upstream's stream is compressed although that was not accepted");
  if (!codec || !WORDS.some((word) => bytes.includes(word))) return null;
  for (const event of codec.decoder({ toolName: same, unwrap }).push(bytes)) {
    if (event.type === "error") return new GuardError("upstream_refused", event.message, { status: 502 });
    if (event.type !== "start" && event.type !== "ping" && event.type !== "usage") return null;
  }
  return null;
}
