/** A login of Gemini CLI: a bucket for each model, some of which share a quota. */
import type { QuotaReading } from "../../core/credential.ts";
import { resetTime } from "../../core/reset-time.ts";
import { CODE_ASSIST, fractionLeft, isCodeAssist, projectOf, resetOf, scarcest } from "./code-assist.ts";
import type { Collector } from "./collector.ts";
import { firstOf, readingsOf, rowsOf, textOf, type Fields } from "./fields.ts";

/** Models that share a quota; the first of them that is told speaks for all. */
const FAMILIES: readonly (readonly [group: string, models: readonly string[]])[] = [
  ["flash-lite", ["gemini-2.5-flash-lite"]],
  ["flash", ["gemini-3-flash-preview", "gemini-2.5-flash"]],
  ["pro", ["gemini-3.1-pro-preview", "gemini-3-pro-preview", "gemini-2.5-pro"]],
];
/** Told, and not offered any more. */
const GONE = "gemini-2.0-flash";

function read(body: Fields, nowMs: number): readonly QuotaReading[] {
  const left = new Map(
    rowsOf(body.buckets).flatMap((bucket) => {
      const model = textOf(firstOf(bucket, "modelId", "model_id")).replace(/_vertex$/, "");
      const known = { remainingRatio: fractionLeft(bucket), resetsAt: resetTime(resetOf(bucket), nowMs) };
      return model === "" || model === GONE || known.remainingRatio === null ? [] : [[model, known] as const];
    }),
  );
  const families = FAMILIES.flatMap(([group, models]) => {
    const told = models.flatMap((model) => left.get(model) ?? []);
    const [preferred] = told;
    return preferred ? [{ ...scarcest(group, models, told), remainingRatio: preferred.remainingRatio }] : [];
  });
  const familiar = new Set(FAMILIES.flatMap(([, models]) => models));
  const others = [...left].filter(([model]) => !familiar.has(model)).map(([model, known]) => scarcest(model, [model], [known]));
  return readingsOf([...families, ...others]);
}

export const gemini: Collector = {
  id: "gemini",
  provider: "gemini-cli",
  baseUrl: () => CODE_ASSIST,
  isAtHome: isCodeAssist,
  requests: (credential) => [{ method: "POST", path: "/v1internal:retrieveUserQuota", body: projectOf(credential), read }],
};
