import { GuardError } from "../core/errors.ts";
import type { LedgerRow } from "../core/ledger.ts";
import type { CounterState, Rule, Unit } from "../core/store.ts";
import { isPromise } from "../core/time.ts";
import { totalInputTokens, totalOutputTokens } from "../core/usage.ts";
import { bucket } from "./bucket.ts";
import { calendar } from "./calendar.ts";
import { encodeState } from "./codec.ts";
import { fixedRule, NO_FACTS } from "./horizon.ts";
import type { Kind, LimitState } from "./kind.ts";
import { isDynamic } from "./limit.ts";
import { planner, type PlannedLimit } from "./plan.ts";
import type { CompiledLimit, LimitRegistry } from "./registry.ts";
import { sliding } from "./window.ts";

/** Works out from ledger rows how counters stand. Its memory grows with the counters, not with the rows. */
export interface Replay {
  /** Rows in the order of their times give the truth; one that comes late counts as if it were of the latest time. */
  add(row: LedgerRow): void;
  /** The counters that say more than their absence would. */
  counters(): Iterable<CounterState>;
}

export interface ReplayOptions {
  readonly registry: LimitRegistry;
  /** The limits whose counters are wanted. */
  readonly limits: readonly CompiledLimit[];
  /** The model that budgets count for the one that a row names. */
  readonly resolve: (model: string) => string;
  /** Wall clock, ms. */
  readonly nowMs: number;
  /** No row is older. */
  readonly fromMs: number;
  /** Nothing was charged before `fromMs`. */
  readonly isBeginning: boolean;
}

const ROWS_A_PLANNER = 256;

interface Counter {
  readonly rule: Rule;
  readonly kind: Kind<Rule, LimitState>;
  readonly state: LimitState;
}

/**
 * Charges rows as if they happened again, with the arithmetic of the engine. No counter ever has more left than the true one:
 * - what was charged is what `settle` replaced the hold by; where that is not known, the largest hold of the unit;
 * - what went beyond the hold is dated at the end of the request, when it was charged, and so is everything where a limit may have held less than
 *   its row says; a row that comes late is dated later than it was. A later charge never leaves more: a bucket has refilled as much or less by
 *   then, and a cell leaves its window later;
 * - rules are those in force now; a bucket whose number comes from a function counts as one of size 0 (see {@link fixedRule});
 * - a bucket whose past before `fromMs` is not known starts at what it must at least have had (see `begin`).
 */
export function replay({ registry, limits, resolve, nowMs, fromMs, isBeginning }: ReplayOptions): Replay {
  const counted = limits.filter(({ definition }) => definition.unit !== "concurrent");
  const planOf = (names: readonly string[]) => planner({ registry, names, requiredByDefault: false });
  const names = counted.map(({ name }) => name);
  let together = planOf(names);
  let looked = 0;
  const single = counted.map(({ name }) => planOf([name]));
  const counters = new Map<string, Counter>();

  /** The counters that a request like this touches. */
  function plannedFor({ scopes, route, dialect, model, key }: LedgerRow): readonly PlannedLimit[] {
    // Budgets count the model of calls; one that is passed through unread is known only to the row.
    const request = { route, key, model: dialect === null || model === null ? null : resolved(model) };
    // A planner remembers plans by scopes object, and every row has its own: remembered for long they would only keep the garbage collector busy.
    looked += 1;
    if (looked % ROWS_A_PLANNER === 0) together = planOf(names);
    try {
      return together.plan(scopes, request);
    } catch (error) {
      if (!GuardError.is(error)) throw error;
    }
    // A limit that demands a scope which this request did not have was not one of its route's.
    return single.flatMap((plan) => {
      try {
        return plan.plan(scopes, request);
      } catch (error) {
        if (!GuardError.is(error)) throw error;
        return [];
      }
    });
  }

  function resolved(model: string): string {
    try {
      return resolve(model);
    } catch {
      // It is not offered any more; its counters have its own name, unless that was an alias.
      return model;
    }
  }

  function charge(planned: PlannedLimit, amount: number, atMs: number): void {
    const counter = counters.get(planned.key) ?? begin(planned, atMs);
    if (counter === null) return;
    const { rule, kind, state } = counter;
    if (hasLeft(rule, atMs)) return;
    // A state's time never goes back, also not by more than the clock of an engine could be put back.
    kind.settle(state, rule, 0, 0, amount, Math.max(state.t, Math.min(atMs, nowMs)), "");
  }

  function hasLeft(rule: Rule, atMs: number): boolean {
    if (rule.kind === "calendar") return atMs < rule.bounds[1];
    return rule.kind === "sliding" && atMs < nowMs - rule.perMs - rule.cellMs;
  }

  function begin({ key, label, limit }: PlannedLimit, atMs: number): Counter | null {
    const { kind: definition } = limit.definition;
    const numbers = isDynamic(definition) ? (registry.numbers(limit.name, label) ?? {}) : null;
    const rule = numbers ? fixedRule(limit, numbers, nowMs) : limit.rule(label, NO_FACTS, nowMs);
    // Unlimited values are not counted.
    if (rule === null || isPromise(rule) || hasLeft(rule, atMs)) return null;
    const kind = kindOf(rule);
    const at = Math.min(atMs, nowMs);
    const counter: Counter = { rule, kind, state: kind.fresh(key, rule, at) };
    const { state } = counter;
    if (state.kind === "bucket" && !isBeginning) {
      // It had at least what it has if it was as deep in debt at the start as is reckoned with, and more than nothing, as the request was let in.
      state.level = -state.capacity;
      state.t = Math.min(fromMs, at);
      kind.advance(state, rule, at);
      if (state.level < 0) {
        state.level = 0;
        state.carry = 0;
      }
    }
    counters.set(key, counter);
    return counter;
  }

  return {
    add(row) {
      if (row.state === "refused" || row.state === "released") return;
      for (const place of plannedFor(row)) {
        const { unit, estimate } = place.limit.definition;
        const held = row.held[unit];
        // No limit of this unit was charged: it came later, or was unlimited.
        if (held === undefined) continue;
        const spent = spentOf(row, unit, held);
        const atOnce = row.state !== "settled" || unit === "requests" ? spent : estimate === "ceiling" ? Math.min(spent, held) : 0;
        if (atOnce > 0) charge(place, atOnce, row.at);
        if (spent > atOnce) charge(place, spent - atOnce, row.at + Math.ceil(row.latencyMs));
      }
    },

    *counters() {
      for (const [key, { rule, kind, state }] of counters) {
        const whole = rule.kind === "bucket" ? rule.capacity : rule.limit;
        if (kind.available(state, rule, nowMs) < whole) yield { key, state: encodeState(state) };
      }
    },
  };
}

function kindOf(rule: Rule): Kind<Rule, LimitState> {
  switch (rule.kind) {
    case "bucket":
      return bucket;
    case "sliding":
      return sliding;
    case "calendar":
      return calendar;
    case "concurrency":
      throw new Error("places are not rebuilt: who held one is gone");
  }
}

/** What stayed charged in a unit that was held: the mirror of what budgets settle. */
function spentOf({ state, usage, billedNanoUsd }: LedgerRow, unit: Unit, held: number): number {
  if (state !== "settled") return held;
  if (unit === "usd") return billedNanoUsd ?? held;
  if (usage === null) return held;
  switch (unit) {
    case "input_tokens":
      return totalInputTokens(usage);
    case "output_tokens":
      return totalOutputTokens(usage);
    case "tokens":
      return totalInputTokens(usage) + totalOutputTokens(usage);
    default:
      return held;
  }
}
