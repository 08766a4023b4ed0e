/** What a quota's fact is still worth: less with each minute, and when its quota is whole again it says that. */
import type { QuotaFact, QuotaSource } from "../core/quota-fact.ts";

/** How sure a fact is when it is seen, unless it says so itself: who asks for numbers may get them a little late, and a guess is one. */
const SURENESS: Readonly<Record<QuotaSource, number>> = { headers: 1, error: 1, poll: 0.9, estimate: 0.2 };

/** Others may use the account too. A fact is half as sure after a quarter of its quota's window: 75 minutes of 5 hours, 15 seconds of a minute. */
const HALF_LIVES_OF_WINDOW = 4;
/** Where nobody knows how long the window is. */
const HALF_LIFE_MS = 60 * 60_000;

/** That a quota is whole again, nobody has seen. */
const ROLLED_SURENESS = 0.5;

/** Where nobody knows when a quota is whole again, what was seen a day ago says nothing. */
const UNDATED_MS = 24 * 60 * 60_000;

/** How sure a fact is by now, 0 to 1. Never grows. */
export function confidenceOf({ source, confidence = SURENESS[source], windowMs, observedAt }: QuotaFact, nowMs: number): number {
  const halfLifeMs = windowMs === undefined || windowMs <= 0 ? HALF_LIFE_MS : windowMs / HALF_LIVES_OF_WINDOW;
  return confidence * 0.5 ** (Math.max(0, nowMs - observedAt) / halfLifeMs);
}

/** When it says nothing any more, wall clock, ms: a window after its quota was whole again. */
export function endOf({ resetsAt, observedAt, windowMs }: QuotaFact): number {
  if (resetsAt === null) return observedAt + Math.min(windowMs ?? UNDATED_MS, UNDATED_MS);
  return resetsAt + (windowMs ?? 0);
}

/** What is left by now, 0 to 1, as far as the fact knows: more with each moment where the quota fills up bit by bit. */
export function leftNow({ remainingRatio, refills = false, resetsAt, observedAt }: QuotaFact, nowMs: number): number {
  if (!refills || resetsAt === null || nowMs <= observedAt) return remainingRatio;
  if (nowMs >= resetsAt) return 1;
  return remainingRatio + (1 - remainingRatio) * ((nowMs - observedAt) / (resetsAt - observedAt));
}

/** When so much of the whole is left, wall clock, ms, but for what is spent meanwhile; null = nobody knows. */
export function backAt({ remainingRatio, refills = false, resetsAt, observedAt }: QuotaFact, wantedRatio: number): number | null {
  if (!refills || resetsAt === null || remainingRatio >= 1 || wantedRatio >= 1) return resetsAt;
  return Math.min(resetsAt, Math.ceil(observedAt + (resetsAt - observedAt) * ((wantedRatio - remainingRatio) / (1 - remainingRatio))));
}

/** A fact whose quota was whole again at its time: all of it is left, as far as anybody can say. Null = not yet, or nobody knows for how long. */
export function rolledOver(fact: QuotaFact, nowMs: number): QuotaFact | null {
  const { resetsAt, windowMs } = fact;
  if (resetsAt === null || windowMs === undefined || nowMs < resetsAt) return null;
  return Object.freeze({
    ...fact,
    remainingRatio: 1,
    observedAt: resetsAt,
    resetsAt: resetsAt + windowMs,
    source: "estimate",
    confidence: ROLLED_SURENESS * confidenceOf(fact, resetsAt),
  });
}
