/** Quotas as the headers of several providers tell them. */
import type { QuotaReading } from "../../core/credential.ts";
import type { QuotaUnit } from "../../core/quota-fact.ts";
import { fromRemaining } from "../../core/quota-reading.ts";
import { resetTime } from "../../core/reset-time.ts";
import type { Headers } from "./verdicts.ts";
import { decimal } from "./waits.ts";

export const MINUTE_MS = 60_000;
export const HOUR_MS = 60 * MINUTE_MS;
export const DAY_MS = 24 * HOUR_MS;

/** A quota that each model has for itself, so that two models' figures never replace each other. What names no model is the account's. */
export const ofModel = (group: string, model: string): Pick<QuotaReading, "group" | "models"> =>
  model === "" ? { group } : { group: `${group}/${model}`, models: [model] };

export interface NumbersTold {
  readonly remaining: Headers[string];
  readonly limit: Headers[string];
  readonly reset: Headers[string];
  readonly unit: QuotaUnit;
  /** Ms; a function of the time until it is whole again, where that is all that tells it. */
  readonly windowMs: number | ((untilResetMs: number) => number);
}

/**
 * A quota of each model by itself that is told in numbers. Those who tell it so count by buckets that fill up all the time, and the reset is when it is full:
 * https://docs.anthropic.com/en/api/rate-limits, https://platform.openai.com/docs/guides/rate-limits. None where one of them is missing. */
export function numbersOf(group: string, model: string, nowMs: number, told: NumbersTold): readonly QuotaReading[] {
  const [remaining, limit] = [decimal(told.remaining), decimal(told.limit)];
  const remainingRatio = fromRemaining(remaining, limit);
  if (remainingRatio === null || limit === null) return [];
  const resetsAt = resetTime(told.reset, nowMs);
  const windowMs = typeof told.windowMs === "number" ? told.windowMs : told.windowMs(resetsAt === null ? 0 : resetsAt - nowMs);
  return [{ ...ofModel(group, model), remainingRatio, resetsAt, windowMs, refills: true, limit, unit: told.unit }];
}
