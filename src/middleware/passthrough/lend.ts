import type { Context } from "../../core/context.ts";
import { NEVER_SENT, type Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Candidate } from "../../pool/candidate.ts";
import type { Pool } from "../../pool/pool.ts";

/** What a request needs a credential for. */
export interface Wish {
  /** Health and limits are kept under it where no model is known. */
  readonly operation: string;
  /** Null = not known. */
  readonly model: string | null;
  /** Equal texts get the same credential while it may be used; null = the pool decides. */
  readonly affinity: string | null;
  /** What is asked for lives there; null = anywhere. */
  readonly credential: string | null;
  readonly opId: string;
}

const isProxied = ({ credential }: Candidate): boolean => credential.proxyUrl !== null;

/** Whether its connections can be made here: what is passed through is dialled directly. */
const unreachable = (): GuardError =>
  new GuardError("no_credential", "what is passed through cannot go through a proxy, and every credential that could carry this now has a proxy_url");

/**
 * Returns a lease whose intent is written: it may be sent with at once, and must be released. Throws what the pool throws, and `no_credential` when only
 * credentials behind proxies are left.
 */
export function lender(pool: Pool, hasDirect: () => boolean): (ctx: Context, wish: Wish) => Promise<Lease> {
  async function intend(ctx: Context, lease: Lease): Promise<void> {
    ctx.lease = lease;
    ctx.attempts += 1;
    try {
      await ctx.services.recorder.intent(ctx, lease);
      if (ctx.gone) throw new GuardError("upstream_unreachable", "the client left before the request was sent");
    } catch (error) {
      lease.release(NEVER_SENT);
      throw error;
    }
  }

  return async function lend(ctx, { operation, model, affinity, credential, opId }) {
    if (!hasDirect()) throw unreachable();
    const choice =
      model !== null && credential === null
        ? pool.choose({ model, opId, tokens: () => 0, scopes: ctx.scopes })
        : pool.chooseAny({ operation, opId, affinity, credential, scopes: ctx.scopes, except: isProxied });
    for (let lease = await choice.next(); lease; lease = await choice.next()) {
      if (lease.credential.proxyUrl === null) {
        await intend(ctx, lease);
        return lease;
      }
      lease.release(NEVER_SENT);
    }
    throw unreachable();
  };
}
