/** Sums of the ledger for people: in USD, without holes between days. */
import { GuardError } from "./core/errors.ts";
import { DAY_MS, dayName, dayOf } from "./core/ledger-totals.ts";
import { usdText } from "./core/money.ts";
import { hint } from "./core/nearest.ts";
import { BUILT_IN_SCOPES } from "./core/scope.ts";
import type { Ledger, LedgerFilter, LedgerTotal } from "./core/store.ts";
import type { Clock } from "./core/time.ts";
import { INPUT_CLASSES, OUTPUT_CLASSES, type TokenClass } from "./core/usage.ts";
import type { UsageQuery, UsageRow } from "./core/usage-report.ts";
import { checkedUsageQuery } from "./options/usage-query.ts";
import type { ResolvedOptions } from "./options/resolved.ts";

/** Ten years. Of a longer time only the days between the first row and the last are filled. */
const MOST_DAYS = 3_660;

export interface UsageReportParts {
  readonly ledger: Pick<Ledger, "flush" | "totals">;
  readonly scopes: ResolvedOptions["scopes"];
  readonly clock: Clock;
}

/** Throws `body_invalid` and `scope_invalid` that name what is wrong with the question, `store_unavailable` while the ledger cannot tell. */
export function usageReport({ ledger, scopes, clock }: UsageReportParts): (query?: UsageQuery) => Promise<readonly UsageRow[]> {
  // A host's own function may say any scope.
  const declared = scopes.of === null ? new Set([...BUILT_IN_SCOPES, ...scopes.names, ...Object.keys(scopes.headers)]) : null;

  function checkScope(scope: string): void {
    if (declared === null || declared.has(scope)) return;
    throw new GuardError("scope_invalid", `scopes.${scope}: nobody declares this scope${hint(scope, declared)}; scopes.names does`, { scope });
  }

  return async (query = {}) => {
    const { filter, groupBy } = checkedUsageQuery(query, "code");
    for (const name of Object.keys(filter.scopes ?? {})) checkScope(name);
    for (const group of groupBy) if (group.startsWith("scope.")) checkScope(group.slice("scope.".length));
    await ledger.flush();
    const totals = await ledger.totals(filter, groupBy);
    return (groupBy.length === 1 && groupBy[0] === "day" ? everyDay(totals, filter, clock.now()) : totals).map(usageRow);
  };
}

/** Days without a request come with zeros: from `from`, or the first day that has one, to `to`, but no further than today. */
function everyDay(totals: readonly LedgerTotal[], { from, to }: LedgerFilter, nowMs: number): readonly LedgerTotal[] {
  const byDay = new Map(totals.map((total) => [total.group.day as string, total]));
  const days = totals.map(({ group }) => Date.parse(group.day as string));
  const last = Math.max(...days, dayOf(Math.min((to ?? Infinity) - 1, nowMs)));
  const wanted = from === undefined ? Infinity : dayOf(from);
  const first = last - wanted < MOST_DAYS * DAY_MS ? Math.min(wanted, ...days) : Math.min(...days);
  if (!(last - first < MOST_DAYS * DAY_MS)) return totals;
  const filled: LedgerTotal[] = [];
  for (let day = first; day <= last; day += DAY_MS) {
    const name = dayName(day);
    filled.push(byDay.get(name) ?? { ...NOTHING, group: { day: name } });
  }
  return filled;
}

const NOTHING: LedgerTotal = {
  group: {},
  requests: 0,
  refused: 0,
  estimated: 0,
  unpriced: 0,
  tokens: {} as LedgerTotal["tokens"],
  rawNanoUsd: 0n,
  billedNanoUsd: 0n,
};

function usageRow({ group, requests, refused, estimated, unpriced, tokens, rawNanoUsd, billedNanoUsd }: LedgerTotal): UsageRow {
  const sum = (...names: readonly TokenClass[]): number => names.reduce((total, name) => total + (tokens[name] ?? 0), 0);
  return {
    group,
    requests,
    refused,
    estimated,
    unpriced,
    inputTokens: sum(...INPUT_CLASSES),
    cacheReadTokens: sum("cacheReadTokens"),
    cacheWriteTokens: sum("cacheWriteTokens", "cacheWriteLongTokens"),
    outputTokens: sum(...OUTPUT_CLASSES),
    reasoningTokens: sum("reasoningTokens"),
    totalTokens: sum(...INPUT_CLASSES, ...OUTPUT_CLASSES),
    rawUsd: Number(usdText(rawNanoUsd)),
    billedUsd: Number(usdText(billedNanoUsd)),
    rawNanoUsd: String(rawNanoUsd),
    billedNanoUsd: String(billedNanoUsd),
  };
}
