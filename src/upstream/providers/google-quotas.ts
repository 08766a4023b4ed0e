/** What Google's refusals say has run out: quotas by their own ids (`QuotaFailure`), or the whole of a plan for a model (`ErrorInfo`). */
import type { QuotaReading } from "../../core/credential.ts";
import type { QuotaUnit } from "../../core/quota-fact.ts";
import { resetTime } from "../../core/reset-time.ts";
import { googleError, textOf } from "./google.ts";
import { DAY_MS, HOUR_MS, MINUTE_MS, ofModel } from "./readings.ts";
import { startOf, type Headers } from "./verdicts.ts";
import { decimal } from "./waits.ts";

type Fields = Readonly<Record<string, unknown>>;

/** Where Google's days end: https://ai.google.dev/gemini-api/docs/rate-limits. Made when a day's quota has run out: a time zone takes a quarter of a second to load. */
let pacific: Intl.DateTimeFormat | undefined;
const pacificTime = (): Intl.DateTimeFormat =>
  (pacific ??= new Intl.DateTimeFormat("en-GB", {
    timeZone: "America/Los_Angeles",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    hourCycle: "h23",
  }));

/** The time of day there, ms; of a moment in whole seconds. */
function sinceMidnight(atMs: number): number {
  const [hours, minutes, seconds] = pacificTime().format(atMs).split(":").map(Number) as [number, number, number];
  return hours * HOUR_MS + minutes * MINUTE_MS + seconds * 1_000;
}

function nextMidnight(nowMs: number): number {
  const whole = Math.floor(nowMs / 1_000) * 1_000;
  const next = whole + DAY_MS - sinceMidnight(whole);
  // On the two days a year that are not 24 hours long it is an hour off.
  const past = sinceMidnight(next);
  return past > DAY_MS / 2 ? next + DAY_MS - past : next - past;
}

const WINDOWS: readonly (readonly [RegExp, number])[] = [
  [/PerMinute/, MINUTE_MS],
  [/PerHour/, HOUR_MS],
  [/PerDay/, DAY_MS],
];

function unitOf(id: string): QuotaUnit {
  if (/InputToken/i.test(id)) return "input_tokens";
  if (/OutputToken/i.test(id)) return "output_tokens";
  return /token/i.test(id) ? "tokens" : "requests";
}

/** The delay that comes with a refusal is seconds, even where a day's quota is gone: a day ends when it ends. */
function violationOf(violation: Fields, waitMs: number | null, nowMs: number, model: string): readonly QuotaReading[] {
  const id = textOf(violation.quotaId);
  const windowMs = WINDOWS.find(([pattern]) => id !== null && pattern.test(id))?.[1];
  const untilMs = waitMs ?? windowMs;
  if (id === null || untilMs === undefined) return [];
  const named = textOf((violation.quotaDimensions as Fields | undefined)?.model);
  const isOfModel = named !== null || /Per(?:Base)?Model/.test(id);
  const { group, models } = isOfModel ? ofModel(id, named ?? model) : ofModel(id, "");
  const limit = decimal(textOf(violation.quotaValue) ?? undefined);
  return [
    {
      group,
      // It is told by the name of what it is a version of.
      ...(models ? { models: [...new Set([...models, ...(model === "" ? [] : [model])])] } : {}),
      remainingRatio: 0,
      resetsAt: windowMs === DAY_MS ? nextMidnight(nowMs) : nowMs + untilMs,
      unit: unitOf(id),
      ...(windowMs === undefined ? {} : { windowMs }),
      ...(limit === null ? {} : { limit }),
    },
  ];
}

export function googleFaultQuotas(status: number, _headers: Headers, body: Buffer | string, nowMs: number, model: string): readonly QuotaReading[] {
  if (status !== 429) return [];
  const error = googleError(startOf(body));
  if (!error) return [];
  const { violations, reason, metadata, waitMs } = error;
  const readings = violations.flatMap((violation) => violationOf(violation, waitMs, nowMs, model));
  if (readings.length > 0 || reason !== "QUOTA_EXHAUSTED") return readings;
  const resetsAt = resetTime(metadata.quotaResetTimeStamp, nowMs) ?? (waitMs === null ? null : nowMs + waitMs);
  const spent = textOf(metadata.model) ?? model;
  return resetsAt === null || spent === "" ? [] : [{ ...ofModel("plan", spent), remainingRatio: 0, resetsAt }];
}
