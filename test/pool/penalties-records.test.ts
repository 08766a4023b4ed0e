import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Penalty } from "../../src/pool/penalties.ts";
import { testClock } from "../../src/testing/clock.ts";
import { DAY, MINUTE, recordsOn, settled, shakyRecords } from "./health-kit.ts";
import { table, type Table } from "./penalties-kit.ts";

describe("penalties in a store", () => {
  /** Two processes on one store. */
  async function pair(): Promise<[Table, Table]> {
    const clock = testClock();
    const records = recordsOn(clock);
    const nodes: [Table, Table] = [table({ clock, records }), table({ clock, records })];
    for (const node of nodes) await node.load();
    return nodes;
  }

  test("outlive a restart, with their time", async () => {
    const before = table();
    before.keep("openai/gpt-4o", 10_000, 503);
    before.keep("for ever", null, 401);
    before.keep("deleted", null);
    before.delete("deleted");
    before.close();
    before.clock.advance(4_000);
    const after = table(before);
    await after.load();
    expect(after.standing()).toEqual({ "openai/gpt-4o": 6_000, "for ever": null });
    expect(after.get("for ever", after.clock.now())).toMatchObject({ code: 401, since: after.clock.now() - 4_000 });
    after.clock.advance(6_000);
    expect(await after.records.list("kept/")).toHaveLength(1);
  });

  test("are taken over by other processes at once, and lifted there too", async () => {
    const [one, two] = await pair();
    one.keep("a", 10_000);
    two.keep("b", null);
    expect(two.standing()).toEqual({ a: 10_000, b: null });
    expect(one.standing()).toEqual(two.standing());
    two.delete("a");
    one.delete("b");
    expect([one.isEmpty, two.isEmpty]).toEqual([true, true]);
  });

  test("end for the process alone that they began in", async () => {
    const [one, two] = await pair();
    one.keep("a", 10);
    one.keep("b", 20);
    two.delete("b");
    one.clock.advance(20);
    expect([one.isEmpty, two.isEmpty]).toEqual([true, true]);
    expect([one.over, two.over]).toEqual([["a"], []]);
  });

  test("grow to the longest of what two processes know, in both and in the store", async () => {
    const clock = testClock();
    const records = recordsOn(clock);
    const one = table({ clock, records });
    await one.load();
    one.keep("a", 10_000);
    // Another process that had not heard of it yet.
    await records.put("kept/a", { code: 500, since: clock.now(), until: clock.now() + 1_000 } satisfies Penalty, { ttlMs: 1_000 });
    expect(one.standing()).toEqual({ a: 10_000 });
    expect(await records.get("kept/a")).toMatchObject({ value: { until: clock.now() + 10_000 } });
    await records.put("kept/a", { code: 500, since: clock.now(), until: null } satisfies Penalty);
    expect(one.standing()).toEqual({ a: null });
  });

  test.each<[string, unknown]>([
    ["no object", "text"],
    ["null", null],
    ["no deadline", { code: 429, since: 0 }],
    ["a deadline that is text", { code: 429, since: 0, until: "tomorrow" }],
    ["no code", { since: 0, until: null }],
    ["one that is over", { code: 429, since: 0, until: 5 }],
    ["one of a clock that is far ahead", { code: 429, since: Date.UTC(2036, 0, 1), until: Date.UTC(2036, 0, 2) }],
  ])("that are unusable are passed over: %s", async (_name, value) => {
    const it = table();
    await it.records.put("kept/before", value);
    await it.records.put("kept/%", { code: 1, since: 0, until: null });
    await it.load();
    await it.records.put("kept/after", value);
    expect(it.standing()).toEqual({});
  });

  test("are not replaced by those of a clock that is far ahead", async () => {
    const it = table();
    await it.load();
    it.keep("a", MINUTE);
    const since = it.clock.now() + DAY + 1;
    await it.records.put("kept/a", { code: 500, since, until: since + DAY } satisfies Penalty);
    expect(it.standing()).toEqual({ a: MINUTE });
  });

  test("may have any characters in their keys", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(fc.string({ unit: "binary", minLength: 1 }), { maxLength: 5 }),
        fc.nat(0xdfff - 0xd800),
        async (texts, half) => {
          // JSON can name half a character, which no store could keep as it is.
          const keys = [...texts, `a/b "\\\n%/../${String.fromCharCode(0xd800 + half)}`];
          const [one, two] = await pair();
          for (const each of keys) one.keep(each, 1_000);
          const expected = Object.fromEntries(keys.map((each) => [each, 1_000]));
          expect(two.standing()).toEqual(expected);
          const restarted = table(one);
          await restarted.load();
          expect(restarted.standing()).toEqual(expected);
          for (const record of await one.records.list("")) expect(record.key).toMatch(/^kept\/[^/]+$/);
          for (const each of keys) two.delete(each);
          expect(one.isEmpty).toBe(true);
          expect(await one.records.list("")).toEqual([]);
        },
      ),
      { numRuns: 50 },
    );
  });

  test("that are more than fit are cut down at the start, in the store too", async () => {
    const big = table();
    for (let i = 1; i <= 10; i += 1) big.keep(String(i), i * 1_000);
    big.close();
    const small = table({ clock: big.clock, records: big.records, maxEntries: 4 });
    await small.load();
    expect(Object.keys(small.standing()).toSorted()).toEqual(["10", "7", "8", "9"]);
    expect(await small.records.list("kept/")).toHaveLength(4);
  });

  test.each(["throws", "rejects"] as const)("wait for a store that %s, without anybody feeling it", async (trouble) => {
    const clock = testClock();
    const records = shakyRecords(recordsOn(clock));
    const it = table({ clock, records });
    await it.load();
    it.keep("lifted meanwhile", null);
    records.state = trouble;
    expect(it.keep("a", 60_000)).toBe(true);
    await settled();
    it.keep("b", null);
    it.keep("short", 500);
    it.delete("lifted meanwhile");
    await settled();
    expect(it.standing()).toEqual({ a: 60_000, b: null, short: 500 });
    clock.advance(3_000);
    await settled();
    clock.advance(3_000);
    await settled();
    expect(it.lines.map(({ level }) => level)).toEqual(["warn"]);
    records.state = "there";
    clock.advance(1_000);
    await settled();
    expect(it.lines.map(({ level }) => level)).toEqual(["warn", "info"]);
    expect((await records.list("kept/")).map(({ key: name }) => name)).toEqual(["kept/a", "kept/b"]);
    expect(clock.pending()).toBe(0);
    const next = table({ clock, records });
    await next.load();
    expect(next.standing()).toEqual(it.standing());
  });

  test("are read later when the store is away at the start", async () => {
    const before = table();
    before.keep("a", null);
    const records = shakyRecords(before.records);
    records.state = "rejects";
    const it = table({ clock: before.clock, records });
    await it.load();
    expect(it.isEmpty).toBe(true);
    records.state = "there";
    it.clock.advance(1_000);
    await settled();
    expect(it.standing()).toEqual({ a: null });
    before.keep("b", null);
    expect(it.standing()).toEqual({ a: null, b: null });
  });

  test("are neither heard nor tried again after the table is closed", async () => {
    const clock = testClock();
    const records = shakyRecords(recordsOn(clock));
    const [one, two] = [table({ clock, records }), table({ clock, records })];
    await one.load();
    one.close();
    two.keep("a", 10 * MINUTE);
    expect(one.isEmpty).toBe(true);
    records.state = "throws";
    one.keep("b", 1_000);
    expect(clock.pending()).toBe(0);
  });
});
