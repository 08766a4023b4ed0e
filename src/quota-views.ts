import type { AccountQuotas, CredentialView, QuotaGroupView } from "./core/admin.ts";
import type { Clock } from "./core/time.ts";
import { confidenceOf } from "./pool/quota-age.ts";
import { shownLevel } from "./pool/quota-level.ts";

/** What is left of each account: whoever is nearest to the end first, those that nobody knows anything of last. */
export function quotaViews(credentials: () => readonly CredentialView[], clock: Pick<Clock, "now">): () => readonly AccountQuotas[] {
  return () => {
    const now = clock.now();
    return credentials()
      .map((view) => accountOf(view, now))
      .toSorted((a, b) => leastOf(a) - leastOf(b) || (a.credential < b.credential ? -1 : 1));
  };
}

function accountOf({ name, provider, state, quotas }: CredentialView, now: number): AccountQuotas {
  const groups = quotas.map((fact): QuotaGroupView => {
    const { credential: _credential, ...rest } = fact;
    return { ...rest, confidence: confidenceOf(fact, now), level: shownLevel(fact.remainingRatio) };
  });
  return {
    credential: name,
    provider,
    state,
    quotas: groups.toSorted((a, b) => a.remainingRatio - b.remainingRatio || (a.group < b.group ? -1 : 1)),
  };
}

const leastOf = ({ quotas }: AccountQuotas): number => quotas[0]?.remainingRatio ?? Infinity;
