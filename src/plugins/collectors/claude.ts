/**
 * A Claude subscription: what is used of its windows, 0 to 100. Every answer to a request tells the same in its headers, so this matters while an account is
 * at rest. The endpoint counts its own questions.
 */
import type { QuotaReading } from "../../core/credential.ts";
import { fromUsedPercent } from "../../core/quota-reading.ts";
import { resetTime } from "../../core/reset-time.ts";
import type { Collector } from "./collector.ts";
import { DAY_MS, fieldsOf, HOUR_MS, numberOf, readingsOf, type Fields, type Known } from "./fields.ts";

/** A login's token; an API key has no subscription. */
const LOGIN_TOKEN = "sk-ant-oat";
const HOME = "https://api.anthropic.com";

/** The groups of the account are called as the headers call them: it is the same quota. */
const WINDOWS: readonly (readonly [member: string, group: string, windowMs: number, models?: readonly string[]])[] = [
  ["five_hour", "5h", 5 * HOUR_MS],
  ["seven_day", "7d", 7 * DAY_MS],
  ["seven_day_opus", "7d_opus", 7 * DAY_MS, ["*opus*"]],
  ["seven_day_sonnet", "7d_sonnet", 7 * DAY_MS, ["*sonnet*"]],
];

/** What is paid for beyond the subscription is no quota of it, and is left out. */
function read(body: Fields, nowMs: number): readonly QuotaReading[] {
  return readingsOf(
    WINDOWS.map(([member, group, windowMs, models]): Known => {
      const window = fieldsOf(body[member]);
      const resetsAt = resetTime(window.resets_at, nowMs);
      return { group, remainingRatio: fromUsedPercent(numberOf(window.utilization)), resetsAt, windowMs, models };
    }),
  );
}

export const claude: Collector = {
  id: "claude",
  provider: "anthropic",
  applies: ({ apiKey }) => apiKey?.reveal().startsWith(LOGIN_TOKEN) === true,
  baseUrl: () => HOME,
  isAtHome: ({ origin }) => origin === HOME,
  leastIntervalMs: 5 * 60_000,
  requests: () => [{ method: "GET", path: "/api/oauth/usage", read }],
};
