/** Says how the proxy may get its credentials; nothing is lent before an attempt is made. */
import type { Call } from "../core/call.ts";
import type { Step } from "../core/step.ts";
import { andThen } from "../core/time.ts";
import type { Pool } from "../pool/pool.ts";

/** Sets `ctx.choice`, or refuses with `model_not_found`. `tokensOf` estimates what a call will use, input and output together. */
export function credentialsStep(pool: Pool, tokensOf: (call: Call) => number): Step {
  return function credentials(ctx) {
    return andThen(ctx.call(), (call) => {
      ctx.choice = pool.choose({ model: call.model, opId: ctx.id, tokens: () => tokensOf(call) });
    });
  };
}
