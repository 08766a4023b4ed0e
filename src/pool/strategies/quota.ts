/** Stays with an account while that is reasonable, and goes over to a better one before its quota ends. */
import type { Candidate, Look, Strategy, StrategyRequest, Tier } from "../candidate.ts";
import { currents, type Current } from "./currents.ts";
import { bestOf, isSafer, raterOf, reasonOf, type Rating } from "./quota-rating.ts";
import type { StrategyParts } from "./strategy-parts.ts";

interface Decision {
  readonly picked: Rating;
  /** Whether others are to follow; an answer for this request alone leaves everything as it is. */
  readonly switches: boolean;
}

const stay = (picked: Rating): Decision => ({ picked, switches: false });
const goTo = (picked: Rating): Decision => ({ picked, switches: true });

/** All accounts whose quotas are known come to their end together. */
function isLowEverywhere(ratings: readonly Rating[]): boolean {
  const known = ratings.filter(({ standing }) => standing !== null);
  return known.length > 0 && known.every(({ level }) => level === "critical");
}

/**
 * Rates candidates by five parts: what is left, how soon it is whole again, priority, confidence, price. Levels go before scores, so a fuller account is
 * never preferred to an emptier one of a worse level, and somebody who is open is always picked. It stays with one account, because prompt caches and
 * providers like that, until that is near its end or another one is better by a margin for long enough.
 */
export function quota(parts: StrategyParts): Strategy {
  const { settings, clock, preferred } = parts;
  const kept = currents();

  /** The chain's choice among those that are better off; undefined = no chain, or nobody of it. */
  function chained(from: Rating, ratings: readonly Rating[], model: string): Rating | undefined {
    const better = ratings.filter((each) => isSafer(each, from));
    if (better.length === 0) return undefined;
    for (const name of preferred(from.candidate, model)) {
      const found = better.find(({ candidate }) => candidate.credential.name === name);
      if (found) return found;
    }
    return undefined;
  }

  function withoutCurrent(gone: Rating | undefined, ratings: readonly Rating[], request: StrategyRequest): Decision {
    const best = bestOf(ratings);
    if (!gone) return goTo(best);
    if (request.wasTried(gone.candidate) || gone.isTooLarge) return stay(best);
    const isAtEnd = gone.level === "critical" && !isLowEverywhere(ratings);
    return goTo((isAtEnd && chained(gone, ratings, request.model)) || best);
  }

  function withCurrent(mine: Rating, current: Current, ratings: readonly Rating[], request: StrategyRequest): Decision {
    // What is left of all of them is used up one after the other, not a bit of each in turn.
    if (isLowEverywhere(ratings)) return stay(mine);
    const best = bestOf(ratings);
    if (best === mine) return stay(mine);
    const isBetterOff = isSafer(best, mine);
    if (isBetterOff && mine.isTooLarge) return stay(best);
    if (isBetterOff && mine.level === "critical") return goTo(chained(mine, ratings, request.model) ?? best);

    const { minDwellTimeMs, cooldownAfterSwitchMs, hysteresisMargin } = settings.current.antiFlapping;
    const now = clock.monotonic();
    if (now - current.since < minDwellTimeMs) return stay(mine);
    if (isBetterOff) return goTo(best);
    // Nobody is better off, so the best of the rest is of the same level. The current one was never left.
    const target = bestOf(ratings.filter(({ candidate }) => now - (current.left.get(candidate.key) ?? -Infinity) >= cooldownAfterSwitchMs));
    return target !== mine && target.score - mine.score >= hysteresisMargin / 100 - NOISE ? goTo(target) : stay(mine);
  }

  function decide(tier: Tier, open: readonly Candidate[], request: StrategyRequest, look: Look | null): Decision {
    const rate = raterOf(parts, request);
    const ratings = open.map(rate);
    const current = kept.of(tier, look);
    if (!current) return goTo(bestOf(ratings));
    const mine = ratings.find(({ candidate }) => candidate.key === current.key);
    if (mine) return withCurrent(mine, current, ratings, request);
    const gone = tier.find(({ key }) => key === current.key);
    return withoutCurrent(gone && rate(gone), ratings, request);
  }

  return {
    spansPriorities: true,
    pick(tier, open, request, look) {
      const { picked, switches } = decide(tier, open, request, look);
      if (switches) kept.change(tier, look, picked.candidate.key, clock.monotonic(), settings.current.antiFlapping.cooldownAfterSwitchMs);
      else if (!look) kept.used(tier);
      return picked.candidate;
    },
    judge(tier, request) {
      const rate = raterOf(parts, request);
      const current = kept.of(tier, null);
      return tier.map((candidate) => {
        const rating = rate(candidate);
        const { level, score, parts: scored } = rating;
        const isCurrent = candidate.key === current?.key;
        return { level, score, parts: scored, reason: `${reasonOf(rating)}${isCurrent ? "; in use" : ""}` };
      });
    },
  };
}

/** Scores are sums of fractions: 0.55 - 0.5 is less than 0.05. */
const NOISE = 1e-9;
