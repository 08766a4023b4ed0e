import type {
  Amounts,
  Charge,
  ExpiredReservation,
  FinishResult,
  LimitStore,
  Peeked,
  ReserveResult,
  Rule,
  Shortfall,
  Standing,
} from "../core/store.ts";
import type { Keyed, LimitBackend, Reservation } from "./backend.ts";
import { bucket } from "./bucket.ts";
import { calendar, isOutside } from "./calendar.ts";
import { checkAmounts, checkCharge, checkRule, checkTtl } from "./check.ts";
import { concurrency, extendHold } from "./concurrency.ts";
import { LINGER_MS, type Kind, type Kinds, type LimitState } from "./kind.ts";
import { sliding } from "./window.ts";
import { worstShortfall } from "./worst-shortfall.ts";

export const exactKinds: Kinds = { bucket, sliding, calendar, concurrency };

/** A limit store that never waits. */
export interface LimitEngine extends LimitStore {
  reserve(opId: string, charges: readonly Charge[], ttlMs: number): ReserveResult;
  settle(opId: string, actual: Amounts): FinishResult;
  release(opId: string): FinishResult;
  extend(opId: string, ttlMs: number): boolean;
  lapse(opId: string): FinishResult;
  expire(most: number): readonly ExpiredReservation[];
  peek(limits: readonly Peeked[]): readonly Standing[];
}

const NO_PLACES: readonly number[] = [];
const NOTHING_SKIPPED: readonly Shortfall[] = [];

/** The verbs over states and records: judges all limits, then changes all or none. Throws RangeError for amounts and rules that are out of range. */
export function limitEngine(backend: LimitBackend, kinds: Kinds = exactKinds): LimitEngine {
  // Filled anew by each verb; kept to spare three arrays per reservation.
  const states: LimitState[] = [];
  const fresh: boolean[] = [];

  /** A limit's own time: days and months follow the wall clock. Read once per verb. */
  let now = 0;
  let wall = 0;
  let wallKnown = false;

  function begin(): void {
    now = backend.now();
    wallKnown = false;
  }

  function timeFor(rule: Rule): number {
    if (rule.kind !== "calendar") return now;
    if (!wallKnown) {
      wall = backend.wall();
      wallKnown = true;
    }
    return wall;
  }

  function kindOf(rule: Rule): Kind<Rule, LimitState> {
    switch (rule.kind) {
      case "bucket":
        return kinds.bucket;
      case "sliding":
        return kinds.sliding;
      case "calendar":
        return kinds.calendar;
      case "concurrency":
        return kinds.concurrency;
    }
  }

  function hasLapsed(state: LimitState, kind: Kind<Rule, LimitState>, at: number): boolean {
    // No state lapses before it has lingered; asked first because it is cheap.
    return at - state.t >= LINGER_MS && at >= kind.lapsesAt(state);
  }

  /** The state of a key if it still says anything. */
  function stateOf(place: Keyed, rule: Rule, kind: Kind<Rule, LimitState>, at: number): LimitState | undefined {
    const state = backend.state(place);
    if (state === undefined) return undefined;
    if (state.kind !== rule.kind) {
      throw new RangeError(`limit ${place.key} is a ${state.kind} and cannot be charged as a ${rule.kind}: the kind belongs into the key`);
    }
    return hasLapsed(state, kind, at) ? undefined : state;
  }

  function standing(state: LimitState, rule: Rule, kind: Kind<Rule, LimitState>, at: number): Standing {
    return { available: kind.available(state, rule, at), resetMs: kind.reset(state, rule, at) };
  }

  /** Ms; null = never. */
  function waitFor(state: LimitState, rule: Rule, amount: number, at: number): number | null {
    if (isTooSmall(rule, amount)) return null;
    const kind = kindOf(rule);
    // A shadow charge that was skipped may fit by the time its reserve is repeated.
    const wait = kind.available(state, rule, at) >= amount ? 0 : kind.wait(state, rule, amount, at);
    return wait === Infinity ? null : wait;
  }

  function shortfall(index: number, charge: Charge, state: LimitState): Shortfall {
    const { rule, amount } = charge;
    const kind = kindOf(rule);
    const at = timeFor(rule);
    const available = kind.available(state, rule, at);
    return { index, needed: amount, available, waitMs: waitFor(state, rule, amount, at), tooSmall: isTooSmall(rule, amount) };
  }

  /** Loads and judges every charge: 0 = all fit, 1 = only shadow charges do not, 2 = refused, 3 = a calendar window is out of reach. */
  function judge(charges: readonly Charge[]): 0 | 1 | 2 | 3 {
    let verdict: 0 | 1 | 2 = 0;
    for (let i = 0; i < charges.length; i += 1) {
      const charge = charges[i] as Charge;
      const { key, rule, amount, enforce } = charge;
      const at = timeFor(rule);
      if (rule.kind === "calendar" && isOutside(rule, at)) return 3;
      const kind = kindOf(rule);
      const known = stateOf(charge, rule, kind, at);
      const state = known ?? kind.fresh(key, rule, at);
      for (let j = 0; j < i; j += 1) {
        if (states[j] === state || (known === undefined && fresh[j] === true && states[j]?.key === key)) {
          throw new RangeError(`limit ${key} occurs twice in one reservation: add the amounts up to one charge`);
        }
      }
      states[i] = state;
      fresh[i] = known === undefined;
      if (kind.available(state, rule, at) < amount && verdict !== 2) verdict = enforce ? 2 : 1;
    }
    return verdict;
  }

  /** A definition or a time scale that changed begins now, even if nothing is charged: else every retry would start from the old one again. */
  function keepMove(i: number, rule: Rule): void {
    const state = states[i] as LimitState;
    const kind = kindOf(rule);
    const at = timeFor(rule);
    if (fresh[i] === true || !kind.moved(state, rule, at)) return;
    kind.advance(state, rule, at);
    backend.save(state);
  }

  function shortfalls(charges: readonly Charge[], enforce: boolean): Shortfall[] {
    const found: Shortfall[] = [];
    for (let i = 0; i < charges.length; i += 1) {
      const charge = charges[i] as Charge;
      if (charge.enforce !== enforce) continue;
      if (kindOf(charge.rule).available(states[i] as LimitState, charge.rule, timeFor(charge.rule)) < charge.amount)
        found.push(shortfall(i, charge, states[i] as LimitState));
    }
    return found;
  }

  function currentStandings(charges: readonly Charge[]): Standing[] {
    return charges.map(({ rule }, i) => standing(states[i] as LimitState, rule, kindOf(rule), timeFor(rule)));
  }

  function refuse(charges: readonly Charge[]): ReserveResult {
    const failing = shortfalls(charges, true);
    const standings = currentStandings(charges);
    for (let i = 0; i < charges.length; i += 1) keepMove(i, (charges[i] as Charge).rule);
    return { kind: "limited", worst: worstShortfall(failing), failing, standings };
  }

  function admit(opId: string, charges: readonly Charge[], expiresAt: number, short: readonly Shortfall[]): ReserveResult {
    const skipped = short.length === 0 ? null : new Set(short.map(({ index }) => index));
    let places: number[] | undefined;
    for (let i = 0; i < charges.length; i += 1) {
      const { rule, amount } = charges[i] as Charge;
      const kind = kindOf(rule);
      const at = timeFor(rule);
      const state = states[i] as LimitState;
      if (skipped?.has(i) === true) {
        keepMove(i, rule);
      } else {
        kind.advance(state, rule, at);
        const place = kind.take(state, amount, at, opId, expiresAt);
        if (place !== 0) (places ??= charges.map(() => 0))[i] = place;
        if (fresh[i] === true) backend.insert(state);
        else backend.save(state);
      }
    }
    backend.open(opId, { charges, places: places ?? NO_PLACES, skipped, expiresAt, expired: false });
    return { kind: "allowed", replayed: false, skipped: short, standings: currentStandings(charges) };
  }

  /** The answer to a reserve whose opId is taken: the standings are today's, the decision is the one that was made. */
  function repeat(known: Reservation, charges: readonly Charge[]): ReserveResult {
    if (known.expired || now >= known.expiresAt) return { kind: "closed" };
    if (!sameCharges(known.charges, charges)) return { kind: "conflict" };
    for (let i = 0; i < charges.length; i += 1) {
      const charge = charges[i] as Charge;
      const { key, rule } = charge;
      const at = timeFor(rule);
      const kind = kindOf(rule);
      states[i] = stateOf(charge, rule, kind, at) ?? kind.fresh(key, rule, at);
    }
    const skipped =
      known.skipped === null ? NOTHING_SKIPPED : [...known.skipped].map((i) => shortfall(i, charges[i] as Charge, states[i] as LimitState));
    return { kind: "allowed", replayed: true, skipped, standings: currentStandings(charges) };
  }

  /** Replaces one charge by what was spent. */
  function correct(opId: string, charge: Charge, place: number, spent: number): void {
    const { key, rule, amount } = charge;
    const stored = backend.state(charge);
    // Another kind of limit has the key by now: what was charged is gone with its counter.
    if (stored !== undefined && stored.kind !== rule.kind) return;
    const at = timeFor(rule);
    const kind = kindOf(rule);
    if (stored !== undefined && !hasLapsed(stored, kind, at)) {
      if (kind.settle(stored, rule, place, amount, spent, at, opId)) backend.save(stored);
    } else if (spent > amount) {
      // What is absent is whole: a refund leaves nothing to store, an overage does.
      const state = kind.fresh(key, rule, at);
      kind.settle(state, rule, place, amount, spent, at, opId);
      backend.insert(state);
    }
  }

  function finish(opId: string, actual: Amounts | null): FinishResult {
    begin();
    const known = backend.find(opId, now);
    if (known === "closed") return "done";
    if (known !== undefined) {
      const { charges, places, skipped } = known;
      for (let i = 0; i < charges.length; i += 1) {
        const charge = charges[i] as Charge;
        const spent = actual === null ? 0 : (actual[charge.unit] ?? charge.amount);
        if (spent !== charge.amount && charge.rule.kind !== "concurrency" && skipped?.has(i) !== true) correct(opId, charge, places[i] ?? 0, spent);
      }
      movePlaces(opId, known, null);
    }
    backend.close(opId, now);
    if (known === undefined) return "unknown";
    return known.expired || now >= known.expiresAt ? "late" : "applied";
  }

  /** Prolongs the places that a reservation holds, or frees them (null), whether or not their state has lapsed. */
  function movePlaces(opId: string, { charges, skipped }: Reservation, until: number | null): void {
    for (let i = 0; i < charges.length; i += 1) {
      const charge = charges[i] as Charge;
      const { rule } = charge;
      if (rule.kind !== "concurrency" || skipped?.has(i) === true) continue;
      const state = backend.state(charge);
      if (state?.kind !== "concurrency") continue;
      if (until === null ? kinds.concurrency.settle(state, rule, 0, 1, 0, now, opId) : extendHold(state, opId, until)) backend.save(state);
    }
  }

  /** Frees its places; all else stays charged as held and can be corrected for {@link LATE_MS} from `expiresAt`. */
  function end(opId: string, reservation: Reservation): void {
    reservation.expired = true;
    backend.update(opId, reservation);
    movePlaces(opId, reservation, null);
  }

  return {
    reserve(opId, charges, ttlMs) {
      checkOpId(opId);
      checkTtl(ttlMs);
      for (let i = 0; i < charges.length; i += 1) checkCharge(charges[i] as Charge);
      begin();
      const known = backend.find(opId, now);
      if (known !== undefined) return known === "closed" ? { kind: "closed" } : repeat(known, charges);
      switch (judge(charges)) {
        case 0:
          return admit(opId, charges, now + ttlMs, NOTHING_SKIPPED);
        case 1:
          return admit(opId, charges, now + ttlMs, shortfalls(charges, false));
        case 2:
          return refuse(charges);
        case 3:
          return { kind: "skew", now: wall };
      }
    },

    settle(opId, actual) {
      checkOpId(opId);
      checkAmounts(actual);
      return finish(opId, actual);
    },

    release(opId) {
      checkOpId(opId);
      return finish(opId, null);
    },

    extend(opId, ttlMs) {
      checkOpId(opId);
      checkTtl(ttlMs);
      begin();
      const known = backend.find(opId, now);
      if (known === undefined || known === "closed" || known.expired || now >= known.expiresAt) return false;
      if (now + ttlMs <= known.expiresAt) return true;
      known.expiresAt = now + ttlMs;
      backend.update(opId, known);
      movePlaces(opId, known, known.expiresAt);
      return true;
    },

    lapse(opId) {
      checkOpId(opId);
      begin();
      const known = backend.find(opId, now);
      if (known === undefined) {
        backend.close(opId, now);
        return "unknown";
      }
      // A hold that has run out already is the sweeper's to report.
      if (known === "closed" || known.expired || now >= known.expiresAt) return "done";
      known.expiresAt = now;
      end(opId, known);
      return "applied";
    },

    expire(most) {
      begin();
      return backend.overdue(now, most).map(([opId, reservation]) => {
        end(opId, reservation);
        const charged = reservation.charges.filter((_, i) => reservation.skipped?.has(i) !== true);
        return { opId, charges: charged.map(({ key, unit, amount }) => ({ key, unit, amount })) };
      });
    },

    peek(limits) {
      for (const { key, rule } of limits) checkRule(key, rule);
      begin();
      return limits.map((place) => {
        const { key, rule, amount } = place;
        const at = timeFor(rule);
        const kind = kindOf(rule);
        const state = stateOf(place, rule, kind, at) ?? kind.fresh(key, rule, at);
        const found = standing(state, rule, kind, at);
        if (amount === undefined || found.available >= amount) return found;
        return { ...found, waitMs: waitFor(state, rule, amount, at) };
      });
    },
  };
}

const isTooSmall = (rule: Rule, amount: number): boolean => amount > (rule.kind === "bucket" ? rule.capacity : rule.limit);

function checkOpId(opId: string): void {
  if (typeof opId !== "string" || opId === "") throw new RangeError("an opId must be a text that is not empty");
}

/** Same limits and amounts: numbers of a limit may have changed between two deliveries of one reserve. */
function sameCharges(a: readonly Charge[], b: readonly Charge[]): boolean {
  if (a === b) return true;
  return a.length === b.length && a.every(({ key, unit, amount }, i) => key === b[i]?.key && unit === b[i].unit && amount === b[i].amount);
}
