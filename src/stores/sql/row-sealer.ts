/** The seal of a row: a keyed digest of all that it says, so that nobody without the key can change one unnoticed. */
import { createHmac, hkdfSync } from "node:crypto";
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

interface SealKey {
  readonly id: string;
  readonly key: Buffer;
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
    this.#key = { id: derived("key id", ID_BYTES).toString("base64url"), key: derived("key", 32) };
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

function sealOf(values: readonly (SqlValue | Found)[], { id, key }: SealKey): string {
  return id + createHmac("sha256", key).update(canonicalText(values)).digest("base64url").slice(0, DIGEST_LENGTH);
}
