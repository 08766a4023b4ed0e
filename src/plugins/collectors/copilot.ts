/** GitHub Copilot: allowances per month, of the plan or of the free tier. What is unlimited is no quota. */
import type { QuotaReading } from "../../core/credential.ts";
import { fromRemaining, fromRemainingPercent } from "../../core/quota-reading.ts";
import { resetTime } from "../../core/reset-time.ts";
import type { Collector } from "./collector.ts";
import { fieldsOf, firstOf, isFields, numberOf, readingsOf, type Fields, type Known } from "./fields.ts";

const API = "https://api.githubcopilot.com";
const HOSTS: ReadonlySet<string> = new Set([API, "https://api.individual.githubcopilot.com", "https://api.business.githubcopilot.com"]);

/** Models that are paid for with premium requests. The small ones that a plan includes are not among them, and none that nobody knows. */
const PREMIUM = ["claude-*", "gemini-*", "grok-*", "o1*", "o3*", "o4*", "gpt-4.5*", "gpt-5", "gpt-5.*", "gpt-5-codex*"];
/** Completions of an editor are no chat. */
const NO_MODEL: readonly string[] = [];

const ALLOWANCES: readonly (readonly [member: string, group: string, models: readonly string[] | undefined, usual: number])[] = [
  ["chat", "chat", undefined, 50],
  ["completions", "completions", NO_MODEL, 2_000],
  ["premium_interactions", "premium", PREMIUM, 50],
];

function read(body: Fields, nowMs: number): readonly QuotaReading[] {
  const resetsAt = resetTime(momentOf(firstOf(body, "quota_reset_date_utc", "quota_reset_date", "limited_user_reset_date")), nowMs);
  const snapshots = fieldsOf(body.quota_snapshots);
  const isPaid = ALLOWANCES.some(([member]) => isFields(snapshots[member]));
  return readingsOf(
    ALLOWANCES.flatMap(([member, group, models, usual]): readonly Known[] => {
      const left = isPaid ? ofPlan(fieldsOf(snapshots[member]), usual) : ofFreeTier(body, member, usual);
      return left === null ? [] : [{ group, models, resetsAt, unit: "requests", ...left }];
    }),
  );
}

/** Some name the day only. */
const momentOf = (value: unknown): unknown => (typeof value === "string" && /^\d{4}-\d\d-\d\d$/.test(value) ? `${value}T00:00:00Z` : value);

type Left = Pick<Known, "remainingRatio" | "limit">;

/** The percentage counts before the numbers; it may be beyond 100. */
function ofPlan(snapshot: Fields, usual: number): Left | null {
  if (snapshot.unlimited === true) return null;
  const entitlement = numberOf(snapshot.entitlement);
  // -1 is how some answers write "unlimited".
  if (entitlement !== null && entitlement < 0) return null;
  const percent = numberOf(snapshot.percent_remaining);
  const limit = entitlement ?? usual;
  const remainingRatio = percent === null ? fromRemaining(numberOf(snapshot.remaining), limit) : fromRemainingPercent(percent);
  return { remainingRatio, limit: entitlement };
}

function ofFreeTier(body: Fields, member: string, usual: number): Left {
  const monthly = numberOf(fieldsOf(body.monthly_quotas)[member]);
  return { remainingRatio: fromRemaining(numberOf(fieldsOf(body.limited_user_quotas)[member]), monthly ?? usual), limit: monthly };
}

export const copilot: Collector = {
  id: "copilot",
  provider: "copilot",
  baseUrl: () => "https://api.github.com",
  isAtHome: ({ origin }) => HOSTS.has(origin),
  requests: () => [
    {
      method: "GET",
      path: "/copilot_internal/user",
      headers: { accept: "application/vnd.github+json", "x-github-api-version": "2022-11-28" },
      read,
    },
  ],
};
