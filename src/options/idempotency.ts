/** How answers are kept for requests that come again with the same `Idempotency-Key`. */
import { z } from "zod";
import { duration, size } from "./values.ts";

const DAY_MS = 86_400_000;
const MB = 1_048_576;
/** Answers are kept whole, and each of them is one record. */
const MOST_BODY_BYTES = 32 * MB;

const sectionSchema = z.strictObject({
  /** How long a key is remembered, from its last change on. */
  ttl: duration(1_000, 30 * DAY_MS).default(DAY_MS),
  /** The largest answer that is kept. Larger ones are passed on, and cannot be given again. */
  maxBody: size(MOST_BODY_BYTES).default(MB),
});

/** `false` = off. */
export const idempotencySchema = z.union([z.boolean(), sectionSchema], { error: "expected true, false or { ttl, maxBody }" });

export interface ResolvedIdempotency {
  readonly ttlMs: number;
  readonly maxBodyBytes: number;
}

export function resolveIdempotency(option: z.output<typeof idempotencySchema>): ResolvedIdempotency | null {
  if (option === false) return null;
  const { ttl, maxBody } = option === true ? sectionSchema.parse({}) : option;
  return { ttlMs: ttl, maxBodyBytes: maxBody };
}
