import { MAX_AMOUNT } from "./money.ts";

/**
 * What a model call consumed. The token classes are disjoint: their sum is the call's total, so nothing is charged twice.
 * Units: tokens. Classes that few calls have are absent when they are 0.
 */
export interface Usage {
  /** Fresh text input: without what a prompt cache served or stored, without audio and images. */
  readonly inputTokens: number;
  readonly cacheReadTokens: number;
  /** Input stored in a prompt cache for minutes. */
  readonly cacheWriteTokens: number;
  /** Input stored in a prompt cache for an hour, which costs more. */
  readonly cacheWriteLongTokens?: number;
  readonly audioInputTokens?: number;
  readonly imageInputTokens?: number;
  /** Visible text output: without reasoning, audio and images. */
  readonly outputTokens: number;
  readonly reasoningTokens: number;
  readonly audioOutputTokens?: number;
  readonly imageOutputTokens?: number;
  /** Output that the caller had predicted, where it is billed apart. */
  readonly predictionTokens?: number;
  /** Images made, where they are billed one by one. Not a token class. */
  readonly images?: number;
  /** Model calls in it. Absent = 1. Not a token class. */
  readonly requests?: number;
  /** A cost in USD that the provider itself reported. */
  readonly reportedUsd?: number;
  /** The provider's own usage objects, as they came: one, or one for each response. */
  readonly raw?: readonly Readonly<Record<string, unknown>>[];
}

export const INPUT_CLASSES = [
  "inputTokens",
  "cacheReadTokens",
  "cacheWriteTokens",
  "cacheWriteLongTokens",
  "audioInputTokens",
  "imageInputTokens",
] as const;
export const OUTPUT_CLASSES = ["outputTokens", "reasoningTokens", "audioOutputTokens", "imageOutputTokens", "predictionTokens"] as const;
/** All disjoint token classes. */
export const TOKEN_CLASSES = [...INPUT_CLASSES, ...OUTPUT_CLASSES] as const;
export type TokenClass = (typeof TOKEN_CLASSES)[number];
/** All that is counted: the token classes, and what is billed one by one. */
export const USAGE_COUNTS = [...TOKEN_CLASSES, "images", "requests"] as const;
export type UsageCount = (typeof USAGE_COUNTS)[number];

/** Where a settled figure comes from: the provider's own usage, our count of what was delivered, or the reserved estimate. */
export type Provenance = "exact" | "counted" | "estimated" | "void";

export const NO_USAGE: Usage = { inputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 0, reasoningTokens: 0 };

export const totalInputTokens = (usage: Usage): number =>
  usage.inputTokens +
  usage.cacheReadTokens +
  usage.cacheWriteTokens +
  (usage.cacheWriteLongTokens ?? 0) +
  (usage.audioInputTokens ?? 0) +
  (usage.imageInputTokens ?? 0);

export const totalOutputTokens = (usage: Usage): number =>
  usage.outputTokens + usage.reasoningTokens + (usage.audioOutputTokens ?? 0) + (usage.imageOutputTokens ?? 0) + (usage.predictionTokens ?? 0);

/** The classes that are absent when they are 0. */
const RARE = [
  "cacheWriteLongTokens",
  "audioInputTokens",
  "imageInputTokens",
  "audioOutputTokens",
  "imageOutputTokens",
  "predictionTokens",
  "images",
] as const;
/** Usage is kept by the row: what a provider may add to it has an end. */
const MOST_RAW = 20;

/** More than this no limit can be charged, and no row can say. */
const plus = (a = 0, b = 0): number => Math.min(MAX_AMOUNT, a + b);

export function addUsage(a: Usage, b: Usage): Usage {
  const sum: { -readonly [field in keyof Usage]: Usage[field] } = {
    inputTokens: plus(a.inputTokens, b.inputTokens),
    cacheReadTokens: plus(a.cacheReadTokens, b.cacheReadTokens),
    cacheWriteTokens: plus(a.cacheWriteTokens, b.cacheWriteTokens),
    outputTokens: plus(a.outputTokens, b.outputTokens),
    reasoningTokens: plus(a.reasoningTokens, b.reasoningTokens),
  };
  for (const name of RARE) {
    const count = plus(a[name], b[name]);
    if (count > 0) sum[name] = count;
  }
  const requests = plus(callsIn(a), callsIn(b));
  if (requests !== 1) sum.requests = requests;
  if (a.reportedUsd !== undefined || b.reportedUsd !== undefined) sum.reportedUsd = (a.reportedUsd ?? 0) + (b.reportedUsd ?? 0);
  if (a.raw || b.raw) sum.raw = [...(a.raw ?? []), ...(b.raw ?? [])].slice(0, MOST_RAW);
  return sum;
}

/** How many model calls a usage is of: what begins a sum is none. */
const callsIn = (usage: Usage): number => (usage === NO_USAGE ? 0 : (usage.requests ?? 1));
