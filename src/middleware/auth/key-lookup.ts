/**
 * Finds the keys that were made at run time. A database is not asked for each request, nor by whoever sends anything: what was found is remembered for a while, what was not is,
 * too, and a change is heard.
 */
import { LRUCache } from "lru-cache";
import type { Principal } from "../../core/context.ts";
import { GuardError } from "../../core/errors.ts";
import type { Logger } from "../../core/logger.ts";
import type { Scopes } from "../../core/scope.ts";
import type { RecordStore, StoredRecord } from "../../core/store.ts";
import { isPromise, type Clock, type MaybePromise } from "../../core/time.ts";

/** Records of keys, by digest. */
export const API_KEYS = "api-key/";

const MOST_KEYS = 20_000;
/** Changes are heard, most of them at once. This is for those that are not: whoever listens may have lost its connection, and nobody has noticed yet. */
const FRESH_MS = 1_500;
/** How long a key that was found works while the database is away. */
const KEPT_MS = 300_000;
/** How long one that was not found is not asked for again. */
const UNKNOWN_MS = 5_000;
/** Look-ups at one time: behind them the database is slower than its clients. */
const MOST_LOOKUPS = 1_000;
const RETRY_AFTER_MS = 1_000;
/** What a use is rounded to. */
const USED_MS = 3_600_000;

/** What stands in the database below a key's digest. */
export interface KeyRecord {
  readonly name: string;
  readonly scopes: Scopes;
  readonly models: readonly string[] | null;
  readonly mayAssertScopes: boolean;
  /** Wall clock, ms; null = never. */
  readonly expiresAt: number | null;
}

export interface FoundKey {
  readonly principal: Principal;
  /** Wall clock, ms; null = never. */
  readonly expiresAt: number | null;
}

export interface KeyLookup {
  /**
   * Undefined = there is no such key. With `isUse` false somebody only looks, and it is not noted as used. Throws or rejects with `store_unavailable` when only the database could tell, and it cannot: a client that has the right key must not
   * take it for wrong.
   */
  find(digest: string, isUse?: boolean): MaybePromise<FoundKey | undefined>;
  close(): void;
}

export interface KeyLookupOptions {
  readonly records: RecordStore;
  readonly clock: Clock;
  readonly logger: Logger;
  /** A key was used, for the first time in this hour (wall clock, ms). */
  readonly onUse: (name: string, hourMs: number) => void;
}

interface Entry {
  /** Null = there is no such key. */
  readonly found: FoundKey | null;
  /** Monotonic ms. */
  readonly readAt: number;
  usedHour: number;
}

interface LookUp {
  readonly entry: Promise<Entry>;
  /** Somebody changed the record meanwhile: what was read may be what it was. */
  isCrossed: boolean;
}

export function keyLookup({ records, clock, logger, onUse }: KeyLookupOptions): KeyLookup {
  /** Made with the first key: it reserves its whole size at once. */
  let known: LRUCache<string, Entry> | undefined;
  const underWay = new Map<string, LookUp>();
  let isAway = false;
  let failedAt = -Infinity;

  const stop = records.watch(API_KEYS, (key) => {
    const digest = key.slice(API_KEYS.length);
    known?.delete(digest);
    const current = underWay.get(digest);
    if (current) current.isCrossed = true;
  });

  function keep(digest: string, value: unknown, readAt: number): Entry {
    known ??= new LRUCache({ max: MOST_KEYS });
    const usedHour = known.peek(digest)?.usedHour ?? 0;
    const entry: Entry = { found: value === undefined ? null : foundKey(value as KeyRecord), readAt, usedHour };
    known.set(digest, entry);
    if (isAway) logger.info({}, "the keys of clients can be read again");
    isAway = false;
    return entry;
  }

  function failed(error: unknown): GuardError {
    if (!isAway) logger.warn({ err: error }, "the keys of clients cannot be read; known ones work for five minutes, others are refused with 503");
    isAway = true;
    failedAt = clock.monotonic();
    return unavailable(error);
  }

  function read(digest: string): MaybePromise<Entry> {
    const before = underWay.get(digest);
    if (before) return before.entry;
    if (underWay.size >= MOST_LOOKUPS) throw unavailable(undefined);
    const readAt = clock.monotonic();
    try {
      const record = records.get(API_KEYS + digest);
      return isPromise(record) ? lookUp(digest, record, readAt) : keep(digest, record?.value, readAt);
    } catch (error) {
      throw failed(error);
    }
  }

  function lookUp(digest: string, first: Promise<StoredRecord | undefined>, readAt: number): Promise<Entry> {
    const own: LookUp = { entry: settled(), isCrossed: false };
    underWay.set(digest, own);
    return own.entry;

    async function settled(): Promise<Entry> {
      try {
        let [record, at] = [await first, readAt];
        while (own.isCrossed) {
          own.isCrossed = false;
          at = clock.monotonic();
          record = await records.get(API_KEYS + digest);
        }
        return keep(digest, record?.value, at);
      } catch (error) {
        throw failed(error);
      } finally {
        underWay.delete(digest);
      }
    }
  }

  const foundIn = ({ found }: Entry): FoundKey | undefined => found ?? undefined;

  function noted(entry: Entry): FoundKey | undefined {
    const { found } = entry;
    if (!found) return undefined;
    const now = clock.now();
    const hour = now - (now % USED_MS);
    if (entry.usedHour !== hour && (found.expiresAt === null || found.expiresAt > now)) {
      entry.usedHour = hour;
      onUse(found.principal.name, hour);
    }
    return found;
  }

  /** Nobody waits for a database that is away: what is known counts until it has answered. */
  function refresh(digest: string, entry: Entry): Entry {
    try {
      const now = read(digest);
      if (!isPromise(now)) return now;
      now.catch(() => {});
    } catch {
      // It was logged.
    }
    return entry;
  }

  return {
    find(digest, isUse = true) {
      const use = isUse ? noted : foundIn;
      const entry = known?.get(digest);
      const age = entry ? clock.monotonic() - entry.readAt : Infinity;
      if (entry && age < (entry.found ? FRESH_MS : UNKNOWN_MS)) return use(entry);
      const kept = entry?.found && age < KEPT_MS ? entry : undefined;
      // Asked again after a while, and waited for: it may have come back, and the key may be revoked.
      if (kept && isAway && clock.monotonic() - failedAt < FRESH_MS) return use(refresh(digest, kept));
      const otherwise = (error: unknown): FoundKey | undefined => {
        if (kept) return use(kept);
        throw error;
      };
      try {
        const asked = read(digest);
        return isPromise(asked) ? asked.then(use, otherwise) : use(asked);
      } catch (error) {
        return otherwise(error);
      }
    },
    close: stop,
  };
}

function foundKey({ name, scopes, models, mayAssertScopes, expiresAt }: KeyRecord): FoundKey {
  return { principal: Object.freeze({ kind: "key", name, scopes: Object.freeze(scopes), models, mayAssertScopes }), expiresAt };
}

function unavailable(cause: unknown): GuardError {
  return new GuardError("store_unavailable", "the keys of clients cannot be read at the moment; try again", { retryAfterMs: RETRY_AFTER_MS, cause });
}
