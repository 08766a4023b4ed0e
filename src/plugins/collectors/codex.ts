/**
 * A ChatGPT login that is used for coding. Which window comes first is not fixed, so its length names it; numbers may be texts. Groups are called as the
 * headers of answers are read: it is the same quota.
 */
import type { QuotaReading } from "../../core/credential.ts";
import { fromUsedPercent } from "../../core/quota-reading.ts";
import { resetTime } from "../../core/reset-time.ts";
import type { Collector } from "./collector.ts";
import { DAY_MS, fieldsOf, numberOf, readingsOf, rowsOf, slugOf, textOf, type Fields, type Known } from "./fields.ts";

const HOME = "https://chatgpt.com";

/** Counts for no model of a chat. */
const NO_MODEL: readonly string[] = [];

interface Scope {
  /** Before the window's name. */
  readonly prefix: string;
  readonly models?: readonly string[];
}

/** The windows of one limit. The second of two that are called the same is called by its place. */
function windowsOf(limit: Fields, { prefix, models }: Scope, nowMs: number): readonly Known[] {
  const names = new Set<string>();
  return (["primary", "secondary"] as const).map((place): Known => {
    const window = fieldsOf(limit[`${place}_window`]);
    const seconds = numberOf(window.limit_window_seconds);
    const afterSeconds = numberOf(window.reset_after_seconds);
    const known = nameOf(place, seconds, afterSeconds);
    const name = names.has(known) ? place : known;
    const remainingRatio = fromUsedPercent(numberOf(window.used_percent));
    if (remainingRatio !== null) names.add(name);
    const resetsAt = resetTime(window.reset_at, nowMs) ?? (afterSeconds === null ? null : resetTime(nowMs + afterSeconds * 1_000, nowMs));
    return { group: prefix + name, remainingRatio, resetsAt, windowMs: seconds === null ? null : seconds * 1_000, models };
  });
}

function nameOf(place: "primary" | "secondary", seconds: number | null, afterSeconds: number | null): "session" | "weekly" {
  const byPlace = place === "primary" ? "session" : "weekly";
  const ms = (seconds ?? 0) * 1_000;
  if (ms > 0) return ms >= 6 * DAY_MS ? "weekly" : ms <= DAY_MS ? "session" : byPlace;
  return afterSeconds !== null && afterSeconds * 1_000 > DAY_MS ? "weekly" : byPlace;
}

/** Limits of single models, by their names; one whose models nobody knows is shown and counts for none. */
function scopeOf(limit: Fields): Scope {
  const name = slugOf(textOf(limit.limit_name) || textOf(limit.metered_feature) || "additional");
  if (name.includes("spark")) return { prefix: "spark-", models: ["*spark*"] };
  return { prefix: `${name}-`, models: name.startsWith("gpt-") ? [name, `${name}-*`] : NO_MODEL };
}

function read(body: Fields, nowMs: number): readonly QuotaReading[] {
  return readingsOf([
    ...windowsOf(fieldsOf(body.rate_limit), { prefix: "" }, nowMs),
    ...rowsOf(body.additional_rate_limits).flatMap((limit) => windowsOf(fieldsOf(limit.rate_limit), scopeOf(limit), nowMs)),
    ...windowsOf(fieldsOf(body.code_review_rate_limit), { prefix: "code-review-", models: NO_MODEL }, nowMs),
  ]);
}

export const codex: Collector = {
  id: "codex",
  provider: "codex",
  baseUrl: () => `${HOME}/backend-api`,
  isAtHome: ({ origin }) => origin === HOME,
  requests: () => [{ method: "GET", path: "/wham/usage", read }],
};
