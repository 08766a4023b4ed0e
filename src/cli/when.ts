/** Times and lengths of time as people read them. */
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;

/** The two largest units of a length of time: `3 h 12 m`. */
export function lengthText(ms: number): string {
  const whole = Math.max(0, ms);
  if (whole < MINUTE_MS) return `${Math.ceil(whole / 1_000)} s`;
  if (whole < HOUR_MS) return `${Math.floor(whole / MINUTE_MS)} m`;
  const [large, small] = whole < DAY_MS ? [HOUR_MS, MINUTE_MS] : [DAY_MS, HOUR_MS];
  const [largeName, smallName] = whole < DAY_MS ? ["h", "m"] : ["d", "h"];
  const rest = Math.floor((whole % large) / small);
  return `${Math.floor(whole / large)} ${largeName}${rest === 0 ? "" : ` ${rest} ${smallName}`}`;
}

/** A moment in this machine's time zone: the time today, with its day within a week, its date beyond. */
export function momentText(at: number, nowMs: number): string {
  const date = new Date(at);
  const time = `${twoDigits(date.getHours())}:${twoDigits(date.getMinutes())}`;
  if (date.toDateString() === new Date(nowMs).toDateString()) return time;
  if (Math.abs(at - nowMs) < 6 * DAY_MS) return `${date.toLocaleDateString("en-GB", { weekday: "short" })} ${time}`;
  return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

/** `in 3 h 12 m, 18:40`. */
export const aheadText = (at: number, nowMs: number): string => `in ${lengthText(at - nowMs)}, ${momentText(at, nowMs)}`;

const twoDigits = (value: number): string => String(value).padStart(2, "0");
