/** A login of Antigravity: one quota for Gemini's models and one for all others, each for hours and for a week; older servers tell each model's. */
import type { QuotaReading } from "../../core/credential.ts";
import { resetTime } from "../../core/reset-time.ts";
import { CODE_ASSIST, fractionLeft, isCodeAssist, projectOf, resetOf, scarcest } from "./code-assist.ts";
import type { Collector } from "./collector.ts";
import { DAY_MS, fieldsOf, firstOf, HOUR_MS, isFields, readingsOf, rowsOf, textOf, type Fields, type Known } from "./fields.ts";

const GEMINI = ["gemini-*"];
const OTHERS = ["claude-*", "gpt-*"];

/** `{ groups }`, wrapped or not. */
function groupsOf(body: Fields): readonly Fields[] {
  for (const around of [body, fieldsOf(body.response), fieldsOf(body.summary)]) if (Array.isArray(around.groups)) return rowsOf(around.groups);
  return [];
}

/** What `retrieveUserQuotaSummary` says, also where the app's own server is asked. */
export function readSummary(body: Fields, nowMs: number): readonly QuotaReading[] {
  return readingsOf(
    groupsOf(body).flatMap((group) => {
      const isGeminis = familyOf(wordsOf(group.displayName, group.groupId, ...rowsOf(group.buckets).map(({ bucketId }) => bucketId)));
      if (isGeminis === null) return [];
      return rowsOf(group.buckets).flatMap((bucket): readonly Known[] => {
        const period = periodOf(wordsOf(bucket.bucketId, bucket.displayName, bucket.window));
        if (bucket.disabled === true || period === null) return [];
        return [
          {
            group: `${isGeminis ? "gemini" : "claude-gpt"}-${period}`,
            models: isGeminis ? GEMINI : OTHERS,
            remainingRatio: fractionLeft(bucket),
            resetsAt: resetTime(resetOf(bucket), nowMs),
            windowMs: period === "weekly" ? 7 * DAY_MS : 5 * HOUR_MS,
          },
        ];
      });
    }),
  );
}

const wordsOf = (...values: readonly unknown[]): string => values.map(textOf).join(" ").toLowerCase();

/** Whether these words speak of Gemini's models; null = nobody knows of which. */
function familyOf(words: string): boolean | null {
  if (/gemini/.test(words)) return true;
  return /claude|gpt|3p|third/.test(words) ? false : null;
}

function periodOf(words: string): "weekly" | "session" | null {
  if (/week|7d|7-day/.test(words)) return "weekly";
  return /session|hour|\b5h|5h\b|\b5\b/.test(words) ? "session" : null;
}

/** Models that share a quota, by their ids. */
const FAMILIES: readonly (readonly [group: string, models: readonly string[], isOne: (id: string) => boolean])[] = [
  ["claude-gpt", OTHERS, (id) => /claude|gpt|oss/.test(id)],
  ["gemini-pro", ["gemini-*pro*"], (id) => /gemini.*pro/.test(id)],
  ["gemini-flash", ["gemini-*flash*"], (id) => /gemini.*flash/.test(id)],
];

/** What `fetchAvailableModels` says of each model. */
export function readModels(body: Fields, nowMs: number): readonly QuotaReading[] {
  const models = Object.entries(fieldsOf(body.models)).flatMap(([id, model]) => {
    const quota = firstOf(fieldsOf(model), "quotaInfo", "quota_info");
    if (!isFields(quota)) return [];
    return [{ id: id.toLowerCase(), remainingRatio: fractionLeft(quota), resetsAt: resetTime(resetOf(quota), nowMs) }];
  });
  return readingsOf(
    FAMILIES.map(([group, patterns, isOne]) =>
      scarcest(
        group,
        patterns,
        models.filter(({ id }) => isOne(id)),
      ),
    ),
  );
}

export const antigravity: Collector = {
  id: "antigravity",
  provider: "antigravity",
  baseUrl: () => CODE_ASSIST,
  isAtHome: isCodeAssist,
  requests(credential) {
    const project = projectOf(credential);
    // Some accounts are known without a project only.
    const bodies = Object.keys(project).length === 0 ? [{}] : [project, {}];
    const summary = bodies.map((body) => ({ method: "POST", path: "/v1internal:retrieveUserQuotaSummary", body, read: readSummary }) as const);
    const models = bodies.map((body) => ({ method: "POST", path: "/v1internal:fetchAvailableModels", body, read: readModels }) as const);
    return [...summary, ...models];
  },
};
