import type { LedgerRow } from "../core/ledger.ts";
import { USAGE_COUNTS } from "../core/usage.ts";

/** What a usage says in figures. */
const COUNTED = [...USAGE_COUNTS, "reportedUsd"] as const;

/**
 * What must hold whatever happens: I1 every operation balances · I2 what was settled is what the upstream billed · I3 no limit lets through more than it
 * may · I4 exactly one end for each reservation · I5 no hold outlives its request · I6 whatever reached an upstream has a row.
 */
export type Invariant = "I1" | "I2" | "I3" | "I4" | "I5" | "I6";

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

/** What a row contradicts in itself; null = it balances. Rows are self-contained, so nothing else is looked at. */
function imbalanceOf(row: LedgerRow): string | null {
  const { state, dialect, usage, provenance, rawNanoUsd, billedNanoUsd, held } = row;
  switch (state) {
    case "intent":
      return null;
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
  }
}

/** Looks at finished books: every row balances (I1), none is twice there or still open (I4). */
export function rowViolations(rows: Iterable<LedgerRow>): Violation[] {
  const violations: Violation[] = [];
  const seen = new Set<string>();
  for (const row of rows) {
    const imbalance = imbalanceOf(row);
    const name = `${ownerOf(row)}: the row of request ${row.requestId} (${row.id})`;
    if (imbalance !== null) violations.push({ invariant: "I1", message: `${name} ${imbalance}` });
    if (seen.has(row.id)) violations.push({ invariant: "I4", message: `${name} is there twice` });
    if (row.state === "intent") violations.push({ invariant: "I4", message: `${name} is still an intent: it has no end` });
    seen.add(row.id);
  }
  return violations;
}
