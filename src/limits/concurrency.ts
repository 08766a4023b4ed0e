import type { ConcurrencyRule } from "../core/store.ts";
import { LINGER_MS, type ConcurrencyState, type Kind } from "./kind.ts";

/** When somebody gives a place back is not known: a caller that is refused looks again after this long, or when the next hold runs out. */
const LOOK_AGAIN_MS = 1000;

function liveHolds(s: ConcurrencyState, now: number): number {
  if (now < s.earliest) return s.holds.size;
  let live = 0;
  for (const expiresAt of s.holds.values()) if (expiresAt > now) live += 1;
  return live;
}

/** Prolongs a hold. False = it is not there any more. */
export function extendHold(s: ConcurrencyState, opId: string, expiresAt: number): boolean {
  if (!s.holds.has(opId)) return false;
  s.holds.set(opId, expiresAt);
  return true;
}

/** Places that are held, one for each reservation, until it ends or its hold runs out; whether somebody swept makes no difference. */
export const concurrency: Kind<ConcurrencyRule, ConcurrencyState> = {
  fresh(key, _rule, now) {
    return { kind: "concurrency", key, t: now, holds: new Map(), earliest: Infinity };
  },

  available(state, rule, now) {
    return rule.limit - liveHolds(state, now);
  },

  wait(state, _rule, _amount, now) {
    if (state.earliest - now >= LOOK_AGAIN_MS) return LOOK_AGAIN_MS;
    let wait = LOOK_AGAIN_MS;
    for (const expiresAt of state.holds.values()) if (expiresAt > now) wait = Math.min(wait, expiresAt - now);
    return wait;
  },

  // Holds end with their requests, not by time.
  reset(state, _rule, now) {
    return liveHolds(state, now) === 0 ? 0 : null;
  },

  moved() {
    return false;
  },

  advance(state, _rule, now) {
    state.t = now;
    if (now < state.earliest) return;
    state.earliest = Infinity;
    for (const [opId, expiresAt] of state.holds) {
      if (expiresAt <= now) state.holds.delete(opId);
      else if (expiresAt < state.earliest) state.earliest = expiresAt;
    }
  },

  take(state, _amount, _now, opId, expiresAt) {
    state.holds.set(opId, expiresAt);
    if (expiresAt < state.earliest) state.earliest = expiresAt;
    return 0;
  },

  settle(state, _rule, _place, _held, _actual, _now, opId) {
    return state.holds.delete(opId);
  },

  lapsesAt(state) {
    let latest = state.t;
    for (const expiresAt of state.holds.values()) if (expiresAt > latest) latest = expiresAt;
    return latest + LINGER_MS;
  },
};
