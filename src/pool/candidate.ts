import type { Credential } from "../core/credential.ts";
import type { Scopes } from "../core/scope.ts";
import type { Judgement } from "../core/strategy.ts";
import type { Usage } from "../core/usage.ts";

/** A credential that may serve a model, and the model's name there. One object per pair until what is offered changes. */
export interface Candidate {
  readonly credential: Credential;
  /** The model's name at the provider. */
  readonly model: string;
  /** The model's name in config, prices, limits and health records: the client's, after aliases. */
  readonly name: string;
  /** `credential/name`: what is kept about the pair goes by it. */
  readonly key: string;
}

/** Candidates of one priority, in the order of the config; the next tier is used when none of this one is left. */
export type Tier = readonly Candidate[];

/** What a strategy may want to know about the request. */
export interface StrategyRequest {
  /** After aliases. */
  readonly model: string;
  readonly scopes: Scopes | undefined;
  /** What belongs together and should stay on one account, as nobody else can name it; null = it stands alone. */
  readonly session: string | null;
  /** What it will probably use; null = nobody can say. */
  usage(): Usage | null;
  /** Whether the candidate had its turn in this very request: that it is not open then says nothing about others' requests. */
  wasTried(candidate: Candidate): boolean;
}

/** What strategies would remember after the turns of one look, by what they do remember: later turns of the same request follow from earlier ones. */
export type Look = Map<object, object>;

/** How one of several candidates is picked. */
export interface Strategy {
  /** Priorities are one of its own measures: all candidates are one tier, only fallbacks come after the others. */
  readonly spansPriorities?: boolean;
  /**
   * Picks one of those that may be used now: `open` is a part of `tier` in the same order and never empty. The tier is the set that a cursor belongs to.
   * Synchronous. With a `look` it only says whom it would pick: what changes is kept there. Null = somebody is asked.
   */
  pick(tier: Tier, open: readonly Candidate[], request: StrategyRequest, look: Look | null): Candidate;
  /** What it makes of each of them, in their order. Changes nothing. Absent = it goes by their order. */
  judge?(tier: Tier, request: StrategyRequest): readonly Judgement[];
}
