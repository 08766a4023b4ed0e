import type { Credential } from "../core/credential.ts";
import type { Scopes } from "../core/scope.ts";
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

/** What a strategy may want to know about the request. Read only by strategies of a host's own. */
export interface StrategyRequest {
  /** After aliases. */
  readonly model: string;
  readonly scopes: Scopes | undefined;
  /** What it will probably use; null = nobody can say. */
  usage(): Usage | null;
}

/**
 * Picks one of the candidates that may be used now: `open` is a part of `tier` in the same order and never empty. The tier is the set that a cursor
 * belongs to. Synchronous.
 */
export type Strategy = (tier: Tier, open: readonly Candidate[], request: StrategyRequest) => Candidate;

/** One of ours: it goes by the candidates alone. */
export type PlainStrategy = (tier: Tier, open: readonly Candidate[]) => Candidate;
