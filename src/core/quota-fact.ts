/** Who says what is left: the headers of an answer, somebody who asked the provider, a refusal, or a guess. */
export const QUOTA_SOURCES = ["headers", "poll", "error", "estimate"] as const;
export type QuotaSource = (typeof QUOTA_SOURCES)[number];

/** What a quota counts; `share` = only a part of the whole is known, and no numbers. */
export const QUOTA_UNITS = ["requests", "tokens", "input_tokens", "output_tokens", "usd", "credits", "share"] as const;
export type QuotaUnit = (typeof QUOTA_UNITS)[number];

/** What is left of one of an account's quotas. Unknown is no fact at all, never 0. */
export interface QuotaFact {
  readonly credential: string;
  /** What is counted together, once per credential: `5h`, `weekly-opus`, `tokens/gpt-4o` where each model is counted by itself. */
  readonly group: string;
  /** 0 to 1: the part that is left, not the part that is used. */
  readonly remainingRatio: number;
  /** When it is whole again, wall clock, ms; null = nobody knows. */
  readonly resetsAt: number | null;
  /** When it was seen, wall clock, ms. An older fact never replaces a newer one. */
  readonly observedAt: number;
  readonly source: QuotaSource;
  /** Patterns (`claude-*`) of the models that count in it, as the provider calls them; absent = all of the account's. */
  readonly models?: readonly string[];
  /** How long a whole quota lasts, ms; absent = nobody knows. */
  readonly windowMs?: number;
  /** It fills up bit by bit until `resetsAt`, as token buckets do; absent = all at once, then. */
  readonly refills?: boolean;
  /** What the whole is, in `unit`; absent = nobody knows. */
  readonly limit?: number;
  /** Default `share`. */
  readonly unit?: QuotaUnit;
  /** How sure it was when it was seen, 0 to 1. Absent = what its source usually is worth. */
  readonly confidence?: number;
}

/** Room for the name of a model in it. */
export const QUOTA_GROUP = /^\P{Cc}{1,320}$/u;

/** What a fact is without its credential, and whoever saw it when. */
export type QuotaMeasure = Omit<QuotaFact, "credential" | "observedAt" | "source">;

/** Whether a value that came from elsewhere says what is left of a quota. */
export function isQuotaMeasure(value: unknown): value is QuotaMeasure {
  if (typeof value !== "object" || value === null) return false;
  const { group, remainingRatio, resetsAt, models, windowMs, refills, limit, unit, confidence } = value as Partial<Record<keyof QuotaFact, unknown>>;
  return (
    typeof group === "string" &&
    QUOTA_GROUP.test(group) &&
    isRatio(remainingRatio) &&
    (resetsAt === null || isAmount(resetsAt)) &&
    isAbsentOr(models, isTexts) &&
    isAbsentOr(windowMs, isAmount) &&
    isAbsentOr(refills, (given) => typeof given === "boolean") &&
    isAbsentOr(limit, isAmount) &&
    isAbsentOr(unit, (given) => isOneOf(QUOTA_UNITS, given)) &&
    isAbsentOr(confidence, isRatio)
  );
}

/** Whether a value that came from elsewhere is a fact but for its credential. */
export function isQuotaFact(value: unknown): value is Omit<QuotaFact, "credential"> {
  if (!isQuotaMeasure(value)) return false;
  const { observedAt, source } = value as Partial<Record<keyof QuotaFact, unknown>>;
  return isAmount(observedAt) && isOneOf(QUOTA_SOURCES, source);
}

const isRatio = (value: unknown): boolean => typeof value === "number" && value >= 0 && value <= 1;
const isAmount = (value: unknown): boolean => typeof value === "number" && value >= 0 && Number.isFinite(value);
const isTexts = (value: unknown): boolean => Array.isArray(value) && value.every((each) => typeof each === "string");
const isOneOf = (known: readonly string[], value: unknown): boolean => typeof value === "string" && known.includes(value);
const isAbsentOr = (value: unknown, fits: (value: unknown) => boolean): boolean => value === undefined || fits(value);
