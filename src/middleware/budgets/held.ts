/** What a request holds, and what becomes of it once the request is over. */
import type { Charged, Context, Reservation } from "../../core/context.ts";
import { MAX_AMOUNT } from "../../core/money.ts";
import { UNITS, type Amounts, type Charge, type LimitStore, type Shortfall, type Standing, type Unit } from "../../core/store.ts";
import { isPromise, type MaybePromise } from "../../core/time.ts";
import { NO_USAGE, totalInputTokens, totalOutputTokens } from "../../core/usage.ts";
import type { Ending, Holds } from "../../limits/holds.ts";
import type { PlannedLimit } from "../../limits/plan.ts";
import type { Charges } from "./charges.ts";

/** Is told of every verdict, for metrics and events. Synchronous and never throws. */
export interface BudgetWatch {
  readonly held: (reservation: Reservation, standings: readonly Standing[]) => void;
  readonly refused: (limit: string) => void;
  /** A limit that only watches had no room. */
  readonly wouldRefuse: (planned: PlannedLimit, short: Shortfall) => void;
  readonly storeFailed: (mode: "deny" | "allow" | "local") => void;
  /** No longer held: once for each that was. */
  readonly ended: (reservation: Reservation) => void;
  /** What it came to: once more when a charge for want of usage is corrected. */
  readonly settled: (ctx: Context, reservation: Reservation, ending: Ending) => void;
}

/** A reservation as `budgets` keeps it. */
export interface Held extends Reservation {
  readonly limits: readonly PlannedLimit[];
  readonly store: LimitStore;
  readonly input: Amounts;
  readonly holds: Holds;
  readonly watch: BudgetWatch;
  /** It holds nothing, and is there for what a host meters besides the calls that its route's hold went over to. */
  readonly isRemainder: boolean;
  /** What a later `budgets` of the request asks beyond the hold of an earlier one: that one is charged with what was used, and this one comes back. */
  readonly isMore: boolean;
  /** How it was finished; undefined while it is open. */
  ending?: Ending;
  /** From the first call on: only what its host meters itself is charged with it. */
  isServed?: boolean;
  /** Its tokens and money are going over to a call in this process. */
  moving?: Promise<void>;
}

export const isPriced = (unit: Unit): boolean => unit !== "requests" && unit !== "concurrent";

/** Whether it holds tokens or money. */
export const holdsSum = (held: Held): boolean => held.charges.some(({ unit }) => isPriced(unit));

/** Of a request whose tokens and money are charged elsewhere. */
export const NOTHING_BUT_THE_REQUEST: Amounts = Object.freeze({ tokens: 0, input_tokens: 0, output_tokens: 0, usd: 0 });
const CHARGED_ELSEWHERE: Charged = Object.freeze({
  kind: "usage",
  usage: NO_USAGE,
  provenance: "exact",
  rawNanoUsd: 0,
  billedNanoUsd: 0,
  priceVersion: null,
});

export const NOTHING: Charged = Object.freeze({ kind: "nothing" });
const ESTIMATE: Charged = Object.freeze({ kind: "estimate" });

/** What is settled, per unit; an absent unit keeps what was held. */
function endingOf(charged: Charged, input: Amounts): Ending {
  if (charged.kind === "nothing") return "release";
  // Charged as held, yet a host may still report the usage of a call that outlives its response.
  if (charged.kind === "estimate") return "lapse";
  if (charged.kind === "input") return { ...input, output_tokens: 0 };
  const { usage, billedNanoUsd } = charged;
  const actual: { [unit in Unit]?: number } = {};
  if (usage !== null) {
    // A host may report any amount, and what a store refuses would leave the hold in its place.
    actual.input_tokens = Math.min(MAX_AMOUNT, totalInputTokens(usage));
    actual.output_tokens = Math.min(MAX_AMOUNT, totalOutputTokens(usage));
    actual.tokens = Math.min(MAX_AMOUNT, actual.input_tokens + actual.output_tokens);
  }
  if (billedNanoUsd !== null) actual.usd = billedNanoUsd;
  return actual;
}

const NOTHING_HELD: readonly Held[] = Object.freeze([]);

/** What this guard holds for a request; another guard on the same request counts for itself. */
export function heldBy(ctx: Context, holds: Holds): readonly Held[] {
  if (!ctx.reservations) return NOTHING_HELD;
  return (ctx.reservations as Held[]).filter((held) => held.holds === holds);
}

const nothingOf = (actual: Amounts): Amounts => Object.fromEntries(Object.keys(actual).map((unit) => [unit, 0]));

/** What open reservations hold of a counter. */
export function heldOn(key: string, reservations: readonly Held[]): number {
  let sum = 0;
  for (const { charges, ending } of reservations)
    if (ending === undefined) for (const charge of charges) if (charge.key === key) sum += charge.amount;
  return sum;
}

/** What is asked beyond what the request holds of the same counters. */
export function beyondHeld({ cost, charges, used }: Charges, reservations: readonly Held[]): Charges {
  const more = charges.map((charge) => ({ ...charge, amount: charge.amount - heldOn(charge.key, reservations) }));
  const isMore = (_: unknown, i: number): boolean => (more[i] as Charge).amount > 0;
  return { cost, charges: more.filter(isMore), used: used.filter(isMore) };
}

/** A reservation with what later ones hold beyond it, so that this is not taken for debt. */
function withMore(held: Held, all: readonly Held[]): Held {
  const more = all.filter(({ isMore }) => isMore).flatMap(({ charges }) => charges);
  if (more.length === 0) return held;
  const beyond = (key: string): number => more.reduce((sum, charge) => (charge.key === key ? sum + charge.amount : sum), 0);
  return { ...held, charges: held.charges.map((charge) => ({ ...charge, amount: charge.amount + beyond(charge.key) })) };
}

/** The input's part of a reservation, and of what later ones hold beyond it. */
function inputOf(held: Held, all: readonly Held[]): Amounts {
  const more = all.filter(({ isMore }) => isMore);
  if (held.isMore || more.length === 0) return held.input;
  const most: { [unit in Unit]?: number } = { ...held.input };
  for (const { input } of more) for (const unit of UNITS) if (input[unit] !== undefined) most[unit] = Math.max(most[unit] ?? 0, input[unit]);
  return most;
}

/** What a request is charged when neither the proxy nor the host has said so. */
function unsaid(ctx: Context, { forCall, isServed }: Reservation): Charged {
  if (forCall || ctx.failure) return NOTHING;
  return isServed ? CHARGED_ELSEWHERE : ESTIMATE;
}

/** After the response: one function for all requests, so that nothing is kept alive per request but the reservation itself. */
export const settleAll = (ctx: Context): MaybePromise<void> => finishAll(ctx, (held) => held.ending === undefined);

/** Usage became known after the end: replaces what was charged for want of it. What was settled already stays settled. */
export const correctAll = (ctx: Context): MaybePromise<void> => finishAll(ctx, (held) => held.ending === "lapse");

function finishAll(ctx: Context, applies: (held: Held) => boolean): MaybePromise<void> {
  const pending: Promise<void>[] = [];
  const said = ctx.charged;
  let isElsewhere = false;
  let isHere = said !== undefined;
  for (const held of (ctx.reservations ?? []) as Held[]) {
    if (!applies(held)) continue;
    const isFirst = held.ending === undefined;
    const { holds, watch, store, opId } = held;
    const charged: Charged = said ?? unsaid(ctx, held);
    if (charged === CHARGED_ELSEWHERE) isElsewhere = true;
    else if (holdsSum(held)) isHere = true;
    ctx.provenance = charged.kind === "usage" ? charged.provenance : charged.kind === "nothing" ? "void" : "estimated";
    const input = charged.kind === "input" ? inputOf(held, heldBy(ctx, holds)) : held.input;
    const whole = held.isRemainder && charged === CHARGED_ELSEWHERE ? "lapse" : endingOf(charged, input);
    const ending = held.isMore && typeof whole === "object" ? nothingOf(whole) : whole;
    held.ending = ending;
    const done = holds.finish(store, opId, ending);
    if (isFirst && !held.isRemainder) watch.ended(held);
    if (!held.isMore) watch.settled(ctx, withMore(held, heldBy(ctx, holds)), ending);
    if (done !== undefined && isPromise(done)) pending.push(done);
  }
  // Another guard's estimate for the same request stands.
  if (isElsewhere && !isHere) ctx.charged = CHARGED_ELSEWHERE;
  return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined);
}
