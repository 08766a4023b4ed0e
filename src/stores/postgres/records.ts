import type { RecordStore, StoredRecord } from "../../core/store.ts";
import { endOfPrefix } from "../sql/key-range.ts";
import { storeUnavailable } from "../sql/store-unavailable.ts";
import { storableText } from "./ledger-writer.ts";
import type { PostgresLink, SqlRow } from "./link.ts";

/** A payload of NOTIFY is at most 8,000 bytes. */
const MAX_PAYLOAD_BYTES = 7900;

/** What other processes are told of a change. */
export interface RecordNews {
  /** The store that made it; empty = a record ran out. */
  readonly by: string;
  /** The number of the change. Each one in this schema has the next higher one, in the order of the commits. */
  readonly version: number;
  readonly isDeleted: boolean;
  /** Undefined = the key is too long to be told. */
  readonly key: string | undefined;
}

/** Undefined = it is not ours. */
export function newsFrom(payload: string): RecordNews | undefined {
  const [, by = "", version, what, key] = /^([\w-]*) (\d+) (put|delete|long)(?: (.+))?$/s.exec(payload) ?? [];
  if (version === undefined || what === undefined) return undefined;
  return { by, version: Number(version), isDeleted: what === "delete", key };
}

export interface PostgresRecords {
  get(key: string): Promise<StoredRecord | undefined>;
  list(prefix: string): Promise<readonly StoredRecord[]>;
  /** Undefined = a condition did not hold. */
  put(key: string, json: string, how: Parameters<RecordStore["put"]>[2]): Promise<number | undefined>;
  /** The number of the change; undefined = there was nothing. */
  delete(key: string): Promise<number | undefined>;
  /** Deletes what has run out, tells everybody, and returns the number of the last change. */
  sweep(): Promise<number>;
}

/** `testNow` stands for the time of the database, which is the one that counts for all its processes. */
export function postgresRecords(link: PostgresLink, self: string, channel: string, testNow: (() => number) | undefined): PostgresRecords {
  const [records, meta] = [link.table("quotaguard_record"), link.table("quotaguard_meta")];
  const now = (parameter: string): string => `coalesce(${parameter}::bigint, (extract(epoch from clock_timestamp()) * 1000)::bigint)`;
  const nowValue = (): number | null => testNow?.() ?? null;
  // The lock on the counter is held until the commit, so that versions and notifications have the order of the commits.
  const nextVersion = `next as (update ${meta} set value = value + 1 where key = 'record_version' returning value)`;
  const tell = (by: string, what: "put" | "delete", version: string): string =>
    `pg_notify('${channel}', case when octet_length(key) > ${MAX_PAYLOAD_BYTES} then '${by} ' || ${version} || ' long'
       else '${by} ' || ${version} || ' ${what} ' || key end)`;
  const columns = `key, value, version from ${records} where`;
  const isLive = (parameter: string): string => `(expires_at is null or expires_at > ${now(parameter)})`;

  const one = `select ${columns} key = $1 and ${isLive("$2")}`;
  const below = `select ${columns} key >= $1 and ($2::text is null or key < $2) and ${isLive("$3")} order by key`;
  const expiry = `case when $4::bigint is null then null else ${now("$3")} + $4::bigint end`;
  const written = `select version, ${tell(self, "put", "version")} from written`;
  const insert = `insert into ${records} as record (key, value, version, expires_at)
     select $1::text, $2::text, next.value, ${expiry} from next
     on conflict (key) do update set value = excluded.value, version = excluded.version, expires_at = excluded.expires_at`;
  // Conditions are in clauses that Postgres judges by the row as it is once it is locked, not as it was when the statement began.
  const putAny = `with ${nextVersion}, written as (${insert} returning key, version) ${written}`;
  const putAbsent = `with ${nextVersion}, written as (${insert} where record.expires_at <= ${now("$3")} returning key, version) ${written}`;
  const putOver = `with ${nextVersion}, written as (
     update ${records} set value = $2::text, version = next.value, expires_at = ${expiry} from next
     where key = $1::text and version = $5::bigint and ${isLive("$3")} returning key, version) ${written}`;
  const remove = `with ${nextVersion}, gone as (delete from ${records} where key = $1 and ${isLive("$2")} returning key)
     select next.value as version, ${tell(self, "delete", "next.value")} from gone, next`;
  const removeExpired = `with expired as (
       select key from ${records} where expires_at <= ${now("$1")} order by key limit 1000 for update skip locked
     ), next as (update ${meta} set value = value + 1 where key = 'record_version' and exists (select from expired) returning value
     ), gone as (delete from ${records} where key in (select key from expired) returning key
     ), told as (select ${tell("", "delete", "next.value")} from gone, next)
     select coalesce((select value from next), value) as version, (select count(*) from told) as told from ${meta} where key = 'record_version'`;

  async function ask(text: string, values: readonly unknown[], mayRepeat: boolean): Promise<readonly SqlRow[]> {
    try {
      return await link.query(text, values, mayRepeat ? () => {} : undefined);
    } catch (error) {
      throw storeUnavailable(error);
    }
  }

  return {
    async get(key) {
      const [row] = await ask(one, [storableText(key), nowValue()], true);
      return row && recordOf(row);
    },
    async list(prefix) {
      const from = storableText(prefix);
      return (await ask(below, [from, endOfPrefix(from) ?? null, nowValue()], true)).map(recordOf);
    },
    async put(key, json, { ttlMs, ifAbsent = false, ifVersion } = {}) {
      const values = [storableText(key), json, nowValue(), ttlMs ?? null];
      // A condition that held the first time does not hold when the statement is repeated after a lost reply.
      if (ifVersion === undefined) return versionOf(await ask(ifAbsent ? putAbsent : putAny, values, !ifAbsent));
      return ifAbsent ? undefined : versionOf(await ask(putOver, [...values, ifVersion], false));
    },
    async delete(key) {
      return versionOf(await ask(remove, [storableText(key), nowValue()], false));
    },
    async sweep() {
      return versionOf(await ask(removeExpired, [nowValue()], true)) ?? 0;
    },
  };
}

const versionOf = ([row]: readonly SqlRow[]): number | undefined => (row === undefined ? undefined : Number(row.version));

const recordOf = ({ key, value, version }: SqlRow): StoredRecord => ({
  key: String(key),
  value: JSON.parse(String(value)) as unknown,
  version: Number(version),
});
