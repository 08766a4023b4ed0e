import { GuardError } from "../core/errors.ts";
import { countMembers } from "../dialects/json-edit.ts";

/** Parses a request body. A byte cap alone is no bound: millions of tiny keys, or very deep nesting, block the event loop for seconds. */

const MAX_DEPTH = 64;
const MAX_TOKENS = 120_000;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;

/**
 * Counts `:` and `,` and nesting outside strings and stops at the caps, before a parser spends seconds on them. Only bodies that could exceed them
 * are scanned.
 */
function checkStructure(bytes: Buffer): void {
  if (bytes.length <= MAX_TOKENS) return;
  let tokens = 0;
  let depth = 0;
  for (let i = 0; i < bytes.length; i += 1) {
    const byte = bytes[i];
    if (byte === QUOTE) {
      for (i += 1; i < bytes.length && bytes[i] !== QUOTE; i += 1) if (bytes[i] === BACKSLASH) i += 1;
    } else if (byte === 0x3a || byte === 0x2c) {
      tokens += 1;
      if (tokens > MAX_TOKENS) throw new GuardError("body_invalid", `the body has more than ${MAX_TOKENS} JSON members`);
    } else if (byte === 0x7b || byte === 0x5b) {
      depth += 1;
      if (depth > MAX_DEPTH + 1) throw tooDeep();
    } else if (byte === 0x7d || byte === 0x5d) depth -= 1;
  }
}

const tooDeep = (): GuardError => new GuardError("body_invalid", `the body is nested deeper than ${MAX_DEPTH} levels`);

/** Recursion is bounded by the very depth it checks. */
function checkDepth(value: object, depth: number): void {
  if (depth > MAX_DEPTH) throw tooDeep();
  if (Array.isArray(value)) {
    for (const child of value) if (typeof child === "object" && child !== null) checkDepth(child as object, depth + 1);
    return;
  }
  const fields = value as Readonly<Record<string, unknown>>;
  for (const key in fields) {
    const child = fields[key];
    if (typeof child === "object" && child !== null) checkDepth(child, depth + 1);
  }
}

/** The body as an object. Throws `body_invalid`; the message never repeats the body. */
export function parseObject(bytes: Buffer): Record<string, unknown> {
  if (bytes.length === 0) throw new GuardError("body_invalid", "the body is empty; send a JSON object");
  checkStructure(bytes);
  // What we read must be what the provider reads, and parsers disagree on keys that are escaped or stand twice. No client sends such keys by itself.
  const members = countMembers(bytes);
  if (members < 0) throw new GuardError("body_invalid", "the body's keys must be written without escapes");
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString());
  } catch {
    throw new GuardError("body_invalid", "the body is not valid JSON");
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new GuardError("body_invalid", "the body must be a JSON object");
  if (Object.keys(value).length !== members) throw new GuardError("body_invalid", "a field stands twice in the body");
  checkDepth(value, 0);
  return value as Record<string, unknown>;
}
