/** How rows are found and added up: one meaning for every ledger. */
import type { LedgerRow } from "./ledger.ts";
import type { LedgerFilter, LedgerGroup, LedgerTotal } from "./store.ts";
import { TOKEN_CLASSES, type TokenClass } from "./usage.ts";

export const DAY_MS = 86_400_000;

/** The start of the UTC day, ms. */
export const dayOf = (atMs: number): number => Math.floor(atMs / DAY_MS) * DAY_MS;

/** `2026-11-21`. */
export const dayName = (atMs: number): string => new Date(atMs).toISOString().slice(0, 10);

/** States in which something was used, or may have been. */
export const CHARGED_STATES = ["settled", "estimated", "unknown"] as const satisfies readonly LedgerRow["state"][];
export const AS_HELD_STATES = ["estimated", "unknown"] as const satisfies readonly LedgerRow["state"][];

const isOneOf = (states: readonly string[], state: string): boolean => states.includes(state);

export const isUnpriced = ({ state, billedNanoUsd }: Pick<LedgerRow, "state" | "billedNanoUsd">): boolean =>
  billedNanoUsd === null && isOneOf(CHARGED_STATES, state);

/** Everything about a total but whose it is. */
export type LedgerFigures = Omit<LedgerTotal, "group">;

/** The scope that a group is of; null = it is a field of the row, or the day. */
export function scopeOf(group: LedgerGroup): string | null {
  if (group === "org" || group === "team" || group === "user") return group;
  return group.startsWith("scope.") ? group.slice("scope.".length) : null;
}

export function matchesFilter(row: LedgerRow, { from, to, scopes, fields, state }: LedgerFilter): boolean {
  if (from !== undefined && row.at < from) return false;
  if (to !== undefined && row.at >= to) return false;
  if (state !== undefined && row.state !== state) return false;
  for (const [name, value] of Object.entries(scopes ?? {})) if ((row.scopes[name] ?? "") !== value) return false;
  for (const [name, value] of Object.entries(fields ?? {})) if ((row[name as keyof typeof fields] ?? "") !== value) return false;
  return true;
}

function groupValue(row: LedgerRow, group: LedgerGroup): string {
  if (group === "day") return dayName(row.at);
  const scope = scopeOf(group);
  return (scope === null ? row[group as keyof NonNullable<LedgerFilter["fields"]>] : row.scopes[scope]) ?? "";
}

export function tokensOf(count: (name: TokenClass) => number): Record<TokenClass, number> {
  return Object.fromEntries(TOKEN_CLASSES.map((name) => [name, count(name)])) as Record<TokenClass, number>;
}

function figuresOf(row: LedgerRow): LedgerFigures {
  return {
    requests: 1,
    refused: row.state === "refused" ? 1 : 0,
    estimated: isOneOf(AS_HELD_STATES, row.state) ? 1 : 0,
    unpriced: isUnpriced(row) ? 1 : 0,
    tokens: tokensOf((name) => row.usage?.[name] ?? 0),
    rawNanoUsd: BigInt(row.rawNanoUsd ?? 0),
    billedNanoUsd: BigInt(row.billedNanoUsd ?? 0),
  };
}

const addFigures = (a: LedgerFigures, b: LedgerFigures): LedgerFigures => ({
  requests: a.requests + b.requests,
  refused: a.refused + b.refused,
  estimated: a.estimated + b.estimated,
  unpriced: a.unpriced + b.unpriced,
  tokens: tokensOf((name) => a.tokens[name] + b.tokens[name]),
  rawNanoUsd: a.rawNanoUsd + b.rawNanoUsd,
  billedNanoUsd: a.billedNanoUsd + b.billedNanoUsd,
});

export interface LedgerSums {
  addRow(row: LedgerRow): void;
  /** Figures that are sums themselves. `values` are by group. */
  add(values: readonly string[], figures: LedgerFigures): void;
  /** In the order of the groups' values. */
  totals(): LedgerTotal[];
}

export function ledgerSums(groupBy: readonly LedgerGroup[]): LedgerSums {
  const sums = new Map<string, { readonly values: readonly string[]; figures: LedgerFigures }>();

  function add(values: readonly string[], figures: LedgerFigures): void {
    const id = JSON.stringify(values);
    const known = sums.get(id);
    if (known === undefined) sums.set(id, { values, figures });
    else known.figures = addFigures(known.figures, figures);
  }

  return {
    addRow(row) {
      const values = groupBy.map((group) => groupValue(row, group));
      add(values, figuresOf(row));
    },
    add,
    totals: () =>
      [...sums]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([, { values, figures }]) => ({ group: Object.fromEntries(groupBy.map((group, i) => [group, values[i] as string])), ...figures })),
  };
}
