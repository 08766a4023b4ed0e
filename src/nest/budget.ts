import { UseInterceptors } from "@nestjs/common";
import { INTERCEPTORS_METADATA } from "@nestjs/common/constants.js";
import { Reflector } from "@nestjs/core";
import { BudgetInterceptor } from "./budget-interceptor.ts";
import { writeBudget, writeSkip, type BudgetOptions, type Place } from "./route-budgets.ts";

const reflector = new Reflector();

/**
 * Holds the most that a request may cost before the handler runs, and settles what it did cost: by a limit's name, by the options of `guard.budgets()`, or
 * without anything by all limits of the guard. On a class it counts for each of its handlers. Several add up; no counter is charged twice for one request.
 * Mistakes stop the boot.
 *
 * @example
 * ```ts
 * @Post("summarise")
 * @Budget({ limits: ["user-day"], cost: { model: "gpt-4o", maxOutputTokens: 800 } })
 * async summarise(@Body() body: SummariseDto, @Quota() quota: RequestQuota) { … }
 * ```
 */
export function Budget(budget: string | BudgetOptions = {}): ClassDecorator & MethodDecorator {
  const options = typeof budget === "string" ? { limits: [budget] } : budget;
  return (target: object, key?: string | symbol, descriptor?: PropertyDescriptor) => {
    const place = placeOf("@Budget()", target, key, descriptor);
    writeBudget(place, options);
    const bound = reflector.get<readonly unknown[] | undefined>(INTERCEPTORS_METADATA, place) ?? [];
    if (!bound.includes(BudgetInterceptor)) UseInterceptors(BudgetInterceptor)(target, key as string, descriptor as PropertyDescriptor);
  };
}

/** Takes a handler out of its class's budgets. */
export function SkipBudget(): MethodDecorator {
  return (target, key, descriptor) => writeSkip(placeOf("@SkipBudget()", target, key, descriptor));
}

function placeOf(decorator: string, target: object, key: string | symbol | undefined, descriptor: PropertyDescriptor | undefined): Place {
  const place: unknown = key === undefined ? target : descriptor?.value;
  if (typeof place !== "function") throw new TypeError(`${decorator} stands on a method or a class; ${String(key)} is neither`);
  return place as Place;
}
