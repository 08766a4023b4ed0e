/** A spool as text: one line for an intent or a finished row, each with a checksum, so that what a crash tore is told from what was written. */
import { crc32 } from "node:zlib";
import { openRow, type LedgerIntent, type LedgerRow } from "../../core/ledger.ts";
import { packIntent, unpackIntents } from "../sql/ledger-rows.ts";

/** A longer line is neither written nor read: one broken file must not fill the memory. */
export const MOST_LINE_BYTES = 16 * 1_048_576;

const SUM_DIGITS = 8;
const NEWLINE = 10;

/** One line, read back. An intent is an open row. */
export interface SpoolEntry {
  readonly kind: "intent" | "row";
  readonly row: LedgerRow;
}

const sumOf = (json: string | Buffer): string => crc32(json).toString(16).padStart(SUM_DIGITS, "0");

const lineOf = (json: string): string => `${sumOf(json)} ${json}\n`;

export const intentLine = (row: LedgerIntent): string => lineOf(`{"intent":${packIntent(row)}}`);

/** Throws a TypeError for what is not JSON. */
export const rowLine = (row: LedgerRow): string => lineOf(`{"row":${JSON.stringify(row)}}`);

/** Null = the line is not as it was written. */
function entryOf(line: Buffer): SpoolEntry | null {
  const json = line.subarray(SUM_DIGITS + 1);
  if (line.toString("latin1", 0, SUM_DIGITS + 1) !== `${sumOf(json)} `) return null;
  try {
    const { intent, row } = JSON.parse(json.toString("utf8")) as { readonly intent?: unknown; readonly row?: LedgerRow };
    if (intent !== undefined) return { kind: "intent", row: unpackIntents(JSON.stringify([intent]))[0] as LedgerRow };
    // A row of an older version lacks what later ones added.
    return row === undefined ? null : { kind: "row", row: { ...openRow(row), ...row } };
  } catch {
    return null;
  }
}

/** What a file is read by: as many bytes as there are from a position on, 0 at its end. */
export type ReadBytes = (into: Buffer, position: number) => Promise<number>;

export interface SpoolLines {
  readonly entries: readonly SpoolEntry[];
  /** Lines that ended and are not as they were written. */
  readonly broken: number;
}

const CHUNK_BYTES = 262_144;

/**
 * The lines of a file, in portions. What stands behind the last line break was torn by a crash in the middle of its write: nobody was told that it
 * was written, so it does not count.
 */
export async function* readSpool(read: ReadBytes): AsyncGenerator<SpoolLines> {
  const chunk = Buffer.alloc(CHUNK_BYTES);
  let rest: Buffer[] = [];
  let restBytes = 0;
  /** What is left of a line that is too long to be one of ours. */
  let isSkipping = false;
  for (let position = 0, length = await read(chunk, 0); length > 0; length = await read(chunk, position)) {
    position += length;
    const entries: SpoolEntry[] = [];
    let broken = 0;
    let from = 0;
    for (let end = chunk.indexOf(NEWLINE); end !== -1 && end < length; end = chunk.indexOf(NEWLINE, from)) {
      const line = rest.length === 0 ? chunk.subarray(from, end) : Buffer.concat([...rest, chunk.subarray(from, end)]);
      const entry = isSkipping ? null : entryOf(line);
      if (entry === null) broken += 1;
      else entries.push(entry);
      rest = [];
      restBytes = 0;
      isSkipping = false;
      from = end + 1;
    }
    if (from < length) {
      restBytes += length - from;
      if (restBytes > MOST_LINE_BYTES) isSkipping = true;
      if (isSkipping) rest = [];
      else rest.push(Buffer.from(chunk.subarray(from, length)));
    }
    yield { entries, broken };
  }
}
