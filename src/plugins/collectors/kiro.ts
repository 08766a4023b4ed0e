/** A login of Kiro: credits per month, and those of a trial, which are used as well. An account has run out only when all of them have. */
import type { Credential, QuotaReading } from "../../core/credential.ts";
import { fromRemaining } from "../../core/quota-reading.ts";
import { resetTime } from "../../core/reset-time.ts";
import type { Collector } from "./collector.ts";
import { fieldsOf, firstOf, numberOf, readingsOf, rowsOf, slugOf, textOf, type Fields, type Known } from "./fields.ts";

const DEFAULT_REGION = "us-east-1";
/** Shown, and counted with the others in one sum. */
const NO_MODEL: readonly string[] = [];

function regionOf({ region, profileArn }: Credential): string {
  const found = profileArn?.split(":")[3] ?? region ?? DEFAULT_REGION;
  return /^[a-z]{2}(?:-[a-z]+)+-\d$/.test(found) ? found : DEFAULT_REGION;
}

interface Counted extends Known {
  readonly left: number;
  readonly whole: number;
}

/** One allowance: a plan's or a trial's. */
function allowance(group: string, from: Fields, resetsAt: number | null): readonly Counted[] {
  const used = numberOf(firstOf(from, "currentUsageWithPrecision", "currentUsage"));
  const whole = numberOf(firstOf(from, "usageLimitWithPrecision", "usageLimit"));
  if (used === null || whole === null || whole <= 0) return [];
  const left = Math.min(Math.max(whole - used, 0), whole);
  return [{ group, remainingRatio: fromRemaining(left, whole), resetsAt, limit: whole, unit: "credits", models: NO_MODEL, left, whole }];
}

function read(body: Fields, nowMs: number): readonly QuotaReading[] {
  const rows = rowsOf(body.usageBreakdownList).flatMap((row) => {
    const name = slugOf(textOf(row.resourceType) || textOf(row.displayName) || "usage");
    const trial = fieldsOf(row.freeTrialInfo);
    const isOn = textOf(trial.freeTrialStatus).toUpperCase() === "ACTIVE";
    return [
      ...allowance(name, row, resetTime(firstOf(row, "nextDateReset") ?? body.nextDateReset, nowMs)),
      ...(isOn ? allowance(`bonus-${name}`, trial, resetTime(trial.freeTrialExpiry, nowMs)) : []),
    ];
  });
  const sum = (of: "left" | "whole"): number => rows.reduce((total, row) => total + row[of], 0);
  const resets = rows.flatMap(({ resetsAt }) => resetsAt ?? []);
  const all: Known = {
    group: "credits",
    remainingRatio: fromRemaining(sum("left"), sum("whole")),
    resetsAt: resets.length === 0 ? null : Math.min(...resets),
    limit: sum("whole"),
    unit: "credits",
  };
  return readingsOf([all, ...(rows.length > 1 ? rows.map(({ left: _left, whole: _whole, ...row }) => row) : [])]);
}

export const kiro: Collector = {
  id: "kiro",
  provider: "kiro",
  baseUrl: (credential) => `https://q.${regionOf(credential)}.amazonaws.com`,
  isAtHome: ({ origin }) => /^https:\/\/(?:q|codewhisperer)\.[a-z0-9-]+\.amazonaws\.com$/.test(origin),
  requests(credential) {
    const { profileArn } = credential;
    const query = new URLSearchParams({ origin: "AI_EDITOR", resourceType: "AGENTIC_REQUEST", ...(profileArn === undefined ? {} : { profileArn }) });
    return [{ method: "GET", path: `/getUsageLimits?${query.toString()}`, read }];
  },
};
