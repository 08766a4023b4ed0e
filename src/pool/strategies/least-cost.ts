import type { Judgement } from "../../core/strategy.ts";
import type { Candidate, Strategy } from "../candidate.ts";
import { roundRobin } from "./round-robin.ts";
import type { StrategyParts } from "./strategy-parts.ts";

/** Whoever serves the call for the least money, by what it will probably use. Equally cheap ones are taken in turn; who has no price comes last. */
export function leastCost({ costUsd }: Pick<StrategyParts, "costUsd">): Strategy {
  const inTurn = roundRobin();

  return {
    pick(tier, open, request, look) {
      const usage = request.usage();
      if (usage === null) return inTurn.pick(tier, open, request, look);
      let lowest = Infinity;
      let cheapest: Candidate[] = [];
      for (const candidate of open) {
        const cost = costUsd(candidate, usage) ?? Infinity;
        if (cost > lowest) continue;
        if (cost < lowest) [lowest, cheapest] = [cost, []];
        cheapest.push(candidate);
      }
      return inTurn.pick(tier, cheapest, request, look);
    },
    judge(tier, request) {
      const usage = request.usage();
      return tier.map((candidate) => judgementOf(usage && costUsd(candidate, usage)));
    },
  };
}

/** A score that grows as the cost falls, between 0 and 1. */
function judgementOf(usd: number | null): Judgement {
  const cost = usd === null ? 0 : 1 / (1 + usd);
  const reason = usd === null ? "nobody knows what it would cost: it comes last" : `costs about $${Number(usd.toPrecision(3))}`;
  return { level: "ok", score: cost, parts: { cost }, reason };
}
