import type { QuotaLevel } from "../../core/strategy.ts";
import { NO_USAGE, totalInputTokens, totalOutputTokens, type Usage } from "../../core/usage.ts";
import type { Standing } from "../allowance.ts";
import type { Candidate, StrategyRequest } from "../candidate.ts";
import { policyOf, scoreOf, type ScorePart, type Weights } from "../choosing-policy.ts";
import { quotaLevel, usedPercent } from "../quota-level.ts";
import type { StrategyParts } from "./strategy-parts.ts";

/** Neither good nor bad: what nobody knows speaks neither for an account nor against it. */
const UNKNOWN = 0.5;
/** Priorities from here on are all the best. */
const BEST_PRIORITY = 10;
/** Models that cost as much or more are all the dearest: USD for a thousand tokens in and a thousand out. */
const DEAREST_USD = 0.1;
const THOUSAND_EACH: Usage = Object.freeze({ ...NO_USAGE, inputTokens: 1_000, outputTokens: 1_000, requests: 0 });

/** What `quota` makes of a candidate for a request. */
export interface Rating {
  readonly candidate: Candidate;
  readonly standing: Standing | null;
  /** Part of the quota that the request takes; null = nobody can say. */
  readonly share: number | null;
  readonly level: QuotaLevel;
  /** Critical for this request only: smaller ones may go on there. */
  readonly isTooLarge: boolean;
  readonly score: number;
  readonly parts: Readonly<Record<ScorePart, number>>;
}

export type Rater = (candidate: Candidate) => Rating;

const within = (ratio: number): number => Math.min(1, Math.max(0, ratio));

/** How near a quota is to being whole again. */
function refillOf({ fact: { resetsAt, windowMs } }: Standing, now: number): number {
  return resetsAt === null || windowMs === undefined || windowMs <= 0 ? UNKNOWN : within(1 - (resetsAt - now) / windowMs);
}

/** Rates the candidates of one request, all by the same rules and at the same time. */
export function raterOf({ allowance, settings, clock, costUsd }: StrategyParts, request: StrategyRequest): Rater {
  const { thresholds, policy, policies } = settings.current;
  const { weights } = policyOf(policy, policies) as { readonly weights: Weights };
  const now = clock.now();
  const { isQuiet } = allowance;
  /** Worked out when the first quota is known, and once. */
  let usage: Usage | null | undefined;

  function shareOf(candidate: Candidate): number | null {
    if (usage === undefined) usage = request.usage();
    if (usage === null) return null;
    const output = totalOutputTokens(usage);
    return allowance.shareOf(candidate, totalInputTokens(usage) + output, output);
  }

  return (candidate) => {
    const standing = isQuiet ? null : allowance.of(candidate);
    const share = standing && shareOf(candidate);
    const usd = costUsd(candidate, THOUSAND_EACH);
    const parts = {
      safety: standing ? within(standing.remainingRatio) : UNKNOWN,
      refill: standing ? refillOf(standing, now) : UNKNOWN,
      tier: within(candidate.credential.priority / BEST_PRIORITY),
      reliability: standing ? within(standing.confidence) : UNKNOWN,
      cost: usd === null ? UNKNOWN : within(1 - usd / DEAREST_USD),
    };
    const remainingRatio = standing?.remainingRatio ?? null;
    const level = quotaLevel(remainingRatio, share, thresholds);
    const isTooLarge = level === "critical" && quotaLevel(remainingRatio, null, thresholds) !== "critical";
    return { candidate, standing, share, level, isTooLarge, score: scoreOf(parts, weights), parts };
  };
}

const RANKS = { ok: 0, high: 1, critical: 2 } as const satisfies Record<QuotaLevel, number>;

/** Whether one's level is better than the other's. */
export const isSafer = (one: Rating, other: Rating): boolean => RANKS[one.level] < RANKS[other.level];

/** The best of some, never of none; of equals the first. */
export const bestOf = (ratings: readonly Rating[]): Rating =>
  ratings.reduce((best, each) => (isSafer(each, best) || (each.level === best.level && each.score > best.score) ? each : best));

/** Why it stands where it stands, for people. */
export function reasonOf({ standing, share, level, parts }: Rating): string {
  const what = Object.entries(parts).map(([name, part]) => `${name} ${part.toFixed(2)}`);
  return `${standingOf(standing, share, level)}: ${what.join(", ")}`;
}

function standingOf(standing: Standing | null, share: number | null, level: QuotaLevel): string {
  if (!standing) return "nothing is known of its quota";
  const used = `${percent(usedPercent(standing.remainingRatio))} of ${standing.fact.group} used`;
  if (level === "ok") return used;
  const takes = share === null ? "" : `, and the request takes ${percent(share * 100)}`;
  return level === "critical" ? `critical quota level, ${used}${takes}` : `high quota level, ${used}`;
}

const percent = (number: number): string => `${Math.round(number)} %`;
