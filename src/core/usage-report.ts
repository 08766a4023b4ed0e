import type { ScopesInput } from "./scope.ts";
import type { LedgerField, LedgerGroup } from "./store.ts";

/** A date (`2026-11-01`, midnight UTC), an ISO date and time with an offset, a Date, or ms since the epoch. */
export type UsageTime = string | Date | number;

/** Which requests a report is about, and by what it is added up. Nothing = one sum of all. */
export type UsageQuery = {
  /** Values of a field of the requests; "" = those that have none. */
  readonly [field in LedgerField]?: string;
} & {
  /** Inclusive. @default the beginning */
  readonly from?: UsageTime;
  /** Exclusive. @default now */
  readonly to?: UsageTime;
  readonly scopes?: ScopesInput;
  /** Days are of UTC; any scope is `scope.<name>`. By `day` alone, days without requests have a row too. */
  readonly groupBy?: LedgerGroup | readonly LedgerGroup[];
};

/** Requests added up. The counts after `requests` are among them, the token counts after `inputTokens` and `outputTokens` among those. */
export interface UsageRow {
  /** Values by group; "" = the requests that have none. */
  readonly group: Readonly<Record<string, string>>;
  readonly requests: number;
  /** Refused by us. */
  readonly refused: number;
  /** Charged as held, because nobody said what was used. */
  readonly estimated: number;
  /** Served at a cost that nobody knows: the model has no price. Not in the sums of money. */
  readonly unpriced: number;
  readonly inputTokens: number;
  readonly cacheReadTokens: number;
  readonly cacheWriteTokens: number;
  readonly outputTokens: number;
  readonly reasoningTokens: number;
  readonly totalTokens: number;
  /** At the provider's prices, USD. The nearest number: the exact sum is {@link UsageRow.rawNanoUsd}. */
  readonly rawUsd: number;
  /** With markups, USD. */
  readonly billedUsd: number;
  /** Whole nano-USD (10^9 are 1 USD) as text, because no number has room for all digits of a large sum. */
  readonly rawNanoUsd: string;
  readonly billedNanoUsd: string;
}
