/** The budgets of what a host calls itself, in this process: with its own keys, and in jobs. */
import type { Step } from "./core/step.ts";
import { callCosts, routeCosts, type CostParts } from "./costs.ts";
import { planner, type Planner, type PlannerOptions } from "./limits/plan.ts";
import { budgetsStep, type BudgetsOptions, type Costs } from "./middleware/budgets.ts";
import type { ResolvedCost } from "./options/budgets.ts";

/** Lists of limits that jobs name are written in code, so they are few. */
const MAX_PLANNERS = 100;

export interface InProcessBudgets {
  /** All limits, for model calls that an SDK sends with its own key. */
  readonly ownCalls: Step;
  /** All limits, for what else it sends. */
  readonly ownOperations: Step;
  /** The limits of these names, for a job that may cost this. */
  run(limits: readonly string[], cost: ResolvedCost | null): Step;
}

export interface InProcessBudgetsOptions {
  readonly shared: Omit<BudgetsOptions, "calls" | "route" | "planner" | "headers">;
  readonly costs: CostParts;
  /** Costs of what is passed on unread. */
  readonly unread: Costs;
  /** The limits that apply wherever their scopes have values. */
  readonly everywhere: Omit<PlannerOptions, "requiredByDefault">;
}

const OWN_KEY = { name: "(own key)" };

/** What nobody lends has no candidates: a model is what its name says, at the price that is bound to no credential. */
const asNamed = { resolve: (model: string): string => model, of: (name: string) => ({ candidates: [{ name, credential: OWN_KEY }] }) };

export function inProcessBudgets({ shared, costs, unread, everywhere }: InProcessBudgetsOptions): InProcessBudgets {
  const { registry } = everywhere;
  const all = planner({ ...everywhere, requiredByDefault: true });
  const planners = new Map<string, Planner>();
  // Nothing is called from within these.
  const alone = { ...shared, inProcess: { isOn: false } };

  function plannerOf(names: readonly string[]): Planner {
    const key = names.join("\n");
    let known = planners.get(key);
    if (!known) {
      if (planners.size >= MAX_PLANNERS) planners.clear();
      planners.set(key, (known = planner({ registry, names, requiredByDefault: true })));
    }
    return known;
  }

  return {
    ownCalls: budgetsStep({ ...alone, ...asNamed, calls: callCosts(costs, asNamed), route: unread, planner: all }),
    ownOperations: budgetsStep({ ...alone, calls: null, route: unread, planner: all }),
    run: (limits, cost) => budgetsStep({ ...shared, calls: null, route: routeCosts(costs, cost), planner: plannerOf(limits) }),
  };
}
