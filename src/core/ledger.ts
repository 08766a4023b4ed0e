import type { ErrorCode } from "./errors.ts";
import type { Scopes } from "./scope.ts";
import type { Amounts } from "./units.ts";
import type { Provenance, Usage } from "./usage.ts";

/** What is known before a request is sent upstream. */
export interface LedgerIntent {
  /** The request's own id (unique); `requestId` is what the client sees and may have chosen. */
  readonly id: string;
  readonly requestId: string;
  /** Wall clock, ms. */
  readonly at: number;
  /** Name of the client key; null when the host authenticates. */
  readonly key: string | null;
  readonly scopes: Scopes;
  readonly route: string;
  readonly dialect: string | null;
  /** The model asked for and the one sent to the provider. */
  readonly model: string | null;
  readonly servedModel: string | null;
  readonly provider: string | null;
  readonly credential: string | null;
  readonly stream: boolean;
  /** The caller's own label: `x-quotaguard-tag`, `guard.fetch({ tag })`. */
  readonly tag: string | null;
  /** What the budgets hold for it. */
  readonly held: Amounts;
}

/** An attempt that did not serve the request; `status` null = no answer came. */
export interface TriedAttempt {
  readonly credential: string;
  readonly model: string;
  readonly status: number | null;
  readonly code: ErrorCode | null;
}

/** How a request ended: `settled` by usage · `released` nothing was charged · `refused` by us · `estimated` charged as held · `unknown` the process died, charged as held. */
export type LedgerState = "settled" | "released" | "refused" | "estimated" | "unknown";

/** A finished request. Rows are self-contained: no other table is needed to explain one. */
export interface LedgerRow extends LedgerIntent {
  readonly state: LedgerState | "intent";
  readonly status: number;
  readonly code: ErrorCode | "client_closed" | null;
  readonly latencyMs: number;
  readonly firstByteMs: number | null;
  readonly attempts: number;
  /** The attempts before the last one, oldest first. Null = there was no other. */
  readonly tried: readonly TriedAttempt[] | null;
  readonly usage: Usage | null;
  readonly provenance: Provenance;
  /** Null = the model has no price. */
  readonly rawNanoUsd: number | null;
  readonly billedNanoUsd: number | null;
  /** For a refusal by a limit. */
  readonly limit: string | null;
  /** Which prices the cost is by: the same text for the same prices. Null = charged as held, said by the host, or not priced. */
  readonly priceVersion: string | null;
}

/** The row of a request that has not ended: what only its end can tell is empty. */
export const openRow = (intent: LedgerIntent): LedgerRow => ({
  ...intent,
  state: "intent",
  status: 0,
  code: null,
  latencyMs: 0,
  firstByteMs: null,
  attempts: 0,
  tried: null,
  usage: null,
  provenance: "void",
  rawNanoUsd: null,
  billedNanoUsd: null,
  limit: null,
  priceVersion: null,
});
