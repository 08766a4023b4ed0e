import { hash } from "node:crypto";

import type { RedisScript } from "../link.ts";

/** A script as the server knows it. Its text never changes after the start: each text is kept by the server for ever. */
export function redisScript(name: string, text: string): RedisScript {
  return { name, text, digest: hash("sha1", text) };
}
