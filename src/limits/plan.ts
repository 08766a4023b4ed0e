import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import type { Charge } from "../core/store.ts";
import { andThen, type MaybePromise } from "../core/time.ts";
import type { LimitFacts } from "./limit.ts";
import { PlannedCharge } from "./planned-charge.ts";
import { belongsToOrg, encodeValue, valueLabel, type CompiledLimit, type LimitRegistry } from "./registry.ts";

/** One limit that a request touches. */
export interface PlannedLimit {
  readonly name: string;
  /** For people: `user`, `user+model`. */
  readonly scope: string;
  readonly limit: CompiledLimit;
  readonly key: string;
  readonly label: string;
  /** The charge of the last request with these scopes: reused while nothing in it changed. */
  last: PlannedCharge | undefined;
}

/** Scope values that come from the request itself, not from who asks. */
export interface RequestScopes {
  readonly route: string | null;
  readonly model: string | null;
  readonly key: string | null;
}

export interface Planner {
  /** The limits that apply. Throws `scope_invalid` when a required scope has no value. */
  plan(scopes: Scopes, request: RequestScopes): readonly PlannedLimit[];
}

export interface PlannerOptions {
  readonly registry: LimitRegistry;
  /** The limits of this place; undefined = all of the registry, also ones added later. */
  readonly names?: readonly string[];
  /** Beside `names`, the limits that exist only because somebody set their numbers at run time. */
  readonly andSet?: boolean;
  /** What a limit that does not say is: required on a host's own route, not in the gateway. */
  readonly requiredByDefault: boolean;
}

/** Scopes objects are usually one per client key, so this many models each are worth remembering. */
const MAX_VARIANTS = 64;

/** Chooses limits and builds keys once per scopes object, not once per request. */
export function planner(options: PlannerOptions): Planner {
  const { registry, requiredByDefault, andSet = false } = options;
  let version = -1;
  let limits: readonly CompiledLimit[] = [];
  let perRequest = false;
  let plans = new WeakMap<Scopes, Map<string, readonly PlannedLimit[]>>();

  function refresh(): void {
    version = registry.version;
    limits = options.names ? limitsNamed(options.names) : registry.all();
    perRequest = limits.some((limit) => limit.definition.scope.some((scope) => scope === "model" || scope === "route" || scope === "key"));
    plans = new WeakMap();
  }

  function limitsNamed(names: readonly string[]): readonly CompiledLimit[] {
    const named = names.map((name) => registry.get(name)).filter((limit) => limit !== undefined);
    return andSet ? [...named, ...registry.all().filter((limit) => limit.onlySet && !named.includes(limit))] : named;
  }

  function build(scopes: Scopes, request: RequestScopes): readonly PlannedLimit[] {
    const planned: PlannedLimit[] = [];
    for (const limit of limits) {
      const found = place(limit, scopes, request);
      if (found) planned.push(found);
    }
    return planned;
  }

  function place(limit: CompiledLimit, scopes: Scopes, request: RequestScopes): PlannedLimit | null {
    const found = plannedFor(limit, scopes, request);
    if (!("missing" in found)) return found;
    const { missing: scope } = found;
    if (limit.definition.required ?? requiredByDefault) {
      throw new GuardError("scope_invalid", `limit ${limit.name} needs scope ${scope}; is your auth before it?`, { limit: limit.name, scope });
    }
    return null;
  }

  return {
    plan(scopes, request) {
      if (version !== registry.version) refresh();
      let variants = plans.get(scopes);
      const variant = perRequest ? `${request.model ?? ""}\n${request.route}\n${request.key ?? ""}` : "";
      const known = variants?.get(variant);
      if (known) return known;
      const built = build(scopes, request);
      if (!variants || variants.size >= MAX_VARIANTS) plans.set(scopes, (variants = new Map<string, readonly PlannedLimit[]>()));
      variants.set(variant, built);
      return built;
    },
  };
}

/** A limit with its counter for these scope values, or the first of its scopes that has none. */
export function plannedFor(limit: CompiledLimit, scopes: Scopes, request: RequestScopes): PlannedLimit | { readonly missing: string } {
  const values: string[] = [];
  for (const scope of limit.definition.scope) {
    const value = scopeOf(scope, scopes, request);
    if (value === undefined) return { missing: scope };
    values.push(value);
  }
  const org = belongsToOrg(limit.definition.scope) ? (scopes.org ?? null) : null;
  const encoded = (org === null ? values : [org, ...values]).map(encodeValue);
  return { name: limit.name, scope: limit.scopeLabel, limit, key: limit.key(encoded), label: valueLabel(org, values), last: undefined };
}

function scopeOf(scope: string, scopes: Scopes, request: RequestScopes): string | undefined {
  if (scope === "global") return "all";
  if (scope === "route") return request.route ?? scopes.route;
  if (scope === "model") return request.model ?? scopes.model;
  if (scope === "key") return request.key ?? scopes.key;
  return Object.hasOwn(scopes, scope) ? scopes[scope] : undefined;
}

/** The charge of a planned limit for an amount; null = unlimited now. */
export function chargeOf(planned: PlannedLimit, amount: number, facts: LimitFacts, nowMs: number): MaybePromise<Charge | null> {
  return andThen(planned.limit.rule(planned.label, facts, nowMs), (rule) => {
    if (!rule) return null;
    const enforce = planned.limit.enforcing(nowMs);
    const { last } = planned;
    if (last?.amount === amount && last.rule === rule && last.enforce === enforce) return last;
    const { unit, onStoreError } = planned.limit.definition;
    // What must be refused when nobody can decide must not be decided by counters that were lost either.
    const strict = enforce && onStoreError === "deny";
    return (planned.last = new PlannedCharge({ key: planned.key, rule, unit, amount, enforce, strict }, last));
  });
}
