import type { Strategy } from "../candidate.ts";
import { isStrategyName, strategyOf } from "./index.ts";

export interface LateStrategy {
  readonly pick: Strategy;
  /** Takes it into use from now on. Only where the configured one is somebody else's. */
  use(strategy: Strategy): void;
}

/** The configured strategy. One of ours is there at once; somebody else's comes later, and until then candidates are taken in turn. */
export function lateStrategy(configured: unknown): LateStrategy {
  if (typeof configured === "string" && isStrategyName(configured)) {
    return {
      pick: strategyOf(configured),
      use() {
        throw new Error("the configured strategy is built in");
      },
    };
  }
  let current: Strategy = strategyOf("round-robin");
  return {
    pick: (tier, open, request) => current(tier, open, request),
    use: (strategy) => void (current = strategy),
  };
}
