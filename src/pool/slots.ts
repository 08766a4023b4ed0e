import type { MaybePromise } from "../core/time.ts";
import type { Candidate } from "./candidate.ts";

/** Room in a credential's own limits, taken for one attempt. */
export interface Slot {
  /** What was used, in tokens; null = nothing, so everything goes back. Once. */
  finish(tokens: number | null): void;
}

/** No room now. */
export interface Shortage {
  /** Ms until there is; null = never by itself. */
  readonly waitMs: number | null;
  /** For people: which limits have none. Absent = nobody asked. */
  readonly note?: string;
}

/** The limits of credentials, and of single models on them. All or nothing: a refusal takes nothing anywhere. */
export interface Slots {
  /** Takes room for one request. `opId` is unique to the attempt; `tokens` estimates what it will use, and is asked only where tokens are limited. */
  take(candidate: Candidate, opId: string, tokens: () => number): MaybePromise<Slot | Shortage>;
  /** What {@link Slots.take} would say now. Takes nothing: its slot has nothing to finish. */
  look(candidate: Candidate, tokens: () => number): MaybePromise<Slot | Shortage>;
  /** Whether it was found without room and will not have any yet, as far as this process knows. */
  isShort(candidate: Candidate): boolean;
}

export const isShortage = (taken: Slot | Shortage): taken is Shortage => "waitMs" in taken;
