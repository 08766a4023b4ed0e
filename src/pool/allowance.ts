/** What is left for a candidate, all told. */
import type { QuotaFact } from "../core/quota-fact.ts";
import type { Candidate } from "./candidate.ts";
import { matchesAny } from "./patterns.ts";
import type { QuotaFacts } from "./quota-facts.ts";

/** What is left for a candidate, all told: the scarcest of the quotas that its model counts in, less what is open or was spent since it was seen. */
export interface Allowance {
  /** True while no facts are known anywhere: the hot path asks no further. */
  readonly isQuiet: boolean;
  /** Null = nothing is known, which is not zero; or only estimates, and these are to be ignored. */
  of(candidate: Candidate): Standing | null;
  /**
   * The part of the scarcest quota that so many tokens would take, 0 to 1; null = nobody can say. `outputTokens` = those of them that the model will write;
   * absent = all may be either.
   */
  shareOf(candidate: Candidate, tokens: number, outputTokens?: number): number | null;
}

export interface Standing {
  /** 0 to 1, never below 0; net of virtual spend. */
  readonly remainingRatio: number;
  /** The scarcest group's fact. */
  readonly fact: QuotaFact;
  /** 0 to 1, now: decays with the fact's age. */
  readonly confidence: number;
  /** Part of the quota that is open or spent since it was seen, 0 to 1. */
  readonly spentRatio: number;
}

/** What was seen, as it was seen. */
export function seenAllowance(quotas: Pick<QuotaFacts, "of">, ignoreEstimated: () => boolean): Allowance {
  function scarcest({ credential, model }: Candidate): QuotaFact | null {
    let found: QuotaFact | null = null;
    for (const fact of quotas.of(credential.name)) {
      if (fact.models && !matchesAny(fact.models, model)) continue;
      if (fact.source === "estimate" && ignoreEstimated()) continue;
      if (found === null || fact.remainingRatio < found.remainingRatio) found = fact;
    }
    return found;
  }

  return {
    isQuiet: false,
    of(candidate) {
      const fact = scarcest(candidate);
      return fact && { remainingRatio: fact.remainingRatio, fact, confidence: fact.confidence ?? 1, spentRatio: 0 };
    },
    shareOf(candidate, tokens) {
      const fact = scarcest(candidate);
      return fact?.unit === "tokens" && fact.limit !== undefined && fact.limit > 0 ? Math.min(1, tokens / fact.limit) : null;
    },
  };
}
