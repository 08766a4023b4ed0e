/** What Google's Code Assist tells of quotas, for the logins of Gemini CLI and of Antigravity alike. */
import type { Credential } from "../../core/credential.ts";
import { fromRemainingFraction } from "../../core/quota-reading.ts";
import { fieldsOf, firstOf, numberOf, type Fields, type Known } from "./fields.ts";

export const CODE_ASSIST = "https://cloudcode-pa.googleapis.com";
const HOSTS: ReadonlySet<string> = new Set([CODE_ASSIST, "https://daily-cloudcode-pa.googleapis.com"]);

export const isCodeAssist = ({ origin }: Credential): boolean => HOSTS.has(origin);

/** A list of projects may stand in one field; the first is the one that is asked about. */
export const projectOf = ({ project }: Credential): Fields => {
  const first = project?.split(",")[0]?.trim();
  return first === undefined || first === "" ? {} : { project: first };
};

/**
 * What is left of a bucket. Its JSON leaves out what is 0, so a bucket with nothing but the time of its reset is empty; one with an amount and no fraction
 * tells nothing unless the amount is 0.
 */
export function fractionLeft(bucket: Fields): number | null {
  const nested = fieldsOf(bucket.remaining);
  const fraction = numberOf(firstOf(bucket, "remainingFraction", "remaining_fraction") ?? firstOf(nested, "remainingFraction", "remaining_fraction"));
  if (fraction !== null) return fromRemainingFraction(fraction);
  const amount = numberOf(firstOf(bucket, "remainingAmount", "remaining_amount"));
  if (amount !== null) return amount <= 0 ? 0 : null;
  return resetOf(bucket) === undefined ? null : 0;
}

export const resetOf = (bucket: Fields): unknown => {
  const reset = firstOf(bucket, "resetTime", "reset_time");
  return reset === "" ? undefined : reset;
};

/** One of several models that share a quota: the least that is left counts, and the first reset. */
export function scarcest(group: string, models: readonly string[], of: readonly Pick<Known, "remainingRatio" | "resetsAt">[]): Known {
  const ratios = of.flatMap(({ remainingRatio }) => remainingRatio ?? []);
  const resets = of.flatMap(({ resetsAt }) => resetsAt ?? []);
  return {
    group,
    models,
    remainingRatio: ratios.length === 0 ? null : Math.min(...ratios),
    resetsAt: resets.length === 0 ? null : Math.min(...resets),
  };
}
