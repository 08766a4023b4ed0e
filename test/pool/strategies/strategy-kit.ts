import fc from "fast-check";
import type { Candidate, Strategy, StrategyRequest, Tier } from "../../../src/pool/candidate.ts";
import { candidate } from "../pool-kit.ts";

/** Candidates by name, each with a weight of its own where one is given: `tierOf({ a: 5, b: 1 })`. */
export const tierOf = (weights: Readonly<Record<string, number>>): Tier =>
  Object.entries(weights).map(([name, weight]) => candidate(name, "m", { weight }));

export const numberedTier = (count: number): Tier => Array.from({ length: count }, (_, i) => candidate(String(i + 1)));

export const nameOf = ({ credential }: Candidate): string => credential.name;

/** A request that says nothing about itself. */
export const PLAIN: StrategyRequest = { model: "m", scopes: undefined, session: null, usage: () => null, wasTried: () => false };

/** Who is picked in `count` turns; `closed` says who cannot be used in a turn. */
export const turns = (strategy: Strategy, tier: Tier, count: number, closed: (turn: number) => string = () => ""): string[] =>
  Array.from({ length: count }, (_, turn) => {
    const names = closed(turn);
    const open = names === "" ? tier : tier.filter((each) => !names.includes(nameOf(each)));
    return nameOf(strategy.pick(tier, open, PLAIN, null));
  });

export function countsOf(names: readonly string[]): Readonly<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1;
  return counts;
}

/** A tier of `size` and, turn by turn, which of its places can be used: at least one. */
export const someOpen = (size: number, length: { readonly maxLength: number }) =>
  fc.array(fc.subarray([...Array(size).keys()], { minLength: 1 }), { minLength: 1, ...length });
