import type { Candidate, Look, Strategy, Tier } from "../candidate.ts";
import { changedBy } from "./changed-by.ts";
import { setStates } from "./set-states.ts";

/** Weights are counted in millionths: credits stay whole numbers, so a share is exact however long the gateway runs. */
const PARTS = 1_000_000;

interface Credits {
  readonly weights: readonly number[];
  /** By place in the set. They always add up to zero. */
  readonly credits: Float64Array;
}

const begin = (tier: Tier): Credits => ({
  weights: tier.map(({ credential }) => Math.max(1, Math.round(credential.weight * PARTS))),
  credits: new Float64Array(tier.length),
});

const copyOf = ({ weights, credits }: Credits): Credits => ({ weights, credits: credits.slice() });

/**
 * Smooth weighted round-robin, as nginx does it: each turn everybody who may be used earns their weight, the richest is taken and pays what all
 * earned. Weights 5, 1, 1 give a a b a c a a, not five in a row.
 */
export function weighted(): Strategy {
  const creditsOf = setStates(begin);

  function pick(tier: Tier, open: readonly Candidate[], _request: unknown, look: Look | null): Candidate {
    const { weights, credits } = changedBy(look, creditsOf(tier), copyOf);
    let earned = 0;
    let forfeited = 0;
    let picked = -1;
    for (let place = 0, next = 0; place < tier.length; place += 1) {
      const credit = credits[place] as number;
      if (tier[place] === open[next]) {
        next += 1;
        const weight = weights[place] as number;
        earned += weight;
        credits[place] = credit + weight;
        if (picked < 0 || credit + weight > (credits[picked] as number)) picked = place;
      } else if (credit > 0) {
        // Whoever comes back waits for their turn like everybody else; what they owe they still owe.
        forfeited += credit;
        credits[place] = 0;
      }
    }
    credits[picked] = (credits[picked] as number) - earned + forfeited;
    return tier[picked] as Candidate;
  }

  return { pick };
}
