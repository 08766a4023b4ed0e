import type { Invariant } from "../core/audit.ts";
import type { LedgerRow } from "../core/ledger.ts";
import { MAX_AMOUNT } from "../core/money.ts";
import { USAGE_COUNTS } from "../core/usage.ts";

/** What a usage says in figures. */
const COUNTED = [...USAGE_COUNTS, "reportedUsd"] as const;

/** A broken equation, with its numbers. */
export interface Violation {
  readonly invariant: Invariant;
  readonly message: string;
}

/** Whose request it was, as narrow as its row says: `user=alice`. */
export function ownerOf({ scopes, key }: LedgerRow): string {
  const [scope, value] = Object.entries(scopes).at(-1) ?? (key === null ? [] : ["key", key]);
  return scope === undefined ? "nobody" : `${scope}=${value}`;
}

/** How violations call a row. */
export const nameOf = (row: LedgerRow): string => `${ownerOf(row)}: the row of request ${row.requestId} (${row.id})`;

const isCost = (cost: number | null): boolean => cost === null || (Number.isSafeInteger(cost) && cost >= 0 && cost <= MAX_AMOUNT);

/** What a row contradicts in itself; null = it balances. Rows are self-contained, so nothing else is looked at. */
function imbalanceOf(row: LedgerRow): string | null {
  const { state, dialect, usage, provenance, rawNanoUsd, billedNanoUsd, held, priceVersion } = row;
  if (state === "intent") return null;
  if (!isCost(rawNanoUsd) || !isCost(billedNanoUsd)) return `costs ${rawNanoUsd} nanoUSD and is billed ${billedNanoUsd}`;
  if (priceVersion !== null && (state !== "settled" || rawNanoUsd === null)) return `is ${state}, costs ${rawNanoUsd} nanoUSD and names prices`;
  switch (state) {
    case "settled":
      // A host may know only what it cost.
      if (usage === null && (dialect !== null || billedNanoUsd === null)) return "is settled without usage";
      if (usage !== null && COUNTED.some((name) => usage[name] !== undefined && !(usage[name] >= 0)))
        return `is settled with usage ${JSON.stringify(usage)}`;
      if (provenance !== "exact" && provenance !== "counted") return `is settled with usage that is ${provenance}`;
      return (rawNanoUsd === null) === (billedNanoUsd === null) ? null : `costs ${rawNanoUsd} nanoUSD and is billed ${billedNanoUsd}`;
    case "released":
    case "refused":
      if (usage !== null) return `is ${state} with usage ${JSON.stringify(usage)}`;
      return (rawNanoUsd ?? 0) === 0 && (billedNanoUsd ?? 0) === 0 ? null : `is ${state} and billed ${billedNanoUsd} nanoUSD`;
    case "estimated":
    case "unknown": {
      const expected = held.usd ?? null;
      // Where no answer came, the input's part of it.
      const isPart = state === "estimated" && billedNanoUsd !== null && expected !== null && billedNanoUsd >= 0 && billedNanoUsd < expected;
      return isPart || billedNanoUsd === expected ? null : `is ${state}, held ${expected} nanoUSD and is billed ${billedNanoUsd}`;
    }
    default:
      return `has the state ${String(state)}, which is none`;
  }
}

/** What a single row says against itself: it balances (I1), and what reached an upstream says which (I6). Null = nothing. */
export function rowViolation(row: LedgerRow): Violation | null {
  const imbalance = imbalanceOf(row);
  if (imbalance !== null) return { invariant: "I1", message: `${nameOf(row)} ${imbalance}` };
  if (row.attempts === 0 || (row.provider !== null && row.credential !== null)) return null;
  return { invariant: "I6", message: `${nameOf(row)} tells of ${row.attempts} attempts, and not where they went` };
}

/** Looks at finished books: every row balances (I1, I6), none is twice there or still open (I4). */
export function rowViolations(rows: Iterable<LedgerRow>): Violation[] {
  const violations: Violation[] = [];
  const seen = new Set<string>();
  for (const row of rows) {
    const violation = rowViolation(row);
    if (violation !== null) violations.push(violation);
    if (seen.has(row.id)) violations.push({ invariant: "I4", message: `${nameOf(row)} is there twice` });
    if (row.state === "intent") violations.push({ invariant: "I4", message: `${nameOf(row)} is still an intent: it has no end` });
    seen.add(row.id);
  }
  return violations;
}
