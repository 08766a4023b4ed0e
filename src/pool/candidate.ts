import type { Credential } from "../core/credential.ts";

/** A credential that may serve a model, and the model's name there. */
export interface Candidate {
  readonly credential: Credential;
  readonly model: string;
}

/** Candidates of one priority, best first; the next tier is used when none of this one is left. */
export type Tier = readonly Candidate[];

/** Picks one of several candidates of a tier. Synchronous and never empty-handed. */
export type Strategy = (tier: Tier) => Candidate;
