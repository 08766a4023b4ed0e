import { ConfigError } from "./core/errors.ts";
import type { PutOptions, RecordStore, StoredRecord } from "./core/store.ts";
import { andThen } from "./core/time.ts";

const MOST_LENGTH = 512;

/** What a plugin's keys are made of: `a/b/c`, nothing that could mean another place. */
const SEGMENT = /^(?!\.{1,2}$)[\x21-\x2e\x30-\x7e]+$/;

/** @throws ConfigError for a key that is none. */
export function checkKey(plugin: string, key: string): string {
  const isKey = typeof key === "string" && key.length <= MOST_LENGTH && key.split("/").every((segment) => SEGMENT.test(segment));
  if (isKey) return key;
  throw new ConfigError([
    `the plugin ${plugin}: a key is at most ${MOST_LENGTH} printable ASCII characters without spaces, in segments between single slashes (reports/today); none of them is . or ..`,
  ]);
}

/** The beginning of keys: a key, or one with a slash at its end, or nothing. */
export function checkPrefix(plugin: string, prefix: string): string {
  if (prefix !== "") checkKey(plugin, typeof prefix === "string" && prefix.endsWith("/") ? prefix.slice(0, -1) : prefix);
  return prefix;
}

/** Before the store gets them: what it cannot keep is the plugin's mistake, and no sign that the store is ill. */
export function checkRecord(plugin: string, key: string, value: unknown, { ttlMs }: PutOptions = {}): void {
  const wrong = (why: string): ConfigError => new ConfigError([`the plugin ${plugin}: the record ${key} ${why}`]);
  if (ttlMs !== undefined && !(Number.isFinite(ttlMs) && ttlMs > 0)) throw wrong("needs a ttlMs above 0");
  let json: string | undefined;
  try {
    json = JSON.stringify(value);
  } catch {
    // A bigint, a circle.
  }
  if (json === undefined) throw wrong("must be JSON: text, numbers, booleans, null, lists and objects of these");
}

/** Records below one place: a plugin sees its own keys, and no others exist for it. `watching` hears of each watch, to end it with the plugin. */
export function pluginRecords(plugin: string, records: RecordStore, watching: (stop: () => void) => () => void): RecordStore {
  const root = `plugins/${plugin}/`;
  const inside = (key: string): string => root + checkKey(plugin, key);
  const own = (record: StoredRecord): StoredRecord => ({ ...record, key: record.key.slice(root.length) });
  return {
    get: (key) => andThen(records.get(inside(key)), (record) => record && own(record)),
    put(key, value, options) {
      const at = inside(key);
      checkRecord(plugin, key, value, options);
      return records.put(at, value, options);
    },
    delete: (key) => records.delete(inside(key)),
    list: (prefix) => andThen(records.list(root + checkPrefix(plugin, prefix)), (found) => found.map(own)),
    watch: (prefix, fn) =>
      watching(records.watch(root + checkPrefix(plugin, prefix), (key, record) => fn(key.slice(root.length), record && own(record)))),
  };
}
