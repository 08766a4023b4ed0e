/** Says how the proxy may get its credentials; nothing is lent before an attempt is made. */
import type { Step } from "../core/step.ts";
import { andThen } from "../core/time.ts";
import type { Pool } from "../pool/pool.ts";

/** Sets `ctx.choice`, or refuses with `model_not_found`. */
export function credentialsStep(pool: Pool): Step {
  return function credentials(ctx) {
    return andThen(ctx.call(), (call) => {
      ctx.choice = pool.choose(call.model);
    });
  };
}
