import type { Candidate, Strategy } from "../candidate.ts";

/** Cursors kept; sets are made of configured credentials, so this many is never reached in practice. */
const MAX_CURSORS = 10_000;

/**
 * Takes the candidates in turn. The cursor belongs to the set of candidates, not to the pool: models with different candidates
 * do not skew each other's rotation.
 */
export function roundRobin(): Strategy {
  const cursors = new Map<string, number>();
  const keys = new WeakMap<readonly Candidate[], string>();
  return function pickInTurn(tier) {
    let key = keys.get(tier);
    if (key === undefined) {
      key = tier.map(({ credential }) => credential.name).join("\n");
      keys.set(tier, key);
    }
    const cursor = cursors.get(key) ?? 0;
    if (cursors.size >= MAX_CURSORS) cursors.clear();
    cursors.set(key, cursor + 1);
    return tier[cursor % tier.length] as Candidate;
  };
}
