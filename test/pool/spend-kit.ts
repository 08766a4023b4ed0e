import type { QuotaFact } from "../../src/core/quota-fact.ts";
import { credentialSet } from "../../src/pool/credential-set.ts";
import { quotaFacts } from "../../src/pool/quota-facts.ts";
import { amountOf, spend, type Amount, type OpenSpend } from "../../src/pool/spend.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { MINUTE, recordsOn } from "./health-kit.ts";
import { candidate, credential } from "./pool-kit.ts";

export const TTL = 5 * MINUTE;

/** How large a request is. */
export const asking = (tokens: number, outputTokens?: number): { amount(): Amount } => ({ amount: () => amountOf(tokens, outputTokens) });

/** Real facts about credential `a` (and whoever else is named), on a clock that the test moves. */
export function spendKit(names: readonly string[] = ["a"]) {
  const clock = testClock();
  const facts = quotaFacts({ records: recordsOn(clock), clock, logger: keptLogger() });
  const credentials = credentialSet(names.map((name) => credential(name)));
  const spent = spend({ facts, credentials, clock, ttlMs: TTL });
  const kit = {
    clock,
    facts,
    credentials,
    spent,
    /** A word of now, unless it says otherwise: of a quota of 1,000 tokens. */
    see(remainingRatio: number, more: Partial<QuotaFact> = {}): QuotaFact {
      const fact: QuotaFact = {
        credential: "a",
        group: "tokens",
        remainingRatio,
        resetsAt: null,
        observedAt: clock.now(),
        source: "headers",
        unit: "tokens",
        limit: 1_000,
        ...more,
      };
      facts.report(fact);
      return fact;
    },
    /** The same without numbers: a share is all that is known. */
    seeShare: (remainingRatio: number, more: Partial<QuotaFact> = {}) =>
      kit.see(remainingRatio, { group: "5h", unit: "share", limit: undefined as never, ...more }),
    open: (tokens: number, outputTokens?: number, model = "m", name = "a"): OpenSpend | null =>
      spent.open(candidate(name, model), asking(tokens, outputTokens)),
    /** Open and ended parts of a group's quota. */
    parts(group = "tokens", name = "a"): readonly [number, number] {
      const fact = facts.of(name).find((each) => each.group === group);
      if (!fact) throw new Error(`nothing is known of ${group}`);
      const { open, ended } = spent.since(credential(name), fact);
      return [open, ended];
    },
    /** So many tokens are used, from begin to end, a second later. */
    use(tokens: number, model = "m"): void {
      const attempt = kit.open(tokens, undefined, model);
      clock.advance(1_000);
      attempt?.end(tokens);
    },
  };
  return kit;
}
