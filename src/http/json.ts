import { GuardError } from "../core/errors.ts";

/** Parses a request body. A byte cap alone is no bound: millions of tiny keys, or very deep nesting, block the event loop for seconds. */

const MAX_DEPTH = 64;
const MAX_TOKENS = 120_000;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/** Counts `:` and `,` outside strings and stops at the cap. Only bodies that could exceed it are scanned. */
function checkTokens(bytes: Buffer): void {
  if (bytes.length <= MAX_TOKENS) return;
  let tokens = 0;
  for (let i = 0; i < bytes.length; i += 1) {
    const byte = bytes[i];
    if (byte === QUOTE) {
      // A long string (an image, a document) is skipped by the engine's own search.
      let end = bytes.indexOf(QUOTE, i + 1);
      while (end > 0 && escaped(bytes, end)) end = bytes.indexOf(QUOTE, end + 1);
      if (end < 0) return;
      i = end;
    } else if (byte === 0x3a || byte === 0x2c) {
      tokens += 1;
      if (tokens > MAX_TOKENS) throw new GuardError("body_invalid", `the body has more than ${MAX_TOKENS} JSON members`);
    }
  }
}

function escaped(bytes: Buffer, quote: number): boolean {
  let slashes = 0;
  while (bytes[quote - 1 - slashes] === BACKSLASH) slashes += 1;
  return slashes % 2 === 1;
}

function checkDepth(value: unknown): void {
  let level: unknown[] = [value];
  for (let depth = 0; level.length > 0; depth += 1) {
    if (depth > MAX_DEPTH) throw new GuardError("body_invalid", `the body is nested deeper than ${MAX_DEPTH} levels`);
    const next: unknown[] = [];
    for (const item of level) {
      if (Array.isArray(item)) {
        for (const child of item) if (typeof child === "object" && child !== null) next.push(child);
      } else {
        const fields = item as Record<string, unknown>;
        for (const key in fields) {
          const child = fields[key];
          if (typeof child === "object" && child !== null) next.push(child);
        }
      }
    }
    level = next;
  }
}

/** The body as an object. Throws `body_invalid`; the message never repeats the body. */
export function parseObject(bytes: Buffer): Record<string, unknown> {
  if (bytes.length === 0) throw new GuardError("body_invalid", "the body is empty; send a JSON object");
  checkTokens(bytes);
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString());
  } catch {
    throw new GuardError("body_invalid", "the body is not valid JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new GuardError("body_invalid", "the body must be a JSON object");
  checkDepth(value);
  return value as Record<string, unknown>;
}
