import type { Answer } from "./answer.ts";
import type { Context } from "./context.ts";
import { isPromise, type MaybePromise } from "./time.ts";

/**
 * One thing done to a request. It returns nothing (go on), throws a GuardError (refuse) or returns an Answer (end). What must happen after the
 * response it registers with `ctx.after()`.
 */
export type Step = (ctx: Context) => MaybePromise<Answer | void>;

/** Does nothing. */
export const noStep: Step = () => undefined;

/** Runs steps in the order written until one answers. Only a step that really waits costs an await. */
export function sequence(...steps: readonly Step[]): Step {
  return function runSteps(ctx) {
    for (let i = 0; i < steps.length; i += 1) {
      const result = (steps[i] as Step)(ctx);
      if (result === undefined) continue;
      if (isPromise(result)) return rest(ctx, i + 1, result);
      return result;
    }
    return undefined;
  };

  async function rest(ctx: Context, from: number, pending: Promise<Answer | void>): Promise<Answer | void> {
    let result = await pending;
    for (let i = from; result === undefined && i < steps.length; i += 1) {
      const next = (steps[i] as Step)(ctx);
      result = isPromise(next) ? await next : next;
    }
    return result;
  }
}
