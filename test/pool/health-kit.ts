import type { AttemptOutcome, Fault } from "../../src/core/credential.ts";
import { GuardError, type ErrorCode } from "../../src/core/errors.ts";
import type { RecordStore, StrikeStore } from "../../src/core/store.ts";
import type { Clock } from "../../src/core/time.ts";
import { memoryRecords } from "../../src/stores/memory-records.ts";
import { silentLogger } from "../../src/core/logger.ts";

export const MINUTE = 60_000;
export const DAY = 24 * 60 * MINUTE;

export const recordsOn = (clock: Clock): RecordStore => memoryRecords(clock.now, silentLogger);

/** Counts at once, on the test's clock, and tells what was asked of it. */
export interface CountedStrikes extends StrikeStore {
  readonly asked: string[];
  /** What stands now. */
  readonly counts: ReadonlyMap<string, number>;
  isAway: boolean;
}

export function countedStrikes(clock: Clock): CountedStrikes {
  const entries = new Map<string, { count: number; endsAt: number }>();
  const asked: string[] = [];
  const strikes: CountedStrikes = {
    asked,
    isAway: false,
    get counts() {
      const live = [...entries].filter(([, { endsAt }]) => endsAt > clock.now());
      return new Map(live.map(([key, { count }]) => [key, count]));
    },
    strike(key, windowMs) {
      asked.push(`strike ${key}`);
      if (strikes.isAway) throw new GuardError("store_unavailable", "away");
      const known = entries.get(key);
      const entry = known && known.endsAt > clock.now() ? known : { count: 0, endsAt: clock.now() + windowMs };
      entry.count += 1;
      entries.set(key, entry);
      return entry.count;
    },
    clear(key) {
      asked.push(`clear ${key}`);
      if (strikes.isAway) throw new GuardError("store_unavailable", "away");
      entries.delete(key);
    },
  };
  return strikes;
}

/** Records that can be away: then all they do throws, or rejects. */
export interface ShakyRecords extends RecordStore {
  state: "there" | "throws" | "rejects";
}

export function shakyRecords(inner: RecordStore): ShakyRecords {
  function tried<T>(work: () => T): T | Promise<never> {
    const away = new GuardError("store_unavailable", "away");
    if (shaky.state === "throws") throw away;
    return shaky.state === "rejects" ? Promise.reject(away) : work();
  }
  const shaky: ShakyRecords = {
    state: "there",
    get: (key) => tried(() => inner.get(key)),
    put: (key, value, options) => tried(() => inner.put(key, value, options)),
    delete: (key) => tried(() => inner.delete(key)),
    list: (prefix) => tried(() => inner.list(prefix)),
    watch: inner.watch,
  };
  return shaky;
}

/** Records whose writes are on their way until the test lets the oldest one arrive. */
export interface SlowRecords extends RecordStore {
  readonly writes: string[];
  /** Lets the oldest write arrive, or be lost. */
  arrive(isLost?: boolean): Promise<void>;
}

export function slowRecords(inner: RecordStore): SlowRecords {
  const queue: { readonly go: () => void; readonly lose: () => void }[] = [];
  const writes: string[] = [];
  const later = <T>(name: string, work: () => T | Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      writes.push(name);
      queue.push({ go: () => resolve(work()), lose: () => reject(new GuardError("store_unavailable", "away")) });
    });
  return {
    ...inner,
    writes,
    put: (key, value, options) => later(`put ${key}`, () => inner.put(key, value, options)),
    delete: (key) => later(`delete ${key}`, () => inner.delete(key)),
    async arrive(isLost = false) {
      const write = queue.shift();
      if (!write) throw new Error("nothing is on its way");
      if (isLost) write.lose();
      else write.go();
      await settled();
    },
  };
}

/** What is under way without a timer comes to its end. */
export async function settled(): Promise<void> {
  for (let i = 0; i < 20; i += 1) await Promise.resolve();
}

export const refused = (
  status: number,
  fault: Fault = status === 401 || status === 402 || status === 403 ? "credential" : "capacity",
  more: { readonly waitMs?: number; readonly isAccountWide?: boolean } = {},
): AttemptOutcome => ({ kind: "refused", status, fault, isAccountWide: false, waitMs: null, ...more });

export const broke = (code: ErrorCode): AttemptOutcome => ({ kind: "failed", error: new GuardError(code, "x"), tokens: null });

export const others = (): boolean => true;
export const nobody = (): boolean => false;
