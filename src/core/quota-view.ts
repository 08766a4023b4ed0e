import type { CredentialState } from "./admin.ts";
import type { QuotaFact } from "./quota-fact.ts";
import type { ShownLevel } from "./strategy.ts";

/** One of an account's quotas, as it was seen last. */
export interface QuotaGroupView extends Omit<QuotaFact, "credential" | "confidence"> {
  /** How sure it is by now, 0 to 1. */
  readonly confidence: number;
  /** How near it is to its end. */
  readonly level: ShownLevel;
}

/** What is known to be left of an account. */
export interface AccountQuotas {
  readonly credential: string;
  readonly provider: string;
  readonly state: CredentialState;
  /** The scarcest first; empty = nobody has said anything yet. */
  readonly quotas: readonly QuotaGroupView[];
}
