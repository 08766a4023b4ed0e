import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Rule } from "../../src/core/store.ts";
import { bucketRule } from "../../src/limits/rate.ts";
import { charge, harnesses, type Harness } from "./harness.ts";

/*
 * The numbers that TokenGuard's own tests assert of its buckets. Amounts are integers here: where it counts tenths of a token (100.5, 10.5, a
 * rate of 1.5), the unit is a tenth.
 */

describe.each(harnesses)("TokenGuard's buckets on %s", (_name, make) => {
  let h: Harness;
  let ops = 0;
  beforeEach(async () => void (h = await make()));
  afterEach(() => h.close());

  const bucket = (capacity: number, refillPerSec: number): Rule => bucketRule({ capacity, refillPerSec });
  const take = async (rule: Rule, amount: number, key = "b"): Promise<boolean> =>
    (await h.store.reserve(`op${(ops += 1)}`, [charge(key, rule, amount)], 60_000)).kind === "allowed";
  const tokens = async (rule: Rule, key = "b"): Promise<number | undefined> => (await h.store.peek([{ key, rule }]))[0]?.available;

  it("100 at 10 per second: less 50, two seconds later 70, after a long idle time 100", async () => {
    const b = bucket(100, 10);
    h.at(0);
    expect(await take(b, 50)).toBe(true);
    h.at(2000);
    expect(await tokens(b)).toBe(70);
    h.at(3_600_000);
    expect(await tokens(b)).toBe(100);
  });

  it("capacity set to 50 cuts to 50, then to 150 stays at 50", async () => {
    await take(bucket(100, 0), 0);
    expect(await tokens(bucket(50, 0))).toBe(50);
    expect(await take(bucket(50, 0), 0)).toBe(true);
    expect(await tokens(bucket(150, 0))).toBe(50);
    expect(await take(bucket(150, 0), 0)).toBe(true);
    expect(await tokens(bucket(150, 0))).toBe(50);
  });

  it("100.5 less 10.5 is 90, and 93 after two seconds at 1.5 (in tenths)", async () => {
    const b = bucket(1005, 15);
    h.at(0);
    expect(await take(b, 105)).toBe(true);
    expect(await tokens(b)).toBe(900);
    h.at(2000);
    expect(await tokens(b)).toBe(930);
  });

  it.each([
    [100, 100, true],
    [101, 100, false],
    [0, 0, true],
    [50, 0, false],
  ])("a cost of %i of a capacity of %i: %s", async (cost, capacity, passes) => {
    expect(await take(bucket(capacity, 0), cost)).toBe(passes);
  });

  it("of 150 calls for one unit of 100, exactly 100 pass", async () => {
    const passed = await Promise.all(Array.from({ length: 150 }, () => take(bucket(100, 0), 1)));
    expect(passed.filter(Boolean)).toHaveLength(100);
  });

  it("of ten times ten callers for 10 of 1000, 100 pass", async () => {
    const b = bucket(1000, 0);
    const callers = Array.from({ length: 10 }, () => Promise.all(Array.from({ length: 10 }, () => take(b, 10))));
    expect((await Promise.all(callers)).flat().filter(Boolean)).toHaveLength(100);
    expect(await take(b, 10)).toBe(false);
  });

  it("a clock set back never lowers the tokens", async () => {
    const b = bucket(100, 10);
    h.at(10_000);
    await take(b, 50);
    for (const ms of [9000, 5000, 0]) {
      h.at(ms);
      expect(await tokens(b)).toBe(50);
      expect(await take(b, 0)).toBe(true);
      expect(await tokens(b)).toBe(50);
    }
  });

  it("global 200, team 150, user 100, a cost of 80: 120, 70 and 20 are left", async () => {
    const scopes = [
      ["global", 200],
      ["team", 150],
      ["user", 100],
    ] as const;
    const result = await h.store.reserve(
      "a",
      scopes.map(([key, capacity]) => charge(key, bucket(capacity, 0), 80)),
      60_000,
    );
    expect(result).toMatchObject({ kind: "allowed", standings: [{ available: 120 }, { available: 70 }, { available: 20 }] });
    expect(
      await h.store.reserve(
        "b",
        scopes.map(([key, capacity]) => charge(key, bucket(capacity, 0), 80)),
        60_000,
      ),
    ).toMatchObject({
      kind: "limited",
      failing: [{ index: 1 }, { index: 2 }],
    });
    expect(await Promise.all(scopes.map(([key, capacity]) => tokens(bucket(capacity, 0), key)))).toEqual([120, 70, 20]);
  });

  it("100 with 30 used is stored as 70; drained at 20 per second, after 2.1 s 35 pass and then 10 do not", async () => {
    expect(await take(bucket(100, 0), 30, "stored")).toBe(true);
    expect(await tokens(bucket(100, 0), "stored")).toBe(70);
    const b = bucket(100, 20);
    h.at(0);
    expect(await take(b, 100)).toBe(true);
    h.at(2100);
    expect([await take(b, 35), await take(b, 10)]).toEqual([true, false]);
  });
});
