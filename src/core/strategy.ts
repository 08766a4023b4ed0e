import type { Scopes } from "./scope.ts";

/** A credential that may serve a call now, as a strategy sees it. */
export interface StrategyCandidate {
  readonly name: string;
  readonly provider: string;
  readonly tier: string | null;
  readonly priority: number;
  readonly weight: number;
  /** What is left of its scarcest quota, 0 to 1; null = nobody knows. */
  readonly remainingRatio: number | null;
  /** Requests that it serves now, from this process. */
  readonly inFlight: number;
  /** What the call would cost there, before markup; null = the model has no price. */
  readonly costUsd: number | null;
}

/** What is to be served. */
export interface StrategyCall {
  /** The client's name for it, after aliases. */
  readonly model: string;
  readonly scopes: Scopes;
}

/**
 * Picks one of the candidates (never empty; all of one priority, in the order of the config), or null: whoever is next in turn. Synchronous. What
 * throws, or returns somebody else, falls back to round-robin and is counted.
 */
export type StrategyFunction = (candidates: readonly StrategyCandidate[], call: StrategyCall) => StrategyCandidate | null;

/** How near an account is to the end of its quota. A worse one is never preferred: `ok` before `high` (above the switch threshold) before `critical`. */
export type QuotaLevel = "ok" | "high" | "critical";

/** With what people are told before it decides anything. */
export type ShownLevel = QuotaLevel | "warning";

/** What a strategy makes of a candidate. */
export interface Judgement {
  readonly level: QuotaLevel;
  /** The higher the better, among those of one level. */
  readonly score: number;
  /** What the score is made of, each 0 to 1 and before its weight. */
  readonly parts: Readonly<Record<string, number>>;
  /** For people. */
  readonly reason: string;
}
