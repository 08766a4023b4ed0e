import type { Candidate, Strategy } from "../candidate.ts";

/** Always the first that may be used, in the order of the config: an account is used up before the next one is touched. */
export function fillFirst(): Strategy {
  return { pick: (_tier, open) => open[0] as Candidate };
}
