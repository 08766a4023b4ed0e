import type { Context, Reservation, Services } from "./core/context.ts";
import { diagnose } from "./core/diagnostics.ts";
import type { Step } from "./core/step.ts";
import { andThen } from "./core/time.ts";
import type { Runtime } from "./runtime.ts";

/** Which guard's steps charge, where it is not the guard that opened the request. Shared with other copies of this package. */
const CHARGERS = Symbol.for("quotaguard.chargers");

type WithChargers = { [CHARGERS]?: WeakMap<Reservation, object> };

const chargers = (): WeakMap<Reservation, object> => ((globalThis as WithChargers)[CHARGERS] ??= new WeakMap());

/** A guard's runtime whose budgets say so when they charge a limit that another guard has charged for the same request, by the name. */
export function doubleCharges(runtime: Runtime, services: Services): Runtime {
  function compare(ctx: Context, before: number): void {
    const all = ctx.reservations ?? [];
    const known = chargers();
    const opener = ctx.services;
    for (const mine of all.slice(before)) {
      if (opener !== services) known.set(mine, services);
      const others = all.slice(0, before).filter((each) => (known.get(each) ?? opener) !== services);
      const twice = mine.limits.find(({ name }) => others.some(({ limits }) => limits.some((limit) => limit.name === name)));
      if (twice) diagnose(services.logger, "QG_DOUBLE_CHARGE", { limit: twice.name, route: ctx.route });
    }
  }
  const watched = (step: Step): Step =>
    function charging(ctx) {
      const before = ctx.reservations?.length ?? 0;
      // Nearly all requests: nobody else has anything to do with them.
      if (before === 0 && ctx.services === services) return step(ctx);
      return andThen(step(ctx), (answer) => {
        compare(ctx, before);
        return answer;
      });
    };
  return {
    ...runtime,
    callBudgets: (required) => watched(runtime.callBudgets(required)),
    partBudgets: (part) => watched(runtime.partBudgets(part)),
    laneBudgets: watched(runtime.laneBudgets),
  };
}
