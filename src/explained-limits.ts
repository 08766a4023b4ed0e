/** What the budgets of a call would say: the budgets' own step, over a store that is only looked at. */
import type { ExplainedLimit } from "./core/explain.ts";
import type { Charge, LimitStore, ReserveResult, Standing } from "./core/store.ts";
import { andThen, type MaybePromise } from "./core/time.ts";
import type { Holds } from "./limits/holds.ts";
import { lookedUp } from "./limits/look.ts";
import type { PlannedLimit, Planner } from "./limits/plan.ts";
import { sizeOf } from "./limits/share.ts";
import type { BudgetWatch } from "./middleware/budgets.ts";
import { outside } from "./middleware/budgets/refusal.ts";
import { resetsAtOf } from "./remaining.ts";

type Looked = Extract<ReserveResult, { kind: "allowed" | "limited" }>;

/** What a budgets step asks, and what it would be answered. */
export interface LimitLook {
  readonly planner: Planner;
  readonly holds: Holds;
  readonly watch: BudgetWatch;
  /** Of the last reservation that was asked for: the one that decides. */
  limits(nowMs: number): readonly ExplainedLimit[];
}

const nothing = (): void => undefined;

const NOBODY_WATCHES: BudgetWatch = {
  held: nothing,
  refused: nothing,
  wouldRefuse: nothing,
  storeFailed: nothing,
  ended: nothing,
  settled: nothing,
};

/** For one call. Its step may hold nothing: what it would hold is never finished. */
export function limitLook(planner: Planner): LimitLook {
  let planned: readonly PlannedLimit[] = [];
  let asked: { readonly charges: readonly Charge[]; readonly result: Looked } | undefined;

  function reserve(store: LimitStore, _opId: string, charges: readonly Charge[]): MaybePromise<ReserveResult> {
    return andThen(lookedUp(store, charges), (result) => {
      if (result.kind === "allowed" || result.kind === "limited") asked = { charges, result };
      return result;
    });
  }

  return {
    planner: { plan: (...args) => (planned = planner.plan(...args)) },
    holds: { reserve, finish: nothing, waiting: 0, open: 0, heldOf: () => new Map(), flush: () => Promise.resolve(), close: nothing },
    watch: NOBODY_WATCHES,
    limits: (nowMs) =>
      planned.map((each) => {
        const at = asked?.charges.findIndex(({ key }) => key === each.key) ?? -1;
        return asked && at >= 0 ? judged(each, asked.charges[at] as Charge, asked.result, at, nowMs) : uncounted(each, asked !== undefined, nowMs);
      }),
  };
}

function base({ name, scope, label, limit }: PlannedLimit, nowMs: number): Pick<ExplainedLimit, "name" | "scope" | "value" | "unit" | "mode"> {
  return { name, scope, value: label, unit: limit.definition.unit, mode: limit.enforcing(nowMs) ? "enforce" : "shadow" };
}

/** Unlimited, or refused for another reason before anybody asked. */
const uncounted = (planned: PlannedLimit, fits: boolean, nowMs: number): ExplainedLimit => ({
  ...base(planned, nowMs),
  limit: null,
  needed: null,
  before: null,
  after: null,
  fits,
  refuses: false,
  waitMs: null,
  resetsAt: null,
});

function judged(planned: PlannedLimit, charge: Charge, result: Looked, index: number, nowMs: number): ExplainedLimit {
  const { unit, rule, amount, enforce } = charge;
  const standing = result.standings[index] as Standing;
  const { available, waitMs = null } = standing;
  const fits = available >= amount;
  // All or nothing: where one refuses, no other one is charged.
  const isHeld = fits && result.kind === "allowed";
  return {
    ...base(planned, nowMs),
    limit: outside(unit, sizeOf(rule)),
    needed: outside(unit, amount),
    before: outside(unit, available),
    after: isHeld ? outside(unit, available - amount) : null,
    fits,
    refuses: !fits && enforce,
    waitMs: fits ? null : waitMs,
    resetsAt: resetsAtOf(rule, standing, nowMs),
  };
}
