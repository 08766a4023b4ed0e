import type { LimitDefinition, LimitKind } from "./limit.ts";

/** What of a whole limit is set at run time, for all its values. What is absent is as configured. */
export interface RuntimeSettings {
  readonly mode?: "enforce" | "shadow";
  /** Wall clock, ms; null = at once. */
  readonly enforceFrom?: number | null;
  /** Capacity of a bucket, else the limit; -1 = unlimited. */
  readonly limit?: number;
  /** Buckets only. */
  readonly refillPerSec?: number;
}

/** The definition that holds: what was set at run time goes before all that is configured, `overrides` included. Its counters stay the same. */
export function withSettings(definition: LimitDefinition, { mode, enforceFrom, limit, refillPerSec }: RuntimeSettings): LimitDefinition {
  return {
    ...definition,
    ...(mode === undefined ? {} : { mode }),
    ...(enforceFrom === undefined ? {} : { enforceFrom: enforceFrom ?? undefined }),
    ...(limit === undefined ? {} : { overrides: {} }),
    kind: kindWith(definition.kind, limit, refillPerSec),
  };
}

function kindWith(kind: LimitKind, limit: number | undefined, refillPerSec: number | undefined): LimitKind {
  if ("bucket" in kind) {
    return { bucket: { capacity: limit ?? kind.bucket.capacity, refillPerSec: refillPerSec ?? kind.bucket.refillPerSec } };
  }
  if (limit === undefined) return kind;
  return "window" in kind ? { window: { ...kind.window, limit } } : { concurrency: { limit } };
}
