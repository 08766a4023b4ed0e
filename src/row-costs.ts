import type { PricedCost } from "./core/context.ts";
import type { LedgerRow } from "./core/ledger.ts";
import type { GuardPrices } from "./guard-prices.ts";

/** What the usage of a row costs by the prices that are known now, for its time and org. Null = nobody knows: it is not a single call, or is not priced. */
export function rowCosts(prices: Pick<GuardPrices, "at">, aliases: Readonly<Record<string, string>>): (row: LedgerRow) => PricedCost | null {
  return ({ model, servedModel, credential, usage, dialect, scopes, at }) => {
    // A host's own route may say itself what it cost; and of several calls each was priced by itself.
    if (usage === null || dialect === null || usage.requests !== undefined) return null;
    const sheet = prices.at(scopes.org ?? null, at);
    const asked = model !== null && Object.hasOwn(aliases, model) ? (aliases[model] as string) : model;
    for (const name of [asked, servedModel]) {
      const cost = name === null ? null : sheet.cost(name, credential, usage);
      if (cost !== null) return cost;
    }
    return null;
  };
}
