/** What a choice would come to now: the same code as the choice itself, over parts that only look. */
import type { Lease } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Judgement } from "../core/strategy.ts";
import { Attempts, isStandIn, type Asking, type AttemptParts, type Rejection } from "./attempts.ts";
import type { Candidate, Strategy, Tier } from "./candidate.ts";
import type { Health, Pass } from "./health.ts";
import type { Offer } from "./offers.ts";
import type { QuotaGate } from "./quota-gate.ts";
import type { Slots } from "./slots.ts";

export interface PreviewedCandidate {
  readonly candidate: Candidate;
  /** Its place among the tiers that are tried one after the other; 0 = the first. */
  readonly tier: number;
  /** The model that it takes the place of, by a fallback chain; null = it serves the model by itself. */
  readonly standsInFor: string | null;
  /** Null = it may be used now. */
  readonly rejection: PreviewedRejection | null;
  /** What the strategy makes of it; null = the strategy goes by the order. */
  readonly judgement: Judgement | null;
}

export interface PreviewedRejection {
  readonly reason: Rejection;
  /** When it may be used again, wall clock, ms; null = not by itself, or nobody knows. */
  readonly until: number | null;
  /** The status that caused it; 0 = none did. */
  readonly code: number;
  /** For people, where reason and code do not say it. */
  readonly note: string | null;
}

export interface Preview {
  /** Those that would be tried, in that order; then the others, as they stand in their tiers. The first is exact. Behind it every turn is as if no request came in between. */
  readonly candidates: readonly PreviewedCandidate[];
  /** What a client would be told; null = somebody can serve it. */
  readonly refusal: GuardError | null;
  /** What it would be told where those that may be used cannot be asked this; null = waiting does not help either. */
  readonly busy: GuardError | null;
}

export interface PreviewParts {
  readonly health: Health;
  readonly slots: Slots;
  readonly gate: QuotaGate | null;
  /** Wall clock, ms. */
  readonly now: () => number;
}

const PASS: Pass = { aloneUntil: 0 };
const nothing = (): void => undefined;

/** Changes nothing: no cursor, no probe, no slot, no count. Rejects as the choice would, but for want of candidates. */
export async function previewOf({ health, slots, gate, now }: PreviewParts, offer: Offer, strategy: Strategy, asking: Asking): Promise<Preview> {
  const rejections = new Map<Candidate, PreviewedRejection>();
  const rejected: AttemptParts["rejected"] = (reason, candidate, cause) => {
    if (cause === null) rejections.set(candidate, { reason, until: null, code: 0, note: null });
    else if ("waitMs" in cause) {
      const { waitMs, note = null } = cause;
      rejections.set(candidate, { reason, until: waitMs === null ? null : now() + waitMs, code: 0, note });
    } else rejections.set(candidate, { reason, until: cause.until, code: cause.code, note: cause.note ?? null });
  };
  const looking: AttemptParts["health"] = {
    get isQuiet() {
      return health.isQuiet;
    },
    blockOf: health.blockOf,
    enter: (candidate) => (health.mayEnter(candidate) ? PASS : null),
    leave: nothing,
  };
  const room: AttemptParts["slots"] = { take: (candidate, _opId, tokens) => slots.look(candidate, tokens), isShort: slots.isShort };
  const known: QuotaGate | null = gate && {
    get isQuiet() {
      return gate.isQuiet;
    },
    blockOf: gate.blockOf,
    enter: () => null,
  };
  const attempts = new Attempts(
    { health: looking, slots: room, gate: known, now, count: nothing, rejected, look: new Map() },
    offer,
    strategy,
    asking,
  );
  const tiers = strategy.spansPriorities ? offer.wholes : offer.tiers;
  const judgements = new Map<Candidate, Judgement>(tiers.flatMap((tier) => judged(strategy, tier, attempts)));
  const order: Candidate[] = [];
  let refusal: GuardError | null = null;
  try {
    for (let lease = await attempts.next(); lease; lease = await attempts.next()) {
      const candidate = lentBy(tiers, lease);
      order.push(candidate);
      // It was passed over first, and asked in the end.
      rejections.delete(candidate);
    }
  } catch (error) {
    if (!GuardError.is(error) || !isRefusal(error)) throw error;
    refusal = error;
  }
  const all = tiers.flatMap((tier, at) => tier.map((candidate) => ({ candidate, tier: at })));
  const placeOf = ({ candidate }: { readonly candidate: Candidate }): number => {
    const at = order.indexOf(candidate);
    return at < 0 ? order.length : at;
  };
  const candidates = all
    .toSorted((a, b) => placeOf(a) - placeOf(b))
    .map(({ candidate, tier }) => ({
      candidate,
      tier,
      standsInFor: isStandIn(offer, candidate) ? offer.name : null,
      rejection: rejections.get(candidate) ?? null,
      judgement: judgements.get(candidate) ?? null,
    }));
  return { candidates, refusal, busy: attempts.busy() };
}

/** Nobody else has the credential under this name. */
const lentBy = (tiers: readonly Tier[], { credential, name }: Lease): Candidate =>
  tiers.flat().find((candidate) => candidate.credential === credential && candidate.name === name) as Candidate;

const isRefusal = ({ code }: GuardError): boolean => code === "all_credentials_limited" || code === "no_credential";

function judged(strategy: Strategy, tier: Tier, attempts: Attempts): (readonly [Candidate, Judgement])[] {
  const said = strategy.judge?.(tier, attempts) ?? [];
  return said.map((judgement, i) => [tier[i] as Candidate, judgement]);
}
