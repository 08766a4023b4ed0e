import type { SlidingRule } from "../core/store.ts";
import { LINGER_MS, MAX_AHEAD_MS, MAX_CAPACITY, type Kind, type SlidingState } from "./kind.ts";

/** A window counts at most a limit and a debt. */
const MAX_SUM = 2 * MAX_CAPACITY;

const SHIFT_LINGER_MS = 2 * 86_400_000;

/** A window of `perMs` that is counted in `cells` parts: it may hold a unit one part too long, never too short. */
export function slidingRule({ limit, perMs, cells = 60 }: { readonly limit: number; readonly perMs: number; readonly cells?: number }): SlidingRule {
  return { kind: "sliding", limit, perMs, cellMs: Math.ceil(perMs / cells) };
}

/** The store's time, but never before the state's own, unless the clock was put back for good. */
function timeOf(s: SlidingState, now: number): number {
  return s.t > now && s.t - now <= MAX_AHEAD_MS ? s.t : now;
}

/** The shift that holds at `now`: grows when the clock is put back, so that no cell is left in the future. */
function shiftOf(s: SlidingState, now: number): number {
  const ahead = s.t - now;
  return ahead > MAX_AHEAD_MS ? s.shift + Math.floor(ahead / s.cellMs) : s.shift;
}

/** The lowest index that still counts. */
function oldestLive(s: SlidingState, now: number): number {
  return Math.floor((timeOf(s, now) - s.perMs) / s.cellMs) + shiftOf(s, now);
}

/** How many cells at the front have left, as a position in the arrays. */
function departed(s: SlidingState, now: number): number {
  const oldest = oldestLive(s, now);
  let i = 0;
  while (i < s.indexes.length && (s.indexes[i] as number) < oldest) i += 1;
  return i;
}

function liveSum(s: SlidingState, now: number): number {
  let sum = s.sum;
  for (let i = departed(s, now) - 1; i >= 0; i -= 1) sum -= s.counts[i] as number;
  return sum;
}

function leavesIn(s: SlidingState, index: number, now: number): number {
  return (index - shiftOf(s, now) + 1) * s.cellMs + s.perMs - now;
}

function bringTo(s: SlidingState, now: number): void {
  const gone = departed(s, now);
  if (gone > 0) {
    s.sum = liveSum(s, now);
    s.indexes.splice(0, gone);
    s.counts.splice(0, gone);
  }
  const shift = shiftOf(s, now);
  s.t = timeOf(s, now);
  s.shift = shift;
}

function charge(s: SlidingState, amount: number): number {
  const index = Math.floor(s.t / s.cellMs) + s.shift;
  const last = s.indexes.length - 1;
  // After the clock was put back the head may be a cell ahead of its time: a charge joins it, the order stays.
  const head = last >= 0 && (s.indexes[last] as number) >= index ? (s.indexes[last] as number) : index;
  if (amount === 0) return head;
  const counted = Math.min(amount, MAX_SUM - s.sum);
  if (last >= 0 && s.indexes[last] === head) {
    s.counts[last] = (s.counts[last] as number) + counted;
  } else {
    s.indexes.push(head);
    s.counts.push(counted);
  }
  s.sum += counted;
  return head;
}

/** Takes a charge back from its own cell. Nothing if that cell has left: what left is free already. */
function uncharge(s: SlidingState, index: number, amount: number): void {
  const i = s.indexes.lastIndexOf(index);
  if (i < 0) return;
  const count = s.counts[i] as number;
  const back = Math.min(amount, count);
  s.sum -= back;
  if (back < count) {
    s.counts[i] = count - back;
  } else {
    s.indexes.splice(i, 1);
    s.counts.splice(i, 1);
  }
}

/** A sliding window of cells, aligned to the epoch. A cell counts in full until the last ms that it stands for has left the period. */
export const sliding: Kind<SlidingRule, SlidingState> = {
  fresh(key, rule, now) {
    return { kind: "sliding", key, t: now, sum: 0, perMs: rule.perMs, cellMs: rule.cellMs, shift: 0, indexes: [], counts: [] };
  },

  available(state, rule, now) {
    return rule.limit - liveSum(state, now);
  },

  wait(state, rule, amount, now) {
    let short = amount - (rule.limit - liveSum(state, now));
    for (let i = departed(state, now); i < state.indexes.length; i += 1) {
      short -= state.counts[i] as number;
      if (short <= 0) return leavesIn(state, state.indexes[i] as number, now);
    }
    return Infinity;
  },

  reset(state, _rule, now) {
    const last = state.indexes.length - 1;
    return departed(state, now) > last ? 0 : leavesIn(state, state.indexes[last] as number, now);
  },

  moved(state, _rule, now) {
    return state.t - now > MAX_AHEAD_MS;
  },

  advance(state, _rule, now) {
    bringTo(state, now);
  },

  take(state, amount) {
    return charge(state, amount);
  },

  settle(state, _rule, place, held, actual, now) {
    bringTo(state, now);
    if (actual < held) uncharge(state, place, held - actual);
    else charge(state, actual - held);
    return true;
  },

  lapsesAt(state) {
    // A shift that were forgotten could give a late refund to another cell of the same number: it outlives every reservation.
    return state.t + state.perMs + 2 * state.cellMs + (state.shift === 0 ? LINGER_MS : SHIFT_LINGER_MS);
  },
};
