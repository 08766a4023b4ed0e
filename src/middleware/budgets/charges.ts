import type { Call } from "../../core/call.ts";
import type { Context, Reservation } from "../../core/context.ts";
import type { Amounts, Charge, Unit } from "../../core/store.ts";
import { isPromise, type MaybePromise } from "../../core/time.ts";
import { chargeOf, type PlannedLimit } from "../../limits/plan.ts";

/** What a request may cost, per unit, once as the most and once as expected. */
export interface Cost {
  readonly ceiling: Amounts;
  readonly expected: Amounts;
  /** The input's part of the ceiling: what stays charged when no answer came but the provider may have read the request. */
  readonly input: Amounts;
  /** An output cap that must be sent because the ceiling counts on it. */
  readonly outputCap: number | undefined;
}

/** What the limits that apply count, so that nothing else is worked out. */
export interface Needs {
  readonly units: ReadonlySet<Unit>;
  /** Of these, what limits count that refuse, and do not only watch. */
  readonly enforced: ReadonlySet<Unit>;
  /** Some limit holds the most that the output may cost, so that most must be made certain upstream. */
  readonly capsOutput: boolean;
}

export interface Costs {
  /** What this request may cost. `cap` lowers the output to what is left (`when_short: shorten`). Throws `model_not_priced` and `model_not_found`. */
  readonly costOf: (ctx: Context, call: Call | null, needs: Needs, cap?: number) => MaybePromise<Cost>;
  /** The most output tokens that fit into what a limit has left; absent = the output cannot be shortened. */
  readonly affordable?: (ctx: Context, call: Call, unit: Unit, available: number) => number;
  /** Whether it tells how much of a unit of tokens or money is used; absent = of all. */
  readonly says?: (unit: Unit) => boolean;
}

export const NO_SCOPES = Object.freeze({});

const needs = new WeakMap<readonly PlannedLimit[], Needs>();

export function needsOf(ctx: Context, planned: readonly PlannedLimit[]): Needs {
  let known = needs.get(planned);
  if (!known) {
    const definitions = planned.map(({ limit }) => limit.definition);
    const now = ctx.services.clock.now();
    const isOutput = (unit: Unit): boolean => unit === "usd" || unit === "tokens" || unit === "output_tokens";
    known = {
      units: new Set(definitions.map(({ unit }) => unit)),
      enforced: new Set(planned.filter(({ limit }) => limit.enforcing(now)).map(({ limit }) => limit.definition.unit)),
      capsOutput: definitions.some(({ unit, estimate }) => estimate === "ceiling" && isOutput(unit)),
    };
    // One that begins to enforce later is asked about each time until then.
    if (!definitions.some(({ enforceFrom }) => enforceFrom !== undefined && enforceFrom > now)) needs.set(planned, known);
  }
  return known;
}

/** A second budgets step on one request never charges the same counter twice. `held` are the reservations of the same guard: another's counters are others. */
export function withoutHeld(planned: readonly PlannedLimit[], held: readonly Reservation[]): readonly PlannedLimit[] {
  if (held.length === 0) return planned;
  return planned.filter(({ key }) => !held.some(({ charges }) => charges.some((charge) => charge.key === key)));
}

/** What is asked of a limit store at once, and for what. */
export interface Charges {
  readonly cost: Cost;
  readonly charges: readonly Charge[];
  /** The limits of the charges, at the same places. */
  readonly used: readonly PlannedLimit[];
}

const unitAmount = (cost: Cost, planned: PlannedLimit): number => {
  const { unit, estimate } = planned.limit.definition;
  if (unit === "requests" || unit === "concurrent") return 1;
  return (estimate === "expected" ? cost.expected : cost.ceiling)[unit] ?? 0;
};

export function chargesOf(ctx: Context, planned: readonly PlannedLimit[], cost: Cost, nowMs: number): MaybePromise<Charges> {
  const facts = { scopes: ctx.scopes ?? NO_SCOPES, principal: ctx.principal, req: ctx.host as never };
  const charges: MaybePromise<Charge | null>[] = [];
  let isWaiting = false;
  for (const item of planned) {
    const charge = chargeOf(item, unitAmount(cost, item), facts, nowMs);
    isWaiting ||= charge !== null && isPromise(charge);
    charges.push(charge);
  }
  return isWaiting ? Promise.all(charges).then((known) => limited(cost, planned, known)) : limited(cost, planned, charges as (Charge | null)[]);
}

/** Without those that are unlimited now. */
function limited(cost: Cost, planned: readonly PlannedLimit[], charges: readonly (Charge | null)[]): Charges {
  if (!charges.includes(null)) return { cost, charges: charges as readonly Charge[], used: planned };
  return { cost, charges: charges.filter((charge) => charge !== null), used: planned.filter((_, i) => charges[i] !== null) };
}

/** The largest amount per unit: what a row says was held. */
export function heldOf(charges: readonly Charge[]): Amounts {
  const held: { [unit in Unit]?: number } = {};
  for (const { unit, amount } of charges) held[unit] = Math.max(held[unit] ?? 0, amount);
  return held;
}
