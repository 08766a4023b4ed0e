/**
 * Nothing is spent that was not reserved first: holds what a request may cost at most, in every limit it touches, before it goes on, and
 * replaces the hold by what it did cost once it is over.
 */
import type { Call } from "../core/call.ts";
import type { Charged, Context, Reservation } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import { nanoToUsd } from "../core/money.ts";
import type { Amounts, Charge, LimitStore, ReserveResult, Shortfall, Standing, Unit } from "../core/store.ts";
import type { Step } from "../core/step.ts";
import { andThen, isPromise, type MaybePromise } from "../core/time.ts";
import { totalInputTokens, totalOutputTokens } from "../core/usage.ts";
import { rateLimitHeaders } from "../http/rate-limit-headers.ts";
import type { Ending, Holds } from "../limits/holds.ts";
import { chargeOf, type PlannedLimit, type Planner, type RequestScopes } from "../limits/plan.ts";

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
}

export interface BudgetsOptions {
  readonly planner: Planner;
  /** The model that budgets count: what a client's alias stands for. Also refuses unknown models before anything is held. */
  readonly resolve: (model: string) => string;
  readonly store: LimitStore;
  /** Takes over for limits whose policy is `local` while the store is away. */
  readonly local: LimitStore;
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

const unitAmount = (cost: Cost, planned: PlannedLimit): number => {
  const { unit, estimate } = planned.limit.definition;
  if (unit === "requests" || unit === "concurrent") return 1;
  return (estimate === "expected" ? cost.expected : cost.ceiling)[unit] ?? 0;
};

/** Reserves over all limits that apply, or refuses naming the one that is short. */
export function budgetsStep(options: BudgetsOptions): Step {
  const { planner } = options;

  const costs = (call: Call | null): Costs => (call && options.calls ? options.calls : options.route);

  function hold(ctx: Context, call: Call | null): MaybePromise<void> {
    const request: RequestScopes = { route: ctx.route, model: call ? options.resolve(call.model) : null, key: keyName(ctx) };
    const planned = withoutHeld(planner.plan(ctx.scopes ?? NO_SCOPES, request), ctx.reservations);
    if (planned.length === 0) return undefined;
    return andThen(costs(call).costOf(ctx, call, needsOf(ctx, planned)), (cost) => reserve(ctx, call, planned, cost));
  }

  function reserve(ctx: Context, call: Call | null, planned: readonly PlannedLimit[], cost: Cost): MaybePromise<void> {
    return andThen(chargesOf(ctx, planned, cost, ctx.services.clock.now()), (found) => take(ctx, call, planned, cost, found));
  }

  function take(ctx: Context, call: Call | null, planned: readonly PlannedLimit[], cost: Cost, { charges, used }: Charges): MaybePromise<void> {
    if (charges.length === 0) return undefined;
    const opId = `${ctx.id}.b${ctx.reservations?.length ?? ""}`;
    const forCall = ctx.carriesCall && options.calls !== null;
    const judge = (result: ReserveResult, store: LimitStore): MaybePromise<void> => {
      if (result.kind === "allowed") {
        accept(ctx, { opId, charges, limits: used, held: heldOf(charges), forCall, store, input: cost.input, owner: options }, cost, result);
        return undefined;
      }
      if (result.kind === "limited") {
        const cap = call ? shorterCap(ctx, call, used, charges, result.failing) : null;
        if (cap === null) throw refusal(used, charges, result);
        // Once: what is still short then is refused.
        return andThen(costs(call).costOf(ctx, call, needsOf(ctx, planned), cap), (shorter) => reserve(ctx, null, planned, shorter));
      }
      if (result.kind === "skew") return again(ctx, planned, cost, result.now, opId);
      throw new Error(`the reservation ${opId} was ${result.kind}: its id was used twice`);
    };
    const unavailable = (error: unknown): MaybePromise<void> => degrade(ctx, opId, used, charges, cost, error);
    try {
      const result = options.holds.reserve(options.store, opId, charges);
      return isPromise(result) ? result.then((known) => judge(known, options.store), unavailable) : judge(result, options.store);
    } catch (error) {
      if (GuardError.is(error) && error.code === "store_unavailable") return unavailable(error);
      throw error;
    }
  }

  /** The store's clock is in another calendar window than ours: its clock decides. */
  async function again(ctx: Context, planned: readonly PlannedLimit[], cost: Cost, nowMs: number, opId: string): Promise<void> {
    const { charges, used } = await chargesOf(ctx, planned, cost, nowMs);
    const result = await options.holds.reserve(options.store, opId, charges);
    if (result.kind === "limited") throw refusal(used, charges, result);
    if (result.kind !== "allowed")
      throw new GuardError("store_unavailable", "the store's clock does not agree with this server's; check the time of both");
    accept(
      ctx,
      {
        opId,
        charges,
        limits: used,
        held: heldOf(charges),
        forCall: ctx.carriesCall && options.calls !== null,
        store: options.store,
        input: cost.input,
        owner: options,
      },
      cost,
      result,
    );
  }

  /** The store cannot decide: each limit's own policy does. */
  async function degrade(
    ctx: Context,
    opId: string,
    used: readonly PlannedLimit[],
    charges: readonly Charge[],
    cost: Cost,
    error: unknown,
  ): Promise<void> {
    if (!GuardError.is(error) || error.code !== "store_unavailable") throw error;
    if (used.some(({ limit }, i) => limit.definition.onStoreError === "deny" && charges[i]?.enforce)) {
      options.watch.storeFailed("deny");
      throw error;
    }
    const kept = charges.filter((_, i) => used[i]?.limit.definition.onStoreError === "local");
    const keptBy = used.filter(({ limit }) => limit.definition.onStoreError === "local");
    options.watch.storeFailed(kept.length === 0 ? "allow" : "local");
    if (kept.length === 0) return;
    const result = await options.holds.reserve(options.local, `${opId}.l`, kept);
    if (result.kind === "limited") throw refusal(keptBy, kept, result);
    if (result.kind !== "allowed") throw error;
    accept(
      ctx,
      {
        opId: `${opId}.l`,
        charges: kept,
        limits: keptBy,
        held: heldOf(kept),
        forCall: ctx.carriesCall && options.calls !== null,
        store: options.local,
        input: cost.input,
        owner: options,
      },
      cost,
      result,
    );
  }

  function accept(ctx: Context, held: Held, cost: Cost, result: Extract<ReserveResult, { kind: "allowed" }>): void {
    if (ctx.closed) {
      // The client left while the hold was being made: nobody will settle it, and it would be prolonged for ever.
      void options.holds.finish(held.store, held.opId, "release");
      throw new GuardError("upstream_unreachable", "the client left before the request was admitted");
    }
    if (!ctx.reservations) {
      ctx.reservations = [held];
      ctx.after(settleAll);
      ctx.onCorrection(correctAll);
    } else ctx.reservations.push(held);
    if (cost.outputCap !== undefined) ctx.outputCap = Math.min(ctx.outputCap ?? Infinity, cost.outputCap);
    options.watch.held(held, result.standings);
    for (const short of result.skipped) wouldRefuse(ctx, held, short);
    const headers = rateLimitHeaders(held.limits, held.charges, result.standings);
    if (ctx.replyHeaders) ctx.replyHeaders.push(...headers);
    else ctx.replyHeaders = headers;
  }

  function wouldRefuse(ctx: Context, held: Held, short: Shortfall): void {
    const limit = held.limits[short.index]?.name ?? "";
    options.watch.short(limit, "would_refuse");
    const { events } = ctx.services;
    if (!events.has("would-refuse")) return;
    const unit = held.charges[short.index]?.unit ?? "requests";
    const event = { limit, needed: outside(unit, short.needed), available: outside(unit, short.available) };
    events.emit("would-refuse", { requestId: ctx.requestId, scopes: ctx.scopes ?? NO_SCOPES, ...event });
  }

  function refusal(used: readonly PlannedLimit[], charges: readonly Charge[], result: Extract<ReserveResult, { kind: "limited" }>): GuardError {
    for (const short of result.failing) options.watch.short(used[short.index]?.limit.name ?? "", "refused");
    const headers: Record<string, string> = {};
    const pairs = rateLimitHeaders(used, charges, result.standings);
    for (let i = 0; i < pairs.length; i += 2) headers[pairs[i] as string] = pairs[i + 1] as string;
    return refusalOf(used[result.worst.index] as PlannedLimit, result, headers);
  }

  /** The output cap that makes every short limit fit, when all of them allow shortening. */
  function shorterCap(
    ctx: Context,
    call: Call,
    used: readonly PlannedLimit[],
    charges: readonly Charge[],
    failing: readonly Shortfall[],
  ): number | null {
    let cap = Infinity;
    for (const short of failing) {
      if (used[short.index]?.limit.definition.whenShort !== "shorten") return null;
      const unit = charges[short.index]?.unit ?? "requests";
      cap = Math.min(cap, costs(call).affordable?.(ctx, call, unit, short.available) ?? 0);
    }
    return cap >= 1 && Number.isFinite(cap) ? Math.floor(cap) : null;
  }

  return function budgets(ctx) {
    if (!ctx.carriesCall || !options.calls) return hold(ctx, null);
    return andThen(ctx.call(), (call) => hold(ctx, call));
  };
}

const needs = new WeakMap<readonly PlannedLimit[], Needs>();

function needsOf(ctx: Context, planned: readonly PlannedLimit[]): Needs {
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

const NO_SCOPES = Object.freeze({});

const keyName = (ctx: Context): string | null => (ctx.principal && ctx.principal.name !== "host" ? ctx.principal.name : null);

const outside = (unit: Unit, amount: number): number => (unit === "usd" ? nanoToUsd(amount) : amount);

/** A second budgets step on one request never charges the same counter twice. */
function withoutHeld(planned: readonly PlannedLimit[], reservations: readonly Reservation[] | undefined): readonly PlannedLimit[] {
  if (!reservations) return planned;
  return planned.filter(({ key }) => !reservations.some(({ charges }) => charges.some((charge) => charge.key === key)));
}

interface Charges {
  readonly charges: readonly Charge[];
  /** The limits of the charges, at the same places. */
  readonly used: readonly PlannedLimit[];
}

function chargesOf(ctx: Context, planned: readonly PlannedLimit[], cost: Cost, nowMs: number): MaybePromise<Charges> {
  const facts = { scopes: ctx.scopes ?? NO_SCOPES, principal: ctx.principal, req: ctx.host as never };
  const charges: MaybePromise<Charge | null>[] = [];
  let isWaiting = false;
  for (const item of planned) {
    const charge = chargeOf(item, unitAmount(cost, item), facts, nowMs);
    isWaiting ||= charge !== null && isPromise(charge);
    charges.push(charge);
  }
  return isWaiting ? Promise.all(charges).then((known) => limited(planned, known)) : limited(planned, charges as (Charge | null)[]);
}

/** Without those that are unlimited now. */
function limited(planned: readonly PlannedLimit[], charges: readonly (Charge | null)[]): Charges {
  if (!charges.includes(null)) return { charges: charges as readonly Charge[], used: planned };
  return { charges: charges.filter((charge) => charge !== null), used: planned.filter((_, i) => charges[i] !== null) };
}

/** The largest amount per unit: what a row says was held. */
function heldOf(charges: readonly Charge[]): Amounts {
  const held: { [unit in Unit]?: number } = {};
  for (const { unit, amount } of charges) held[unit] = Math.max(held[unit] ?? 0, amount);
  return held;
}

const UNIT_NAMES: Readonly<Record<Unit, string>> = {
  requests: "requests",
  tokens: "tokens",
  input_tokens: "input tokens",
  output_tokens: "output tokens",
  usd: "USD",
  concurrent: "concurrent requests",
};

function refusalOf(planned: PlannedLimit, result: Extract<ReserveResult, { kind: "limited" }>, headers: Record<string, string>): GuardError {
  const { limit } = planned;
  const { worst } = result;
  const { unit } = limit.definition;
  const needed = outside(unit, worst.needed);
  const available = outside(unit, Math.max(0, worst.available));
  const facts = { limit: limit.name, scope: limit.scopeLabel, needed, available, headers };
  const what = `limit ${limit.name} (per ${limit.scopeLabel})`;
  if (worst.tooSmall) {
    return new GuardError(
      "budget_too_small",
      `${what} is smaller than this request: it needs ${needed} ${UNIT_NAMES[unit]}; ask for less output or send less input`,
      facts,
    );
  }
  const stuck = result.failing.some(({ waitMs }) => waitMs === null);
  const hint = stuck ? "it does not refill by itself" : `retry in ${Math.max(1, Math.ceil((worst.waitMs ?? 0) / 1_000))} s`;
  return new GuardError("budget_exhausted", `${what} has ${available} ${UNIT_NAMES[unit]} left and this request needs ${needed}; ${hint}`, {
    ...facts,
    retryAfterMs: stuck ? undefined : (worst.waitMs ?? undefined),
  });
}

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
