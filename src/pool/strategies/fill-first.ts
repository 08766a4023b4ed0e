import type { Candidate, PlainStrategy } from "../candidate.ts";

/** Always the first that may be used, in the order of the config: an account is used up before the next one is touched. */
export function fillFirst(): PlainStrategy {
  return function pickFirst(_tier, open) {
    return open[0] as Candidate;
  };
}
