import { GuardError } from "../core/errors.ts";
import { policyNames, policyOf, unknownPolicy, type ChoosingPolicy } from "./choosing-policy.ts";
import { thresholdProblems, type Thresholds } from "./quota-level.ts";

/** What keeps `quota` from going to and fro. */
export interface AntiFlapping {
  /** How long an account is kept, unless it comes to its end. */
  readonly minDwellTimeMs: number;
  /** How long nobody goes back to an account that was left for a better one. */
  readonly cooldownAfterSwitchMs: number;
  /** In hundredths of a score: how much better another one must be. */
  readonly hysteresisMargin: number;
}

/** How accounts are chosen, where it is a matter of taste. */
export interface ChoosingRules {
  readonly thresholds: Thresholds;
  readonly antiFlapping: AntiFlapping;
  /** Of `policies`, or a built-in one. */
  readonly policy: string;
  readonly policies: readonly ChoosingPolicy[];
  /** Quotas that somebody only guesses count for nothing. */
  readonly ignoreEstimated: boolean;
}

/** What may be changed while it runs. */
export interface ChoosingChange {
  readonly thresholds?: Partial<Thresholds>;
  readonly policy?: string;
  readonly ignoreEstimated?: boolean;
}

export interface ChoosingSettings {
  readonly current: ChoosingRules;
  /** All or nothing, from the next choice on, in this process. Throws `body_invalid` that names what cannot be. */
  set(change: ChoosingChange): void;
}

export function choosingSettings(initial: ChoosingRules): ChoosingSettings {
  let current = initial;
  return {
    get current() {
      return current;
    },
    set(change) {
      const next = { ...current, ...change, thresholds: { ...current.thresholds, ...change.thresholds } };
      const [problem] = thresholdProblems(next.thresholds);
      if (problem) throw refused(`thresholds.${problem.name}`, problem.message);
      if (!policyOf(next.policy, next.policies))
        throw refused("policy", unknownPolicy(next.policy, policyNames(next.policies.map(({ name }) => name))));
      current = Object.freeze(next);
    },
  };
}

const refused = (param: string, message: string): GuardError => new GuardError("body_invalid", `${param}: ${message}`, { param });
