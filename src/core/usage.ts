/**
 * What a model call consumed. The token classes are disjoint: their sum is the call's total, so nothing is charged twice.
 * Units: tokens.
 */
export interface Usage {
  /** Fresh input, without what a prompt cache served or stored. */
  readonly inputTokens: number;
  readonly cacheReadTokens: number;
  readonly cacheWriteTokens: number;
  /** Visible output, without reasoning. */
  readonly outputTokens: number;
  readonly reasoningTokens: number;
  /** A cost in USD that the provider itself reported. */
  readonly reportedUsd?: number;
}

/** Where a settled figure comes from: the provider's own usage, our count of what was delivered, or the reserved estimate. */
export type Provenance = "exact" | "counted" | "estimated" | "void";

export const NO_USAGE: Usage = { inputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 0, reasoningTokens: 0 };

export const totalInputTokens = (usage: Usage): number => usage.inputTokens + usage.cacheReadTokens + usage.cacheWriteTokens;

export const totalOutputTokens = (usage: Usage): number => usage.outputTokens + usage.reasoningTokens;

export function addUsage(a: Usage, b: Usage): Usage {
  const reportedUsd = a.reportedUsd === undefined ? b.reportedUsd : a.reportedUsd + (b.reportedUsd ?? 0);
  return {
    inputTokens: a.inputTokens + b.inputTokens,
    cacheReadTokens: a.cacheReadTokens + b.cacheReadTokens,
    cacheWriteTokens: a.cacheWriteTokens + b.cacheWriteTokens,
    outputTokens: a.outputTokens + b.outputTokens,
    reasoningTokens: a.reasoningTokens + b.reasoningTokens,
    ...(reportedUsd === undefined ? {} : { reportedUsd }),
  };
}
