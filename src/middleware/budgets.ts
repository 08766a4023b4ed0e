/**
 * Nothing is spent that was not reserved first: holds what a request may cost at most, in every limit it touches, before it goes on, and
 * replaces the hold by what it did cost once it is over.
 */
import type { Call } from "../core/call.ts";
import type { Context } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import type { LimitStore, ReserveResult, Shortfall, Unit } from "../core/store.ts";
import type { Step } from "../core/step.ts";
import { andThen, isPromise, type MaybePromise } from "../core/time.ts";
import { rateLimitHeaders, type HeaderStyle } from "../http/rate-limit-headers.ts";
import type { Holds } from "../limits/holds.ts";
import type { PlannedLimit, Planner, RequestScopes } from "../limits/plan.ts";
import { chargesOf, heldOf, needsOf, NO_SCOPES, withoutHeld, type Charges, type Costs } from "./budgets/charges.ts";
import { beyondHeld, correctAll, heldBy, heldOn, isPriced, NOTHING, settleAll, type BudgetWatch, type Held } from "./budgets/held.ts";
import { chargedOnce, fitsInstead, moveHolds, takeOver } from "./budgets/one-charge.ts";
import { outside, refusalOf } from "./budgets/refusal.ts";
import { shareRefusal, withoutStore } from "./budgets/without-store.ts";

export type { Cost, Costs } from "./budgets/charges.ts";
export type { BudgetWatch } from "./budgets/held.ts";

/** How often a reservation is worked out anew because the store knows other numbers, or another time. */
const MOST_REPEATS = 3;
const RETRY_AFTER_MS = 1_000;
const NO_UNITS: ReadonlySet<Unit> = new Set();
const UNSETTLED = {
  skew: "the store's clock does not agree with this server's; check the time of both",
  stale: "the limits are being changed at the moment; try again",
} as const;

export interface BudgetsOptions {
  readonly planner: Planner;
  /** The model that budgets count: what a client's alias stands for. Also refuses unknown models before anything is held. */
  readonly resolve: (model: string) => string;
  readonly store: LimitStore;
  /** Takes over for limits whose policy is `local` while the store is away. */
  readonly local: LimitStore;
  /** How many processes share the limits, this one included: while the store is away each takes its part of them. */
  readonly nodes: () => number;
  /** For how long the store has been away, ms; 0 = it is not. */
  readonly outageMs: () => number;
  readonly holds: Holds;
  /** Prices model calls; null = the route's own `cost` counts even on a dialect's path. */
  readonly calls: Costs | null;
  /** Prices requests of a host's own route. */
  readonly route: Costs;
  /** The cost is this place's own word: where an earlier place of the request holds less of a counter, the rest is held here. @default for model calls only */
  readonly holdsMore?: boolean;
  /** Which headers say what is left. @default "all" */
  readonly headers?: HeaderStyle;
  readonly watch: BudgetWatch;
  /** Whether holds may have to go over to calls in this process (default: no): then a route's places are held apart from its tokens and money. */
  readonly inProcess?: { readonly isOn: boolean };
  /** Throws when whoever has these scopes may not spend anything now. */
  readonly admit?: (scopes: Scopes) => void;
}

/** One reservation on its way: what stays the same however often it is asked for. */
interface Ask {
  readonly ctx: Context;
  readonly call: Call | null;
  readonly opId: string;
  readonly planned: readonly PlannedLimit[];
  /** Its output is shortened to this: that is done once. */
  readonly cap: number | undefined;
  readonly repeats: number;
  /** The holds of the requests around it were given up for it. */
  readonly isMoved: boolean;
  /** Only what it takes beyond what the request holds already. */
  readonly isMore: boolean;
}

type Next = (ask: Ask, asked: Charges) => MaybePromise<void>;
type Allowed = Extract<ReserveResult, { kind: "allowed" }>;
type Limited = Extract<ReserveResult, { kind: "limited" }>;

/** Reservations without a reply, by request: their ids are released once the store is back, so none of them may be used again. */
const lost = new WeakMap<Context, number>();

function opIdOf(ctx: Context): string {
  const unanswered = lost.get(ctx);
  return `${ctx.id}.b${ctx.reservations?.length ?? ""}${unanswered === undefined ? "" : `x${unanswered}`}`;
}

/** Reserves over all limits that apply, or refuses naming the one that is short. */
export function budgetsStep(options: BudgetsOptions): Step {
  const { planner, holds, watch } = options;

  const costs = (call: Call | null): Costs => (call && options.calls ? options.calls : options.route);

  function hold(ctx: Context, call: Call | null, repeats = 0, cap?: number): MaybePromise<void> {
    options.admit?.(ctx.scopes ?? NO_SCOPES);
    const request: RequestScopes = { route: ctx.route, model: call ? options.resolve(call.model) : null, key: keyName(ctx) };
    const all = planner.plan(ctx.scopes ?? NO_SCOPES, request);
    const held = heldBy(ctx, holds);
    const applying = withoutHeld(all, held);
    const planned = ctx.outer ? chargedOnce(applying, ctx, holds, costs(call).says ?? always) : applying;
    const ask = { ctx, call, planned, cap, repeats, isMoved: false, isMore: false };
    const holdsMore = held.length > 0 && (options.holdsMore === true || (call !== null && options.calls !== null));
    const others = holdsMore ? all.filter((each) => isPriced(each.limit.definition.unit) && !applying.includes(each)) : [];
    if (others.length === 0) return first(ask);
    return andThen(first(ask), () => {
      // What the first ones have shortened stays short.
      const more = { ...ask, planned: others, isMore: true, cap: cap ?? (call ? ctx.outputCap : undefined), opId: opIdOf(ctx) };
      return price(more, ctx.services.clock.now(), take);
    });
  }

  function first(ask: Omit<Ask, "opId">): MaybePromise<void> {
    const { ctx, call, planned } = ask;
    if (planned.length === 0) return undefined;
    if (options.inProcess?.isOn && call === null && isMixed(planned)) return apart(ask);
    return price({ ...ask, opId: opIdOf(ctx) }, ctx.services.clock.now(), take);
  }

  /** The places in a reservation of their own: they stay when the rest goes over to a call in this process. */
  function apart(ask: Omit<Ask, "opId">): MaybePromise<void> {
    const { ctx } = ask;
    const before = ctx.reservations?.length ?? 0;
    const next = (isPlace: boolean): MaybePromise<void> => {
      const ofKind = ask.planned.filter(({ limit }) => (limit.definition.unit === "concurrent") === isPlace);
      // Worked out anew, because limits were changed meanwhile, both may be held by now.
      const planned = withoutHeld(ofKind, heldBy(ctx, holds));
      if (planned.length === 0) return undefined;
      return price({ ...ask, planned, opId: opIdOf(ctx) }, ctx.services.clock.now(), take);
    };
    const giveBack = (error: unknown): never => {
      for (const held of (ctx.reservations?.splice(before) ?? []) as Held[]) {
        const isOpen = held.ending === undefined;
        void holds.finish(held.store, held.opId, (held.ending = "release"));
        if (isOpen) watch.ended(held);
      }
      throw error;
    };
    return andThen(next(false), () => {
      try {
        const placed = next(true);
        return isPromise(placed) ? placed.catch(giveBack) : placed;
      } catch (error) {
        return giveBack(error);
      }
    });
  }

  function price(ask: Ask, nowMs: number, next: Next): MaybePromise<void> {
    const { ctx, call, planned, cap } = ask;
    const needs = needsOf(ctx, planned);
    // An earlier place has said what it costs: this one need not know.
    return andThen(costs(call).costOf(ctx, call, ask.isMore ? { ...needs, enforced: NO_UNITS } : needs, cap), (cost) =>
      andThen(chargesOf(ctx, planned, cost, nowMs), (whole) => {
        const asked = ask.isMore ? beyondHeld(whole, heldBy(ctx, holds)) : whole;
        if (ctx.outer) takeOver(ctx, asked.charges, holds, call !== null);
        if (asked.charges.length > 0) return next(ask, asked);
        if (whole.charges.length > 0) capOutput(ctx, cost.outputCap);
        return undefined;
      }),
    );
  }

  function take(ask: Ask, asked: Charges): MaybePromise<void> {
    let result: MaybePromise<ReserveResult>;
    try {
      result = holds.reserve(options.store, ask.opId, asked.charges);
    } catch (error) {
      return degrade(ask, asked, error);
    }
    if (!isPromise(result)) return judge(ask, asked, result);
    return result.then(
      (known) => judge(ask, asked, known),
      (error: unknown) => degrade(ask, asked, error),
    );
  }

  function judge(ask: Ask, asked: Charges, result: ReserveResult): MaybePromise<void> {
    const { ctx, call, opId, cap, repeats } = ask;
    if (result.kind === "allowed") return accept(ask, asked, options.store, opId, result);
    if (result.kind === "limited") return isInItsOwnWay(ask, asked, result) ? makeRoom(ask, asked) : shorten(ask, asked, result, take);
    if (result.kind !== "skew" && result.kind !== "stale") throw new Error(`the reservation ${opId} was ${result.kind}: its id was used twice`);
    if (repeats >= MOST_REPEATS) throw new GuardError("store_unavailable", UNSETTLED[result.kind], { retryAfterMs: RETRY_AFTER_MS });
    // The store's clock is in another calendar window than ours: its clock decides. Or other limits apply by now.
    return result.kind === "skew" ? price({ ...ask, repeats: repeats + 1 }, result.now, take) : hold(ctx, call, repeats + 1, cap);
  }

  /** What the route holds may be all that is left of its budget, and this call is what it was held for. */
  const isInItsOwnWay = ({ ctx, isMoved }: Ask, { charges }: Charges, { failing }: Limited): boolean =>
    ctx.outer !== undefined && !isMoved && fitsInstead(ctx, charges, failing, options.store, holds);

  const makeRoom = (ask: Ask, asked: Charges): MaybePromise<void> => andThen(moveHolds(ask.ctx, holds), () => take({ ...ask, isMoved: true }, asked));

  /** The store cannot decide: each limit's own policy does. */
  function degrade({ ctx, ...more }: Ask, asked: Charges, error: unknown): MaybePromise<void> {
    if (!GuardError.is(error) || error.code !== "store_unavailable") throw error;
    lost.set(ctx, (lost.get(ctx) ?? 0) + 1);
    const locally: Next = (ask, whole) => {
      const decision = withoutStore(whole, error, options.nodes(), options.outageMs());
      if (whole === asked) watch.storeFailed(decision.mode);
      if (decision.mode === "deny") throw decision.error;
      return takeHere(ask, decision.kept, whole, locally);
    };
    return locally({ ctx, ...more }, asked);
  }

  function takeHere(ask: Ask, kept: Charges, whole: Charges, again: Next): MaybePromise<void> {
    if (kept.charges.length === 0) return undefined;
    const opId = `${ask.opId}.l`;
    return andThen(holds.reserve(options.local, opId, kept.charges), (result) => {
      if (result.kind === "allowed") return accept(ask, kept, options.local, opId, result);
      if (result.kind === "limited") return shorten(ask, kept, result, again, shareRefusal(kept, whole, result.failing));
      throw new Error(`the reservation ${opId} was ${result.kind}: its id was used twice`);
    });
  }

  /** Asks for less when all limits that are short allow it, else refuses: with `refusal`, if there is one. */
  function shorten(ask: Ask, asked: Charges, result: Limited, again: Next, refusal?: GuardError): MaybePromise<void> {
    const cap = shorterCap(ask, asked, result.failing);
    if (cap !== null) return price({ ...ask, cap }, ask.ctx.services.clock.now(), again);
    if (refusal) throw refusal;
    for (const short of result.failing) watch.refused(asked.used[short.index]?.limit.name ?? "");
    throw refusalOf(asked, result, options.headers);
  }

  /** The output cap that makes every short limit fit, when all of them allow shortening; what is still short then is refused. */
  function shorterCap({ ctx, call, cap: before }: Ask, { charges, used }: Charges, failing: readonly Shortfall[]): number | null {
    if (!call || before !== undefined) return null;
    let cap = Infinity;
    for (const short of failing) {
      if (used[short.index]?.limit.definition.whenShort !== "shorten") return null;
      const unit = charges[short.index]?.unit ?? "requests";
      cap = Math.min(cap, costs(call).affordable?.(ctx, call, unit, short.available) ?? 0);
    }
    return cap >= 1 && Number.isFinite(cap) ? Math.floor(cap) : null;
  }

  function accept({ ctx, isMore }: Ask, { charges, used, cost }: Charges, store: LimitStore, opId: string, result: Allowed): MaybePromise<void> {
    const forCall = ctx.carriesCall && options.calls !== null;
    const before = heldBy(ctx, holds);
    const whole = isMore ? charges.map((charge) => ({ ...charge, amount: charge.amount + heldOn(charge.key, before) })) : charges;
    const amounts = { held: heldOf(whole), input: cost.input };
    const held: Held = { opId, charges, limits: used, ...amounts, forCall, store, holds, watch, isRemainder: false, isMore };
    if (ctx.closed) {
      // The client left while the hold was being made: nobody will settle it, and it would be prolonged for ever.
      void holds.finish(store, opId, "release");
      throw new GuardError("upstream_unreachable", "the client left before the request was admitted");
    }
    if (!ctx.reservations) {
      ctx.reservations = [held];
      ctx.after(settleAll);
      ctx.onCorrection(correctAll);
    } else ctx.reservations.push(held);
    capOutput(ctx, cost.outputCap);
    watch.held(held, result.standings);
    for (const short of result.skipped) wouldRefuse(ctx, held, short);
    // Each limit is told once.
    const headers = isMore ? [] : rateLimitHeaders(held.limits, held.charges, result.standings, options.headers);
    if (ctx.replyHeaders) ctx.replyHeaders.push(...headers);
    else ctx.replyHeaders = headers;
    return ctx.outer ? moveHolds(ctx, holds) : undefined;
  }

  function wouldRefuse(ctx: Context, held: Held, short: Shortfall): void {
    const planned = held.limits[short.index] as PlannedLimit;
    watch.wouldRefuse(planned, short);
    const { events } = ctx.services;
    if (!events.has("would-refuse")) return;
    const unit = held.charges[short.index]?.unit ?? "requests";
    const event = { limit: planned.name, needed: outside(unit, short.needed), available: outside(unit, short.available) };
    events.emit("would-refuse", { requestId: ctx.requestId, scopes: ctx.scopes ?? NO_SCOPES, ...event });
  }

  return function budgets(ctx) {
    if (ctx.carriesCall && options.calls) return andThen(ctx.call(), (call) => hold(ctx, call));
    const holding = hold(ctx, null);
    return isPromise(holding) && ctx.charged === undefined ? untouched(ctx, holding) : holding;
  };
}

/** A client that leaves before all is held has used nothing yet: no handler has begun. */
async function untouched(ctx: Context, holding: Promise<void>): Promise<void> {
  ctx.charged = NOTHING;
  try {
    await holding;
  } finally {
    if (ctx.charged === NOTHING && !ctx.closed) ctx.charged = undefined;
  }
}

function capOutput(ctx: Context, cap: number | undefined): void {
  if (cap !== undefined) ctx.outputCap = Math.min(ctx.outputCap ?? Infinity, cap);
}

const always = (): boolean => true;

/** Null = whoever the host has let in, without a name. A key may be called anything. */
const keyName = ({ principal }: Context): string | null =>
  principal && !(principal.kind === "host" && principal.name === "host") ? principal.name : null;

/** Whether a place would be held together with tokens or money. */
function isMixed(planned: readonly PlannedLimit[]): boolean {
  const units = planned.map(({ limit }) => limit.definition.unit);
  return units.includes("concurrent") && units.some(isPriced);
}
