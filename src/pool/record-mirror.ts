import type { Logger } from "../core/logger.ts";
import type { RecordStore, StoredRecord } from "../core/store.ts";
import { isPromise, type Clock, type MaybePromise, type Timer } from "../core/time.ts";

/** How often a store that is away is tried. */
const RETRY_MS = 1_000;

/** Keys that wait for a store that is away. What is beyond them is not stored: it holds in this process, and most of it ends by itself. */
const MAX_WAITING = 20_000;

export interface RecordMirrorOptions {
  readonly records: RecordStore;
  /** Of the records' keys, e.g. `ban/`. */
  readonly prefix: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** What stands under a key now, and for how long (null = until it is deleted); undefined = nothing. */
  readonly standing: (key: string) => { readonly value: unknown; readonly ttlMs: number | null } | undefined;
  /** Somebody wrote a record, or it was there before; undefined = deleted. */
  readonly heard: (key: string, value: unknown) => void;
}

/** A table's copy in the store, written behind it: other processes see it at once, and the next one finds it after a restart. */
export interface RecordMirror {
  /** Stores what stands under the key, or deletes it when nothing does. Never throws, and nobody waits: a store that is away is tried until it is back. */
  write(key: string): void;
  /** Begins to listen and reads what is there. Never rejects. */
  load(): Promise<void>;
  close(): void;
}

export function recordMirror({ records, prefix, clock, logger, standing, heard }: RecordMirrorOptions): RecordMirror {
  /** At most one write of a key at a time, so that the store ends with the last one. */
  const underWay = new Set<string>();
  const waiting = new Set<string>();
  /** Somebody else wrote while a write of ours was under way: nobody knows which of them came last. */
  const crossed = new Set<string>();
  let isAway = false;
  let isUnread = false;
  let isClosed = false;
  let stop: (() => void) | undefined;
  /** Runs or tries while the store is away. */
  let retrier: Timer | undefined;

  function send(key: string): MaybePromise<unknown> {
    const now = standing(key);
    if (!now) return records.delete(recordKey(key));
    return records.put(recordKey(key), now.value, now.ttlMs === null ? {} : { ttlMs: now.ttlMs });
  }

  function write(key: string): void {
    if (isAway || underWay.has(key)) return wait(key);
    underWay.add(key);
    try {
      const sent = send(key);
      if (isPromise(sent)) {
        void sent.then(
          () => written(key),
          (error: unknown) => failed(key, error),
        );
      } else written(key);
    } catch (error) {
      failed(key, error);
    }
  }

  function wait(key: string): void {
    if (waiting.size < MAX_WAITING) waiting.add(key);
  }

  function written(key: string): void {
    underWay.delete(key);
    const isCrossed = crossed.delete(key);
    if (waiting.delete(key)) write(key);
    else if (isCrossed) void readAgain(key);
  }

  async function readAgain(key: string): Promise<void> {
    try {
      const record = await records.get(recordKey(key));
      if (!isClosed && !isStanding(key, record)) hear(key, record);
    } catch (error) {
      isUnread = true;
      lost(error);
    }
  }

  function failed(key: string, error: unknown): void {
    underWay.delete(key);
    wait(key);
    lost(error);
  }

  function lost(error: unknown): void {
    if (!isAway) logger.warn({ err: error, records: prefix }, "the store is away: what is kept out holds in this process only, and is stored later");
    isAway = true;
    if (!isClosed) retrier ??= clock.timer(RETRY_MS, () => void retry());
  }

  async function retry(): Promise<void> {
    try {
      if (isUnread) await read();
      for (const key of waiting) {
        if (underWay.has(key)) continue;
        // Taken out first: a change during the write makes it wait again.
        waiting.delete(key);
        underWay.add(key);
        try {
          await send(key);
        } catch (error) {
          wait(key);
          throw error;
        } finally {
          underWay.delete(key);
          if (crossed.delete(key)) isUnread = true;
        }
      }
      if (isUnread) await read();
      isAway = false;
      retrier = undefined;
      logger.info({ records: prefix }, "the store is back and knows what is kept out");
    } catch {
      if (!isClosed) retrier?.refresh();
    }
  }

  async function read(): Promise<void> {
    if (isClosed) return;
    stop ??= records.watch(prefix, take);
    for (const record of await records.list(prefix)) take(record.key, record);
    isUnread = false;
  }

  function take(name: string, record: StoredRecord | undefined): void {
    const key = keyOf(name.slice(prefix.length));
    if (key !== undefined) hear(key, record);
  }

  function hear(key: string, record: StoredRecord | undefined): void {
    // What we are about to write is newer, or will be corrected by whoever wrote this.
    if (waiting.has(key)) return;
    if (!underWay.has(key)) heard(key, record?.value);
    else if (!isStanding(key, record)) crossed.add(key);
  }

  const isStanding = (key: string, record: StoredRecord | undefined): boolean =>
    JSON.stringify(record?.value) === JSON.stringify(standing(key)?.value);

  const recordKey = (key: string): string => prefix + encodeURIComponent(JSON.stringify(key).slice(1, -1));

  return {
    write,
    async load() {
      try {
        await read();
      } catch (error) {
        isUnread = true;
        lost(error);
      }
    },
    close() {
      isClosed = true;
      retrier?.cancel();
      stop?.();
    },
  };
}

/** The way back. Undefined = not written by us. */
function keyOf(encoded: string): string | undefined {
  try {
    return JSON.parse(`"${decodeURIComponent(encoded)}"`) as string;
  } catch {
    return undefined;
  }
}
