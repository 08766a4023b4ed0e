/** Quotas that providers tell with their answers: no account has to be asked for what its own answers say. */
import type { Credential, ProviderRow } from "./core/credential.ts";
import type { Clock } from "./core/time.ts";
import type { QuotaFacts } from "./pool/quota-facts.ts";
import { rowOf } from "./upstream/providers.ts";

/** Facts are shared through the store, and answers are many: what has hardly changed is not told again so soon. */
const AGAIN_MS = 30_000;
const HARDLY = 0.01;

interface Told {
  readonly remainingRatio: number;
  /** Monotonic, ms. */
  readonly at: number;
}

export type QuotaReader = (credential: Credential, headers: Parameters<NonNullable<ProviderRow["quotas"]>>[0]) => void;

/** Reads the headers of each answer. */
export function quotaReader(facts: Pick<QuotaFacts, "report">, clock: Clock): QuotaReader {
  /** Credentials are replaced, not changed; a row tells a handful of groups. */
  const told = new WeakMap<Credential, Map<string, Told>>();

  return function readQuotas(credential, headers) {
    const now = clock.now();
    const readings = rowOf(credential).quotas?.(headers, now) ?? [];
    if (readings.length === 0) return;
    let before = told.get(credential);
    if (!before) told.set(credential, (before = new Map<string, Told>()));
    const at = clock.monotonic();
    for (const reading of readings) {
      const { group, remainingRatio } = reading;
      const last = before.get(group);
      if (last && at - last.at < AGAIN_MS && Math.abs(last.remainingRatio - remainingRatio) < HARDLY) continue;
      before.set(group, { remainingRatio, at });
      facts.report({ ...reading, credential: credential.name, observedAt: now, source: "headers" });
    }
  };
}
