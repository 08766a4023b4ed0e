import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { durationMs, MOST_AHEAD_MS, resetTime } from "../../src/core/reset-time.ts";

const NOW = Date.parse("2026-11-20T10:00:00Z");
const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

describe("a moment", () => {
  test.each<readonly [string, unknown, number]>([
    ["RFC 3339", "2026-11-20T10:05:00Z", 5 * MINUTE],
    ["with a fraction and an offset", "2026-11-20T12:05:00.250+02:00", 5 * MINUTE + 250],
    ["epoch seconds", NOW / 1_000 + 90, 90 * SECOND],
    ["epoch seconds as text", String(NOW / 1_000 + 90), 90 * SECOND],
    ["epoch seconds with a fraction", NOW / 1_000 + 0.5, 500],
    ["epoch ms", NOW + 250, 250],
    ["epoch ms as text", ` ${NOW + 250} `, 250],
    ["an HTTP date", "Fri, 20 Nov 2026 10:00:30 GMT", 30 * SECOND],
    ["an HTTP date of the kind before", "Friday, 20-Nov-26 10:00:30 GMT", 30 * SECOND],
    ["an HTTP date as C writes it", "Fri Nov 20 10:00:30 2026", 30 * SECOND],
    ["Go's duration", "6m0s", 6 * MINUTE],
    ["all units of a duration", "1d1h2m3.5s", DAY + HOUR + 2 * MINUTE + 3_500],
    ["ms", "120ms", 120],
    ["less than a ms", "500us", 0.5],
    ["plain seconds", 30, 30 * SECOND],
    ["plain seconds as text", "30", 30 * SECOND],
    ["a part of a second", "0.5", 500],
    ["now", 0, 0],
    ["a week", String(7 * 86_400), 7 * DAY],
  ])("in %s", (_what, value, ahead) => {
    expect((resetTime(value, NOW) as number) - NOW).toBeCloseTo(ahead, 3);
  });

  // A server once made 57 years of it.
  test("within the next hour in epoch seconds is a moment, not a wait", () => {
    for (const ahead of [1, 60, 3_599, 3_600, 3_601]) expect(resetTime(NOW / 1_000 + ahead, NOW)).toBe(NOW + ahead * SECOND);
  });

  test("that has just passed is the provider's clock; one that passed long ago, or is years ahead, was misread", () => {
    expect(resetTime(NOW - 5_000, NOW)).toBe(NOW - 5_000);
    expect(resetTime("2026-11-20T09:59:00Z", NOW)).toBe(NOW - MINUTE);
    for (const wrong of ["2026-11-20T09:58:59Z", "Thu, 19 Nov 2026 10:00:00 GMT", 1e9, 1e12, "1970-01-01T00:00:00Z"])
      expect(resetTime(wrong, NOW)).toBeNull();
    expect(resetTime(NOW + MOST_AHEAD_MS, NOW)).toBe(NOW + MOST_AHEAD_MS);
    for (const wrong of [NOW + MOST_AHEAD_MS + 1, "9999h99h99h", 401 * 86_400, 1.8e15, "2030-01-01T00:00:00Z"])
      expect(resetTime(wrong, NOW)).toBeNull();
  });

  test.each([
    undefined,
    null,
    "",
    " ",
    "soon",
    "6 minutes",
    "-5",
    -5,
    Number.NaN,
    Infinity,
    "2026-11-20",
    "2026-13-40T99:00:00Z",
    "1e3",
    "0x10",
    {},
    [30],
    true,
    "s",
    "6m0",
    "9".repeat(50),
    new Date(NOW),
  ])("is not %s", (value) => {
    expect(resetTime(value, NOW)).toBeNull();
  });

  test("whatever is said, is about now or ahead, and not more than 400 days", () => {
    const said = fc.oneof(
      fc.double(),
      fc.integer(),
      fc.string(),
      fc.date().map(String),
      fc.nat().map((n) => `${n}s`),
      fc.double().map(String),
    );
    fc.assert(
      fc.property(said, (value) => {
        const at = resetTime(value, NOW);
        return at === null || (at >= NOW - MINUTE && at <= NOW + MOST_AHEAD_MS);
      }),
    );
  });
});

test("a duration is one with units only", () => {
  expect(["1h2m3.5s", "20ms", "0s", "90"].map(durationMs)).toEqual([3_723_500, 20, 0, null]);
  expect([5, null, "", "1h 2m", "h"].map(durationMs)).toEqual([null, null, null, null, null]);
});
