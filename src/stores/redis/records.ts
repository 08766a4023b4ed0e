import { randomBytes } from "node:crypto";

import { LIMIT_NUMBERS, type PutOptions, type RecordStore, type StoredRecord } from "../../core/store.ts";
import type { RedisArgument, RedisLink } from "./link.ts";
import { BUMP_VERSION } from "./lua/meta.ts";
import { redisScript } from "./lua/script.ts";
import { storeUnavailable } from "./trouble.ts";

/** How many records are read by one call. */
const PAGE = 200;

/*
 * `<prefix>d:<key>` holds `<version>:<expires at, ms, or nothing>:<operation that wrote it>:<JSON>` and expires by itself. `<prefix>i` is the index of all
 * keys, `<prefix>e` of those that expire, `<prefix>v` the last version. Every change is published on `<prefix>c`.
 */

/**
 * `readRecord(key, now)`: version and operation of what stands there, or nil. `nextVersion(key)` is at least the time in microseconds, so that a server
 * that lost everything, or came back in an older state, goes on with higher ones.
 */
const FRAGMENTS = `
local function timeOf(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
local function readRecord(key, now)
  local text = redis.call('GET', key)
  if not text then return end
  local version, expires, operation = string.match(text, '^(%d+):(%d*):([^:]*):')
  if not version then error('the key ' .. key .. ' holds something else than a record') end
  if expires ~= '' and tonumber(expires) <= now then return end
  return version, operation
end
local function nextVersion(key)
  local time = redis.call('TIME')
  local last = tonumber(redis.call('GET', key) or '0')
  if not last then error('the key ' .. key .. ' holds something else than a version') end
  local text = string.format('%.0f', math.max(last + 1, time[1] * 1000000 + time[2]))
  redis.call('SET', key, text)
  return text
end
local function publish(channel, version, operation, key)
  -- Who may not publish may write all the same: others then see it a little later.
  redis.pcall('PUBLISH', channel, version .. ':' .. operation .. ':' .. key)
end
${BUMP_VERSION}`;

/**
 * KEYS: record, v, i, e, perhaps m. ARGV: now, operation, key, channel, JSON, ttl in ms or nothing, condition: nothing, `absent` or a version. Returns the
 * version, or nil when the condition does not hold. A repetition finds its own operation and changes nothing.
 */
const putScript = redisScript(
  "record-put",
  `${FRAGMENTS}
local now, operation, key = timeOf(ARGV[1]), ARGV[2], ARGV[3]
local version, writer = readRecord(KEYS[1], now)
if writer == operation then return version end
local condition = ARGV[7]
if condition == 'absent' then
  if version then return false end
elseif condition ~= '' and condition ~= version then
  return false
end
if KEYS[5] then bumpVersion(KEYS[5]) end
version = nextVersion(KEYS[2])
local head = version .. ':'
if ARGV[6] == '' then
  redis.call('SET', KEYS[1], head .. ':' .. operation .. ':' .. ARGV[5])
  redis.call('ZREM', KEYS[4], key)
else
  local expires = string.format('%.0f', now + ARGV[6])
  redis.call('SET', KEYS[1], head .. expires .. ':' .. operation .. ':' .. ARGV[5], 'PX', ARGV[6])
  redis.call('ZADD', KEYS[4], expires, key)
end
redis.call('ZADD', KEYS[3], 0, key)
local expired = redis.call('ZRANGEBYSCORE', KEYS[4], '-inf', string.format('%.0f', now), 'LIMIT', 0, 10)
if #expired > 0 then
  redis.call('ZREM', KEYS[3], unpack(expired))
  redis.call('ZREM', KEYS[4], unpack(expired))
end
publish(ARGV[4], version, operation, key)
return version
`,
);

/** KEYS: record, v, i, e, perhaps m. ARGV: now, operation, key, channel. Returns the version of the deletion, or nil when there was nothing. */
const deleteScript = redisScript(
  "record-delete",
  `${FRAGMENTS}
local now, operation, key = timeOf(ARGV[1]), ARGV[2], ARGV[3]
local version = readRecord(KEYS[1], now)
if version then
  if KEYS[5] then bumpVersion(KEYS[5]) end
  version = nextVersion(KEYS[2])
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[3], key)
redis.call('ZREM', KEYS[4], key)
if version then publish(ARGV[4], version, operation, key) end
return version
`,
);

/** KEYS: i, e, records. ARGV: their keys. Takes those out of the index that have expired. */
const forgetScript = redisScript(
  "record-forget",
  `
for n, key in ipairs(ARGV) do
  if redis.call('EXISTS', KEYS[n + 2]) == 0 then
    redis.call('ZREM', KEYS[1], key)
    redis.call('ZREM', KEYS[2], key)
  end
end
`,
);

/** What the watchers of this process are told by its own writes. */
export interface RecordChanges {
  written(record: StoredRecord): void;
  deleted(key: string, version: number): void;
  /** Nobody knows whether it happened, or will. */
  inDoubt(key: string, operation: string): void;
}

export interface RedisRecords extends Omit<RecordStore, "watch"> {
  /** By key; absent ones are not in it. */
  read(keys: readonly string[]): Promise<Map<string, StoredRecord>>;
}

export function redisRecords(link: RedisLink, writer: string, changes: RecordChanges): RedisRecords {
  const { prefix } = link;
  const indexes = [`${prefix}v`, `${prefix}i`, `${prefix}e`] as const;
  const channel = `${prefix}c`;
  let operations = 0;

  const nowText = (): string => (link.testTime === undefined ? "" : String(link.testTime()));
  const keyOf = (key: string): string => `${prefix}d:${key}`;
  const keysFor = (key: string): string[] => [keyOf(key), ...indexes, ...(key.startsWith(LIMIT_NUMBERS) ? [`${prefix}m`] : [])];

  function parse(key: string, reply: Buffer | null): StoredRecord | undefined {
    if (reply === null) return undefined;
    const text = reply.toString();
    const ends = [text.indexOf(":")];
    for (let i = 0; i < 2; i += 1) ends.push(text.indexOf(":", (ends.at(-1) as number) + 1));
    const [afterVersion, afterExpires, afterWriter] = ends as [number, number, number];
    const expires = text.slice(afterVersion + 1, afterExpires);
    // The server lets it expire by its own time.
    if (expires !== "" && link.testTime !== undefined && Number(expires) <= link.testTime()) return undefined;
    try {
      return { key, value: JSON.parse(text.slice(afterWriter + 1)) as unknown, version: Number(text.slice(0, afterVersion)) };
    } catch (error) {
      throw storeUnavailable(new Error(`the key ${keyOf(key)} holds something else than a record`, { cause: error }));
    }
  }

  async function changed<T>(key: string, operation: string, work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      changes.inDoubt(key, operation);
      throw error;
    }
  }

  async function read(keys: readonly string[]): Promise<Map<string, StoredRecord>> {
    const found = new Map<string, StoredRecord>();
    if (keys.length === 0) return found;
    const replies = (await link.call("MGET", ...keys.map(keyOf))) as readonly (Buffer | null)[];
    for (const [i, key] of keys.entries()) {
      const record = parse(key, replies[i] ?? null);
      if (record !== undefined) found.set(key, record);
    }
    return found;
  }

  return {
    read,

    async get(key) {
      return parse(key, (await link.call("GET", keyOf(key))) as Buffer | null);
    },

    async put(key, value, { ttlMs, ifAbsent = false, ifVersion }: PutOptions = {}) {
      const json = JSON.stringify(value) as string | undefined;
      if (json === undefined) throw new TypeError(`the value of record ${key} is not JSON`);
      // Both at once can never hold.
      if (ifAbsent && ifVersion !== undefined) return undefined;
      const condition = ifAbsent ? "absent" : ifVersion === undefined ? "" : String(ifVersion);
      const ttl = ttlMs === undefined ? "" : String(Math.max(1, Math.ceil(ttlMs)));
      const operation = `${writer}.${(operations += 1)}`;
      const reply = await changed(key, operation, () =>
        link.run(putScript, keysFor(key), [nowText(), operation, key, channel, json, ttl, condition], true),
      );
      if (reply === null) return undefined;
      const version = Number(reply);
      changes.written({ key, value: JSON.parse(json) as unknown, version });
      return version;
    },

    async delete(key) {
      const operation = `${writer}.${(operations += 1)}`;
      // Not repeated: the second time there would be nothing, and nobody would know that there was.
      const reply = await changed(key, operation, () => link.run(deleteScript, keysFor(key), [nowText(), operation, key, channel], false));
      if (reply === null) return false;
      changes.deleted(key, Number(reply));
      return true;
    },

    async list(below) {
      const found: StoredRecord[] = [];
      // No byte of UTF-8 is 0xff, so this comes behind every key below the prefix.
      const end: RedisArgument = below === "" ? "+" : Buffer.concat([Buffer.from(`(${below}`), Buffer.from([0xff])]);
      let from = below === "" ? "-" : `[${below}`;
      for (;;) {
        const page = (await link.call("ZRANGEBYLEX", indexes[1], from, end, "LIMIT", 0, PAGE)) as readonly Buffer[];
        const keys = page.map(String);
        const records = await read(keys);
        found.push(...records.values());
        const gone = link.testTime === undefined ? keys.filter((key) => !records.has(key)) : [];
        if (gone.length > 0) await link.run(forgetScript, [indexes[1], indexes[2], ...gone.map(keyOf)], gone, true);
        if (keys.length < PAGE) return found;
        from = `(${keys.at(-1) as string}`;
      }
    },
  };
}

/** Names this process among those that write. */
export const newWriter = (): string => randomBytes(9).toString("base64url");
