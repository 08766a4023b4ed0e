/**
 * What an operation of the lane is held as. Its answer says too late, or never, what it came to, so where tokens or money are limited either it is free by
 * nature or the operator has said what one request costs.
 */
import type { Context } from "../../core/context.ts";
import { GuardError } from "../../core/errors.ts";
import type { Amounts, Unit } from "../../core/units.ts";
import { andThen, type MaybePromise } from "../../core/time.ts";
import { patternMatcher } from "../../pool/patterns.ts";
import { afterPrefix } from "./address.ts";
import { operationOf } from "./operations.ts";

export interface OperationCostsOptions<T> {
  /** Path pattern (`/v1/images/*`) -> what one request costs, as `passthrough.cost` has it. */
  readonly costs: Readonly<Record<string, T>>;
  /** The amounts that such an entry stands for; usd in nano-USD. */
  readonly amounts: (ctx: Context, cost: T, units: ReadonlySet<Unit>) => MaybePromise<Amounts>;
}

/** What is held for one operation: all of it is its ceiling, for want of anything to tell parts by. */
export interface OperationCost {
  readonly ceiling: Amounts;
  readonly expected: Amounts;
  readonly input: Amounts;
  readonly outputCap: undefined;
}

/** What the limits that apply count. `enforced` leaves out those that only watch (`mode: shadow`), which never refuse; absent = all enforce. */
export interface OperationNeeds {
  readonly units: ReadonlySet<Unit>;
  readonly enforced?: ReadonlySet<Unit>;
}

const FREE: OperationCost = {
  ceiling: { usd: 0, tokens: 0, input_tokens: 0, output_tokens: 0 },
  expected: { usd: 0, tokens: 0, input_tokens: 0, output_tokens: 0 },
  input: { usd: 0, tokens: 0, input_tokens: 0, output_tokens: 0 },
  outputCap: undefined,
};
const UNPRICED: OperationCost = { ceiling: {}, expected: {}, input: {}, outputCap: undefined };

const isPriced = (unit: Unit): boolean => unit !== "requests" && unit !== "concurrent";

/** The price list's part of `budgets`. Throws `model_not_priced` where an enforced limit counts what nobody said a cost for. */
export function passthroughCosts<T>({ costs, amounts }: OperationCostsOptions<T>): {
  costOf(ctx: Context, call: unknown, needs: OperationNeeds): MaybePromise<OperationCost>;
} {
  // The most particular pattern first: the longest.
  const entries = Object.entries(costs)
    .toSorted(([a], [b]) => b.length - a.length)
    .map(([pattern, cost]) => ({ matches: patternMatcher(pattern), cost }));

  return {
    costOf(ctx, _call, { units, enforced = units }) {
      if (![...units].some(isPriced)) return UNPRICED;
      const path = afterPrefix(ctx.path) ?? `/v1${ctx.path}`;
      if (operationOf(ctx.method, path).isFree) return FREE;
      const entry = entries.find(({ matches }) => matches(path));
      if (!entry) return unpriced(path, [...enforced].filter(isPriced));
      return andThen(amounts(ctx, entry.cost, units), (held) => {
        const missing = [...enforced].filter((unit) => isPriced(unit) && held[unit] === undefined);
        if (missing.length > 0) throw notPriced(path, missing);
        return { ceiling: held, expected: held, input: held, outputCap: undefined };
      });
    },
  };
}

function unpriced(path: string, needed: readonly Unit[]): OperationCost {
  if (needed.length > 0) throw notPriced(path, needed);
  return UNPRICED;
}

const notPriced = (path: string, units: readonly Unit[]): GuardError =>
  new GuardError(
    "model_not_priced",
    `a limit counts ${units.join(", ")}, and nothing says how much of that ${path.slice(0, 200)} costs; the operator can set passthrough.cost for this path`,
  );
