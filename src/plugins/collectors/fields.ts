/** Answers of providers as they come: any member may be missing or of another kind. One bad entry never takes the others with it. */
import type { QuotaReading } from "../../core/credential.ts";

export type Fields = Readonly<Record<string, unknown>>;

export const HOUR_MS = 60 * 60_000;
export const DAY_MS = 24 * HOUR_MS;

/** More groups than any account has. */
const MOST_READINGS = 24;
const MOST_GROUP = 64;

export const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null && !Array.isArray(value);

/** An empty object where there is none. */
export const fieldsOf = (value: unknown): Fields => (isFields(value) ? value : {});

/** The objects of a list; whatever else stands in it is passed over. */
export const rowsOf = (value: unknown): readonly Fields[] => (Array.isArray(value) ? value.filter(isFields) : []);

export const textOf = (value: unknown): string => (typeof value === "string" ? value : "");

/** A number, also one that is written as text; null = there is none. */
export function numberOf(value: unknown): number | null {
  if (typeof value === "number") return Number.isFinite(value) ? value : null;
  return typeof value === "string" && /^-?\d{1,20}(?:\.\d{1,20})?$/.test(value.trim()) ? Number(value) : null;
}

/** `GPT-5.3 Codex Spark` -> `gpt-5.3-codex-spark`. */
export const slugOf = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^a-z0-9.]+/g, "-")
    .replace(/^-+|-+$/g, "")
    .slice(0, 48);

/** The first member that is there, by its names. */
export function firstOf(from: Fields, ...names: readonly string[]): unknown {
  for (const name of names) if (from[name] !== undefined && from[name] !== null) return from[name];
  return undefined;
}

/** What is known of a quota; without the part that is left nothing is. */
export interface Known extends Omit<QuotaReading, "remainingRatio" | "models" | "windowMs" | "limit" | "unit"> {
  readonly remainingRatio: number | null;
  readonly models?: readonly string[] | undefined;
  readonly windowMs?: number | null | undefined;
  readonly limit?: number | null | undefined;
  readonly unit?: QuotaReading["unit"] | undefined;
}

/** Readings without those that say nothing, each group once (the scarcest counts), and not more than anybody has. */
export function readingsOf(known: readonly Known[]): readonly QuotaReading[] {
  const readings = new Map<string, QuotaReading>();
  for (const { remainingRatio, models, windowMs, limit, unit, ...rest } of known) {
    const group = rest.group.slice(0, MOST_GROUP);
    if (remainingRatio === null || group === "") continue;
    const before = readings.get(group);
    if (before ? before.remainingRatio <= remainingRatio : readings.size >= MOST_READINGS) continue;
    readings.set(group, {
      ...rest,
      group,
      remainingRatio,
      ...(models === undefined ? {} : { models }),
      ...(isPositive(windowMs) && windowMs >= 1 ? { windowMs: Math.min(windowMs, 400 * DAY_MS) } : {}),
      ...(isPositive(limit) ? { limit, ...(unit === undefined ? {} : { unit }) } : {}),
    });
  }
  return [...readings.values()];
}

const isPositive = (value: number | null | undefined): value is number => typeof value === "number" && value > 0 && value <= 9e15;
