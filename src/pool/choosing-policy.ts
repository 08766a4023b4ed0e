import { hint } from "../core/nearest.ts";

/** What a score is made of. */
export const SCORE_PARTS = ["safety", "refill", "tier", "reliability", "cost"] as const;
export type ScorePart = (typeof SCORE_PARTS)[number];
/** How much each part counts. Only their proportions matter: a score is between 0 and 1 whatever they add up to. */
export type Weights = Readonly<Record<ScorePart, number>>;

export interface ChoosingPolicy {
  readonly name: string;
  readonly weights: Weights;
}

export const DEFAULT_POLICY = "balanced";

const BUILT_IN: readonly ChoosingPolicy[] = [
  { name: DEFAULT_POLICY, weights: { safety: 0.4, refill: 0.3, tier: 0.15, reliability: 0.1, cost: 0.05 } },
  { name: "cost", weights: { safety: 0.2, refill: 0.2, tier: 0.1, reliability: 0.1, cost: 0.4 } },
  { name: "performance", weights: { safety: 0.5, refill: 0.3, tier: 0.1, reliability: 0.1, cost: 0 } },
  { name: "safety", weights: { safety: 0.7, refill: 0.2, tier: 0.05, reliability: 0.05, cost: 0 } },
];

/** Names of the policies that there are: ours, and those of one's own. */
export const policyNames = (own: readonly string[]): readonly string[] => [...new Set([...BUILT_IN.map(({ name }) => name), ...own])];

/** One's own goes before the built-in one of its name. */
export function policyOf(name: string, own: readonly ChoosingPolicy[]): ChoosingPolicy | undefined {
  return [...own, ...BUILT_IN].find((policy) => policy.name === name);
}

export const unknownPolicy = (name: string, known: readonly string[]): string => `expected one of ${known.join(", ")}${hint(name, known)}`;

/** Between 0 and 1. */
export function scoreOf(parts: Readonly<Record<ScorePart, number>>, weights: Weights): number {
  let sum = 0;
  let whole = 0;
  for (const part of SCORE_PARTS) {
    sum += weights[part] * parts[part];
    whole += weights[part];
  }
  return sum / whole;
}
