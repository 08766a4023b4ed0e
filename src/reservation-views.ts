/** What is lent of accounts whose quotas are known, as operators see it. */
import type { QuotaView, ReservationView, ReservedQuota } from "./core/admin.ts";
import type { Credential } from "./core/credential.ts";
import type { QuotaFact } from "./core/quota-fact.ts";
import { confidenceOf, leftNow, type QuotaFacts } from "./pool/quota-facts.ts";
import type { Spend } from "./pool/spend.ts";

export interface ReservationViewParts {
  readonly credentials: Iterable<Credential>;
  readonly quotas: Pick<QuotaFacts, "of">;
  readonly spent: Pick<Spend, "of" | "since">;
  /** Wall clock, ms. */
  readonly now: () => number;
}

export interface ReservationViews {
  /** Of accounts whose quotas are known, or of which something is lent. */
  all(): readonly ReservationView[];
  quotasOf(credential: Credential): readonly QuotaView[];
}

const ratio = (value: number): number => Math.min(1, Math.max(0, value));

export function reservationViews({ credentials, quotas, spent, now }: ReservationViewParts): ReservationViews {
  function reserved(credential: Credential, fact: QuotaFact): ReservedQuota {
    const { group, remainingRatio, observedAt } = fact;
    const { open, ended } = spent.since(credential, fact);
    return {
      group,
      remainingRatio,
      observedAt,
      openRatio: ratio(open),
      spentRatio: ratio(ended),
      remaining: ratio(leftNow(fact, now()) - open - ended),
    };
  }

  function view(credential: Credential): ReservationView {
    const { name } = credential;
    return { credential: name, ...spent.of(name), quotas: quotas.of(name).map((fact) => reserved(credential, fact)) };
  }

  return {
    all: () =>
      Array.from(credentials, view).filter(({ attempts, spentTokens, quotas: known }) => attempts > 0 || spentTokens > 0 || known.length > 0),
    quotasOf(credential) {
      const at = now();
      return quotas.of(credential.name).map((fact) => ({
        ...fact,
        remaining: reserved(credential, fact).remaining,
        ageMs: Math.max(0, at - fact.observedAt),
        confidence: confidenceOf(fact, at),
      }));
    },
  };
}
