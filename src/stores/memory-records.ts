import { GuardError } from "../core/errors.ts";
import type { Logger } from "../core/logger.ts";
import type { RecordStore, StoredRecord } from "../core/store.ts";

const MAX_RECORDS = 100_000;

interface Entry {
  /** JSON text: what is kept is nobody's object, and what cannot be JSON is found at once. */
  readonly json: string;
  readonly version: number;
  /** Infinity = never. */
  readonly expiresAt: number;
}

interface Watcher {
  readonly prefix: string;
  readonly fn: (key: string, record: StoredRecord | undefined) => void;
}

/** Records in this process. A watcher hears of writes and deletions; that a record runs out is seen when it is read. */
export function memoryRecords(now: () => number, logger: Logger): RecordStore {
  const entries = new Map<string, Entry>();
  const watchers = new Set<Watcher>();
  // One counter for all keys: a key that is deleted and made again never shows an old version again.
  let lastVersion = 0;

  function live(key: string): Entry | undefined {
    const entry = entries.get(key);
    return entry !== undefined && entry.expiresAt > now() ? entry : undefined;
  }

  function tell(key: string, record: StoredRecord | undefined): void {
    for (const { prefix, fn } of [...watchers]) {
      if (!key.startsWith(prefix)) continue;
      try {
        fn(key, record);
      } catch (error) {
        logger.warn({ err: error, key }, "a watcher of records failed");
      }
    }
  }

  function makeRoom(): void {
    const at = now();
    for (const [key, entry] of entries) if (entry.expiresAt <= at) entries.delete(key);
    if (entries.size < MAX_RECORDS) return;
    throw new GuardError("store_unavailable", `the memory store holds ${MAX_RECORDS} records and drops none of them: use a SQLite store for more`);
  }

  return {
    get(key) {
      const entry = live(key);
      return entry && recordOf(key, entry);
    },

    put(key, value, { ttlMs, ifAbsent = false, ifVersion } = {}) {
      const json = JSON.stringify(value) as string | undefined;
      if (json === undefined) throw new TypeError(`the value of record ${key} is not JSON`);
      const known = live(key);
      if ((ifAbsent && known !== undefined) || (ifVersion !== undefined && known?.version !== ifVersion)) return undefined;
      if (!entries.has(key) && entries.size >= MAX_RECORDS) makeRoom();
      const entry: Entry = { json, version: (lastVersion += 1), expiresAt: ttlMs === undefined ? Infinity : now() + ttlMs };
      entries.set(key, entry);
      if (watchers.size > 0) tell(key, recordOf(key, entry));
      return entry.version;
    },

    delete(key) {
      const known = live(key);
      entries.delete(key);
      if (known !== undefined) tell(key, undefined);
      return known !== undefined;
    },

    list(prefix) {
      const at = now();
      const found: StoredRecord[] = [];
      for (const [key, entry] of entries) if (entry.expiresAt > at && key.startsWith(prefix)) found.push(recordOf(key, entry));
      return found.sort((a, b) => (a.key < b.key ? -1 : 1));
    },

    watch(prefix, fn) {
      const watcher: Watcher = { prefix, fn };
      watchers.add(watcher);
      return () => void watchers.delete(watcher);
    },
  };
}

function recordOf(key: string, { json, version }: Entry): StoredRecord {
  return { key, value: JSON.parse(json), version };
}
