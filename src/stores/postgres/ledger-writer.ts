import type { LedgerRow } from "../../core/ledger.ts";
import { COMPLETE_SINCE } from "../sql/ledger-queries.ts";
import { STORED_COLUMNS } from "../sql/ledger-rows.ts";
import type { RowSealer } from "../sql/row-sealer.ts";
import type { PostgresLink } from "./link.ts";

type Column = (typeof STORED_COLUMNS)[number];

const INTEGERS: ReadonlySet<Column> = new Set<Column>([
  "at",
  "stream",
  "status",
  "latency_ms",
  "first_byte_ms",
  "attempts",
  "input_tokens",
  "cache_read_tokens",
  "cache_write_tokens",
  "output_tokens",
  "reasoning_tokens",
  "raw_nano_usd",
  "billed_nano_usd",
  "cache_write_long_tokens",
  "audio_input_tokens",
  "image_input_tokens",
  "audio_output_tokens",
  "image_output_tokens",
  "prediction_tokens",
  "images",
  "requests",
]);
/** Columns whose value is JSON text: inside the JSON of the row they are text once more. */
const JSON_TEXTS: ReadonlySet<Column> = new Set<Column>(["scopes", "held", "raw_usage", "tried"]);

function typeOf(column: Column): string {
  if (INTEGERS.has(column)) return "bigint";
  return column === "reported_usd" ? "double precision" : "text";
}

const NAMES = STORED_COLUMNS.map((column) => `"${column}"`).join(", ");
const VALUES = STORED_COLUMNS.map((column) => `"${column}"${JSON_TEXTS.has(column) ? "::json" : ""}`).join(", ");
const TYPES = STORED_COLUMNS.map((column) => `"${column}" ${typeOf(column)}`).join(", ");

const REPLACED = STORED_COLUMNS.map((column) => `"${column}" = excluded."${column}"`).join(", ");

/**
 * Inserts rows given as one parameter, a JSON array: one statement text for any number of rows, and no limit of parameters. Of a repeated id the
 * row that is there, or that comes first, stays; with `corrects` one that is there as `unknown` gives way, and no id may come twice.
 */
export const insertRows = (link: PostgresLink, parameter: string, corrects = false): string =>
  `insert into ${link.table("quotaguard_ledger")} as known (${NAMES}) select ${VALUES} from json_to_recordset(${parameter}::json) as row (${TYPES})
   on conflict (id) do ${corrects ? `update set ${REPLACED} where known.state = 'unknown' and excluded.state <> 'unknown'` : "nothing"}`;

/** What Postgres' text cannot hold, as JSON writes it: NUL, and halves of characters. */
const UNSTORABLE = /\\u(?:0000|d[89a-f])/;

/** The name of each column before its value. */
const KEYS = STORED_COLUMNS.map((column) => `${JSON.stringify(column)}:`);

/** A row as a JSON object for {@link insertRows}. Throws a TypeError for what is no row. */
export function rowJson(row: LedgerRow, sealer: RowSealer): string {
  const json = jsonOf(row, sealer);
  return UNSTORABLE.test(json) ? jsonOf(storable(row), sealer) : json;
}

/** Without the empty columns, which are half of them: Postgres takes one that is not named for null. */
function jsonOf(row: LedgerRow, sealer: RowSealer): string {
  const values = sealer.sealed(row);
  let json = "";
  for (let i = 0; i < KEYS.length; i += 1) {
    const value = values[i];
    if (value === null || value === undefined) continue;
    json += `${json === "" ? "{" : ","}${KEYS[i]}${JSON.stringify(value)}`;
  }
  return `${json}}`;
}

const storable = <T>(value: T): T =>
  JSON.parse(JSON.stringify(value), (_key, one: unknown) => (typeof one === "string" ? storableText(one) : one)) as T;

/** The text as it can be stored, and so as it must be looked for. */
export const storableText = (text: string): string => text.replaceAll("\0", "\uFFFD").toWellFormed();

/** What one commit of a ledger does. */
export interface LedgerWrite {
  /** Shows that the owner lives. */
  readonly beat: boolean;
  /** A pack of intents. */
  readonly body: string | null;
  /** Finished rows, see {@link rowJson}. */
  readonly rows: readonly string[];
  /** See {@link insertRows}. */
  readonly corrects?: boolean;
  /** Packs to delete. */
  readonly emptied: readonly number[];
  /** All packs of this owner but these go: those of writes whose reply was lost. Null = there was no such write. */
  readonly only: readonly number[] | null;
  readonly completeFrom: number | null;
}

export interface LedgerWritten {
  /** The new pack's number; 0 = there was none. */
  readonly seq: number;
  /** False = another process had declared this owner dead. Always true without a beat. */
  readonly isAlive: boolean;
}

export interface Owner {
  readonly id: string;
  readonly host: string;
  readonly pid: number;
}

/** One commit as one statement, and so one round trip that happens as a whole or not at all. Repeating it changes nothing but the beat, and may leave a second pack. */
export async function writeLedger(link: PostgresLink, owner: Owner, write: LedgerWrite, onRepeat: () => void): Promise<LedgerWritten> {
  const values: unknown[] = [];
  const p = (value: unknown): string => `$${values.push(value)}`;
  const id = `${p(owner.id)}::text`;
  const intents = link.table("quotaguard_intent");
  const parts: string[] = [];
  if (write.beat) {
    const owners = link.table("quotaguard_owner");
    parts.push(
      `renewed as (update ${owners} set beat = beat + 1 where id = ${id} returning 1)`,
      // A beat that begins anew must not repeat one that another process has seen.
      `registered as (insert into ${owners} (id, host, pid, beat)
         select ${id}, ${p(owner.host)}::text, ${p(owner.pid)}::bigint, (extract(epoch from clock_timestamp()) * 1000)::bigint
         where not exists (select from renewed) on conflict (id) do update set beat = excluded.beat)`,
    );
  }
  if (write.body !== null) parts.push(`pack as (insert into ${intents} (owner, body) values (${id}, ${p(write.body)}::text) returning seq)`);
  if (write.rows.length > 0) parts.push(`written as (${insertRows(link, p(`[${write.rows.join(",")}]`), write.corrects)})`);
  if (write.only !== null) parts.push(`cleared as (delete from ${intents} where owner = ${id} and seq <> all(${p(write.only)}::bigint[]))`);
  else if (write.emptied.length > 0) {
    parts.push(`deleted as (delete from ${intents} where owner = ${id} and seq = any(${p(write.emptied)}::bigint[]))`);
  }
  if (write.completeFrom !== null) {
    parts.push(
      `noted as (insert into ${link.table("quotaguard_meta")} as meta (key, value) values ('${COMPLETE_SINCE}', ${p(write.completeFrom)}::bigint)
         on conflict (key) do update set value = greatest(meta.value, excluded.value))`,
    );
  }
  if (parts.length === 0) return { seq: 0, isAlive: true };
  const seq = write.body === null ? "0" : "(select seq from pack)";
  const isAlive = write.beat ? "exists (select from renewed)" : "true";
  const [answer] = await link.query(`with ${parts.join(",\n")} select ${seq} as seq, ${isAlive} as is_alive, ${id} as owner`, values, onRepeat);
  return { seq: Number(answer?.seq), isAlive: answer?.is_alive === true };
}
