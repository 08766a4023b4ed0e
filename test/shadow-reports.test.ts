import { beforeEach, describe, expect, test } from "vitest";
import type { RecordStore, Shortfall } from "../src/core/store.ts";
import { shadowReports, type ShadowReports } from "../src/shadow-reports.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { GuardError } from "../src/core/errors.ts";
import { kit, type Kit } from "./core/context-kit.ts";

const DAY = 86_400_000;

let from: Kit;
let records: RecordStore;
beforeEach(() => {
  from = kit();
  ({ records } = memoryStore({ clock: from.clock }));
});

const make = (over: Partial<RecordStore> = {}): ShadowReports =>
  shadowReports({ records: { ...records, ...over }, clock: from.clock, logger: from.logger });
const short = (needed = 1, available = 0): Shortfall => ({ index: 0, needed, available, waitMs: 1, tooSmall: false });
const counts = async (reports: ShadowReports, limit = "l") =>
  (await reports.read(limit, "requests")).values.map(({ value, count }) => `${value} ${count}`);
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("a request writes nothing; one record is written every five seconds, and none without need", async () => {
  let puts = 0;
  const reports = make({ put: (...args) => ((puts += 1), records.put(...args)) });
  for (let i = 0; i < 1_000; i += 1) reports.note("l", `user-${i % 7}`, short());
  await settled();
  expect(puts).toBe(0);
  from.clock.advance(5_000);
  await settled();
  expect([puts, (await records.list("shadow/")).length]).toEqual([1, 1]);
  from.clock.advance(60_000);
  await settled();
  expect(puts).toBe(1);
});

test("keeps the largest need and what was left then, first and last; money is in USD", async () => {
  const reports = make();
  const at = from.clock.now();
  reports.note("l", "a", short(2_000_000_000, 500_000_000));
  from.clock.advance(10);
  reports.note("l", "a", short(3_000_000_000, -1_000_000_000));
  from.clock.advance(10);
  reports.note("l", "a", short(1_000_000_000, 900_000_000));
  expect((await reports.read("l", "usd")).values).toEqual([
    { value: "a", count: 3, firstAt: at, lastAt: at + 20, largest: { needed: 3, available: -1 } },
  ]);
});

test("limits are told apart, also those whose names begin alike or look like paths", async () => {
  const reports = make();
  for (const name of ["l", "l/1", "l2", "__proto__"]) reports.note(name, "a", short());
  for (const name of ["l", "l/1", "l2", "__proto__"]) expect([name, await counts(reports, name)]).toEqual([name, ["a 1"]]);
});

test.each(["__proto__", "constructor", "", "a\nb", "\u0000", "\ud800", "x".repeat(100_000)])(
  "the value %j is counted like any other",
  async (value) => {
    const reports = make();
    reports.note("l", value, short());
    reports.note("l", value, short());
    const [row, ...more] = (await reports.read("l", "requests")).values;
    expect([row?.count, more]).toEqual([2, []]);
    expect(row?.value.length).toBeLessThanOrEqual(512);
    expect(row?.value).toMatch(/^[^\p{Cc}\p{Cs}]*$/u);
  },
);

test("at most 200 values are told, those with the most; all others are one sum, in memory and in the store", async () => {
  const reports = make();
  for (let i = 0; i < 100_000; i += 1) reports.note("l", `stranger-${i}`, short(i + 1));
  await reports.read("l", "requests");
  for (let n = 0; n < 3; n += 1) for (let i = 0; i < 100; i += 1) reports.note("l", `regular-${i}`, short());
  const report = await reports.read("l", "requests");
  expect([report.count, report.values.length]).toEqual([100_300, 200]);
  expect(report.values.slice(0, 100).every(({ value, count }) => value.startsWith("regular-") && count === 3)).toBe(true);
  expect(report.other).toMatchObject({ count: 99_900, largest: { needed: 100_000 } });
  const [record] = await records.list("shadow/");
  expect(record?.value).toEqual({ rows: expect.objectContaining({ length: 201 }) });
});

test("between two writes memory has room for 200 values of a limit, too", async () => {
  const reports = make();
  for (let i = 0; i < 200; i += 1) reports.note("l", `first-${i}`, short());
  for (let i = 0; i < 5; i += 1) reports.note("l", "late", short());
  reports.note("l", "first-0", short());
  const { values, other } = await reports.read("l", "requests");
  expect([values.length, values[0]?.value, values[0]?.count, other?.count]).toEqual([200, "first-0", 2, 5]);
  // By now there is room again.
  for (let i = 0; i < 5; i += 1) reports.note("l", "late", short());
  expect((await counts(reports))[0]).toBe("late 5");
});

describe("processes that share a store", () => {
  test("lose none of each other's counts", async () => {
    const all = Array.from({ length: 8 }, () => make());
    for (let round = 0; round < 5; round += 1) {
      for (const [i, reports] of all.entries()) for (let n = 0; n <= i; n += 1) reports.note("l", "a", short());
      from.clock.advance(5_000);
      await settled();
    }
    await Promise.all(all.map((reports) => reports.close()));
    expect(await counts(make())).toEqual(["a 180"]);
  });

  test("and one that others always get ahead of keeps its counts for the next round", async () => {
    let isAhead = true;
    const late = make({
      async put(key, value, options) {
        if (isAhead) await records.put(key, { rows: [["b", 1, 1, 1, 1, 0]] });
        return records.put(key, value, options);
      },
    });
    late.note("l", "a", short());
    expect(await counts(late)).toEqual(["b 1"]);
    isAhead = false;
    from.clock.advance(5_000);
    await settled();
    expect(await counts(make())).toEqual(["a 1", "b 1"]);
  });
});

test("a store that is away loses nothing and is asked again with the next round; whoever asks for the report is told", async () => {
  let isAway = true;
  const away = (): never => {
    throw new GuardError("store_unavailable", "away");
  };
  const reports = make({ get: (key) => (isAway ? away() : records.get(key)) });
  reports.note("l", "a", short());
  await expect(reports.read("l", "requests")).rejects.toMatchObject({ code: "store_unavailable" });
  reports.note("l", "a", short());
  from.clock.advance(5_000);
  await settled();
  isAway = false;
  from.clock.advance(5_000);
  await settled();
  expect(await counts(make())).toEqual(["a 2"]);
});

test("the end writes what is left, and does not fail with the store", async () => {
  const reports = make();
  reports.note("l", "a", short());
  await reports.close();
  expect(await counts(make())).toEqual(["a 1"]);
  const broken = make({ put: () => Promise.reject(new Error("disk full")) });
  broken.note("l", "a", short());
  await broken.close();
});

test("a day is told for thirty days, then its record is gone by itself", async () => {
  const reports = make();
  reports.note("l", "a", short());
  await reports.read("l", "requests");
  const midnight = Math.floor(from.clock.now() / DAY) * DAY;
  from.clock.advance(midnight + 30 * DAY - 1 - from.clock.now());
  reports.note("l", "b", short());
  expect(await counts(reports)).toEqual(["b 1", "a 1"]);
  from.clock.advance(1);
  expect(await counts(reports)).toEqual(["b 1"]);
  from.clock.advance(DAY);
  expect(await records.list("shadow/")).toHaveLength(1);
});
