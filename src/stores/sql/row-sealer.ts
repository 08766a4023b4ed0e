/** The seal of a row: a keyed digest of all that it says, so that nobody without the key can change one unnoticed. */
import { hash, hkdfSync } from "node:crypto";
import type { Selectable } from "kysely";

import type { LedgerRow } from "../../core/ledger.ts";
import type { SealState } from "../../core/row-seal.ts";
import type { Secret } from "../../core/secret.ts";
import { LEDGER_COLUMNS, rowValues, type SqlValue } from "./ledger-rows.ts";
import type { LedgerTable } from "./schema.ts";

/*
 * base64url of: id of the key (3 bytes), HMAC-SHA-256 cut to 15. 24 characters without padding, so the two parts can be told apart as text. The id says
 * which key a seal needs; it is derived as the key is and tells nothing about it.
 */
const ID_BYTES = 3;
const ID_LENGTH = 4;
const DIGEST_LENGTH = 20;

const BLOCK_BYTES = 64;

interface SealKey {
  readonly id: string;
  /** The key as HMAC (RFC 2104) mixes it into the inner and the outer digest. */
  readonly inner: Buffer;
  readonly outer: Buffer;
}

/** Any value that a database may hold in place of ours. */
type Found = Selectable<LedgerTable>[keyof LedgerTable];

/**
 * What both sides of a database have in common: the same text for a value that is written and for the one that is read. Integers come back as bigint or
 * as text, JSON as text or parsed. Null, and numbers that no database keeps, have none.
 */
function textOf(value: SqlValue | Found): string | null {
  if (typeof value === "string") return value;
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : null;
  if (value === null) return null;
  return typeof value === "bigint" ? String(value) : JSON.stringify(value);
}

/** One text for what all columns say. Empty columns are left out, so that one that is added later changes no older seal. */
function canonicalText(values: readonly (SqlValue | Found)[]): string {
  let all = "";
  for (let i = 0; i < LEDGER_COLUMNS.length; i += 1) {
    const text = textOf(values[i] ?? null);
    if (text !== null) all += `${LEDGER_COLUMNS[i]}=${text.length}:${text};`;
  }
  return all;
}

export class RowSealer {
  #key: SealKey | null = null;

  use(secret: Secret): void {
    const derived = (use: string, bytes: number): Buffer =>
      Buffer.from(hkdfSync("sha256", secret.reveal(), "", `quotaguard ledger-rows ${use}`, bytes));
    const key = Buffer.concat([derived("key", 32)], BLOCK_BYTES);
    const padded = (pad: number): Buffer => Buffer.from(key.map((byte) => byte ^ pad));
    this.#key = { id: derived("key id", ID_BYTES).toString("base64url"), inner: padded(0x36), outer: padded(0x5c) };
  }

  /** The values of a row by `STORED_COLUMNS`. */
  sealed(row: LedgerRow): SqlValue[] {
    const values = rowValues(row);
    values.push(this.#key === null ? null : sealOf(values, this.#key));
    return values;
  }

  stateOf(columns: Selectable<LedgerTable>): SealState {
    const { digest } = columns;
    if (digest === null) return "unsealed";
    if (this.#key === null || digest.slice(0, ID_LENGTH) !== this.#key.id) return "foreign";
    const values = LEDGER_COLUMNS.map((column) => columns[column]);
    return sealOf(values, this.#key) === digest ? "intact" : "altered";
  }
}

/** HMAC-SHA-256 of two digests at one go: Node's own object for it costs ten times as much, most of it when it is collected. */
function sealOf(values: readonly (SqlValue | Found)[], { id, inner, outer }: SealKey): string {
  const message = hash("sha256", Buffer.concat([inner, Buffer.from(canonicalText(values))]), "buffer");
  return id + hash("sha256", Buffer.concat([outer, message]), "base64url").slice(0, DIGEST_LENGTH);
}
