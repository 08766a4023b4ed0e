/**
 * A login of Qwen's portal. No endpoint of quotas is documented; the one that was there once is asked, and when it is not, its quota is unknown and nobody is
 * asked again for long.
 */
import type { QuotaReading } from "../../core/credential.ts";
import { fromRemaining } from "../../core/quota-reading.ts";
import type { Collector } from "./collector.ts";
import { DAY_MS, fieldsOf, isFields, numberOf, readingsOf, type Fields } from "./fields.ts";

function read(body: Fields, nowMs: number): readonly QuotaReading[] {
  const quota = isFields(body.data) ? body.data : fieldsOf(body);
  const limit = numberOf(quota.daily_request_limit);
  const used = numberOf(quota.requests_used_today);
  const remainingRatio = limit === null || used === null ? null : fromRemaining(limit - used, limit);
  const resetsAt = (Math.floor(nowMs / DAY_MS) + 1) * DAY_MS;
  return readingsOf([{ group: "requests-day", remainingRatio, resetsAt, windowMs: DAY_MS, limit, unit: "requests" }]);
}

export const qwen: Collector = {
  id: "qwen",
  provider: "qwen",
  applies: ({ resourceUrl }) => resourceUrl !== undefined,
  baseUrl: ({ resourceUrl }) => `https://${resourceUrl ?? "portal.qwen.ai"}`,
  isAtHome: ({ origin, resourceUrl }) => origin === `https://${resourceUrl}`,
  requests: () => [{ method: "GET", path: "/v1/account/quota", read }],
};
