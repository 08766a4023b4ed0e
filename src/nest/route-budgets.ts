/** What `@Budget()` wrote on classes and methods, and how it becomes handlers. */
import { SetMetadata, type Type } from "@nestjs/common";
import { Reflector } from "@nestjs/core";
import { ConfigError } from "../core/errors.ts";
import type { QuotaGuard } from "../guard.ts";
import type { Handler } from "../http/handler.ts";
import type { RefusedFunction, RouteBudgetOptions } from "../options/budgets.ts";
import type { ScopesFunction } from "../options/schema.ts";

/** A refusal is thrown here, so there is no `onRefused`: exception filters do that. */
export type BudgetOptions = Omit<RouteBudgetOptions, "onRefused">;

/** A method of a controller, or the class itself. */
export type Place = Type | ((...args: never[]) => unknown);

export type Handle = (...parameters: Parameters<Handler>) => void;

const BUDGETS = Symbol.for("quotaguard.nest.budgets");
const SKIPPED = Symbol.for("quotaguard.nest.skipped");

const reflector = new Reflector();

const budgetsAt = (place: Place): readonly BudgetOptions[] => reflector.get<readonly BudgetOptions[] | undefined, symbol>(BUDGETS, place) ?? [];

/** Decorators run from the bottom up, and are read from the top down. */
export const writeBudget = (place: Place, options: BudgetOptions): void => void SetMetadata(BUDGETS, [options, ...budgetsAt(place)])(place);

export const writeSkip = (place: Place): void => void SetMetadata(SKIPPED, true)(place);

/** The budgets of one handler: the class's, then its own. */
export function budgetsOf(controller: Type, handler: Place): readonly BudgetOptions[] {
  return reflector.get<boolean | undefined, symbol>(SKIPPED, handler) === true ? [] : [...budgetsAt(controller), ...budgetsAt(handler)];
}

const thrown: RefusedFunction = (error, _req, _res, next) => next(error);

/** `scopes` says whose budgets, unless the options do. Throws ConfigError. */
export function routeBudget(guard: QuotaGuard, options: BudgetOptions, scopes?: ScopesFunction): Handle {
  if ("onRefused" in options) throw new ConfigError(["onRefused: a refusal is thrown as an HttpException here; use an exception filter"]);
  const own = scopes && !options.scopes ? { scopes } : {};
  // No path of a host's own route is a model call that could price itself.
  return guard.budgets({ ...options, ...own, onRefused: thrown }, false);
}

/** Resolves every budget of a class, so that a mistake is known before the first request. Throws ConfigError that says where. */
export function checkBudgets(guard: QuotaGuard, type: Type): void {
  check(guard, type, type.name);
  for (let owner = type.prototype as object | null; owner && owner !== Object.prototype; owner = Object.getPrototypeOf(owner) as object | null) {
    for (const [name, { value }] of Object.entries(Object.getOwnPropertyDescriptors(owner))) {
      if (name !== "constructor" && typeof value === "function") check(guard, value as Place, `${type.name}.${name}`);
    }
  }
}

function check(guard: QuotaGuard, place: Place, name: string): void {
  for (const options of budgetsAt(place)) {
    try {
      routeBudget(guard, options);
    } catch (error) {
      if (!(error instanceof ConfigError)) throw error;
      throw new ConfigError(error.problems.map((problem) => `@Budget() of ${name}: ${problem.replace(/^budgets\(\) /, "")}`));
    }
  }
}
