/**
 * Nothing is spent that was not reserved first: holds what a request may cost at most, in every limit it touches, before it goes on, and
 * replaces the hold by what it did cost once it is over.
 */
import type { Call } from "../core/call.ts";
import type { Charged, Context, Reservation } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Amounts, LimitStore, ReserveResult, Shortfall, Standing, Unit } from "../core/store.ts";
import type { Step } from "../core/step.ts";
import { andThen, isPromise, type MaybePromise } from "../core/time.ts";
import { totalInputTokens, totalOutputTokens } from "../core/usage.ts";
import { rateLimitHeaders } from "../http/rate-limit-headers.ts";
import type { Ending, Holds } from "../limits/holds.ts";
import type { PlannedLimit, Planner, RequestScopes } from "../limits/plan.ts";
import { chargesOf, heldOf, needsOf, NO_SCOPES, withoutHeld, type Charges, type Costs } from "./budgets/charges.ts";
import { outside, refusalOf } from "./budgets/refusal.ts";
import { shareRefusal, withoutStore } from "./budgets/without-store.ts";

export type { Cost, Costs } from "./budgets/charges.ts";

/** How often a reservation is worked out anew because the store knows other numbers, or another time. */
const MOST_REPEATS = 3;
const RETRY_AFTER_MS = 1_000;
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
  readonly watch: BudgetWatch;
}

/** Is told of every verdict, for metrics and events. Synchronous and never throws. */
export interface BudgetWatch {
  readonly held: (reservation: Reservation, standings: readonly Standing[]) => void;
  readonly short: (limit: string, outcome: "refused" | "would_refuse") => void;
  readonly storeFailed: (mode: "deny" | "allow" | "local") => void;
  /** No longer held: once for each that was. */
  readonly ended: (reservation: Reservation) => void;
  /** What it came to: once more when a charge for want of usage is corrected. */
  readonly settled: (ctx: Context, reservation: Reservation, ending: Ending) => void;
}

/** A reservation as this step keeps it. */
interface Held extends Reservation {
  readonly store: LimitStore;
  readonly input: Amounts;
  readonly owner: BudgetsOptions;
  /** How it was finished; undefined while it is open. */
  ending?: Ending;
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
    const request: RequestScopes = { route: ctx.route, model: call ? options.resolve(call.model) : null, key: keyName(ctx) };
    const planned = withoutHeld(planner.plan(ctx.scopes ?? NO_SCOPES, request), ctx.reservations);
    if (planned.length === 0) return undefined;
    return price({ ctx, call, opId: opIdOf(ctx), planned, cap, repeats }, ctx.services.clock.now(), take);
  }

  function price(ask: Ask, nowMs: number, next: Next): MaybePromise<void> {
    const { ctx, call, planned, cap } = ask;
    return andThen(costs(call).costOf(ctx, call, needsOf(ctx, planned), cap), (cost) =>
      andThen(chargesOf(ctx, planned, cost, nowMs), (asked) => (asked.charges.length === 0 ? undefined : next(ask, asked))),
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
    if (result.kind === "limited") return shorten(ask, asked, result, take);
    if (result.kind !== "skew" && result.kind !== "stale") throw new Error(`the reservation ${opId} was ${result.kind}: its id was used twice`);
    if (repeats >= MOST_REPEATS) throw new GuardError("store_unavailable", UNSETTLED[result.kind], { retryAfterMs: RETRY_AFTER_MS });
    // The store's clock is in another calendar window than ours: its clock decides. Or other limits apply by now.
    return result.kind === "skew" ? price({ ...ask, repeats: repeats + 1 }, result.now, take) : hold(ctx, call, repeats + 1, cap);
  }

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
    for (const short of result.failing) watch.short(asked.used[short.index]?.limit.name ?? "", "refused");
    throw refusalOf(asked, result);
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

  function accept({ ctx }: Ask, { charges, used, cost }: Charges, store: LimitStore, opId: string, result: Allowed): void {
    const forCall = ctx.carriesCall && options.calls !== null;
    const held: Held = { opId, charges, limits: used, held: heldOf(charges), forCall, store, input: cost.input, owner: options };
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
    if (cost.outputCap !== undefined) ctx.outputCap = Math.min(ctx.outputCap ?? Infinity, cost.outputCap);
    watch.held(held, result.standings);
    for (const short of result.skipped) wouldRefuse(ctx, held, short);
    const headers = rateLimitHeaders(held.limits, held.charges, result.standings);
    if (ctx.replyHeaders) ctx.replyHeaders.push(...headers);
    else ctx.replyHeaders = headers;
  }

  function wouldRefuse(ctx: Context, held: Held, short: Shortfall): void {
    const limit = held.limits[short.index]?.name ?? "";
    watch.short(limit, "would_refuse");
    const { events } = ctx.services;
    if (!events.has("would-refuse")) return;
    const unit = held.charges[short.index]?.unit ?? "requests";
    const event = { limit, needed: outside(unit, short.needed), available: outside(unit, short.available) };
    events.emit("would-refuse", { requestId: ctx.requestId, scopes: ctx.scopes ?? NO_SCOPES, ...event });
  }

  return function budgets(ctx) {
    if (!ctx.carriesCall || !options.calls) return hold(ctx, null);
    return andThen(ctx.call(), (call) => hold(ctx, call));
  };
}

const keyName = (ctx: Context): string | null => (ctx.principal && ctx.principal.name !== "host" ? ctx.principal.name : null);

/** What is settled, per unit; an absent unit keeps what was held. */
function endingOf(charged: Charged, input: Amounts): Ending {
  if (charged.kind === "nothing") return "release";
  // Charged as held, yet a host may still report the usage of a call that outlives its response.
  if (charged.kind === "estimate") return "lapse";
  if (charged.kind === "input") return { ...input, output_tokens: 0 };
  const { usage, billedNanoUsd } = charged;
  const inputTokens = totalInputTokens(usage);
  const outputTokens = totalOutputTokens(usage);
  const actual: { [unit in Unit]?: number } = { input_tokens: inputTokens, output_tokens: outputTokens, tokens: inputTokens + outputTokens };
  if (billedNanoUsd !== null) actual.usd = billedNanoUsd;
  return actual;
}

/** After the response: one function for all requests, so that nothing is kept alive per request but the reservation itself. */
const settleAll = (ctx: Context): MaybePromise<void> => finishAll(ctx, (held) => held.ending === undefined);

/** Usage became known after the end: replaces what was charged for want of it. What was settled already stays settled. */
const correctAll = (ctx: Context): MaybePromise<void> => finishAll(ctx, (held) => held.ending === "lapse");

function finishAll(ctx: Context, applies: (held: Held) => boolean): MaybePromise<void> {
  const pending: Promise<void>[] = [];
  for (const reservation of (ctx.reservations ?? []) as Held[]) {
    if (!applies(reservation)) continue;
    const isFirst = reservation.ending === undefined;
    const { owner, store, opId, input } = reservation;
    const charged: Charged = ctx.charged ?? (reservation.forCall || ctx.failure ? { kind: "nothing" } : { kind: "estimate" });
    ctx.provenance = charged.kind === "usage" ? charged.provenance : charged.kind === "nothing" ? "void" : "estimated";
    const ending = endingOf(charged, input);
    reservation.ending = ending;
    const done = owner.holds.finish(store, opId, ending);
    if (isFirst) owner.watch.ended(reservation);
    owner.watch.settled(ctx, reservation, ending);
    if (done !== undefined && isPromise(done)) pending.push(done);
  }
  return pending.length === 0 ? undefined : Promise.all(pending).then(() => undefined);
}
