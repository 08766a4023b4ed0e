/** A provider that fails again and again is left alone for a while, for all its accounts, then tried with one of them. */
import type { Clock } from "../../core/time.ts";
import type { CollectorId } from "./collector.ts";

const THRESHOLD = 3;
const FIRST_OPEN_MS = 60_000;
const MOST_OPEN_MS = 10 * 60_000;

export interface ProviderBreakers {
  /** Whether one may be sent now. Of one that was open, one at a time. */
  allows(id: CollectorId): boolean;
  begun(id: CollectorId): void;
  /** `nothing` = it was not asked after all. True = it has just opened. */
  ended(id: CollectorId, sign: "answered" | "failed" | "nothing"): boolean;
}

interface Breaker {
  /** In a row. */
  failures: number;
  /** Monotonic, ms; null = closed. */
  openUntil: number | null;
  openings: number;
  running: number;
}

export function providerBreakers(clock: Pick<Clock, "monotonic">): ProviderBreakers {
  const known = new Map<CollectorId, Breaker>();

  function of(id: CollectorId): Breaker {
    let breaker = known.get(id);
    if (!breaker) known.set(id, (breaker = { failures: 0, openUntil: null, openings: 0, running: 0 }));
    return breaker;
  }

  return {
    allows(id) {
      const { openUntil, running } = of(id);
      return openUntil === null || (clock.monotonic() >= openUntil && running === 0);
    },
    begun(id) {
      of(id).running += 1;
    },
    ended(id, sign) {
      const breaker = of(id);
      breaker.running -= 1;
      if (sign === "nothing") return false;
      if (sign === "answered") {
        known.set(id, { failures: 0, openUntil: null, openings: 0, running: breaker.running });
        return false;
      }
      breaker.failures += 1;
      const now = clock.monotonic();
      // Those that were under way when it opened say nothing new.
      if (breaker.failures < THRESHOLD || (breaker.openUntil !== null && now < breaker.openUntil)) return false;
      const isNew = breaker.openUntil === null;
      breaker.openUntil = now + Math.min(FIRST_OPEN_MS * 2 ** breaker.openings, MOST_OPEN_MS);
      breaker.openings += 1;
      return isNew;
    },
  };
}
