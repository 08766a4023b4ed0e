import type { Clock } from "../../core/time.ts";
import type { Usage } from "../../core/usage.ts";
import type { Allowance } from "../allowance.ts";
import type { Candidate } from "../candidate.ts";
import type { ChoosingSettings } from "../choosing-settings.ts";

/** What our own strategies may ask. */
export interface StrategyParts {
  readonly allowance: Allowance;
  readonly settings: ChoosingSettings;
  readonly clock: Pick<Clock, "now" | "monotonic">;
  /** USD, before markup; null = no price. */
  readonly costUsd: (candidate: Candidate, usage: Usage) => number | null;
  /** Credentials that take over from `current` when it comes to its end, by name, the first one first. */
  readonly preferred: (current: Candidate, model: string) => readonly string[];
}
