/** Says how the proxy may get its credentials; nothing is lent before an attempt is made. */
import type { Call } from "../core/call.ts";
import type { Context } from "../core/context.ts";
import type { Step } from "../core/step.ts";
import { andThen, type MaybePromise } from "../core/time.ts";
import type { Usage } from "../core/usage.ts";
import type { Pool } from "../pool/pool.ts";
import { refuseStored } from "./credentials/stored-conversations.ts";

export interface CredentialsOptions {
  readonly pool: Pick<Pool, "choose">;
  /** Estimates what a call will use, input and output together. */
  readonly tokensOf: (call: Call) => number;
  /** What it will probably use; absent = no strategy asks. */
  readonly usageOf?: (call: Call) => Usage;
  /** What the call belongs to; absent = nothing stays together. Asked only where several may serve it. */
  readonly sessionOf?: ((ctx: Context, call: Call) => string | null) | undefined;
  /** The credential that holds what a call names, such as files; null = any. Throws when it is somebody else's. */
  readonly holderOf: (ctx: Context, call: Call) => MaybePromise<string | null>;
}

/** Sets `ctx.choice`, or refuses with `model_not_found`. */
export function credentialsStep({ pool, tokensOf, usageOf, sessionOf, holderOf }: CredentialsOptions): Step {
  return function credentials(ctx) {
    return andThen(ctx.call(), (call) => {
      refuseStored(ctx, call);
      return andThen(holderOf(ctx, call), (credential) => {
        ctx.choice = pool.choose({
          model: call.model,
          costed: ctx,
          opId: ctx.id,
          tokens: () => tokensOf(call),
          credential,
          withoutFallbacks: call.operation === "count_tokens",
          scopes: ctx.scopes,
          session: sessionOf && (() => sessionOf(ctx, call)),
          usage: usageOf && (() => usageOf(call)),
        });
      });
    });
  };
}
