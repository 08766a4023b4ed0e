import { describe, expect, test } from "vitest";
import type { RecordStore } from "../../src/core/store.ts";
import { recordMirror } from "../../src/pool/record-mirror.ts";
import { testClock } from "../../src/testing/clock.ts";
import { keptLogger } from "../core/context-kit.ts";
import { recordsOn, settled, shakyRecords, slowRecords } from "./health-kit.ts";

/** A table of texts and its mirror. */
function mirrored(make: (inner: RecordStore) => RecordStore) {
  const clock = testClock();
  const inner = recordsOn(clock);
  const records = make(inner);
  const logger = keptLogger();
  const values = new Map<string, string>();
  const heard: [string, unknown][] = [];
  const mirror = recordMirror({
    records,
    prefix: "t/",
    clock,
    logger,
    standing: (key) => (values.has(key) ? { value: values.get(key), ttlMs: null } : undefined),
    heard: (key, value) => void heard.push([key, value]),
  });
  const put = (key: string, value: string | undefined): void => {
    if (value === undefined) values.delete(key);
    else values.set(key, value);
    mirror.write(key);
  };
  const stored = async (): Promise<unknown> => Object.fromEntries((await inner.list("t/")).map(({ key, value }) => [key, value]));
  return { clock, inner, mirror, put, stored, heard, levels: () => logger.lines.map(({ level }) => level) };
}

describe("a mirror in slow records", () => {
  function slow() {
    let records: ReturnType<typeof slowRecords> | undefined;
    const it = mirrored((inner) => (records = slowRecords(inner)));
    return { ...it, records: records as ReturnType<typeof slowRecords> };
  }

  test("writes a key once at a time and ends with what stands last", async () => {
    const it = slow();
    for (const value of ["1", "2", "3", undefined, "4"]) it.put("a", value);
    expect(it.records.writes).toEqual(["put t/a"]);
    await it.records.arrive();
    expect(await it.stored()).toEqual({ "t/a": "1" });
    expect(it.records.writes).toEqual(["put t/a", "put t/a"]);
    await it.records.arrive();
    expect(await it.stored()).toEqual({ "t/a": "4" });
    expect(it.records.writes).toHaveLength(2);
  });

  test("reads again what somebody else wrote while its own write was under way: nobody knows which came last", async () => {
    const it = slow();
    await it.mirror.load();
    it.put("a", "ours");
    const [write] = it.records.writes;
    expect(write).toBe("put t/a");
    // Ours is in the store, its answer is still on the way, and somebody writes.
    const arriving = it.records.arrive();
    await it.inner.put("t/a", "theirs");
    await arriving;
    await settled();
    expect(it.heard).toEqual([["a", "theirs"]]);
    expect(await it.stored()).toEqual({ "t/a": "theirs" });
  });

  test("deletes after the write that is under way", async () => {
    const it = slow();
    it.put("a", "1");
    it.put("a", undefined);
    await it.records.arrive();
    await it.records.arrive();
    expect(it.records.writes).toEqual(["put t/a", "delete t/a"]);
    expect(await it.stored()).toEqual({});
  });

  test("writes different keys beside each other", () => {
    const it = slow();
    it.put("a", "1");
    it.put("b", "1");
    expect(it.records.writes).toEqual(["put t/a", "put t/b"]);
  });

  test("does not take an older change for news while its own write is under way", async () => {
    const it = slow();
    await it.mirror.load();
    await it.inner.put("t/a", "theirs");
    expect(it.heard).toEqual([["a", "theirs"]]);
    it.put("a", "ours");
    await it.inner.delete("t/a");
    await it.records.arrive();
    expect(it.heard).toHaveLength(1);
    await it.inner.delete("t/a");
    expect(it.heard.slice(1)).toEqual([["a", undefined]]);
  });

  test("that tries again leaves a key alone whose write is still under way", async () => {
    const it = slow();
    it.put("a", "1");
    it.put("b", "1");
    it.put("b", "2");
    await it.records.arrive(true);
    it.clock.advance(1_000);
    // Of b only the first write; a's second one.
    expect(it.records.writes).toEqual(["put t/a", "put t/b", "put t/a"]);
    for (let i = 0; i < 3; i += 1) await it.records.arrive();
    expect(await it.stored()).toEqual({ "t/a": "1", "t/b": "2" });
  });

  test("repeats a write that was lost, with what stands by then", async () => {
    const it = slow();
    it.put("a", "1");
    it.put("b", "1");
    await it.records.arrive(true);
    await it.records.arrive(true);
    it.put("a", "2");
    expect(it.records.writes).toHaveLength(2);
    expect(it.levels()).toEqual(["warn"]);
    it.clock.advance(1_000);
    await it.records.arrive();
    it.put("a", "3");
    await it.records.arrive();
    await it.records.arrive();
    expect(await it.stored()).toEqual({ "t/a": "3", "t/b": "1" });
    expect(it.levels()).toEqual(["warn", "info"]);
    expect(it.clock.pending()).toBe(0);
  });

  test("gets over one absence of the store after the other", async () => {
    const it = slow();
    for (const value of ["1", "2", "3"]) {
      it.put("a", value);
      await it.records.arrive(true);
      it.clock.advance(1_000);
      await it.records.arrive(true);
      it.clock.advance(1_000);
      await it.records.arrive();
      expect(await it.stored()).toEqual({ "t/a": value });
    }
    expect(it.levels()).toEqual(["warn", "info", "warn", "info", "warn", "info"]);
  });
});

test("a mirror whose writes fail while it tries again says once that the store is back", async () => {
  let slow: ReturnType<typeof slowRecords> | undefined;
  const it = mirrored((inner) => (slow = slowRecords(inner)));
  const { arrive } = slow as ReturnType<typeof slowRecords>;
  for (const key of ["a", "b", "c"]) it.put(key, "1");
  await arrive(true);
  it.clock.advance(1_000);
  // On their way: b and c from the start, and a for the second time.
  await arrive(true);
  it.clock.advance(5_000);
  await arrive();
  await arrive();
  await arrive();
  expect(await it.stored()).toEqual({ "t/a": "1", "t/b": "1", "t/c": "1" });
  expect(it.levels()).toEqual(["warn", "info"]);
  expect(it.clock.pending()).toBe(0);
});

test("a mirror that is closed while it tries again does not go on", async () => {
  let slow: ReturnType<typeof slowRecords> | undefined;
  const it = mirrored((inner) => (slow = slowRecords(inner)));
  const { arrive, writes } = slow as ReturnType<typeof slowRecords>;
  it.put("a", "1");
  await arrive(true);
  it.clock.advance(1_000);
  it.mirror.close();
  await arrive(true);
  it.clock.advance(10_000);
  expect([it.clock.pending(), writes.length]).toEqual([0, 2]);
});

test("a mirror keeps a bounded number of keys for a store that is away", async () => {
  let records: ReturnType<typeof shakyRecords> | undefined;
  const it = mirrored((inner) => (records = shakyRecords(inner)));
  (records as ReturnType<typeof shakyRecords>).state = "throws";
  for (let i = 0; i < 20_100; i += 1) it.put(String(i), "x");
  (records as ReturnType<typeof shakyRecords>).state = "there";
  it.clock.advance(1_000);
  for (let i = 0; i < 5_000; i += 1) await settled();
  expect(Object.keys((await it.stored()) as object)).toHaveLength(20_000);
});
