/** The right to do something alone, kept as a record: exact among all processes that share the store. */
import { randomBytes } from "node:crypto";
import type { PluginLock } from "./core/plugin.ts";
import type { RecordStore, StoredRecord } from "./core/store.ts";
import type { Clock } from "./core/time.ts";

/** A day: who needs it for longer extends it. */
const MOST_TTL_MS = 86_400_000;
/** A record that says "free" is only a trace of who could not delete it under a condition. */
const FREED_TTL_MS = 1;
const MOST_LOOKS = 4;

export interface RecordLockOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  /** For people who look into the store. */
  readonly owner?: string;
}

export interface RecordLock {
  /**
   * Takes the lock for `ttlMs`; null = somebody else has it. It ends by itself unless it is extended, by the store's own time. Rejects when the store
   * cannot be asked.
   */
  take(key: string, ttlMs: number): Promise<PluginLock | null>;
}

/** What stands in a lock's record. The token tells a holder's own writes from everybody else's, also those whose answer was lost. */
interface Mark {
  readonly owner: string | null;
  readonly token: string | null;
}

const FREE: Mark = { owner: null, token: null };

const tokenOf = ({ value }: StoredRecord): string | null => {
  const token = typeof value === "object" && value !== null ? (value as { token?: unknown }).token : undefined;
  return typeof token === "string" ? token : null;
};

/** Locks on records. Each take, extension and release is one conditional write, so there are never two holders. */
export function recordLock({ records, clock, owner = "quotaguard" }: RecordLockOptions): RecordLock {
  async function write(key: string, mark: Mark, ttlMs: number): Promise<number | undefined> {
    // A trace of a lock that was released may end between any two looks.
    for (let i = 0; i < MOST_LOOKS; i += 1) {
      const version = await records.put(key, mark, { ttlMs, ifAbsent: true });
      if (version !== undefined) return version;
      const known = await records.get(key);
      if (known === undefined) continue;
      if (tokenOf(known) !== null) return undefined;
      const inPlace = await records.put(key, mark, { ttlMs, ifVersion: known.version });
      if (inPlace !== undefined) return inPlace;
    }
    return undefined;
  }

  /** Replaces what a holder wrote itself; undefined = it is not the holder any more. */
  async function replace(key: string, token: string, last: number, mark: Mark, ttlMs: number): Promise<number | undefined> {
    let version = last;
    for (;;) {
      const written = await records.put(key, mark, { ttlMs, ifVersion: version });
      if (written !== undefined) return written;
      // A write of its own may have counted although its answer was lost.
      const known = await records.get(key);
      if (known === undefined || known.version === version || tokenOf(known) !== token) return undefined;
      version = known.version;
    }
  }

  return {
    async take(key, ttlMs) {
      if (!Number.isInteger(ttlMs) || ttlMs < 1 || ttlMs > MOST_TTL_MS) {
        throw new RangeError(`a lock's ttlMs must be a whole number from 1 to ${MOST_TTL_MS}`);
      }
      const token = randomBytes(16).toString("base64url");
      const mark: Mark = { owner, token };
      const askedAt = clock.monotonic();
      const taken = await write(key, mark, ttlMs);
      if (taken === undefined) return null;
      let version = taken;
      let released = false;

      const lock: PluginLock = {
        async extend() {
          if (released) return false;
          const from = clock.monotonic();
          const extended = await replace(key, token, version, mark, ttlMs);
          if (extended === undefined) return false;
          version = extended;
          // As with the first answer: one that took longer than the lock lasts says nothing about now.
          return clock.monotonic() - from < ttlMs;
        },
        async release() {
          if (released) return;
          released = true;
          await replace(key, token, version, FREE, FREED_TTL_MS);
        },
      };
      // An answer that took longer than the lock lasts says nothing about now.
      if (clock.monotonic() - askedAt >= ttlMs) {
        await lock.release();
        return null;
      }
      return lock;
    },
  };
}
