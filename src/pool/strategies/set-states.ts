import type { Tier } from "../candidate.ts";

/** Sets are made of configured credentials, so as many are hardly reached; the oldest one then starts anew. */
const MAX_SETS = 10_000;

/**
 * What a strategy remembers, by set of candidates: models that the same credentials offer share it, and others do not skew it. A tier's set is worked
 * out once; picking from it is one look-up.
 */
export function setStates<T>(begin: (tier: Tier) => T): (tier: Tier) => T {
  const bySet = new Map<string, T>();
  const byTier = new WeakMap<Tier, T>();

  function find(tier: Tier): T {
    const key = tier.map(({ credential: { name, weight } }) => `${name} ${weight}`).join("\n");
    let state = bySet.get(key);
    if (state === undefined) {
      for (const oldest of bySet.keys()) {
        if (bySet.size < MAX_SETS) break;
        bySet.delete(oldest);
      }
      bySet.set(key, (state = begin(tier)));
    }
    byTier.set(tier, state);
    return state;
  }

  return (tier) => byTier.get(tier) ?? find(tier);
}
