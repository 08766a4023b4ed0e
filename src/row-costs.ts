import type { PricedCost } from "./core/context.ts";
import type { LedgerRow } from "./core/ledger.ts";
import type { GuardPrices } from "./guard-prices.ts";
import type { ResolvedOptions } from "./options/resolved.ts";
import { entryOf, modelTable } from "./pool/offers.ts";

/** What the usage of a row costs by the prices that are known now, for its time and org. Null = nobody knows: it is not a single call, or is not priced. */
export function rowCosts(
  prices: Pick<GuardPrices, "at">,
  { modelAlias, models }: Pick<ResolvedOptions, "modelAlias" | "models">,
): (row: LedgerRow) => PricedCost | null {
  const table = modelTable(models);

  /** The names that prices may know the served model by, the likeliest first. */
  function namesOf({ model, servedModel, credential }: LedgerRow): readonly (string | null)[] {
    const asked = model !== null && Object.hasOwn(modelAlias, model) ? (modelAlias[model] as string) : model;
    const isAt = (name: string): boolean => (entryOf(table, name, credential ?? "")?.model ?? name) === servedModel;
    if (asked === null || servedModel === null || isAt(asked)) return [asked, servedModel];
    // A fallback served it, or the configuration has changed since.
    return [...[...table.keys()].filter(isAt), servedModel, asked];
  }

  return (row) => {
    const { credential, usage, dialect, scopes, at } = row;
    // A host's own route may say itself what it cost; and of several calls each was priced by itself.
    if (usage === null || dialect === null || usage.requests !== undefined) return null;
    const sheet = prices.at(scopes.org ?? null, at);
    for (const name of namesOf(row)) {
      const cost = name === null ? null : sheet.cost(name, credential, usage);
      if (cost !== null) return cost;
    }
    return null;
  };
}
