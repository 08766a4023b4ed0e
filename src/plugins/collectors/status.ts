import type { OutcomeKind } from "./accounts.ts";
import type { CollectorId } from "./collector.ts";

/** How it stands with asking about one credential. Times are wall clock, ms. */
export interface CollectorStatus {
  readonly credential: string;
  readonly collector: CollectorId;
  /**
   * `ok`: its quotas are known as of `seenAt` · `needs-login`: the provider does not accept the login · `limited`: it was asked too often · `unknown`: the
   * provider says nothing of quotas · `failed`: no answer · `waiting`: not asked yet. Facts that were seen before stay until their quota's reset.
   */
  readonly outcome: OutcomeKind;
  /** For people; null = it is ok or waiting. */
  readonly reason: string | null;
  /** When the provider was asked last, by whichever process; null = never. */
  readonly askedAt: number | null;
  /** When it last said what is left; null = never. */
  readonly seenAt: number | null;
  /** When it is asked again; null = it is being asked. */
  readonly nextAt: number | null;
}
