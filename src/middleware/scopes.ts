/** Whose budgets a request touches: from its key, from the host's function, and from headers only when somebody trusted says so. */
import type { Context } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import { scopesFrom, scopeValue, type Scopes, type ScopesInput } from "../core/scope.ts";
import type { Step } from "../core/step.ts";
import { andThen, type MaybePromise } from "../core/time.ts";

export interface ScopesOptions {
  /** Scope name -> request header (lower case). */
  readonly headers: Readonly<Record<string, string>>;
  /** Take the headers from everybody: only behind a proxy that sets them itself. */
  readonly trustHeaders: boolean;
  /** The host's own word, from its request object. */
  readonly of: ((host: unknown) => MaybePromise<ScopesInput>) | null;
}

/** Sets `ctx.scopes`. */
export function scopesStep(options: ScopesOptions): Step {
  const headers = Object.entries(options.headers);

  function asserted(ctx: Context, base: Scopes): Scopes {
    if (!options.trustHeaders && !ctx.principal?.mayAssertScopes) return base;
    let merged: Record<string, string> | undefined;
    for (const [scope, header] of headers) {
      const value = ctx.headers[header];
      if (value === undefined) continue;
      // A repeated header arrives joined by ", " and fails the check of its characters.
      merged ??= { ...base };
      merged[scope] = scopeValue(scope, String(value));
      if (scope === "org" && !options.trustHeaders) checkOrg(ctx, merged[scope]);
    }
    return merged ? Object.freeze(merged) : base;
  }

  const set = (ctx: Context, own: Scopes, given: ScopesInput | null): void => {
    const base = given ? Object.freeze({ ...own, ...scopesFrom(given) }) : own;
    ctx.scopes = asserted(ctx, base);
  };

  return function scopes(ctx) {
    const own = ctx.scopes ?? ctx.principal?.scopes ?? NONE;
    if (!options.of) return set(ctx, own, null);
    return andThen(options.of(ctx.host), (given) => set(ctx, own, given));
  };
}

/** Who may name scopes names those of its own organisation: the counters of another one are not its to spend. */
function checkOrg({ principal }: Context, org: string): void {
  if (principal?.kind !== "key" || principal.scopes.org === undefined || principal.scopes.org === org) return;
  throw new GuardError("forbidden", "this key belongs to an organisation, and its requests may not name another one", { scope: "org" });
}

const NONE: Scopes = Object.freeze({});
