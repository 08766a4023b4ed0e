/** The strategies by the names that `router.strategy` knows them by. */
import type { Strategy } from "../candidate.ts";
import { fillFirst } from "./fill-first.ts";
import { leastCost } from "./least-cost.ts";
import { quota } from "./quota.ts";
import { roundRobin } from "./round-robin.ts";
import type { StrategyParts } from "./strategy-parts.ts";
import { weighted } from "./weighted.ts";

const STRATEGIES = { "round-robin": roundRobin, "fill-first": fillFirst, weighted, "least-cost": leastCost, quota } as const satisfies Record<
  string,
  (parts: StrategyParts) => Strategy
>;

export type StrategyName = keyof typeof STRATEGIES;

export const STRATEGY_NAMES = Object.keys(STRATEGIES) as readonly StrategyName[];

export const isStrategyName = (name: string): name is StrategyName => Object.hasOwn(STRATEGIES, name);

/** They never ask what a request will use; estimating it costs time. */
const BY_ORDER: ReadonlySet<unknown> = new Set<StrategyName>(["round-robin", "fill-first", "weighted"]);

/** Whether a strategy, also one of somebody else's, may ask what a request will use. */
export const asksUsage = (strategy: unknown): boolean => !BY_ORDER.has(strategy);

/** A strategy of its own for each pool: what it remembers is about that pool's candidates. */
export const strategyOf = (name: StrategyName, parts: StrategyParts): Strategy => STRATEGIES[name](parts);
