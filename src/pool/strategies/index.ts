/** The strategies by the names that `router.strategy` knows them by. */
import type { Strategy } from "../candidate.ts";
import { fillFirst } from "./fill-first.ts";
import { roundRobin } from "./round-robin.ts";
import { weighted } from "./weighted.ts";

const STRATEGIES = { "round-robin": roundRobin, "fill-first": fillFirst, weighted } as const satisfies Record<string, () => Strategy>;

export type StrategyName = keyof typeof STRATEGIES;

export const STRATEGY_NAMES = Object.keys(STRATEGIES) as readonly StrategyName[];

export const isStrategyName = (name: string): name is StrategyName => Object.hasOwn(STRATEGIES, name);

/** A strategy of its own for each pool: what it remembers is about that pool's candidates. */
export const strategyOf = (name: StrategyName): Strategy => STRATEGIES[name]();
