import type { QuotaLevel, ShownLevel } from "../core/strategy.ts";

/** In percent of a quota. */
export interface Thresholds {
  /** Used: from here on people are told. It decides nothing. */
  readonly warning: number;
  /** Used: from here on others go first. */
  readonly switch: number;
  /** Used: from here on only what nobody else can serve, and at the end of all quotas. */
  readonly critical: number;
  /** Left: what a request of known size leaves alone. */
  readonly minSafe: number;
}

export const DEFAULT_THRESHOLDS: Thresholds = { warning: 85, switch: 90, critical: 95, minSafe: 5 };

/** Ratios are fractions of two and percents are not: 1 - 0.9 is less than a tenth. */
const NOISE = 1e-9;

export const usedPercent = (remainingRatio: number): number => 100 - remainingRatio * 100;

/** `share` = the part of the quota that the request takes, 0 to 1. Null = nobody knows, and what nobody knows is not short. */
export function quotaLevel(remainingRatio: number | null, share: number | null, thresholds: Thresholds): QuotaLevel {
  if (remainingRatio === null) return "ok";
  const used = usedPercent(remainingRatio) + NOISE;
  if (used >= thresholds.critical) return "critical";
  if (share !== null && share > 0 && remainingRatio * 100 + NOISE < share * 100 + thresholds.minSafe) return "critical";
  return used >= thresholds.switch ? "high" : "ok";
}

/** Null = nobody knows. */
export const shownLevel = (remainingRatio: number | null, thresholds: Thresholds): ShownLevel | null =>
  remainingRatio === null ? null : levelOf(remainingRatio, thresholds);

/** With what people are told before it decides anything. */
export function levelOf(remainingRatio: number, thresholds: Thresholds): ShownLevel {
  const level = quotaLevel(remainingRatio, null, thresholds);
  return level === "ok" && usedPercent(remainingRatio) + NOISE >= thresholds.warning ? "warning" : level;
}

/** What the thresholds get wrong, by name. */
export function thresholdProblems(thresholds: Thresholds): readonly { readonly name: keyof Thresholds; readonly message: string }[] {
  const names = Object.keys(DEFAULT_THRESHOLDS) as (keyof Thresholds)[];
  const outside = names.filter((name) => !(thresholds[name] >= 0 && thresholds[name] <= 100));
  if (outside.length > 0) return outside.map((name) => ({ name, message: "must be a percentage between 0 and 100" }));
  const pairs = [
    ["warning", "switch"],
    ["switch", "critical"],
  ] as const;
  return pairs
    .filter(([below, above]) => thresholds[below] >= thresholds[above])
    .map(([name, above]) => ({ name, message: `must be below ${above}, and ${thresholds[name]} is not below ${thresholds[above]}` }));
}
