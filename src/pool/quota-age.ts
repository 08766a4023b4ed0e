import type { QuotaFact, QuotaSource } from "../core/quota-fact.ts";

/** How sure a fact is when it is seen, unless it says so itself. */
const SURENESS: Readonly<Record<QuotaSource, number>> = { headers: 1, error: 1, poll: 0.9, estimate: 0.2 };

/** A fact is half as sure after a quarter of its quota's window. */
const HALF_LIVES_OF_WINDOW = 4;
/** Where nobody knows how long the window is. */
const HALF_LIFE_MS = 60 * 60_000;

/** How sure a fact is by now, 0 to 1. */
export function confidenceOf({ source, confidence = SURENESS[source], windowMs, observedAt }: QuotaFact, nowMs: number): number {
  const halfLifeMs = windowMs === undefined || windowMs <= 0 ? HALF_LIFE_MS : windowMs / HALF_LIVES_OF_WINDOW;
  return confidence * 0.5 ** (Math.max(0, nowMs - observedAt) / halfLifeMs);
}
