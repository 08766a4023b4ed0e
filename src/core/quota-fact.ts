/** What is left of one of an account's quotas. */
export interface QuotaFact {
  readonly credential: string;
  /** What is counted together: `requests`, `5h`, `weekly`, a family of models. */
  readonly group: string;
  /** 0 to 1. */
  readonly remainingRatio: number;
  /** When it is whole again, wall clock, ms; null = nobody knows. */
  readonly resetsAt: number | null;
  /** When it was seen, wall clock, ms. An older fact never replaces a newer one. */
  readonly observedAt: number;
  /** Who says so: `api`, `headers`, `estimate`. */
  readonly source: string;
}
