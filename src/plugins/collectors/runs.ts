/** What came of asking, kept in the store: processes that share it ask once between them, and one that is started again does not ask anew. */
import type { PluginHost } from "../../core/plugin.ts";
import type { Run } from "./accounts.ts";

/** Longer than any pause. */
const MOST_AHEAD_MS = 24 * 60 * 60_000;
const KEPT_MS = 7 * 24 * 60 * 60_000;
const OUTCOMES: ReadonlySet<unknown> = new Set(["ok", "needs-login", "limited", "unknown", "failed"]);

export interface Runs {
  get(name: string): Promise<Run | null>;
  put(name: string, run: Run): Promise<void>;
}

export function runsIn(records: PluginHost["records"]): Runs {
  return {
    async get(name) {
      const record = await records.get(`runs/${name}`);
      return record ? runOf(record.value) : null;
    },
    async put(name, run) {
      await records.put(`runs/${name}`, run, { ttlMs: KEPT_MS });
    },
  };
}

const isMoment = (value: unknown): value is number => typeof value === "number" && value >= 0 && value < 9e15;

/** Another version may have written it. */
function runOf(value: unknown): Run | null {
  if (typeof value !== "object" || value === null) return null;
  const { outcome, login, reason, left, failures, at, seenAt, nextAt } = value as Partial<Record<keyof Run, unknown>>;
  const isWhole =
    OUTCOMES.has(outcome) &&
    typeof login === "string" &&
    (reason === null || typeof reason === "string") &&
    (left === null || (typeof left === "number" && left >= 0 && left <= 1)) &&
    typeof failures === "number" &&
    isMoment(at) &&
    (seenAt === null || isMoment(seenAt)) &&
    isMoment(nextAt) &&
    nextAt - at <= MOST_AHEAD_MS;
  return isWhole ? (value as Run) : null;
}
