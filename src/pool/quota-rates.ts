/** What a token takes of a quota whose numbers nobody tells: learnt from how far the provider's own figure moved while so many tokens were settled. */

/** Until an account has taught better, a whole quota is taken to be worth a million tokens: less than any plan that is sold, so too much is counted. */
const UNTAUGHT_PER_TOKEN = 1e-6;
/** What is believed before an account's first lesson weighs as much as half a percent of its quota: one step of a rounded figure proves little. */
const PRIOR_RATIO = 0.005;
/** Of the older lessons, at each new one. */
const KEPT = 0.8;
/** Whole quotas between a thousand tokens and a hundred billion; beyond, somebody else used the account, or it was misread. */
const MOST_PER_TOKEN = 1e-3;
const LEAST_PER_TOKEN = 1e-11;

/** Those that were taught last. */
const MAX_LEARNT = 20_000;

export interface QuotaRates {
  /** Part of the whole that one token takes, above 0. By the account itself, else by others of its provider, else by {@link UNTAUGHT_PER_TOKEN}. */
  perToken(place: QuotaPlace): number;
  /** So many tokens took this part of the whole. Both above 0. */
  learn(place: QuotaPlace, ratio: number, tokens: number): void;
}

export interface QuotaPlace {
  readonly credential: string;
  readonly provider: string;
  readonly group: string;
}

/** Sums that forget: their quotient moves with the lessons, and a lesson of a larger step weighs more. */
interface Learnt {
  ratio: number;
  tokens: number;
}

/** No credential's and no provider's name has a slash. */
const ofCredential = ({ credential, group }: QuotaPlace): string => `c/${credential}/${group}`;
const ofProvider = ({ provider, group }: QuotaPlace): string => `p/${provider}/${group}`;

export function quotaRates(): QuotaRates {
  const known = new Map<string, Learnt>();

  function rateOf(key: string): number | null {
    const learnt = known.get(key);
    return learnt ? Math.min(MOST_PER_TOKEN, Math.max(LEAST_PER_TOKEN, learnt.ratio / learnt.tokens)) : null;
  }

  const perToken = (place: QuotaPlace): number => rateOf(ofCredential(place)) ?? rateOf(ofProvider(place)) ?? UNTAUGHT_PER_TOKEN;

  function teach(key: string, before: number, ratio: number, tokens: number): void {
    const learnt = known.get(key) ?? { ratio: PRIOR_RATIO, tokens: PRIOR_RATIO / before };
    known.delete(key);
    for (const oldest of known.keys()) {
      if (known.size < MAX_LEARNT) break;
      known.delete(oldest);
    }
    known.set(key, { ratio: learnt.ratio * KEPT + ratio, tokens: learnt.tokens * KEPT + tokens });
  }

  return {
    perToken,
    learn(place, ratio, tokens) {
      teach(ofCredential(place), perToken(place), ratio, tokens);
      teach(ofProvider(place), rateOf(ofProvider(place)) ?? UNTAUGHT_PER_TOKEN, ratio, tokens);
    },
  };
}
