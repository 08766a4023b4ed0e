import type { CalendarRule } from "../core/store.ts";
import { MAX_CAPACITY, type CalendarState, type Kind } from "./kind.ts";

const DAY_MS = 86_400_000;
const MAX_USED = 2 * MAX_CAPACITY;

export type CalendarPeriod = "day" | "week" | "month";

/** Starts of the previous, the current and the next window and the end of the next, absolute ms. */
export type CalendarBounds = readonly [number, number, number, number];

const formatters = new Map<string, Intl.DateTimeFormat>();

function formatterOf(timeZone: string): Intl.DateTimeFormat {
  let formatter = formatters.get(timeZone);
  if (formatter === undefined) {
    try {
      formatter = new Intl.DateTimeFormat("en-US", {
        timeZone,
        calendar: "gregory",
        numberingSystem: "latn",
        hourCycle: "h23",
        year: "numeric",
        month: "numeric",
        day: "numeric",
        hour: "numeric",
        minute: "numeric",
        second: "numeric",
      });
    } catch (error) {
      throw new RangeError(`unknown time zone ${JSON.stringify(timeZone)}: use an IANA name such as Europe/Berlin, or UTC`, { cause: error });
    }
    formatters.set(timeZone, formatter);
  }
  return formatter;
}

/** The local date and time at `t`, as the ms that UTC would have with the same figures. */
function localTime(timeZone: string, t: number): number {
  const field: Record<string, number> = {};
  for (const { type, value } of formatterOf(timeZone).formatToParts(t)) field[type] = Number(value);
  const { year = 0, month = 1, day = 1, hour = 0, minute = 0, second = 0 } = field;
  return Date.UTC(year, month - 1, day, hour, minute, second);
}

/** The first instant whose local date is `date` or later (ms of that date's midnight in UTC): not midnight where a clock change skips it. */
function dayStart(timeZone: string, date: number): number {
  const isReached = (t: number): boolean => localTime(timeZone, t) >= date;
  // No zone is further than 15 hours from UTC; the offsets half a day around decide, the earlier one first, because a clock put back repeats times.
  const offsets = [date - DAY_MS, date + DAY_MS].map((t) => localTime(timeZone, t) - t);
  const candidates = offsets.map((offset) => date - offset).sort((x, y) => x - y);
  for (const t of candidates) if (isReached(t) && !isReached(t - 1000)) return t;
  let before = date - DAY_MS;
  let after = date + DAY_MS;
  while (after - before > 1) {
    const middle = Math.floor((before + after) / 2);
    if (isReached(middle)) after = middle;
    else before = middle;
  }
  return after;
}

/** The local date (as its midnight in UTC) on which the window `steps` after the one around `date` starts. */
function windowDate(per: CalendarPeriod, date: number, steps: number): number {
  const at = new Date(date);
  if (per === "day") return date + steps * DAY_MS;
  // getUTCDay() is 0 on Sunday; weeks start on Monday.
  if (per === "week") return date - ((at.getUTCDay() + 6) % 7) * DAY_MS + steps * 7 * DAY_MS;
  return Date.UTC(at.getUTCFullYear(), at.getUTCMonth() + steps, 1);
}

const latest = new Map<string, CalendarBounds>();

/**
 * The windows around `nowMs` in a time zone. Weeks start on Monday; a day starts with the first instant of its local date. While the window
 * lasts the same array is returned. Throws RangeError for an unknown time zone.
 */
export function calendarBounds(per: CalendarPeriod, timeZone: string, nowMs: number): CalendarBounds {
  const id = `${per} ${timeZone}`;
  const known = latest.get(id);
  if (known !== undefined && nowMs >= known[1] && nowMs < known[2]) return known;
  const today = Math.floor(localTime(timeZone, nowMs) / DAY_MS) * DAY_MS;
  // A date that a zone skipped starts with the next one, and a clock put back at midnight repeats a date: so the starts decide, not today's date.
  const starts = [...new Set([-3, -2, -1, 0, 1, 2, 3, 4].map((steps) => dayStart(timeZone, windowDate(per, today, steps))))];
  const current = starts.findLastIndex((start) => start <= nowMs);
  const bounds: CalendarBounds = [
    starts[current - 1] as number,
    starts[current] as number,
    starts[current + 1] as number,
    starts[current + 2] as number,
  ];
  latest.set(id, bounds);
  return bounds;
}

/** A limit per calendar window around `nowMs`. */
export function calendarRule(limit: number, per: CalendarPeriod, timeZone: string, nowMs: number): CalendarRule {
  return { kind: "calendar", limit, bounds: calendarBounds(per, timeZone, nowMs) };
}

/** Whether the caller's windows do not reach to the store's time: its clock is off by more than a window. */
export function isOutside({ bounds }: CalendarRule, now: number): boolean {
  return now < bounds[0] || now >= bounds[3];
}

/** The window of the rule that holds `now`. A settle may come after the last one that its rule knew: then windows of the same length follow. */
function windowAt({ bounds: [b0, b1, b2, b3] }: CalendarRule, now: number): readonly [number, number] {
  if (now < b1) return [b0, b1];
  if (now < b2) return [b1, b2];
  if (now < b3) return [b2, b3];
  const length = b3 - b2;
  const start = b3 + Math.floor((now - b3) / length) * length;
  return [start, start + length];
}

/** Goes on to the window of `now`; never back to an earlier one. */
function roll(s: CalendarState, rule: CalendarRule, now: number): void {
  if (now > s.t) s.t = now;
  if (now < s.end) return;
  s.prevStart = s.start;
  s.prevUsed = s.used;
  [s.start, s.end] = windowAt(rule, now);
  s.used = 0;
}

/** A day, week or month in a time zone. Its bounds are absolute times that the caller computes; the store's own clock picks the window. */
export const calendar: Kind<CalendarRule, CalendarState> = {
  fresh(key, rule, now) {
    const [start, end] = windowAt(rule, now);
    return { kind: "calendar", key, t: now, start, end, used: 0, prevStart: -1, prevUsed: 0 };
  },

  available(state, rule, now) {
    return now < state.end ? rule.limit - state.used : rule.limit;
  },

  wait(state, rule, _amount, now) {
    return (now < state.end ? state.end : windowAt(rule, now)[1]) - now;
  },

  reset(state, _rule, now) {
    return state.used === 0 || now >= state.end ? 0 : state.end - now;
  },

  moved() {
    return false;
  },

  advance(state, rule, now) {
    roll(state, rule, now);
  },

  take(state, amount) {
    state.used += amount;
    return state.start;
  },

  settle(state, rule, place, held, actual, now) {
    if (actual > held) {
      roll(state, rule, now);
      state.used = Math.min(state.used + (actual - held), MAX_USED);
      return true;
    }
    const back = held - actual;
    if (place === state.start) state.used = Math.max(0, state.used - back);
    else if (place === state.prevStart) state.prevUsed = Math.max(0, state.prevUsed - back);
    else return false;
    return true;
  },

  lapsesAt(state) {
    return state.end + DAY_MS;
  },
};
