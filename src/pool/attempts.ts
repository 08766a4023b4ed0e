import { NEVER_SENT, type AttemptOutcome, type Choice, type Credential, type Lease } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import { isPromise, type MaybePromise } from "../core/time.ts";
import { totalInputTokens, totalOutputTokens, type Usage } from "../core/usage.ts";
import type { Candidate, Look, Strategy, StrategyRequest, Tier } from "./candidate.ts";
import type { Block, Health, Pass } from "./health.ts";
import type { Offer } from "./offers.ts";
import type { Demand, GateEntry, QuotaGate } from "./quota-gate.ts";
import { isShortage, type Shortage, type Slot, type Slots } from "./slots.ts";
import { amountOf, type Amount } from "./spend.ts";

/** What all requests of a pool share. */
export interface AttemptParts {
  readonly health: Pick<Health, "isQuiet" | "blockOf" | "enter" | "leave">;
  readonly slots: Pick<Slots, "take" | "isShort">;
  /** Null = quotas do not matter: what is asked for names no model. */
  readonly gate: QuotaGate | null;
  /** Wall clock, ms. */
  readonly now: () => number;
  /** An attempt began (1) or ended (-1). */
  readonly count: (credential: string, by: number) => void;
  /** A candidate was passed over at a choice. `cause` is what keeps it out, where more is known than the reason. */
  readonly rejected: (reason: Rejection, candidate: Candidate, cause: Block | Shortage | null) => void;
  /** Nobody is really asked for: strategies only say whom they would pick. Absent = somebody is. */
  readonly look?: Look;
}

export type Rejection = Block["reason"] | "limited";

/** What one request says about itself. */
export interface Asking {
  readonly opId: string;
  /** Input and output together. Asked at most once an attempt, and only where tokens are limited or quotas are known. */
  readonly tokens: () => number;
  readonly scopes?: Scopes | undefined;
  /** What should stay on one account; see {@link StrategyRequest.session}. Asked only by strategies that keep sessions together. */
  readonly session?: (() => string | null) | undefined;
  /** What it will probably use. Asked only by strategies that want to know the price, and where quotas are known. */
  readonly usage?: (() => Usage) | undefined;
}

/** The leases of one request: never the same model of the same credential twice. */
export class Attempts implements Choice, StrategyRequest, Demand {
  readonly #parts: AttemptParts;
  readonly #offer: Offer;
  readonly #strategy: Strategy;
  readonly #asking: Asking;
  /** Tried, kept out, or found without room: none of them is looked at again for this request. */
  #seen: Candidate[] | undefined;
  #tried: Candidate[] | undefined;
  /** Kept out by a guess only: better the provider's own refusal, where nobody else is left. */
  #doubtful: Candidate[] | undefined;
  #shortages: Shortage[] | undefined;
  #leases = 0;
  #ownLeases = 0;
  #amount: Amount | undefined;

  constructor(parts: AttemptParts, offer: Offer, strategy: Strategy, asking: Asking) {
    this.#parts = parts;
    this.#offer = offer;
    this.#strategy = strategy;
    this.#asking = asking;
  }

  get model(): string {
    return this.#offer.name;
  }

  get scopes(): Scopes | undefined {
    return this.#asking.scopes;
  }

  get session(): string | null {
    return this.#asking.session?.() ?? null;
  }

  wasTried(candidate: Candidate): boolean {
    return this.#tried?.includes(candidate) ?? false;
  }

  usage(): Usage | null {
    return this.#asking.usage?.() ?? null;
  }

  amount(): Amount {
    return (this.#amount ??= amountAsked(this.#asking));
  }

  next(): MaybePromise<Lease | null> {
    return this.#from(0);
  }

  busy(): GuardError | null {
    const error = this.#refusal();
    return error.code === "all_credentials_limited" ? error : null;
  }

  hadAllOwn(): boolean {
    return this.#ownLeases > 0 && this.#ownLeases === this.#offer.own.length;
  }

  #from(first: number): MaybePromise<Lease | null> {
    const tiers = this.#strategy.spansPriorities ? this.#offer.wholes : this.#offer.tiers;
    for (let i = first; i < tiers.length; i += 1) {
      const tier = tiers[i] as Tier;
      for (let open = this.#open(tier); open.length > 0; open = this.#open(tier)) {
        // A strategy remembers who could not be picked, so it is asked although one is left; not when there is only one.
        const candidate = tier.length === 1 ? (tier[0] as Candidate) : this.#strategy.pick(tier, open, this, this.#parts.look ?? null);
        (this.#seen ??= []).push(candidate);
        const lease = this.#ask(candidate, () => this.#from(i));
        if (lease) return lease;
      }
    }
    for (let candidate = this.#doubtful?.shift(); candidate; candidate = this.#doubtful?.shift()) {
      const block = this.#blockOf(candidate);
      if (block && !block.isGuess) continue;
      const lease = this.#ask(candidate, () => this.#from(tiers.length));
      if (lease) return lease;
    }
    if (this.#leases > 0) return null;
    throw this.#refusal();
  }

  /** Its turn. Null = it has no room, or is being tried by another request. */
  #ask(candidate: Candidate, onwards: () => MaybePromise<Lease | null>): MaybePromise<Lease | null> {
    (this.#tried ??= []).push(candidate);
    const pass = this.#parts.health.enter(candidate);
    if (!pass) {
      this.#parts.rejected("breaker", candidate, null);
      return null;
    }
    const turn: Turn = { candidate, pass, entry: null };
    const taken = this.#take(turn);
    return isPromise(taken) ? taken.then((known) => this.#lease(turn, known) ?? onwards()) : this.#lease(turn, taken);
  }

  #take(turn: Turn): MaybePromise<Slot | Shortage> {
    const { slots, gate } = this.#parts;
    const give = (error: unknown): never => {
      leave(this.#parts, turn, NEVER_SENT, nobody);
      throw error;
    };
    try {
      // Before anything is waited for: what others look at next must count it.
      if (gate && !gate.isQuiet) turn.entry = gate.enter(turn.candidate, this);
      const taken = slots.take(turn.candidate, `${this.#asking.opId}.a${this.#tried?.length ?? 0}`, this.#asking.tokens);
      return isPromise(taken) ? taken.catch(give) : taken;
    } catch (error) {
      return give(error);
    }
  }

  #lease(turn: Turn, taken: Slot | Shortage): Lease | null {
    const { rejected, count } = this.#parts;
    if (isShortage(taken)) {
      leave(this.#parts, turn, NEVER_SENT, nobody);
      rejected("limited", turn.candidate, taken);
      (this.#shortages ??= []).push(taken);
      return null;
    }
    this.#leases += 1;
    if (!isStandIn(this.#offer, turn.candidate)) this.#ownLeases += 1;
    count(turn.candidate.credential.name, 1);
    return new PoolLease(this.#parts, this, turn, taken);
  }

  get offer(): Offer {
    return this.#offer;
  }

  /** Whether another candidate could serve this now; `elsewhere` = the same account does not count. */
  hasOthers(than: Candidate, elsewhere: boolean): boolean {
    const { slots } = this.#parts;
    const isOther = (other: Candidate): boolean => other !== than && !(elsewhere && other.credential === than.credential);
    return this.#offer.candidates.some((other) => isOther(other) && this.#blockOf(other) === null && !slots.isShort(other));
  }

  /** The provider refused the account as a whole: another model on it would be asked in vain. */
  leaveOut(credential: Credential): void {
    for (const candidate of this.#offer.fallbacks.length === 0 ? NOTHING : this.#offer.candidates)
      if (candidate.credential === credential) (this.#seen ??= []).push(candidate);
    this.#doubtful = this.#doubtful?.filter((candidate) => candidate.credential !== credential);
  }

  /** What keeps a candidate out now, as far as it is known without asking a store. */
  #blockOf(candidate: Candidate): Block | null {
    const { health, gate } = this.#parts;
    const block = health.isQuiet ? null : health.blockOf(candidate);
    return block ?? (gate === null || gate.isQuiet ? null : gate.blockOf(candidate, this));
  }

  /** Those of a tier that may be used now: usually all of them, and then the tier itself. */
  #open(tier: Tier): readonly Candidate[] {
    const { health, gate, rejected } = this.#parts;
    const seen = this.#seen;
    const isQuiet = health.isQuiet && (gate === null || gate.isQuiet);
    if (!seen && isQuiet) return tier;
    return tier.filter((candidate) => {
      if (seen?.includes(candidate)) return false;
      const block = isQuiet ? null : this.#blockOf(candidate);
      if (!block) return true;
      if (block.isGuess) (this.#doubtful ??= []).push(candidate);
      rejected(block.reason, candidate, block);
      (this.#seen ??= []).push(candidate);
      return false;
    });
  }

  /** Why there is no candidate at all: a time to come back when there is one, and the right status for who asks. */
  #refusal(): GuardError {
    const { now } = this.#parts;
    const waits: number[] = [];
    let isBusy = this.#shortages !== undefined;
    for (const { waitMs } of this.#shortages ?? []) if (waitMs !== null) waits.push(waitMs);
    for (const candidate of this.#offer.candidates) {
      const block = this.#blockOf(candidate);
      if (!block) continue;
      isBusy ||= block.reason === "cooling" || block.reason === "exhausted" || block.reason === "unaffordable";
      if (block.until !== null) waits.push(Math.max(1, block.until - now()));
    }
    // Where no time is known, SDKs would try again within seconds, and again.
    const details = waits.length === 0 ? { headers: { "x-should-retry": "false" } } : { retryAfterMs: Math.min(...waits) };
    if (isBusy) {
      const hint = waits.length === 0 ? "waiting does not help by itself" : "retry after the time that Retry-After names";
      return new GuardError("all_credentials_limited", `every credential that could serve this is at its limit or cooling down; ${hint}`, details);
    }
    const message = "no credential can serve this now: all that could are banned, paused or failing; the operator has to look";
    return new GuardError("no_credential", message, details);
  }
}

const nobody = (): boolean => false;
const NOTHING: readonly Candidate[] = Object.freeze([]);

/** Whether it is there by a chain only. */
export const isStandIn = ({ own, fallbacks }: Offer, candidate: Candidate): boolean => fallbacks.length > 0 && !own.includes(candidate);

const isAboutAccount = (outcome: AttemptOutcome): boolean => outcome.kind === "refused" && outcome.isAccountWide && outcome.fault !== "request";

function amountAsked({ usage, tokens }: Asking): Amount {
  if (!usage) return amountOf(tokens());
  const used = usage();
  const outputTokens = totalOutputTokens(used);
  return amountOf(totalInputTokens(used) + outputTokens, outputTokens);
}

/** One candidate's turn: what it entered, and has to leave once. */
interface Turn {
  readonly candidate: Candidate;
  readonly pass: Pass;
  entry: GateEntry | null;
}

function leave({ health }: AttemptParts, { candidate, pass, entry }: Turn, outcome: AttemptOutcome, hasOthers: () => boolean): void {
  entry?.leave(outcome);
  health.leave(candidate, pass, outcome, hasOthers);
}

const tokensOf = (outcome: AttemptOutcome): number | null => (outcome.kind === "refused" ? null : outcome.tokens);

class PoolLease implements Lease {
  readonly credential: Credential;
  readonly model: string;
  readonly name: string;
  readonly #parts: AttemptParts;
  readonly #turn: Turn;
  readonly #slot: Slot;
  readonly #attempts: Attempts;
  #released = false;

  constructor(parts: AttemptParts, attempts: Attempts, turn: Turn, slot: Slot) {
    const { credential, model, name } = turn.candidate;
    this.credential = credential;
    this.model = model;
    this.name = name;
    this.#parts = parts;
    this.#turn = turn;
    this.#slot = slot;
    this.#attempts = attempts;
  }

  get isFallback(): boolean {
    return isStandIn(this.#attempts.offer, this.#turn.candidate);
  }

  release(outcome: AttemptOutcome): void {
    if (this.#released) return;
    this.#released = true;
    this.#parts.count(this.credential.name, -1);
    this.#slot.finish(tokensOf(outcome));
    // Only a failure asks who else there is.
    if (outcome.kind === "served") {
      leave(this.#parts, this.#turn, outcome, nobody);
      return;
    }
    const isWhole = isAboutAccount(outcome);
    if (isWhole) this.#attempts.leaveOut(this.credential);
    leave(this.#parts, this.#turn, outcome, () => this.#attempts.hasOthers(this.#turn.candidate, isWhole));
  }
}
