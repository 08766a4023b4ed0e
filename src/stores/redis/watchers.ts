import type { Logger } from "../../core/logger.ts";
import type { RecordStore, StoredRecord } from "../../core/store.ts";
import type { RecordChanges, RedisRecords } from "./records.ts";

/** How many changed records are read by one call. */
const PAGE = 200;
/** Own writes without a known outcome that are remembered, for the case that the server does them later. */
const MAX_IN_DOUBT = 1000;

interface Known {
  readonly version: number;
  /** False = it was there when the watching began. */
  readonly isTold: boolean;
}

interface Watcher {
  readonly prefix: string;
  readonly fn: (key: string, record: StoredRecord | undefined) => void;
  readonly known: Map<string, Known>;
  /** `known` has every key that is there. */
  isComplete: boolean;
  /** Something may have been missed. */
  isBehind: boolean;
}

export interface RecordWatchers extends RecordChanges {
  readonly watch: RecordStore["watch"];
  /** A message of whatever process, this one too. */
  heard(message: string): void;
  /** Messages may have been lost: everything is compared. */
  missed(): void;
  /** The last version that the server has given. Called now and then; finds what no message told of. True = something was missed. */
  beat(version: number): boolean;
  /** Resolves when the watchers of these keys know what is there now. Rejects while the server is away. */
  catchUp(prefix: string): Promise<void>;
  stop(): void;
}

export interface RecordWatchersOptions {
  readonly records: () => RedisRecords;
  readonly writer: string;
  readonly logger: Logger;
}

/**
 * Tells watchers of changes. Messages only name what has changed: records are read when somebody watches them. Own writes are told at once. Reads of
 * what changed and comparisons happen one after another, so that nobody is told of an older state after a newer one.
 */
export function recordWatchers({ records, writer, logger }: RecordWatchersOptions): RecordWatchers {
  const watchers = new Set<Watcher>();
  const dirty = new Set<string>();
  /** Own writes whose reply came while something was being read: what was read of them may be older. */
  const written = new Set<string>();
  const inDoubt = new Set<string>();
  let lastTurn: Promise<unknown> = Promise.resolve();
  let isQueued = false;
  let catching: Promise<void> | undefined;
  let heardVersion = 0;
  let beatVersion: number | undefined;

  function tell(watcher: Watcher, key: string, record: StoredRecord | undefined): void {
    if (record === undefined) watcher.known.delete(key);
    else watcher.known.set(key, { version: record.version, isTold: true });
    try {
      watcher.fn(key, record);
    } catch (error) {
      logger.warn({ err: error, key }, "a watcher of records failed");
    }
  }

  /** `isNews`: a message named it, so that also what was there at the first look has changed since the watching began. */
  function take(watcher: Watcher, key: string, record: StoredRecord | undefined, isNews: boolean): void {
    if (!watchers.has(watcher)) return;
    const known = watcher.known.get(key);
    // Versions say what is newer; where there is none, only another look does.
    if (written.has(key) && (record === undefined || known === undefined)) return void dirty.add(key);
    if (record === undefined) {
      if (known !== undefined || !watcher.isComplete) tell(watcher, key, undefined);
    } else if (known === undefined || known.version < record.version || (isNews && !known.isTold)) tell(watcher, key, record);
  }

  async function compare(watcher: Watcher, mustTell: boolean): Promise<void> {
    watcher.isBehind = false;
    written.clear();
    try {
      const rows = await records().list(watcher.prefix);
      if (watcher.isComplete || mustTell) {
        const gone = new Set(watcher.known.keys());
        for (const row of rows) {
          gone.delete(row.key);
          take(watcher, row.key, row, false);
        }
        for (const key of gone) take(watcher, key, undefined, false);
        watcher.isBehind ||= !watcher.isComplete;
      } else {
        // What was there when the watching began is no change.
        for (const { key, version } of rows) {
          if (!watcher.known.has(key)) watcher.known.set(key, { version, isTold: false });
        }
        watcher.isComplete = true;
      }
    } catch (error) {
      watcher.isBehind = true;
      throw error;
    }
  }

  async function look(): Promise<void> {
    const keys = [...dirty].slice(0, PAGE);
    for (const key of keys) dirty.delete(key);
    written.clear();
    try {
      const found = await records().read(keys);
      for (const key of keys) for (const watcher of [...watchers]) if (key.startsWith(watcher.prefix)) take(watcher, key, found.get(key), true);
    } catch (error) {
      for (const key of keys) dirty.add(key);
      throw error;
    }
  }

  function inTurn(step: () => Promise<void>): Promise<void> {
    const mine = lastTurn.then(step);
    lastTurn = mine.catch(() => {});
    return mine;
  }

  /** A server that is away is asked again with the next beat; the connection logs that it is. */
  function wake(): void {
    if (isQueued) return;
    isQueued = true;
    inTurn(async () => {
      isQueued = false;
      for (const watcher of watchers) if (watcher.isBehind) await compare(watcher, false);
      while (dirty.size > 0) await look();
    }).catch((error: unknown) => logger.debug({ err: error }, "changes of records cannot be read yet"));
  }

  function missed(): void {
    for (const watcher of watchers) watcher.isBehind = true;
    if (watchers.size > 0) wake();
  }

  const isWatched = (key: string): boolean => {
    for (const { prefix } of watchers) if (key.startsWith(prefix)) return true;
    return false;
  };

  function lookAt(key: string): void {
    if (!isWatched(key)) return;
    dirty.add(key);
    wake();
  }

  return {
    watch(prefix, fn) {
      const watcher: Watcher = { prefix, fn, known: new Map(), isComplete: false, isBehind: true };
      watchers.add(watcher);
      wake();
      return () => void watchers.delete(watcher);
    },

    written(record) {
      written.add(record.key);
      heardVersion = Math.max(heardVersion, record.version);
      for (const watcher of [...watchers]) {
        if (!watchers.has(watcher) || !record.key.startsWith(watcher.prefix)) continue;
        const known = watcher.known.get(record.key);
        if (known === undefined || known.version < record.version) tell(watcher, record.key, record);
      }
    },

    deleted(key, version) {
      written.add(key);
      heardVersion = Math.max(heardVersion, version);
      for (const watcher of [...watchers]) {
        if (!watchers.has(watcher) || !key.startsWith(watcher.prefix)) continue;
        // A later write may have been told already.
        if ((watcher.known.get(key)?.version ?? 0) < version) tell(watcher, key, undefined);
      }
    },

    inDoubt(key, operation) {
      if (inDoubt.size >= MAX_IN_DOUBT) inDoubt.delete(inDoubt.values().next().value as string);
      inDoubt.add(operation);
      lookAt(key);
    },

    heard(message) {
      const [version = "", operation = ""] = message.split(":", 2);
      const key = message.slice(version.length + operation.length + 2);
      heardVersion = Math.max(heardVersion, Number(version));
      // Own writes are told with their reply, unless that was lost.
      if (operation.startsWith(`${writer}.`) && !inDoubt.delete(operation)) return;
      lookAt(key);
    },

    missed,

    beat(version) {
      // A message may be on its way while the version is read: only what was given out a beat ago can have been missed. A version that goes back
      // is that of a server that was emptied.
      const isFirst = beatVersion === undefined;
      const isMissing = beatVersion !== undefined && (beatVersion > heardVersion || version < beatVersion);
      if (isFirst || isMissing) heardVersion = version;
      beatVersion = version;
      if (isMissing) missed();
      else if (dirty.size > 0 || [...watchers].some(({ isBehind }) => isBehind)) wake();
      return isMissing;
    },

    catchUp(prefix) {
      catching ??= inTurn(async () => {
        catching = undefined;
        for (const watcher of [...watchers]) {
          if (watcher.prefix.startsWith(prefix) || prefix.startsWith(watcher.prefix)) await compare(watcher, true);
        }
        if (dirty.size > 0) wake();
      });
      return catching;
    },

    stop() {
      watchers.clear();
      dirty.clear();
    },
  };
}
