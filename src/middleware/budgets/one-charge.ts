/**
 * A handler that holds a budget and calls a provider through the same guard is charged once: the call takes no `requests` and `concurrent` that its route
 * has taken already, and the route's hold of tokens and money goes over to the calls, which are charged with what they use.
 */
import type { Context } from "../../core/context.ts";
import type { Charge, LimitStore, Shortfall, Unit } from "../../core/store.ts";
import { isPromise, type MaybePromise } from "../../core/time.ts";
import type { Holds } from "../../limits/holds.ts";
import type { PlannedLimit } from "../../limits/plan.ts";
import { holdsSum, isPriced, NOTHING_BUT_THE_REQUEST, type Held } from "./held.ts";

/** What the requests around a call hold of this guard's limits, nearest first. */
function* heldAround(ctx: Context, holds: Holds): Iterable<readonly [Context, Held]> {
  for (let { outer } = ctx; outer; outer = outer.outer)
    for (const held of (outer.reservations ?? []) as Held[]) if (held.holds === holds && !held.isRemainder) yield [outer, held];
}

/** Whether all tokens and money that a request around holds are counted by these charges, too. */
const isWithin = (held: Held, charges: readonly Charge[]): boolean =>
  holdsSum(held) && held.charges.every(({ key, unit }) => !isPriced(unit) || charges.some((charge) => charge.key === key));

/** Whether a charge of a request around stands for the calls in it, too. */
function covers(outer: Context, { ending }: Held, { unit }: Charge): boolean {
  if (unit === "concurrent") return ending === undefined && !outer.closed;
  return unit === "requests" && ending !== "release";
}

/**
 * What a call in this process has to be charged: not again what the requests around it were charged for it, but all counters of tokens and money that they
 * hold, so that none is left out when their holds go over to it. `says` tells for which units its cost is known: of others the holds stay where they are.
 */
export function chargedOnce(planned: readonly PlannedLimit[], ctx: Context, holds: Holds, says: (unit: Unit) => boolean): readonly PlannedLimit[] {
  const covered = new Set<string>();
  const more = new Map<string, PlannedLimit>();
  for (const [outer, held] of heldAround(ctx, holds)) {
    held.charges.forEach((charge, i) => {
      if (covers(outer, held, charge)) covered.add(charge.key);
      else if (isPriced(charge.unit) && says(charge.unit)) more.set(charge.key, held.limits[i] as PlannedLimit);
    });
  }
  for (const { key } of planned) more.delete(key);
  if (covered.size === 0 && more.size === 0) return planned;
  return [...planned.filter(({ key }) => !covered.has(key)), ...more.values()];
}

/** A model call, or another that costs something, was made: the estimates of the requests around it do not stand any more. */
export function takeOver(ctx: Context, charges: readonly Charge[], holds: Holds, isCall: boolean): void {
  if (!isCall && !charges.some(({ unit, amount }) => isPriced(unit) && amount > 0)) return;
  for (const [, held] of heldAround(ctx, holds)) if (isWithin(held, charges)) held.isServed = true;
}

/** A request got an answer that was paid for before: what the requests around it hold for it is not charged either. */
export function servedBefore(ctx: Context, holds: Holds): void {
  for (const [, held] of heldAround(ctx, holds)) if (holdsSum(held)) held.isServed = true;
}

/** What is charged already, and may be charged less: open, or as an estimate that nobody has corrected. */
const isMovable = (held: Held): boolean => held.isServed === true && (held.ending === undefined || held.ending === "lapse");

/** A place is freed by finishing its reservation, and its request goes on: such a hold stays until the request is over. */
const isTied = ({ ending, charges }: Held): boolean => ending === undefined && charges.some(({ unit }) => unit === "concurrent");

/** Whether a call that does not fit would fit if the holds around it were given up first. */
export function fitsInstead(ctx: Context, charges: readonly Charge[], failing: readonly Shortfall[], store: LimitStore, holds: Holds): boolean {
  const freed = new Map<string, number>();
  for (const [, held] of heldAround(ctx, holds)) {
    if (held.store !== store || isTied(held) || !isMovable(held)) continue;
    for (const { key, unit, amount } of held.charges) if (isPriced(unit)) freed.set(key, (freed.get(key) ?? 0) + amount);
  }
  if (freed.size === 0) return false;
  return failing.every(({ index, needed, available, tooSmall }) => !tooSmall && available + (freed.get(charges[index]?.key ?? "") ?? 0) >= needed);
}

/** The holds around a call go over to it: their tokens and money are given back. Resolves when they are. Never rejects. */
export function moveHolds(ctx: Context, holds: Holds): MaybePromise<void> {
  const pending: Promise<void>[] = [];
  for (const [outer, held] of [...heldAround(ctx, holds)]) {
    if (isTied(held) || !isMovable(held)) continue;
    held.moving ??= move(outer, held);
    pending.push(held.moving);
  }
  return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined);
}

/**
 * A settled reservation takes no further charge, and what is not held cannot be charged to a counter in debt. So first a reservation of nothing is made, for
 * what the host may meter itself. Where even that is refused the hold stays, and is given back with the response.
 */
async function move(outer: Context, held: Held): Promise<void> {
  const { holds, store, charges, limits } = held;
  const kept = charges.flatMap((charge, i) =>
    isPriced(charge.unit) ? [{ charge: { ...charge, amount: 0 }, limit: limits[i] as PlannedLimit }] : [],
  );
  const opId = `${held.opId}.r`;
  const remainder: Held = {
    ...held,
    opId,
    charges: kept.map(({ charge }) => charge),
    limits: kept.map(({ limit }) => limit),
    held: {},
    input: {},
    isRemainder: true,
  };
  delete remainder.moving;
  delete remainder.ending;
  if (!(await isHeld(remainder))) return;
  if (!isMovable(held)) {
    // The request ended meanwhile, and its host had metered it.
    await holds.finish(store, opId, "release");
    return;
  }
  const isOpen = held.ending === undefined;
  held.ending = NOTHING_BUT_THE_REQUEST;
  if (isOpen) held.watch.ended(held);
  outer.reservations?.push(remainder);
  if (outer.closed) {
    remainder.ending = "lapse";
    await holds.finish(store, opId, "lapse");
  }
  await holds.finish(store, held.opId, NOTHING_BUT_THE_REQUEST);
}

async function isHeld({ holds, store, opId, charges }: Held): Promise<boolean> {
  try {
    const result = holds.reserve(store, opId, charges);
    return (isPromise(result) ? await result : result).kind === "allowed";
  } catch {
    // The store is away: then this can wait, too.
    return false;
  }
}
