/** Quotas that providers tell with their answers: no account has to be asked for what its own answers say. */
import type { Credential, Lease, ProviderRow, QuotaReading } from "./core/credential.ts";
import type { Clock } from "./core/time.ts";
import { QUOTA_GROUP, type QuotaSource } from "./core/quota-fact.ts";
import type { QuotaFacts } from "./pool/quota-facts.ts";
import { rowOf } from "./upstream/providers.ts";

/** Facts are shared through the store, and answers are many: what has hardly changed is not told again so soon. */
const AGAIN_MS = 30_000;
const HARDLY = 0.01;
/** Of one credential. Beyond it they are told again. */
const MAX_TOLD = 256;

interface Told {
  readonly remainingRatio: number;
  /** Monotonic, ms. */
  readonly at: number;
}

type Headers = Parameters<NonNullable<ProviderRow["quotas"]>>[0];

/** Is shown each answer of a provider's; `body` = of a refusal, as far as it was read, else null. */
export type QuotaReader = (lease: Pick<Lease, "credential" | "model">, status: number, headers: Headers, body: Buffer | null) => void;

/** Reads the headers of each answer, and what refusals say. */
export function quotaReader(facts: Pick<QuotaFacts, "report">, clock: Clock): QuotaReader {
  /** Credentials are replaced, not changed. */
  const told = new WeakMap<Credential, Map<string, Told>>();

  function tell(credential: Credential, readings: readonly QuotaReading[], source: QuotaSource, now: number): void {
    let before = told.get(credential);
    if (!before) told.set(credential, (before = new Map<string, Told>()));
    const at = clock.monotonic();
    for (const reading of readings) {
      const { group, remainingRatio } = reading;
      // The name of a model may be a client's.
      if (!QUOTA_GROUP.test(group)) continue;
      const last = before.get(group);
      if (last && at - last.at < AGAIN_MS && isHardly(last.remainingRatio, remainingRatio)) continue;
      if (before.size >= MAX_TOLD) before.clear();
      before.set(group, { remainingRatio, at });
      facts.report({ ...reading, credential: credential.name, observedAt: now, source });
    }
  }

  return function readQuotas({ credential, model }, status, headers, body) {
    const now = clock.now();
    const row = rowOf(credential);
    const read = row.quotas?.(headers, now, model) ?? NONE;
    // What comes with a refusal for want of room shows none, whatever else it counts.
    if (read.length > 0) tell(credential, read, status === 429 ? "error" : "headers", now);
    if (body === null) return;
    const said = row.faultQuotas?.(status, headers, body, now, model) ?? NONE;
    // Numbers are better than the words of the refusal.
    const others = said.filter(({ group }) => read.every((other) => other.group !== group));
    if (others.length > 0) tell(credential, others, "error", now);
  };
}

const NONE: readonly QuotaReading[] = [];

/** That there is nothing left, or something again, is never hardly a change. */
const isHardly = (one: number, other: number): boolean => Math.abs(one - other) < HARDLY && (one === 0) === (other === 0);
