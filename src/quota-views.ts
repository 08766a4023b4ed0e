import type { AccountQuotas, CredentialView, QuotaGroupView } from "./core/admin.ts";
import { levelOf, type Thresholds } from "./pool/quota-level.ts";

/** What is left of each account: whoever is nearest to the end first, those that nobody knows anything of last. */
export function quotaViews(credentials: () => readonly CredentialView[], thresholds: () => Thresholds): () => readonly AccountQuotas[] {
  return () => {
    const current = thresholds();
    return credentials()
      .map((view) => accountOf(view, current))
      .toSorted((a, b) => leastOf(a) - leastOf(b) || (a.credential < b.credential ? -1 : 1));
  };
}

function accountOf({ name, provider, state, quotas }: CredentialView, thresholds: Thresholds): AccountQuotas {
  const groups = quotas.map(({ credential: _credential, ...fact }): QuotaGroupView => ({ ...fact, level: levelOf(fact.remaining, thresholds) }));
  return {
    credential: name,
    provider,
    state,
    quotas: groups.toSorted((a, b) => a.remaining - b.remaining || (a.group < b.group ? -1 : 1)),
  };
}

const leastOf = ({ quotas }: AccountQuotas): number => quotas[0]?.remaining ?? Infinity;
