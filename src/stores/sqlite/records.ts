import type { DatabaseSync } from "node:sqlite";

import type { Logger } from "../../core/logger.ts";
import type { RecordStore, StoredRecord } from "../../core/store.ts";
import type { Clock, Timer } from "../../core/time.ts";
import { endOfPrefix } from "../sql/key-range.ts";
import type { Transact } from "./dialect.ts";
import { storeUnavailable } from "./trouble.ts";

/** How soon a change by another process is seen. */
const POLL_MS = 1000;

export interface SqliteRecords extends RecordStore {
  /** Deletes what has expired. */
  sweep(): void;
  stop(): void;
}

interface Row {
  readonly key: string;
  readonly value: string;
  readonly version: number;
}

interface Watcher {
  readonly prefix: string;
  readonly fn: (key: string, record: StoredRecord | undefined) => void;
  /** The versions this watcher was told of, by key. */
  readonly known: Map<string, number>;
}

/** Raw statements: each of them is fixed, and bans and idempotency read them on the request path. */
export function sqliteRecords(db: DatabaseSync, transact: Transact, clock: Clock, logger: Logger): SqliteRecords {
  const one = db.prepare("select key, value, version from quotaguard_record where key = ? and (expires_at is null or expires_at > ?)");
  const below = db.prepare(
    `select key, value, version from quotaguard_record
     where key >= ? and key < ? and (expires_at is null or expires_at > ?) order by key`,
  );
  // Versions come from one counter, so a key that is deleted and made again never shows an old version again.
  const nextVersion = db.prepare("update quotaguard_meta set value = value + 1 where key = 'record_version' returning value");
  const upsert = db.prepare(
    `insert into quotaguard_record (key, value, version, expires_at) values (?, ?, ?, ?)
     on conflict (key) do update set value = excluded.value, version = excluded.version, expires_at = excluded.expires_at`,
  );
  const remove = db.prepare("delete from quotaguard_record where key = ? and (expires_at is null or expires_at > ?)");
  const removeExpired = db.prepare("delete from quotaguard_record where expires_at <= ?");
  const dataVersion = db.prepare("pragma data_version");

  const watchers = new Set<Watcher>();
  let seenVersion: unknown;
  /** SQLite's data_version tells of other connections' changes only, so our own deletion of what expired is noted here. */
  let expired = false;
  let poll: Timer | undefined;

  const rowsBelow = (prefix: string): Row[] => below.all(prefix, endOfPrefix(prefix) ?? AFTER_ALL, clock.now()) as unknown as Row[];

  function tell(watcher: Watcher, key: string, record: StoredRecord | undefined): void {
    if (record === undefined) watcher.known.delete(key);
    else watcher.known.set(key, record.version);
    try {
      watcher.fn(key, record);
    } catch (error) {
      logger.warn({ err: error, key }, "a watcher of records failed");
    }
  }

  function changed(key: string, record: StoredRecord | undefined): void {
    for (const watcher of watchers) if (key.startsWith(watcher.prefix)) tell(watcher, key, record);
  }

  /** Compares instead of reading a log of changes: it finds deletions and expiries too, and needs nothing from whoever wrote. */
  function compare(watcher: Watcher): void {
    const gone = new Set(watcher.known.keys());
    for (const row of rowsBelow(watcher.prefix)) {
      gone.delete(row.key);
      if (watcher.known.get(row.key) !== row.version) tell(watcher, row.key, recordOf(row));
    }
    for (const key of gone) tell(watcher, key, undefined);
  }

  function onPoll(): void {
    if (watchers.size === 0) return void (poll = undefined);
    try {
      sweep();
      const version = dataVersion.get()?.data_version;
      if (version !== seenVersion || expired) {
        seenVersion = version;
        expired = false;
        for (const watcher of watchers) compare(watcher);
      }
    } catch (error) {
      logger.warn({ err: error }, "changes of records by other processes cannot be read; trying again");
    }
    poll?.refresh();
  }

  function sweep(): void {
    if (removeExpired.run(clock.now()).changes !== 0) expired = true;
  }

  function guarded<T>(work: () => T): T {
    try {
      return work();
    } catch (error) {
      throw storeUnavailable(error);
    }
  }

  return {
    get(key) {
      const row = guarded(() => one.get(key, clock.now())) as Row | undefined;
      return row === undefined ? undefined : recordOf(row);
    },

    put(key, value, options = {}) {
      const json = JSON.stringify(value) as string | undefined;
      if (json === undefined) throw new TypeError(`the value of record ${key} is not JSON`);
      const { ttlMs, ifAbsent, ifVersion } = options;
      const version = guarded(() =>
        transact(() => {
          const nowMs = clock.now();
          if (ifAbsent === true || ifVersion !== undefined) {
            const current = one.get(key, nowMs) as Row | undefined;
            if (ifAbsent === true && current !== undefined) return undefined;
            if (ifVersion !== undefined && current?.version !== ifVersion) return undefined;
          }
          const next = Number(nextVersion.get()?.value);
          upsert.run(key, json, next, ttlMs === undefined ? null : nowMs + ttlMs);
          return next;
        }),
      );
      if (version !== undefined && watchers.size > 0) changed(key, { key, value: JSON.parse(json), version });
      return version;
    },

    delete(key) {
      const deleted = guarded(() => remove.run(key, clock.now()).changes) === 1;
      if (deleted) changed(key, undefined);
      return deleted;
    },

    list: (prefix) => guarded(() => rowsBelow(prefix)).map(recordOf),

    watch(prefix, fn) {
      const watcher: Watcher = { prefix, fn, known: new Map() };
      guarded(() => {
        // Read before the rows: a change between the two is seen twice rather than never.
        if (watchers.size === 0) seenVersion = dataVersion.get()?.data_version;
        for (const row of rowsBelow(prefix)) watcher.known.set(row.key, row.version);
      });
      watchers.add(watcher);
      poll ??= clock.timer(POLL_MS, onPoll);
      return () => void watchers.delete(watcher);
    },

    sweep,

    stop() {
      watchers.clear();
      poll?.cancel();
      poll = undefined;
    },
  };
}

const recordOf = ({ key, value, version }: Row): StoredRecord => ({ key, value: JSON.parse(value) as unknown, version });

/** Greater than every text: SQLite sorts blobs after all of them. */
const AFTER_ALL = new Uint8Array(0);
