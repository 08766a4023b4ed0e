/** QuotaGuard in a Nest app. */
export { Budget, SkipBudget } from "./budget.ts";
export { BudgetInterceptor, type RequestResponse } from "./budget-interceptor.ts";
export { Quota } from "./quota.ts";
export { QuotaGuardException } from "./quota-guard-exception.ts";
export {
  QuotaGuardModule,
  type QuotaGuardModuleAsyncOptions,
  type QuotaGuardModuleExtras,
  type QuotaGuardModuleOptions,
} from "./quota-guard-module.ts";
export { QuotaGuardService } from "./quota-guard-service.ts";
export type { BudgetOptions } from "./route-budgets.ts";
