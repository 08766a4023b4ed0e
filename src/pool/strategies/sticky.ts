import type { Candidate, Look, Strategy } from "../candidate.ts";
import { changedBy } from "./changed-by.ts";

/** Beyond it, the session that rests longest begins anew. */
const MAX_SESSIONS = 10_000;

/** Accounts that a session was on and may come back to: its own, and those that stood in for it. */
const MAX_HOMES = 4;

/** After as many times to live the strategy decides anew, however busy the session is: an account is nobody's for good. */
const LONGEST_TTLS = 12;

export interface StickyOptions {
  /** Decides for new sessions, and for what belongs to none. */
  readonly strategy: Strategy;
  /** How long a session that rests keeps its account. */
  readonly ttlMs: number;
  /** Monotonic, ms. */
  readonly now: () => number;
  /** Whether sessions may still be kept on an account. Absent = as long as it is open. */
  readonly mayStay?: (candidate: Candidate) => boolean;
}

interface Home {
  readonly candidate: Candidate;
  readonly since: number;
  readonly usedAt: number;
  readonly uses: number;
}

/**
 * Keeps a session on the account that it was on last, as long as that is one of the best that are open: one that fell to a lower priority or to a fallback
 * comes back, to where it was before. New sessions go where the strategy sends them.
 */
export function sticky({ strategy, ttlMs, now, mayStay = () => true }: StickyOptions): Strategy {
  /** By session and model, the one that was used last at the end; of each the last account first. */
  const homes = new Map<string, readonly Home[]>();

  /** A look has but those that it changed. */
  const changed = (look: Look | null): Map<string, readonly Home[]> => changedBy(look, homes, () => new Map<string, readonly Home[]>());

  function keep(key: string, all: readonly Home[], look: Look | null): void {
    const into = changed(look);
    into.delete(key);
    for (const oldest of into.keys()) {
      if (into.size < MAX_SESSIONS) break;
      into.delete(oldest);
    }
    into.set(key, all);
  }

  return {
    get spansPriorities() {
      return strategy.spansPriorities ?? false;
    },
    judge: (tier, request) => strategy.judge?.(tier, request) ?? [],
    pick(tier, open, request, look) {
      const { session } = request;
      if (session === null) return strategy.pick(tier, open, request, look);
      const key = `${session}\n${request.model}`;
      const at = now();
      const isHome = ({ candidate, since, usedAt, uses }: Home): boolean =>
        // Where this very request was sent for the first time, and in vain, it never was at home.
        at - usedAt < ttlMs && at - since < ttlMs * LONGEST_TTLS && !(uses === 1 && request.wasTried(candidate));
      const known = ((look && changed(look).get(key)) ?? homes.get(key) ?? []).filter(isHome);
      for (const home of known) {
        const candidate = open.find((each) => isSame(each, home.candidate));
        if (!candidate || !mayStay(candidate)) continue;
        keep(key, [{ ...home, usedAt: at, uses: home.uses + 1 }, ...known.filter((other) => other !== home)], look);
        return candidate;
      }
      const candidate = strategy.pick(tier, open, request, look);
      const others = known.filter((home) => !isSame(home.candidate, candidate)).slice(0, MAX_HOMES - 1);
      keep(key, [{ candidate, since: at, usedAt: at, uses: 1 }, ...others], look);
      return candidate;
    },
  };
}

/** The same account: what is offered may have been worked out anew since. */
const isSame = (one: Candidate, other: Candidate): boolean => one.credential.name === other.credential.name;
