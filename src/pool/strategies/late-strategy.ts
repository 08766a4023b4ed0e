import type { Strategy } from "../candidate.ts";
import { isStrategyName, strategyOf } from "./index.ts";
import type { StrategyParts } from "./strategy-parts.ts";

export interface LateStrategy extends Strategy {
  /** Takes it into use from now on. Only where the configured one is somebody else's. */
  use(strategy: Strategy): void;
}

/** The configured strategy. One of ours is there at once; somebody else's comes later, and until then candidates are taken in turn. */
export function lateStrategy(configured: unknown, parts: StrategyParts): LateStrategy {
  const isOurs = typeof configured === "string" && isStrategyName(configured);
  let current = strategyOf(isOurs ? configured : "round-robin", parts);
  return {
    get spansPriorities() {
      return current.spansPriorities ?? false;
    },
    pick: (tier, open, request, look) => current.pick(tier, open, request, look),
    judge: (tier, request) => current.judge?.(tier, request) ?? [],
    use(strategy) {
      if (isOurs) throw new Error("the configured strategy is built in");
      current = strategy;
    },
  };
}
