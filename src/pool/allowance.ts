import type { QuotaFact } from "../core/quota-fact.ts";
import type { Clock } from "../core/time.ts";
import type { Candidate } from "./candidate.ts";
import { confidenceOf, countsIn, type QuotaFacts } from "./quota-facts.ts";
import { amountOf, type Spend } from "./spend.ts";

/** What is left for a candidate, all told: the scarcest of the quotas that its model counts in, less what is open or was spent since it was seen. */
export interface Allowance {
  /** True while no facts are known anywhere: the hot path asks no further. */
  readonly isQuiet: boolean;
  /** Null = nothing is known, which is not zero; or only estimates, where they are ignored. */
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
  /** Part of the quota that is open or was spent since it was seen, 0 to 1. */
  readonly spentRatio: number;
}

export interface AllowanceOptions {
  readonly facts: Pick<QuotaFacts, "isEmpty" | "of">;
  readonly spend: Pick<Spend, "since" | "shareOf">;
  readonly clock: Clock;
  /** Whether estimates count as unknown, not as zero. Default: they do. */
  readonly ignoreEstimated?: () => boolean;
}

export function allowance({ facts, spend, clock, ignoreEstimated = () => true }: AllowanceOptions): Allowance {
  function of(candidate: Candidate): Standing | null {
    const { credential, model } = candidate;
    let scarcest: QuotaFact | null = null;
    let least = Infinity;
    let spent = 0;
    for (const fact of facts.of(credential.name)) {
      if (!countsIn(fact, model) || (fact.source === "estimate" && ignoreEstimated())) continue;
      const { open, ended } = spend.since(credential, fact);
      // What fills up meanwhile opens the gate, and is no reason to go over: an account under load would be the best and the worst by turns.
      const left = fact.remainingRatio - open - ended;
      if (left >= least) continue;
      scarcest = fact;
      least = left;
      spent = open + ended;
    }
    if (!scarcest) return null;
    return {
      remainingRatio: Math.max(0, least),
      fact: scarcest,
      confidence: confidenceOf(scarcest, clock.now()),
      spentRatio: Math.min(1, spent),
    };
  }

  return {
    get isQuiet() {
      return facts.isEmpty;
    },
    of,
    shareOf(candidate, tokens, outputTokens) {
      const standing = of(candidate);
      return standing && Math.min(1, spend.shareOf(candidate.credential, standing.fact, amountOf(tokens, outputTokens)));
    },
  };
}
