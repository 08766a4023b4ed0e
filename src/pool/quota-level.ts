import type { ShownLevel } from "../core/strategy.ts";

/** In percent of a quota that are used. */
const WARNING = 85;
const HIGH = 90;
const CRITICAL = 95;

/** Ratios are fractions of two and percents are not: 1 - 0.9 is less than a tenth. */
const NOISE = 1e-9;

export function shownLevel(remainingRatio: number): ShownLevel {
  const used = 100 - remainingRatio * 100 + NOISE;
  if (used >= CRITICAL) return "critical";
  if (used >= HIGH) return "high";
  return used >= WARNING ? "warning" : "ok";
}
