import { expect, test } from "vitest";
import type { PricedCost } from "../src/core/context.ts";
import { rowCosts } from "../src/row-costs.ts";
import { rowOf } from "./contracts/ledger-rows.ts";

/** Asks for the cost of a row, and tells which names were looked up. */
function namesAskedFor(model: string): readonly unknown[] {
  const names: unknown[] = [];
  const cost = (name: string): PricedCost | null => (names.push(name), null);
  rowCosts({ at: () => ({ cost }) as never }, { modelAlias: { fast: "gpt-4o-mini" }, models: [] })(rowOf("a", { model, servedModel: null }));
  return names;
}

test.each([
  ["fast", "gpt-4o-mini"],
  ["gpt-4o", "gpt-4o"],
  // Clients call models as they like.
  ["constructor", "constructor"],
  ["__proto__", "__proto__"],
])("a row of the model %s is priced as %s", (model, name) => {
  expect(namesAskedFor(model)).toEqual([name]);
});
