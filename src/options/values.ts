/** The values that options are made of: durations, sizes, secrets, dates, patterns. Each schema's message says what to write instead. */
import { z } from "zod";
import { DURATION_EXPECTED, durationOf, durationProblem } from "../core/duration.ts";
import { Secret } from "../core/secret.ts";

export { formatDuration, parseDuration } from "../core/duration.ts";

const DAY_MS = 86_400_000;
const UNIT_BYTES = { b: 1, kb: 1_024, mb: 1_048_576, gb: 1_073_741_824 } as const;

/** A timer's delay is a 32-bit number of ms: a longer one would fire at once. */
const MAX_TIMER_MS = 24 * DAY_MS;
/** Ten years: whoever means longer means `permanent`. */
const MAX_BAN_MS = 3_650 * DAY_MS;

/** `"10mb"` to bytes (powers of 1024); null when it is not a size. */
export function parseSize(text: string): number | null {
  const match = /^(\d+(?:\.\d+)?)\s?(b|kb|mb|gb)$/i.exec(text);
  if (!match) return null;
  return Math.round(Number(match[1]) * UNIT_BYTES[match[2]?.toLowerCase() as keyof typeof UNIT_BYTES]);
}

export function formatSize(bytes: number): string {
  for (const unit of ["gb", "mb", "kb"] as const) {
    if (bytes >= UNIT_BYTES[unit] && bytes % UNIT_BYTES[unit] === 0) return `${bytes / UNIT_BYTES[unit]}${unit}`;
  }
  return `${bytes}b`;
}

/** A duration: ms as a number, or text with a unit (`250ms`, `5s`, `10m`, `2h`, `30d`). Resolves to ms. */
export function duration(minMs = 1, maxMs = MAX_TIMER_MS) {
  return z.union([z.number(), z.string()], { error: DURATION_EXPECTED }).transform((value, ctx) => {
    const ms = durationOf(value);
    const problem = durationProblem(ms, minMs, maxMs);
    if (problem !== null) ctx.addIssue({ code: "custom", message: problem });
    return ms;
  });
}

/** How long a ban lasts: a duration, or `permanent`. Resolves to ms, or null for ever. No timer waits for its end, so it may be long. */
export function banDuration() {
  const expected = "expected permanent, or a duration: ms as a number, or a number with its unit such as 30s, 15m, 2h, 30d";
  return z.union([z.number(), z.string()], { error: expected }).transform((value, ctx) => {
    if (value === "permanent") return null;
    const ms = durationOf(value);
    const problem = durationProblem(ms, 1, MAX_BAN_MS, expected);
    if (problem !== null) ctx.addIssue({ code: "custom", message: problem });
    return ms;
  });
}

/** A size: bytes as a number, or text such as `10mb`. Resolves to bytes. */
export function size(maxBytes: number) {
  const expected = "expected a size: bytes as a number, or a number with its unit such as 512kb, 10mb";
  return z.union([z.number(), z.string()], { error: expected }).transform((value, ctx) => {
    const bytes = typeof value === "number" ? value : parseSize(value.trim());
    if (bytes === null || !Number.isInteger(bytes)) ctx.addIssue({ code: "custom", message: expected });
    else if (bytes < 1 || bytes > maxBytes) ctx.addIssue({ code: "custom", message: `must be between 1b and ${formatSize(maxBytes)}` });
    return bytes ?? 0;
  });
}

/** What people paste from documentation and forget to replace. Own keys are judged more strictly: a provider or a test may hand out odd ones. */
const ELLIPSIS = /…|\.\.\.|change[-_ ]?me/i;
const SAMPLE = /your[-_ ]|placeholder|example|<.*>|^(?:sk-|qg_)?(?:x+|secret|password|test)?$/i;
const VISIBLE_ASCII = /^[\x21-\x7e]{1,4096}$/;
/** Keys that people invent themselves must not be guessable. */
export const MIN_OWN_KEY = 16;
const GENERATE = `make one with: node -p "crypto.randomBytes(24).toString('hex')"`;

/** Why a text cannot serve as a key; null when it can. `minLength` > 1 is for keys that people invent themselves. */
function secretProblem(text: string, minLength: number): string | null {
  const how = minLength > 1 ? GENERATE : "put the real key here";
  if (text === "") return `is empty; ${how}`;
  if (ELLIPSIS.test(text) || (minLength > 1 && SAMPLE.test(text))) return `is a sample value; ${how}`;
  if (!VISIBLE_ASCII.test(text)) return "must be printable ASCII without spaces, or no request header can carry it";
  if (text.length < minLength) return `must have at least ${minLength} characters; ${how}`;
  return null;
}

/** Keys that somebody accepted although they are guessable. */
const accepted = new WeakSet<Secret>();

/** Wraps a key that another program's file brought along, guessable or not. `problem` is to be said aloud; null = it is as good as ours must be. */
export function acceptKey(key: string): { readonly key: Secret; readonly problem: string | null } {
  const wrapped = new Secret(key);
  accepted.add(wrapped);
  return { key: wrapped, problem: secretProblem(key, MIN_OWN_KEY) };
}

/** A key or token, as text or already wrapped. Resolves to a {@link Secret}. */
export function secret(minLength = 1) {
  return z.union([z.string(), z.instanceof(Secret)], { error: "expected text" }).transform((value, ctx) => {
    const wrapped = typeof value === "string" ? new Secret(value) : value;
    const problem = secretProblem(wrapped.reveal(), accepted.has(wrapped) ? 1 : minLength);
    if (problem !== null) ctx.addIssue({ code: "custom", message: problem });
    return wrapped;
  });
}

const DATE = /^\d{4}-\d{2}-\d{2}(?:[Tt ]\d{2}:\d{2}(?::\d{2}(?:\.\d{1,9})?)?(?:[Zz]|[+-]\d{2}:\d{2}))?$/;

/** A point in time: `2027-01-01` (midnight UTC), an ISO date and time with an offset, a Date, or ms since the epoch. Resolves to ms. */
export function instant() {
  const expected = "expected a date such as 2027-01-01 (UTC) or 2027-01-01T09:00:00+02:00";
  return z.union([z.string(), z.date(), z.number()], { error: expected }).transform((value, ctx) => {
    const ms = typeof value === "string" ? parseInstant(value) : Number(value);
    if (!Number.isInteger(ms)) ctx.addIssue({ code: "custom", message: expected });
    return ms;
  });
}

function parseInstant(text: string): number {
  if (!DATE.test(text)) return Number.NaN;
  const day = text.slice(0, 10);
  const midnight = Date.parse(`${day}T00:00:00Z`);
  // Date.parse turns 2027-02-30 into the second of March; nobody means that.
  if (!Number.isFinite(midnight) || new Date(midnight).toISOString().slice(0, 10) !== day) return Number.NaN;
  return text.length === 10 ? midnight : Date.parse(text.replace(" ", "T"));
}

/** A non-empty text without control characters. */
export function label(maxLength = 256) {
  return z
    .string()
    .min(1, "must not be empty")
    .max(maxLength, `must have at most ${maxLength} characters`)
    .regex(/^\P{Cc}*$/u, "must not contain control characters");
}

/** A name that appears in headers, metrics and paths. */
export function name() {
  return z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, "must be 1 to 64 characters of A-Z a-z 0-9 . _ - and start with a letter or digit");
}

/** What a credential may be sent: per minute or at one time. -1 = unlimited, 0 = nothing. */
export const sendLimit = () => z.number().int().min(-1).max(1_000_000_000_000);

/** The name of a scope. */
export function scopeName() {
  return z.string().regex(/^[A-Za-z][A-Za-z0-9_-]{0,63}$/, "must be 1 to 64 characters of A-Z a-z 0-9 _ - and start with a letter");
}

/** A list that accepts `readonly` arrays, as `as const` makes them. */
export function list<T extends z.ZodType>(item: T) {
  return z.array(item).readonly();
}

/** Any function; its type is the caller's word. */
export function callback<T>() {
  return z.custom<T>((value) => typeof value === "function", "expected a function");
}

/** An object that has these methods or members; its type is the caller's word. */
export function seam<T>(members: readonly string[], what: string) {
  return z.custom<T>((value) => {
    if (typeof value !== "object" || value === null) return false;
    return members.every((member) => (value as Record<string, unknown>)[member] !== undefined);
  }, `expected ${what}`);
}
