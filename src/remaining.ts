/** What is left of the limits that some scope values have: for whoever sells budgets on, and for pages that show them. */
import { GuardError } from "./core/errors.ts";
import type { Logger } from "./core/logger.ts";
import { nanoToUsd } from "./core/money.ts";
import { hint } from "./core/nearest.ts";
import { BUILT_IN_SCOPES, scopesFrom, type ScopeInput, type Scopes, type ScopesInput } from "./core/scope.ts";
import type { Charge, LimitStore, Rule, Standing, Unit } from "./core/store.ts";
import type { Clock } from "./core/time.ts";
import type { Holds } from "./limits/holds.ts";
import { chargeOf, plannedFor, type PlannedLimit, type RequestScopes } from "./limits/plan.ts";
import type { LimitRegistry } from "./limits/registry.ts";
import { sizeOf } from "./limits/share.ts";

/** How one limit stands for the scope values that were asked for. Amounts are in the limit's unit, USD for money. */
export interface Remaining {
  readonly name: string;
  readonly unit: Unit;
  /** Capacity of a bucket, limit of a window, number of places; null = unlimited: then nothing is counted. */
  readonly limit: number | null;
  /** Spent, and held by other processes. Never below 0: a bucket may have refilled what is still held. */
  readonly used: number;
  /** Held by requests of this process that are still open. */
  readonly held: number;
  /** What the next request may take; below 0 = debt. Null = unlimited. */
  readonly available: number | null;
  /** When it is whole again, wall clock, ms: of a calendar window its end. Null = not by itself, or nothing is counted. */
  readonly resetsAt: number | null;
}

export interface RemainingParts {
  readonly registry: LimitRegistry;
  readonly store: LimitStore;
  readonly holds: Holds;
  /** Beside the built-in ones. */
  readonly declaredScopes: Iterable<string>;
  /** The model that a client's name stands for. */
  readonly resolve: (model: string) => string;
  readonly clock: Clock;
  readonly logger: Logger;
}

type Rows = (given: ScopesInput) => Promise<readonly Remaining[]>;

/** Throws `scope_invalid` for values that no scope can have and scopes that nobody declares, `store_unavailable` while the store cannot tell. */
export function remainingRows(parts: RemainingParts): Rows {
  const { registry, store, holds, clock, logger } = parts;
  const declared = new Set([...BUILT_IN_SCOPES, ...parts.declaredScopes]);

  /** The charge of nothing: it carries the rule. Null = unlimited; undefined = there is no such limit for these values, or none that can be told. */
  async function chargeFor(planned: PlannedLimit, scopes: Scopes): Promise<Charge | null | undefined> {
    const { limit, label, name } = planned;
    if (limit.onlySet && !registry.numbers(name, label)) return undefined;
    try {
      return await chargeOf(planned, 0, { scopes, principal: undefined, req: undefined as never }, clock.now());
    } catch (error) {
      logger.warn({ err: error, limit: name }, "a limit's function cannot tell its number without a request, so remaining() leaves the limit out");
      return undefined;
    }
  }

  return async function remaining(given) {
    if (typeof given !== "object" || (given as object | null) === null)
      throw new GuardError("scope_invalid", 'remaining() takes scope values, such as { user: "alice" }');
    for (const name of Object.keys(given)) {
      if (!declared.has(name)) throw new GuardError("scope_invalid", `unknown scope ${name}${hint(name, declared)}`, { scope: name });
    }
    const { route, model, ...rest } = given;
    const scopes = scopesFrom(rest);
    const named = textOf("model", model);
    const request: RequestScopes = { route: textOf("route", route), model: named === null ? null : parts.resolve(named), key: null };
    const limits = registry.all().flatMap((limit) => {
      const found = plannedFor(limit, scopes, request);
      return "missing" in found ? [] : [found];
    });
    const charges = await Promise.all(limits.map((planned) => chargeFor(planned, scopes)));
    const counted = charges.filter((charge) => charge !== undefined && charge !== null);
    const standings = counted.length === 0 ? [] : await store.peek(counted);
    // In the same tick as the standings: what is held is part of what they say.
    const held = holds.heldOf(store, new Set(counted.map(({ key }) => key)));
    const now = clock.now();
    return limits.flatMap(({ name, limit }, i): Remaining[] => {
      const charge = charges[i];
      if (charge === undefined) return [];
      const { unit } = limit.definition;
      if (charge === null) return [{ name, unit, limit: null, used: 0, held: 0, available: null, resetsAt: null }];
      return [rowOf(name, charge, standings[counted.indexOf(charge)] as Standing, held.get(charge.key) ?? 0, now)];
    });
  };
}

/** Routes and models are not said by clients and hosts but found in requests: they may hold any character. */
function textOf(name: string, value: ScopeInput): string | null {
  if (value === undefined || value === null) return null;
  if (typeof value === "string" && value !== "") return value;
  throw new GuardError("scope_invalid", `the value of scope ${name} must be text`, { scope: name });
}

/** When a counter is whole again, wall clock, ms: of a calendar window its end. Null = not by itself. */
export function resetsAtOf(rule: Rule, { resetMs }: Standing, now: number): number | null {
  if (rule.kind === "calendar") return rule.bounds[2];
  return resetMs === null ? null : now + resetMs;
}

function rowOf(name: string, { unit, rule }: Charge, standing: Standing, held: number, now: number): Remaining {
  const { available } = standing;
  const outside = (amount: number): number => (unit === "usd" ? nanoToUsd(amount) : amount);
  const limit = sizeOf(rule);
  const resetsAt = resetsAtOf(rule, standing, now);
  const used = Math.max(0, limit - available - held);
  return { name, unit, limit: outside(limit), used: outside(used), held: outside(held), available: outside(available), resetsAt };
}
