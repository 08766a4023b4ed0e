import { createHash } from "node:crypto";
import type { Choice } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import { Attempts, type Asking, type AttemptParts } from "./attempts.ts";
import type { Candidate, Strategy, Tier } from "./candidate.ts";
import type { Health } from "./health.ts";
import { offerOf, offerWith, type Offer, type Offers, type OfferSlot } from "./offers.ts";
import type { QuotaGate } from "./quota-gate.ts";
import { previewOf, type Preview } from "./preview.ts";
import type { Slots } from "./slots.ts";

export interface PoolOptions {
  readonly offers: Offers;
  readonly health: Health;
  readonly slots: Slots;
  readonly strategy: Strategy;
  /** Absent = quotas keep nobody out. */
  readonly gate?: QuotaGate;
  /** Wall clock, ms. */
  readonly now: () => number;
  /** A candidate was passed over at a choice. Synchronous and never throws. */
  readonly rejected?: AttemptParts["rejected"];
}

/** What a model call wants. */
export interface ModelRequest extends Asking {
  readonly model: string;
  /** Where the offer is kept that it was costed over; absent = it was not. */
  readonly costed?: OfferSlot;
  /** Only this credential: what the call names lives there. Absent or null = any. */
  readonly credential?: string | null;
  /** The answer is about the model itself: its fallbacks could only give a wrong one. */
  readonly withoutFallbacks?: boolean;
}

/** What an operation wants that names no model. */
export interface OperationRequest {
  /** A stable name, such as `/v1/audio`: health and limits are kept under it. */
  readonly operation: string;
  readonly opId: string;
  /** Equal texts go to the same credential while it may be used; null = the strategy decides. */
  readonly affinity: string | null;
  /** Only this credential: what is asked for lives there. Null = any. */
  readonly credential: string | null;
  readonly scopes?: Scopes | undefined;
  /** Credentials that cannot carry it. */
  readonly except?: (candidate: Candidate) => boolean;
}

export interface Pool {
  /** Leases for one model call. Throws `model_not_found` when nobody offers the model. */
  choose(request: ModelRequest): Choice;
  /** Leases for one operation without a model. Throws `no_credential` when none could ever serve it. */
  chooseAny(request: OperationRequest): Choice;
  /** What {@link Pool.choose} would come to now. Changes nothing. Rejects with `model_not_found` as it throws. */
  preview(request: ModelRequest): Promise<Preview>;
  /** Open attempts now, by credential. */
  inFlight(credential: string): number;
}

const noTokens = (): number => 0;

/** Lends credentials: one lease an attempt, by priority, health, room and strategy. */
export function credentialPool(options: PoolOptions): Pool {
  const { offers, health, slots, strategy, gate = null, now, rejected = () => undefined } = options;
  const open = new Map<string, number>();
  /** They are out of the set, and still serve. */
  const leaving = new Set<string>();
  const count = (name: string, by: number): void => {
    const left = (open.get(name) ?? 0) + by;
    open.set(name, left);
    if (left === 0 && leaving.size > 0 && leaving.delete(name)) open.delete(name);
  };
  offers.credentials.onChange((name, _before, current) => {
    if (current) leaving.delete(name);
    else if (open.get(name)) leaving.add(name);
    else open.delete(name);
  });
  const parts: AttemptParts = { health, slots, gate, now, count, rejected };
  /** Quotas are of models. What names none may be asked of an account that has used them up, such as its files. */
  const ungated: AttemptParts = { ...parts, gate: null };

  function narrowed(offer: Offer, { credential, except }: Pick<OperationRequest, "credential" | "except">): Offer {
    if (credential === null && !except) return offer;
    const fits = (candidate: Candidate): boolean => (credential === null || candidate.credential.name === credential) && !except?.(candidate);
    const left = offerWith(offer, fits);
    if (left.candidates.length === 0) throw new GuardError("no_credential", "no credential of this gateway can carry this operation");
    return left;
  }

  function offerFor({ model, costed, credential = null, withoutFallbacks = false }: ModelRequest): Offer {
    const whole = costed ? offers.forRequest(costed, model) : offers.of(model);
    const offer = withoutFallbacks && whole.own.length > 0 && whole.fallbacks.length > 0 ? offerOf(whole.name, whole.own) : whole;
    return credential === null ? offer : narrowed(offer, { credential });
  }

  return {
    choose: (request) => new Attempts(parts, offerFor(request), strategy, request),
    preview: async (request) => previewOf({ health, slots, gate, now }, offerFor(request), strategy, request),
    chooseAny(request) {
      const offer = narrowed(offers.any(request.operation), request);
      const chosenBy = request.affinity === null ? strategy : byAffinity(request.affinity);
      return new Attempts(ungated, offer, chosenBy, { opId: request.opId, tokens: noTokens, scopes: request.scopes });
    },
    inFlight: (name) => open.get(name) ?? 0,
  };
}

/** Rendezvous hashing: the same text finds the same credential, whatever becomes of the others. */
function byAffinity(text: string): Strategy {
  const score = ({ credential }: Candidate): string => createHash("sha256").update(`${text}\n${credential.name}`).digest("base64url");
  function pick(_tier: Tier, open: readonly Candidate[]): Candidate {
    let [best] = open as [Candidate];
    let highest = score(best);
    for (const candidate of open) {
      const mine = score(candidate);
      if (mine > highest) [best, highest] = [candidate, mine];
    }
    return best;
  }

  return { pick };
}
