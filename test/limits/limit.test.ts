import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import { isPromise } from "../../src/core/time.ts";
import { isDynamic, ruleOf, sameCounter, shapeOf, type LimitDefinition, type LimitKind } from "../../src/limits/limit.ts";
import { definition, FACTS } from "./definition-kit.ts";

const NOW = Date.UTC(2026, 6, 15, 13);
const DAY = Date.UTC(2026, 6, 15);
const MS_DAY = 86_400_000;
const rule = (given: Partial<LimitDefinition>, numbers = {}) => ruleOf(definition(given), numbers, FACTS, NOW);
const window = (limit: number, per: number | "day" | "week" | "month", timeZone = "UTC"): LimitKind => ({ window: { limit, per, timeZone } });

describe("the rule of a limit", () => {
  test.each<[string, Partial<LimitDefinition>, object]>([
    ["a bucket", { kind: { bucket: { capacity: 5_000, refillPerSec: 25 } } }, { kind: "bucket", capacity: 5_000, n: 1, d: 40 }],
    ["a bucket that never refills", { kind: { bucket: { capacity: 10, refillPerSec: 0 } } }, { kind: "bucket", capacity: 10, n: 0, d: 1 }],
    [
      "a bucket of money",
      { unit: "usd", kind: { bucket: { capacity: 0.5, refillPerSec: 0.000001 } } },
      { kind: "bucket", capacity: 500_000_000, n: 1, d: 1 },
    ],
    ["a fraction of a token is none", { kind: { bucket: { capacity: 10.9, refillPerSec: 1 } } }, { kind: "bucket", capacity: 10, n: 1, d: 1_000 }],
    ["a sliding window", { unit: "requests", kind: window(60, 60_000) }, { kind: "sliding", limit: 60, perMs: 60_000, cellMs: 1_000 }],
    ["a sliding window of 1 s", { unit: "requests", kind: window(6, 1_000) }, { kind: "sliding", limit: 6, perMs: 1_000, cellMs: 17 }],
    [
      "a day",
      { unit: "usd", kind: window(2, "day") },
      { kind: "calendar", limit: 2_000_000_000, bounds: [DAY - MS_DAY, DAY, DAY + MS_DAY, DAY + 2 * MS_DAY] },
    ],
    [
      "a month",
      { kind: window(7, "month") },
      { kind: "calendar", limit: 7, bounds: [Date.UTC(2026, 5), Date.UTC(2026, 6), Date.UTC(2026, 7), Date.UTC(2026, 8)] },
    ],
    ["places", { unit: "concurrent", kind: { concurrency: { limit: 4 } } }, { kind: "concurrency", limit: 4 }],
    ["nothing at all", { kind: window(0, 60_000) }, { kind: "sliding", limit: 0, perMs: 60_000, cellMs: 1_000 }],
  ])("%s", (_name, given, expected) => {
    expect(rule(given)).toEqual(expected);
  });

  test("is none for -1, in every kind", () => {
    const kinds: LimitKind[] = [{ bucket: { capacity: -1, refillPerSec: 1 } }, window(-1, 1_000), window(-1, "day"), { concurrency: { limit: -1 } }];
    for (const kind of kinds) expect(rule({ kind })).toBeNull();
    expect(rule({}, { limit: -1 })).toBeNull();
  });

  test("takes other numbers in place of its own", () => {
    expect(rule({}, { limit: 7 })).toEqual({ kind: "bucket", capacity: 7, n: 1, d: 1_000 });
    expect(rule({}, { refillPerSec: 5 })).toEqual({ kind: "bucket", capacity: 100, n: 1, d: 200 });
    expect(rule({ unit: "usd", kind: window(2, "day") }, { limit: 0.1 })).toMatchObject({ limit: 100_000_000 });
  });
});

describe("a limit that is a function", () => {
  const by = (limit: LimitKind extends never ? never : (facts: typeof FACTS) => number | Promise<number>): Partial<LimitDefinition> => ({
    unit: "requests",
    kind: { window: { limit, per: 60_000, timeZone: "UTC" } },
  });

  test("gets the facts, and may answer at once or later", async () => {
    const facts = { ...FACTS, scopes: { user: "alice" } };
    const now = ruleOf(definition(by(({ scopes }) => (scopes.user === "alice" ? 5 : 1))), {}, facts, NOW);
    expect(now).toMatchObject({ limit: 5 });
    const later = ruleOf(definition(by(async () => 6)), {}, facts, NOW);
    expect(later !== null && isPromise(later)).toBe(true);
    expect(await later).toMatchObject({ limit: 6 });
  });

  test("is not asked when the number was set", () => {
    const asked = by(() => {
      throw new Error("asked");
    });
    expect(rule(asked, { limit: 3 })).toMatchObject({ limit: 3 });
  });

  test("may say unlimited", async () => {
    expect([rule(by(() => -1)), await rule(by(async () => -1))]).toEqual([null, null]);
  });

  test.each<[unknown]>([[NaN], [undefined], [null], ["5"], [{}], [Infinity]])("that answers %s is a mistake that names the limit", async (value) => {
    expect(() => rule(by(() => value as number))).toThrow("user-tokens");
    await expect(rule(by(async () => value as number))).rejects.toThrow(ConfigError);
  });

  test.each([[-20], [-0.5]])("that answers %d is never unlimited: somebody subtracted what was spent", (value) => {
    let found: unknown;
    try {
      found = rule(by(() => value));
    } catch (error) {
      found = error;
    }
    expect(found).not.toBeNull();
  });
});

test.each<[LimitKind, string, boolean]>([
  [{ bucket: { capacity: 1, refillPerSec: 1 } }, "b", false],
  [{ bucket: { capacity: () => 1, refillPerSec: 1 } }, "b", true],
  [{ concurrency: { limit: 1 } }, "c", false],
  [window(1, 60_000), "w60000.60", false],
  [window(1, "day"), "kday.UTC", false],
  [window(1, "day", "Europe/Berlin"), "kday.Europe/Berlin", false],
])("%j has the shape %s and is dynamic: %s", (kind, shape, isAsked) => {
  expect([shapeOf(kind), isDynamic(kind)]).toEqual([shape, isAsked]);
});

test("two definitions are one counter when unit, scope and shape are the same, whatever their numbers", () => {
  const one = definition();
  expect(sameCounter(one, definition({ kind: { bucket: { capacity: 5, refillPerSec: 9 } }, mode: "shadow" }))).toBe(true);
  const others: Partial<LimitDefinition>[] = [{ unit: "usd" }, { scope: ["team"] }, { scope: ["user", "model"] }, { kind: window(1, "day") }];
  for (const other of others) expect(sameCounter(one, definition(other))).toBe(false);
  expect(sameCounter(definition({ scope: ["user", "model"] }), definition({ scope: ["model", "user"] }))).toBe(false);
});
