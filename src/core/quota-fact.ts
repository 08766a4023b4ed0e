/** Who says what is left: the headers of an answer, somebody who asked the provider, a refusal, or a guess. */
export const QUOTA_SOURCES = ["headers", "poll", "error", "estimate"] as const;
export type QuotaSource = (typeof QUOTA_SOURCES)[number];

/** What a quota counts; `share` = only a part of the whole is known, and no numbers. */
export const QUOTA_UNITS = ["requests", "tokens", "input_tokens", "output_tokens", "usd", "credits", "share"] as const;
export type QuotaUnit = (typeof QUOTA_UNITS)[number];

/** What is left of one of an account's quotas. Unknown is no fact at all, never 0. */
export interface QuotaFact {
  readonly credential: string;
  /** What is counted together, once per credential: `requests`, `5h`, `weekly-opus`. */
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
  /** What the whole is, in `unit`; absent = nobody knows. */
  readonly limit?: number;
  /** Default `share`. */
  readonly unit?: QuotaUnit;
  /** How sure it was when it was seen, 0 to 1. Absent = what its source usually is worth. */
  readonly confidence?: number;
}
