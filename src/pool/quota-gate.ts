/** Keeps requests from accounts whose quotas are used up, or too small for them; counting what other requests are about to use. */
import type { AttemptOutcome } from "../core/credential.ts";
import type { QuotaFact } from "../core/quota-fact.ts";
import type { Clock } from "../core/time.ts";
import { longer, type Block } from "./block-table.ts";
import type { Candidate } from "./candidate.ts";
import { backAt, endOf, leftNow } from "./quota-age.ts";
import { countsIn, type QuotaFacts } from "./quota-facts.ts";
import { isCounted, type Amount, type OpenSpend, type Spend } from "./spend.ts";

/** A word this old keeps nobody out by itself any more: single requests try whether it still holds. */
const PROBE_MS = 15 * 60_000;
/** How soon to ask again where only requests under way are in the way: nobody knows how long they take, nor that they take what was expected. */
const SOON_MS = 1_000;
/** Sums of fractions miss by as much. */
const DUST = 1e-9;

const MAX_PROBES = 10_000;

/** What a request will probably use. Worked out when somebody asks. */
export interface Demand {
  amount(): Amount;
}

export interface QuotaGate {
  /** Nothing is known of anybody, and nobody's requests count: the hot path asks no further. */
  readonly isQuiet: boolean;
  /** Why the candidate may not be used for so much now; null = it may. Changes nothing. The demand is asked only where something is known. */
  blockOf(candidate: Candidate, demand: Demand): Block | null;
  /** A request is about to be sent: from now on it counts. Null = nothing is known of the account. */
  enter(candidate: Candidate, demand: Demand): GateEntry | null;
}

/** Ends with the attempt. Only the first call counts. */
export interface GateEntry {
  leave(outcome: AttemptOutcome): void;
}

export interface QuotaGateOptions {
  readonly facts: Pick<QuotaFacts, "isEmpty" | "of">;
  readonly spend: Pick<Spend, "isEmpty" | "open" | "since" | "shareOf">;
  readonly clock: Clock;
}

/** A request that tries whether a word still holds. */
interface Probe {
  /** Nobody else tries before, wall clock, ms. */
  until: number;
}

/** `try` = the word is against it, and too old to be believed without a try. */
type Verdict = Block | "try" | null;

/** No credential's name has a slash. */
const keyOf = ({ credential, group }: QuotaFact): string => `${credential}/${group}`;

export function quotaGate({ facts, spend, clock }: QuotaGateOptions): QuotaGate {
  const probes = new Map<string, Probe>();

  function verdictOf({ credential }: Candidate, fact: QuotaFact, demand: Demand): Verdict {
    const { open, ended } = spend.since(credential, fact);
    const now = clock.now();
    const left = leftNow(fact, now) - ended;
    const isExhausted = left - open <= DUST;
    // What takes more than there ever is may try a whole quota.
    const share = isExhausted && open === 0 && !fact.refills ? 0 : Math.min(1, spend.shareOf(credential, fact, demand.amount()));
    if (!isExhausted && share <= left - open + DUST) return null;
    const { observedAt } = fact;
    const block = (until: number): Block => ({
      reason: isExhausted ? "exhausted" : "unaffordable",
      credential: credential.name,
      model: null,
      code: 0,
      note: `${isExhausted ? "nothing is left" : "too little is left"} of its quota ${fact.group}`,
      since: observedAt,
      until,
      // One at a time: each of them may be the one that takes the rest.
      ...(!isExhausted && open === 0 && !isCounted(fact) ? { isGuess: true } : {}),
    });
    if (left > DUST && share <= left + DUST) return block(now + SOON_MS);
    const holdsUntil = Math.max(observedAt + PROBE_MS, probes.get(keyOf(fact))?.until ?? 0);
    if (now >= holdsUntil) return "try";
    return block(Math.min(backAt(fact, share + open + ended) ?? holdsUntil, endOf(fact)));
  }

  /** Of all quotas that the model counts in. A guess keeps nobody out. */
  function* verdicts(candidate: Candidate, demand: Demand): Generator<readonly [QuotaFact, Verdict]> {
    for (const fact of facts.of(candidate.credential.name)) {
      if (fact.source !== "estimate" && countsIn(fact, candidate.model)) yield [fact, verdictOf(candidate, fact, demand)];
    }
  }

  function begin(fact: QuotaFact, now: number): Probe {
    const key = keyOf(fact);
    probes.delete(key);
    for (const oldest of probes.keys()) {
      if (probes.size < MAX_PROBES) break;
      probes.delete(oldest);
    }
    const probe = { until: now + PROBE_MS };
    probes.set(key, probe);
    return probe;
  }

  return {
    get isQuiet() {
      return facts.isEmpty && spend.isEmpty;
    },

    blockOf(candidate, demand) {
      let longest: Block | null = null;
      let guessed: Block | null = null;
      for (const [, verdict] of verdicts(candidate, demand)) {
        if (verdict === "try" || verdict === null) continue;
        if (verdict.isGuess) guessed = longer(guessed, verdict);
        else longest = longer(longest, verdict);
      }
      return longest ?? guessed;
    },

    enter(candidate, demand) {
      const begun: Probe[] = [];
      const now = clock.now();
      for (const [fact, verdict] of verdicts(candidate, demand)) if (verdict === "try") begun.push(begin(fact, now));
      const spent = spend.open(candidate, demand);
      return spent && new CountedEntry(spent, begun, clock);
    },
  };
}

class CountedEntry implements GateEntry {
  readonly #spent: OpenSpend;
  readonly #probes: readonly Probe[];
  readonly #clock: Clock;

  constructor(spent: OpenSpend, probes: readonly Probe[], clock: Clock) {
    this.#spent = spent;
    this.#probes = probes;
    this.#clock = clock;
  }

  leave(outcome: AttemptOutcome): void {
    const tokens = outcome.kind === "refused" ? null : outcome.tokens;
    this.#spent.end(tokens);
    // One that was answered, or never sent, lets the next one try at once; after a failure the old word is believed for as long again.
    const isFree = outcome.kind === "served" || (outcome.kind === "abandoned" && tokens === null);
    if (isFree) for (const probe of this.#probes) probe.until = this.#clock.now();
  }
}
