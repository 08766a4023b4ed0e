import type { Candidate, Strategy } from "../../src/pool/candidate.ts";
import { choosingSettings } from "../../src/pool/choosing-settings.ts";
import { STRATEGY_NAMES, strategyOf } from "../../src/pool/strategies/index.ts";
import { quota } from "../../src/pool/strategies/quota.ts";
import type { Contender } from "./simulation.ts";

const RANKS = { ok: 0, high: 1, critical: 2 };

/** The best level and score at each request, whoever had the one before. */
function bestScoreWins(parts: Parameters<Contender>[0]): Strategy {
  const { judge } = quota(parts);
  return {
    spansPriorities: true,
    pick(tier, open, request) {
      const judged = judge?.(tier, request) ?? [];
      const at = (candidate: Candidate): number => {
        const { level, score } = judged[tier.indexOf(candidate)] as (typeof judged)[number];
        return score - RANKS[level];
      };
      return open.reduce((best, each) => (at(each) > at(best) ? each : best));
    },
  };
}

/** Goes by nothing but what ends first. */
function refillOnly(parts: Parameters<Contender>[0]): Strategy {
  const weights = { safety: 0, refill: 1, tier: 0, reliability: 0, cost: 0 };
  const { current } = parts.settings;
  return quota({ ...parts, settings: choosingSettings({ ...current, policy: "refill", policies: [{ name: "refill", weights }] }) });
}

/** All strategies of ours, and what `quota` is measured against. */
export const CONTENDERS: Readonly<Record<string, Contender>> = {
  ...Object.fromEntries(STRATEGY_NAMES.map((name) => [name, (parts: Parameters<Contender>[0]) => strategyOf(name, parts)])),
  "best score wins": bestScoreWins,
  "quota, refill only": refillOnly,
};
