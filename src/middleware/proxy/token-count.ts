/** Calls that only count tokens: nobody bills them, and where no provider can count we say what we would have held. */
import type { Answer } from "../../core/answer.ts";
import type { Charged } from "../../core/context.ts";
import { NEVER_SENT, type AttemptOutcome } from "../../core/credential.ts";
import { NO_USAGE } from "../../core/usage.ts";
import type { Dialect } from "../../dialects/dialect.ts";
import type { Failure } from "./attempt-settings.ts";

/** One request, and nothing else. */
export const FREE: Charged = Object.freeze({
  kind: "usage",
  usage: NO_USAGE,
  provenance: "exact",
  rawNanoUsd: 0,
  billedNanoUsd: 0,
  priceVersion: null,
});

/** What an attempt to count says of its credential. Who cannot count can still answer: only that its token is refused is true of both. */
export function countOutcome(outcome: AttemptOutcome): AttemptOutcome {
  if (outcome.kind === "refused") return { ...outcome, isAside: true };
  return outcome.kind === "served" ? outcome : NEVER_SENT;
}

/** What a provider says that does not know the operation. */
const UNKNOWN_OPERATION: ReadonlySet<number> = new Set([404, 405, 501]);

/** Whether our own figure is better than this failure: not when the request itself is wrong. */
export const mayEstimate = ({ retryable, error }: Failure): boolean =>
  retryable || error.code === "untranslatable" || UNKNOWN_OPERATION.has(error.status);

export function estimatedCount({ countBody }: Dialect, tokens: number): Answer | null {
  if (!countBody) return null;
  return {
    status: 200,
    headers: ["content-type", "application/json", "x-quotaguard-estimated", "true"],
    body: Buffer.from(JSON.stringify(countBody(tokens))),
  };
}
