/** What an operation asks for. */
export const VERB = { reserve: 1, settle: 2, extend: 3, lapse: 4, expire: 5, reported: 6, peek: 7 } as const;

/** What an operation is told. */
export const ANSWER = {
  allowed: 1,
  limited: 2,
  conflict: 3,
  closed: 4,
  skew: 5,
  stale: 6,
  rebuilding: 7,
  applied: 8,
  late: 9,
  done: 10,
  unknown: 11,
  yes: 12,
  no: 13,
  standings: 14,
  /** The record needs keys that were not declared: here are its charges, ask again. */
  needs: 15,
  /** The charges of a hold that has run out. */
  expired: 16,
  /** The key holds another kind of limit. */
  kind: 17,
  /** The key holds something that nobody here has written. */
  corrupt: 18,
} as const;
