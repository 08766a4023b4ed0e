/** Whether the rows of a ledger say what the counters were charged (I2). */
import type { LedgerRow } from "../../core/ledger.ts";
import type { Unit } from "../../core/store.ts";
import { totalInputTokens, totalOutputTokens } from "../../core/usage.ts";
import { ownerOf, type Violation } from "../../metering/conservation.ts";
import type { Reservation } from "./reservations.ts";

/** Budgets reserve as `<row>.b…`, attempts over the limits of credentials as `<row>.a…`. Those are pooled, and not the request's bill. */
const BUDGET = /^([^.]+)\.b/;

/** What stays charged where `held` was: by the row's usage. Undefined = the row does not say. */
function expectedOf({ state, usage, billedNanoUsd }: LedgerRow, unit: Unit, held: number): number | undefined {
  if (state === "released" || state === "refused") return 0;
  if (state !== "settled") return undefined;
  if (unit === "usd") return billedNanoUsd ?? held;
  // Only the cost was told.
  if (usage === null) return unit === "concurrent" ? 0 : held;
  switch (unit) {
    case "input_tokens":
      return totalInputTokens(usage);
    case "output_tokens":
      return totalOutputTokens(usage);
    case "tokens":
      return totalInputTokens(usage) + totalOutputTokens(usage);
    case "requests":
      return held;
    case "concurrent":
      return 0;
  }
}

/** Each budget of a request was charged what its row says, and nothing was charged that no row tells of. */
export function bookViolations(reservations: readonly Reservation[], rows: readonly LedgerRow[]): Violation[] {
  const byId = new Map(rows.map((row) => [row.id, row]));
  const violations: Violation[] = [];
  for (const { id, opId, key, unit, held, charged } of chargedTo(reservations)) {
    const row = byId.get(id);
    if (!row) {
      if (charged > 0)
        violations.push({ invariant: "I2", message: `${key}: ${charged} ${unit} were charged (reservation ${opId}), and no row tells of it` });
      continue;
    }
    const expected = expectedOf(row, unit, held);
    if (expected === undefined || expected === charged) continue;
    const message = `${ownerOf(row)} ${unit}: charged ${charged} at ${key}, the row says ${expected} (request ${row.requestId}, ${row.state})`;
    violations.push({ invariant: "I2", message });
  }
  return violations;
}

/** What one request was charged at one counter. */
interface Bill {
  readonly id: string;
  readonly opId: string;
  readonly key: string;
  readonly unit: Unit;
  held: number;
  charged: number;
}

/** Several reservations of a request may be on one counter, such as what a later place holds beyond an earlier one. Unclear ones tell nothing. */
function chargedTo(reservations: readonly Reservation[]): Iterable<Bill> {
  const bills = new Map<string, Bill>();
  const unclear = new Set<string>();
  for (const { opId, charges, kept, end } of reservations) {
    const id = BUDGET.exec(opId)?.[1];
    if (id === undefined) continue;
    charges.forEach(({ key, unit, amount }, i) => {
      const name = `${id} ${key}`;
      const bill = bills.get(name) ?? { id, opId, key, unit, held: 0, charged: 0 };
      bills.set(name, bill);
      bill.held += amount;
      if (kept === null || end === "open") unclear.add(name);
      else bill.charged += kept[i] as number;
    });
  }
  return [...bills].flatMap(([name, bill]) => (unclear.has(name) ? [] : [bill]));
}
