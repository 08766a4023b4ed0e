import type { Answer } from "../../core/answer.ts";
import type { Call } from "../../core/call.ts";
import type { Lease } from "../../core/credential.ts";
import type { GuardError } from "../../core/errors.ts";
import type { UpstreamHeaders } from "./refusal.ts";
import type { WireSettings } from "./wire.ts";

export interface AttemptSettings extends WireSettings {
  /** Streams only: until the first byte of the body. */
  readonly firstByteTimeoutMs: number;
  /** Streams only: between two chunks, and how long a client may stop reading. */
  readonly idleTimeoutMs: number;
  /** Whole answers only. */
  readonly requestTimeoutMs: number;
  readonly countTokens: (text: string) => number;
  /** Is shown each answer of a provider's, before anything is concluded from it; `body` = of a refusal, as far as it was read, else null. */
  readonly onAnswer?: (lease: Lease, status: number, headers: UpstreamHeaders, body: Buffer | null) => void;
  /** Input tokens of a call, for when the provider does not say. */
  readonly inputTokens: (call: Call) => number;
}

/** A failed attempt. `answer` is the provider's own refusal, to be passed on when no other credential helps. */
export interface Failure {
  readonly error: GuardError;
  readonly retryable: boolean;
  readonly answer: Answer | null;
}
