import { describe, expect, it } from "vitest";
import { calendarBounds, calendarRule, type CalendarPeriod } from "../../src/limits/calendar.ts";

const iso = (per: CalendarPeriod, timeZone: string, now: string): string[] =>
  calendarBounds(per, timeZone, Date.parse(now)).map((ms) => new Date(ms).toISOString().replace(":00.000Z", "Z"));

describe("calendarBounds", () => {
  it("days in UTC", () => {
    expect(iso("day", "UTC", "2026-11-20T12:34:56.789Z")).toEqual([
      "2026-11-19T00:00Z",
      "2026-11-20T00:00Z",
      "2026-11-21T00:00Z",
      "2026-11-22T00:00Z",
    ]);
  });

  it("the first and the last ms of a window belong to it", () => {
    const day = calendarBounds("day", "UTC", Date.parse("2026-11-20T00:00:00.000Z"));
    expect(calendarBounds("day", "UTC", Date.parse("2026-11-20T23:59:59.999Z"))).toEqual(day);
    expect(calendarBounds("day", "UTC", Date.parse("2026-11-21T00:00:00.000Z"))[1]).toBe(day[2]);
    expect(calendarBounds("day", "UTC", Date.parse("2026-11-19T23:59:59.999Z"))[2]).toBe(day[1]);
  });

  it("a day of 25 hours in Berlin", () => {
    expect(iso("day", "Europe/Berlin", "2026-10-25T12:00:00Z")).toEqual([
      "2026-10-23T22:00Z",
      "2026-10-24T22:00Z",
      "2026-10-25T23:00Z",
      "2026-10-26T23:00Z",
    ]);
    // The hour that comes twice.
    expect(iso("day", "Europe/Berlin", "2026-10-25T00:30:00Z")).toEqual(iso("day", "Europe/Berlin", "2026-10-25T01:30:00Z"));
  });

  it("a day of 23 hours in New York", () => {
    expect(iso("day", "America/New_York", "2026-03-08T12:00:00Z")).toEqual([
      "2026-03-07T05:00Z",
      "2026-03-08T05:00Z",
      "2026-03-09T04:00Z",
      "2026-03-10T04:00Z",
    ]);
  });

  it("a day that starts at one o'clock in Cairo, because midnight is skipped", () => {
    expect(iso("day", "Africa/Cairo", "2026-04-24T10:00:00Z")).toEqual([
      "2026-04-22T22:00Z",
      "2026-04-23T22:00Z",
      "2026-04-24T21:00Z",
      "2026-04-25T21:00Z",
    ]);
  });

  it("a day whose first half hour is skipped along with the last of the day before: Toronto, 1919", () => {
    expect(iso("day", "America/Toronto", "1919-03-31T12:00:00Z").slice(1, 3)).toEqual(["1919-03-31T04:30Z", "1919-04-01T04:00Z"]);
  });

  it("a date that never was: Samoa left out 30 December 2011", () => {
    expect(iso("day", "Pacific/Apia", "2011-12-31T12:00:00Z")).toEqual([
      "2011-12-30T10:00Z",
      "2011-12-31T10:00Z",
      "2012-01-01T10:00Z",
      "2012-01-02T10:00Z",
    ]);
    expect(iso("day", "Pacific/Apia", "2011-12-30T09:00:00Z")).toEqual([
      "2011-12-28T10:00Z",
      "2011-12-29T10:00Z",
      "2011-12-30T10:00Z",
      "2011-12-31T10:00Z",
    ]);
  });

  it("an hour that falls back over midnight belongs to the day that had begun", () => {
    // At 00:01 on 2010-11-07 the clocks of St John's went back to 23:01 on the 6th.
    const start = Date.parse("2010-11-07T02:30:00Z");
    for (const minutes of [0, 1, 30, 60, 61, 120]) {
      const [, b1, b2] = calendarBounds("day", "America/St_Johns", start + minutes * 60_000);
      expect([b1, b2]).toEqual([start, Date.parse("2010-11-08T03:30:00Z")]);
    }
  });

  it("weeks start on Monday", () => {
    const week = ["2026-11-09T00:00Z", "2026-11-16T00:00Z", "2026-11-23T00:00Z", "2026-11-30T00:00Z"];
    for (const now of ["2026-11-16T00:00:00Z", "2026-11-20T12:00:00Z", "2026-11-22T23:59:59Z"]) expect(iso("week", "UTC", now)).toEqual(week);
    expect(iso("week", "Asia/Tokyo", "2026-11-15T15:00:00Z")[1]).toBe("2026-11-15T15:00Z");
  });

  it("months of 28 to 31 days, over the turn of a year", () => {
    expect(iso("month", "UTC", "2026-12-31T23:59:59Z")).toEqual(["2026-11-01T00:00Z", "2026-12-01T00:00Z", "2027-01-01T00:00Z", "2027-02-01T00:00Z"]);
    expect(iso("month", "UTC", "2028-02-29T00:00:00Z")).toEqual(["2028-01-01T00:00Z", "2028-02-01T00:00Z", "2028-03-01T00:00Z", "2028-04-01T00:00Z"]);
    expect(iso("month", "Asia/Kolkata", "2026-10-31T18:29:59Z")[1]).toBe("2026-09-30T18:30Z");
    expect(iso("month", "Asia/Kolkata", "2026-10-31T18:30:00Z")[1]).toBe("2026-10-31T18:30Z");
  });

  it("every hour of two years lies in the window it is given, and windows join without gaps", { timeout: 60_000 }, () => {
    for (const zone of ["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Africa/Cairo", "Pacific/Chatham", "America/Havana"]) {
      let last = calendarBounds("day", zone, Date.UTC(2025, 0, 1));
      for (let now = Date.UTC(2025, 0, 1); now < Date.UTC(2027, 0, 1); now += 3_600_000) {
        const bounds = calendarBounds("day", zone, now);
        if (bounds !== last) {
          expect([bounds[0], bounds[1], bounds[2]], zone).toEqual([last[1], last[2], last[3]]);
          last = bounds;
        }
        expect(bounds[1] <= now && now < bounds[2], zone).toBe(true);
        const hours = (bounds[2] - bounds[1]) / 3_600_000;
        expect(hours >= 23 && hours <= 25, zone).toBe(true);
      }
    }
  });

  it("returns the same array while the window lasts", () => {
    const at = Date.parse("2026-11-20T12:00:00Z");
    expect(calendarBounds("day", "Europe/Paris", at)).toBe(calendarBounds("day", "Europe/Paris", at + 3_600_000));
  });

  it("says what is wrong with a time zone", () => {
    expect(() => calendarBounds("day", "Europe/Atlantis", 0)).toThrow(/Europe\/Atlantis.*IANA/);
  });

  it("calendarRule carries the bounds", () => {
    const at = Date.parse("2026-11-20T12:00:00Z");
    expect(calendarRule(5, "month", "UTC", at)).toEqual({ kind: "calendar", limit: 5, bounds: calendarBounds("month", "UTC", at) });
  });
});
