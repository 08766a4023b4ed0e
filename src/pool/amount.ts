/** What an attempt takes of an account's quotas, in whatever they count. */
import type { QuotaFact, QuotaUnit } from "../core/quota-fact.ts";

/** What an attempt takes. Tokens are those of input and output together where nobody can tell them apart. */
export interface Amount {
  readonly requests: number;
  readonly tokens: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/** `outputTokens` = those of them that the model will write; absent = nobody knows, so all may be either. */
export const amountOf = (tokens: number, outputTokens?: number): Amount => ({
  requests: 1,
  tokens,
  inputTokens: outputTokens === undefined ? tokens : Math.max(0, tokens - outputTokens),
  outputTokens: outputTokens ?? tokens,
});

/** What a unit counts; others are known by their share only. */
export const COUNTED: Readonly<Partial<Record<QuotaUnit, keyof Amount>>> = {
  requests: "requests",
  tokens: "tokens",
  input_tokens: "inputTokens",
  output_tokens: "outputTokens",
};

/** Whether a quota's numbers are known; of others what a token takes is learnt, or guessed. */
export const isCounted = ({ limit, unit = "share" }: QuotaFact): boolean => COUNTED[unit] !== undefined && limit !== undefined && limit > 0;
