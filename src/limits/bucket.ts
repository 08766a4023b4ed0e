import type { BucketRule } from "../core/store.ts";
import { LINGER_MS, MAX_AHEAD_MS, MAX_CAPACITY, type BucketState, type Kind } from "./kind.ts";

/** The largest product that is still exact. */
const EXACT = 9_000_000_000_000_000;

/*
 * All figures are integers below 2^53, so Math.floor(a / b) is the exact quotient: the true quotient would have to lie closer than 1/b below an
 * integer for the division to round up to it, which takes a ≥ 2^53 - 1.
 */

/** Brings `s` to `now` under its own definition. The stamp moves even at capacity: a full bucket earns nothing while it waits. */
function refill(s: BucketState, now: number): void {
  const dt = now - s.t;
  if (dt <= 0) {
    // A clock that was put back far would freeze the bucket for the size of the jump.
    if (dt < -MAX_AHEAD_MS) s.t = now;
    return;
  }
  s.t = now;
  if (s.level >= s.capacity) return fill(s);
  if (s.n === 0) return;
  // After a long idle time whole · n is not exact any more, but then it is above any capacity.
  const whole = Math.floor(dt / s.d);
  const parts = (dt - whole * s.d) * s.n + s.carry;
  const units = Math.floor(parts / s.d);
  s.level += whole * s.n + units;
  s.carry = parts - units * s.d;
  if (s.level >= s.capacity) fill(s);
}

function fill(s: BucketState): void {
  s.level = s.capacity;
  s.carry = 0;
}

/** Puts a refilled `s` under another definition: what was earned stays earned, at most a part of a unit is lost, nothing is gained. */
function adopt(s: BucketState, rule: BucketRule): void {
  if (s.d !== rule.d) {
    const product = s.carry * rule.d;
    s.carry = product > EXACT ? 0 : Math.floor(product / s.d);
  }
  s.capacity = rule.capacity;
  s.n = rule.n;
  s.d = rule.d;
  if (s.level >= s.capacity) fill(s);
}

/** Ms from the stamp until the level is `target`, for a target above the level. Infinity = never, or not within 9e15 ms. */
export function timeTo(s: BucketState, target: number): number {
  if (s.n === 0) return Infinity;
  const missing = target - s.level;
  const whole = Math.floor(missing / s.n);
  if (whole > Math.floor(EXACT / s.d)) return Infinity;
  const ms = whole * s.d + Math.ceil(((missing - whole * s.n) * s.d - s.carry) / s.n);
  return ms > EXACT ? Infinity : ms;
}

const scratch: BucketState = { kind: "bucket", key: "", level: 0, carry: 0, t: 0, capacity: 0, n: 0, d: 1 };

/** `s` at `now` under `rule`, without touching `s`. Valid until the next call. */
function project(s: BucketState, rule: BucketRule, now: number): BucketState {
  if (now <= s.t && !bucket.moved(s, rule, now)) return s;
  scratch.level = s.level;
  scratch.carry = s.carry;
  scratch.t = s.t;
  scratch.capacity = s.capacity;
  scratch.n = s.n;
  scratch.d = s.d;
  bucket.advance(scratch, rule, now);
  return scratch;
}

function redefined(s: BucketState, rule: BucketRule): boolean {
  return s.capacity !== rule.capacity || s.n !== rule.n || s.d !== rule.d;
}

/** A token bucket: starts full, refills lazily, may go into debt when more is used than was held. */
export const bucket: Kind<BucketRule, BucketState> = {
  fresh(key, rule, now) {
    return { kind: "bucket", key, level: rule.capacity, carry: 0, t: now, capacity: rule.capacity, n: rule.n, d: rule.d };
  },

  available(state, rule, now) {
    return project(state, rule, now).level;
  },

  wait(state, rule, amount, now) {
    const s = project(state, rule, now);
    return timeTo(s, amount) + (s.t - now);
  },

  reset(state, rule, now) {
    const s = project(state, rule, now);
    if (s.level >= s.capacity) return 0;
    const ms = timeTo(s, s.capacity);
    return ms === Infinity ? null : ms + (s.t - now);
  },

  moved(state, rule, now) {
    return redefined(state, rule) || state.t - now > MAX_AHEAD_MS;
  },

  advance(state, rule, now) {
    refill(state, now);
    if (redefined(state, rule)) adopt(state, rule);
  },

  take(state, amount) {
    state.level -= amount;
    return 0;
  },

  settle(state, _rule, _place, held, actual, now) {
    refill(state, now);
    const level = state.level + (held - actual);
    if (level >= state.capacity) fill(state);
    else state.level = Math.max(level, -MAX_CAPACITY);
    return true;
  },

  lapsesAt(state) {
    return (state.level >= state.capacity ? state.t : state.t + timeTo(state, state.capacity)) + LINGER_MS;
  },
};
