import type { RecordStore } from "../../src/core/store.ts";
import { penalties, type Penalties } from "../../src/pool/penalties.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { recordsOn } from "./health-kit.ts";

/** A table of penalties whose keys a test keeps out for a time. */
export interface Table extends Penalties {
  readonly clock: TestClock;
  readonly records: RecordStore;
  readonly lines: ReturnType<typeof keptLogger>["lines"];
  /** Keys that ran out or made room. */
  readonly over: string[];
  /** Keeps a key out for so long; null = for ever. */
  keep(key: string, forMs: number | null, code?: number): boolean;
  /** What stands: ms from now, by key. */
  standing(): Record<string, number | null>;
}

export function table(more: { readonly clock?: TestClock; readonly records?: RecordStore; readonly maxEntries?: number } = {}): Table {
  const { clock = testClock(), maxEntries = 100 } = more;
  const records = more.records ?? recordsOn(clock);
  const logger = keptLogger();
  const over: string[] = [];
  const made = penalties({ records, prefix: "kept/", clock, logger, maxEntries, ended: (key) => void over.push(key) });
  const keep: Table["keep"] = (key, forMs, code = 429) => {
    const since = clock.now();
    return made.set(key, { code, since, until: forMs === null ? null : since + forMs });
  };
  const standing: Table["standing"] = () => {
    const now = clock.now();
    return Object.fromEntries(made.all(now).map(([key, { until }]) => [key, until === null ? null : until - now]));
  };
  const own = Object.defineProperties({ clock, records, lines: logger.lines, over, keep, standing }, Object.getOwnPropertyDescriptors(made));
  return own as Table;
}
