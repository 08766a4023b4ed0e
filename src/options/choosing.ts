/** `router.thresholds`, `antiFlapping`, `policy`, `policies` and `ignoreEstimated`: how accounts are chosen, where it is a matter of taste. */
import { z } from "zod";
import { DEFAULT_POLICY, policyNames, SCORE_PARTS, unknownPolicy, type ScorePart } from "../pool/choosing-policy.ts";
import type { ChoosingRules } from "../pool/choosing-settings.ts";
import { DEFAULT_THRESHOLDS, thresholdProblems, type Thresholds } from "../pool/quota-level.ts";
import type { Problem } from "./tree.ts";
import { duration, list, name } from "./values.ts";

const weight = () => z.number().min(0).max(1_000_000).default(0);

const weightsSchema = z.strictObject({
  /** What is left. */
  safety: weight(),
  /** How soon it is whole again. */
  refill: weight(),
  /** The credential's `priority`. */
  tier: weight(),
  /** How sure it is what is left. */
  reliability: weight(),
  /** What the model costs there. */
  cost: weight(),
} satisfies Record<ScorePart, unknown>);

/** Members of `router`. */
export const choosingShape = {
  /** In percent of a quota: used, and `minSafe` left. */
  thresholds: z
    .strictObject({
      /** People are told. It decides nothing. */
      warning: z.number().default(DEFAULT_THRESHOLDS.warning),
      /** Others go first. */
      switch: z.number().default(DEFAULT_THRESHOLDS.switch),
      /** Only when there is no other. */
      critical: z.number().default(DEFAULT_THRESHOLDS.critical),
      /** What a request of known size leaves alone. */
      minSafe: z.number().default(DEFAULT_THRESHOLDS.minSafe),
    })
    .prefault({}),
  /** What keeps the strategy `quota` from going to and fro. */
  antiFlapping: z
    .strictObject({
      /** How long an account is kept, unless it comes to its end. */
      minDwellTime: duration(0).default(300_000),
      /** How long nobody goes back to one that was left. */
      cooldownAfterSwitch: duration(0).default(180_000),
      /** How much better another one must be, in hundredths of the score. */
      hysteresisMargin: z.number().min(0).max(100).default(5),
    })
    .prefault({}),
  /** Of the strategy `quota`: balanced, cost, performance, safety, or one of `policies`. */
  policy: z.string().default(DEFAULT_POLICY),
  /** Policies of your own; one with the name of a built-in one replaces it. */
  policies: list(z.strictObject({ name: name(), weights: weightsSchema })).default([]),
  /** Quotas that somebody only guesses decide nothing. */
  ignoreEstimated: z.boolean().default(true),
};

interface ParsedChoosing extends Omit<ChoosingRules, "antiFlapping"> {
  readonly antiFlapping: { readonly minDwellTime: number; readonly cooldownAfterSwitch: number; readonly hysteresisMargin: number };
}

export const resolveChoosing = ({ thresholds, antiFlapping, policy, policies, ignoreEstimated }: ParsedChoosing): ChoosingRules => ({
  thresholds,
  antiFlapping: {
    minDwellTimeMs: antiFlapping.minDwellTime,
    cooldownAfterSwitchMs: antiFlapping.cooldownAfterSwitch,
    hysteresisMargin: antiFlapping.hysteresisMargin,
  },
  policy,
  policies,
  ignoreEstimated,
});

type Fields = Readonly<Record<string, unknown>>;
const fieldsOf = (value: unknown): Fields => (typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Fields) : {});

/** What the schema cannot say about `router`, as it was written. */
export function choosingProblems(router: Fields): Problem[] {
  const written = Array.isArray(router.policies) ? router.policies.map(fieldsOf) : [];
  const names = written.flatMap((policy) => (typeof policy.name === "string" ? [policy.name] : []));
  return [
    ...thresholdsProblems(fieldsOf(router.thresholds)),
    ...written.flatMap((policy, index) => policyProblems(policy, index, names)),
    ...namedPolicyProblems(router.policy, names),
  ];
}

function thresholdsProblems(written: Fields): Problem[] {
  const numbers = Object.entries(written).filter(([, value]) => typeof value === "number");
  const thresholds: Thresholds = { ...DEFAULT_THRESHOLDS, ...Object.fromEntries(numbers) };
  return thresholdProblems(thresholds).map((problem) => ({ path: ["router", "thresholds", problem.name], message: problem.message }));
}

function policyProblems({ name: own, weights }: Fields, index: number, names: readonly string[]): Problem[] {
  const path = ["router", "policies", index];
  const first = typeof own === "string" ? names.indexOf(own) : index;
  if (first < index && first >= 0)
    return [{ path: [...path, "name"], message: `${own as string} is already the name of router.policies[${first}]; names must differ` }];
  if (weights === undefined || Object.values(fieldsOf(weights)).some((each) => each !== 0)) return [];
  return [{ path: [...path, "weights"], message: `all are 0, so nothing would count; give one of ${SCORE_PARTS.join(", ")} a weight` }];
}

function namedPolicyProblems(policy: unknown, own: readonly string[]): Problem[] {
  const known = policyNames(own);
  if (typeof policy !== "string" || known.includes(policy)) return [];
  return [{ path: ["router", "policy"], message: unknownPolicy(policy, known) }];
}
