import type pg from "pg";

import type { Logger } from "../../core/logger.ts";
import type { RecordStore, StoredRecord } from "../../core/store.ts";
import type { Clock, Timer } from "../../core/time.ts";
import type { PostgresLink } from "./link.ts";
import { newsFrom, type PostgresRecords } from "./records.ts";

/**
 * How soon a change is looked for that no notification told of, and how often a lost connection for notifications is tried. A key that is revoked must be
 * known everywhere within 2 s, also where none arrives.
 */
const POLL_MS = 1_000;
/** Changed keys that wait to be read. With more of them everything is compared. */
const MAX_CHANGED = 1000;
/** How often a reading starts over because this process wrote meanwhile. */
const MAX_REREADS = 5;

interface Watcher {
  readonly prefix: string;
  readonly fn: Parameters<RecordStore["watch"]>[1];
  /** The versions this watcher was told of, by key. */
  readonly known: Map<string, number>;
  /** What is not newer than this was there before it began to watch. */
  readonly since: number;
  /** What is newer than this was not there yet when it first read all there is; undefined = it has not. */
  loadedUpTo: number | undefined;
}

export interface RecordWatch {
  watch: RecordStore["watch"];
  /** This store made a change itself. */
  wrote(key: string, version: number, record: StoredRecord | undefined): void;
  /** Begins to listen. Rejects when the database cannot be read. */
  start(): Promise<void>;
  stop(): Promise<void>;
}

export interface RecordWatchParts {
  readonly link: PostgresLink;
  readonly records: PostgresRecords;
  /** Names this store in notifications. */
  readonly self: string;
  readonly channel: string;
  readonly clock: Clock;
  readonly logger: Logger;
}

/**
 * Tells of changes by all processes: notifications on a connection of its own say which key to read. They are only the fast way. Each change has a
 * number, so a gap in them (a lost connection, a pooler that passes none on) is noticed by the next poll, which then compares everything.
 */
export function recordWatch({ link, records, self, channel, clock, logger }: RecordWatchParts): RecordWatch {
  const watchers = new Set<Watcher>();
  /** Keys to read again, and the number of the deletion if that is the last that was heard of them, else 0. */
  const changed = new Map<string, number>();
  /** All changes up to this number have been seen. */
  let seen = 0;
  let mustCompare = false;
  let ownWrites = 0;
  let listener: pg.Client | undefined;
  let isStopped = false;
  let isFailing = false;
  let poll: Timer | undefined;
  /** One reading at a time. */
  let reading: Promise<void> = Promise.resolve();

  function tell(watcher: Watcher, key: string, record: StoredRecord | undefined): void {
    if (!watchers.has(watcher)) return;
    if (record === undefined) watcher.known.delete(key);
    else watcher.known.set(key, record.version);
    try {
      watcher.fn(key, record);
    } catch (error) {
      logger.warn({ err: error, key }, "a watcher of records failed");
    }
  }

  function note(version: number): void {
    if (version === seen + 1) seen = version;
  }

  /** What was read is of no use when this process wrote at the same time: its watchers know better already. */
  async function readStill<T>(query: () => Promise<T>): Promise<T> {
    for (let n = 0; ; n += 1) {
      const before = ownWrites;
      const found = await query();
      if (ownWrites === before) return found;
      if (n === MAX_REREADS) throw new Error("records change faster than they can be read");
    }
  }

  async function readKey(key: string, deletion: number): Promise<void> {
    const record = await readStill(() => records.get(key));
    for (const watcher of watchers) {
      if (!key.startsWith(watcher.prefix)) continue;
      if (record === undefined) {
        // Deleted after it began to watch and before it read what is there: whoever watches may know the key, it does not.
        const wasMissed = deletion > watcher.since && deletion <= (watcher.loadedUpTo ?? 0);
        if (wasMissed || watcher.known.has(key)) tell(watcher, key, undefined);
      } else if (record.version > (watcher.known.get(key) ?? watcher.since)) tell(watcher, key, record);
    }
  }

  async function compare(watcher: Watcher): Promise<void> {
    const rows = await readStill(() => records.list(watcher.prefix));
    const gone = new Set(watcher.known.keys());
    for (const row of rows) {
      gone.delete(row.key);
      if (watcher.known.get(row.key) === row.version) continue;
      if (watcher.loadedUpTo !== undefined || row.version > watcher.since) tell(watcher, row.key, row);
      else watcher.known.set(row.key, row.version);
    }
    for (const key of gone) tell(watcher, key, undefined);
    watcher.loadedUpTo ??= await records.sweep();
  }

  async function readChanges(): Promise<void> {
    try {
      if (mustCompare) {
        mustCompare = false;
        changed.clear();
        // Asked first: what comes between the two is compared once more.
        const upTo = await records.sweep();
        for (const watcher of watchers) await compare(watcher);
        seen = Math.max(seen, upTo);
      }
      for (const watcher of watchers) if (watcher.loadedUpTo === undefined) await compare(watcher);
      for (const [key, deletion] of changed) {
        changed.delete(key);
        await readKey(key, deletion);
      }
      works();
    } catch (error) {
      // The next poll tries again.
      mustCompare = true;
      fails(error);
    }
  }

  function read(): Promise<void> {
    reading = reading.then(readChanges);
    return reading;
  }

  function fails(error: unknown): void {
    if (!isFailing && !isStopped) logger.warn({ err: error }, "changes of records by other processes cannot be read; trying again");
    isFailing = true;
  }

  function works(): void {
    if (isFailing) logger.info({}, "changes of records by other processes are read again");
    isFailing = false;
  }

  function heard({ payload = "" }: pg.Notification): void {
    const news = newsFrom(payload);
    if (news === undefined) return;
    note(news.version);
    if (news.by === self || watchers.size === 0) return;
    if (news.key === undefined || changed.size >= MAX_CHANGED) mustCompare = true;
    else changed.set(news.key, news.isDeleted ? news.version : 0);
    void read();
  }

  async function listen(): Promise<void> {
    const client = link.client();
    // Every way in which a connection ends: the next poll finds it missing.
    const lost = (): void => {
      if (listener === client) listener = undefined;
    };
    client.on("error", lost).on("end", lost).on("notification", heard);
    try {
      await client.connect();
      await link.ask(client, `listen "${channel}"`);
      // From now on it does not keep the process alive.
      (client as pg.Client & { unref(): void }).unref();
    } catch (error) {
      discard(client);
      throw error;
    }
    if (isStopped) return discard(client);
    listener = client;
  }

  async function onPoll(): Promise<void> {
    try {
      const current = listener;
      if (current === undefined) await listen();
      else {
        await link.ask(current, "select 1").catch((error: unknown) => {
          discard(current);
          throw error;
        });
      }
      // Whatever happened without our hearing of it.
      const counter = await records.sweep();
      if (counter !== seen) mustCompare = true;
      if (mustCompare || isFailing) await read();
    } catch (error) {
      mustCompare = true;
      fails(error);
    }
    if (!isStopped) poll?.refresh();
  }

  /** Closes a connection at once, whatever its server does. */
  function discard(client: pg.Client): void {
    if (listener === client) listener = undefined;
    client.removeAllListeners("notification");
    client.end().catch(() => {});
    client.connection.stream.destroy();
  }

  return {
    watch(prefix, fn) {
      const watcher: Watcher = { prefix, fn, known: new Map(), since: seen, loadedUpTo: undefined };
      watchers.add(watcher);
      if (poll !== undefined) void read();
      return () => void watchers.delete(watcher);
    },

    wrote(key, version, record) {
      ownWrites += 1;
      note(version);
      for (const watcher of watchers) {
        if (!key.startsWith(watcher.prefix) || (watcher.known.get(key) ?? 0) >= version) continue;
        if (record !== undefined || watcher.loadedUpTo === undefined || watcher.known.has(key)) tell(watcher, key, record);
      }
    },

    async start() {
      await listen().catch(fails);
      seen = await records.sweep();
      mustCompare = false;
      poll = clock.timer(POLL_MS, () => void onPoll());
    },

    async stop() {
      isStopped = true;
      watchers.clear();
      poll?.cancel();
      if (listener !== undefined) discard(listener);
      await reading;
    },
  };
}
