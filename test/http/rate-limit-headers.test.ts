import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Charge, Rule, Standing, Unit } from "../../src/core/store.ts";
import { rateLimitHeaders } from "../../src/http/rate-limit-headers.ts";

interface Limit {
  readonly name: string;
  readonly unit: Unit;
  readonly rule: Rule;
  readonly standing: Standing;
}

const BUCKET: Rule = { kind: "bucket", capacity: 5_000, n: 1, d: 40 };
const DAY = 86_400_000;

function limit(name: string, unit: Unit, rule: Rule, available: number, resetMs: number | null = 0): Limit {
  return { name, unit, rule, standing: { available, resetMs } };
}

function headersOf(...limits: readonly Limit[]): Record<string, string> {
  const charges: Charge[] = limits.map(({ name, unit, rule }) => ({ key: name, rule, unit, amount: 1, enforce: true }));
  const list = rateLimitHeaders(
    limits,
    charges,
    limits.map(({ standing }) => standing),
  );
  return Object.fromEntries(list.flatMap((name, i) => (i % 2 === 0 ? [[name, list[i + 1]]] : [])) as [string, string][]);
}

/** RFC 9651, as far as these two fields need it: a list of strings with parameters that are integers of 15 digits at most, or strings. */
function members(field: string): { readonly name: string; readonly parameters: Record<string, number | string> }[] {
  const STRING = '"(?:[\\x20-\\x21\\x23-\\x5b\\x5d-\\x7e])*"';
  const item = new RegExp(`^(${STRING})((?:;[a-z]+=(?:${STRING}|-?\\d{1,15}))*)$`);
  return field.split(/, (?=")/).map((text) => {
    const [, name, rest] = item.exec(text) ?? [];
    if (name === undefined || rest === undefined) throw new Error(`no structured field: ${text}`);
    const parameters = rest
      .split(";")
      .filter(Boolean)
      .map((part) => part.split("=") as [string, string]);
    return {
      name: name.slice(1, -1),
      parameters: Object.fromEntries(parameters.map(([key, value]) => [key, value.startsWith('"') ? value.slice(1, -1) : Number(value)])),
    };
  });
}

describe("one limit", () => {
  test.each<[Limit, string, string]>([
    [limit("t", "tokens", BUCKET, 4_999, 39_001), '"t";q=5000;w=200;qu="tokens"', '"t";r=4999;t=40'],
    [limit("r", "requests", { kind: "sliding", limit: 10, perMs: 60_000, cellMs: 1_000 }, 3, 60_000), '"r";q=10;w=60;qu="requests"', '"r";r=3;t=60'],
    [
      limit("d", "input_tokens", { kind: "calendar", limit: 10, bounds: [0, DAY, 2 * DAY, 3 * DAY] }, 3, 1),
      '"d";q=10;w=86400;qu="input-tokens"',
      '"d";r=3;t=1',
    ],
    [limit("c", "concurrent", { kind: "concurrency", limit: 4 }, 2, null), '"c";q=4;qu="concurrent"', '"c";r=2'],
    [limit("never", "tokens", { kind: "bucket", capacity: 100, n: 0, d: 1 }, 0, null), '"never";q=100;qu="tokens"', '"never";r=0'],
    [limit("debt", "tokens", BUCKET, -70, 5_000), '"debt";q=5000;w=200;qu="tokens"', '"debt";r=0;t=5'],
    // Two dollars, of which 1.234567891 are left: millionths, rounded down.
    [
      limit("usd", "usd", { kind: "calendar", limit: 2e9, bounds: [0, DAY, 2 * DAY, 3 * DAY] }, 1_234_567_891),
      '"usd";q=2000000;w=86400;qu="micro-usd"',
      '"usd";r=1234567;t=0',
    ],
    [
      limit("usd-debt", "usd", { kind: "sliding", limit: 2e9, perMs: 1_500, cellMs: 100 }, -1),
      '"usd-debt";q=2000000;w=2;qu="micro-usd"',
      '"usd-debt";r=0;t=0',
    ],
  ])("%j", (given, policy, state) => {
    const headers = headersOf(given);
    expect([headers["ratelimit-policy"], headers.ratelimit]).toEqual([policy, state]);
    expect(() => [members(policy), members(state)]).not.toThrow();
  });
});

describe("several limits", () => {
  test("are members of one list, in their order", () => {
    const headers = headersOf(limit("a", "requests", BUCKET, 1), limit("b", "usd", BUCKET, 2_000), limit("c", "tokens", BUCKET, 3));
    expect(members(headers["ratelimit-policy"] as string).map(({ name }) => name)).toEqual(["a", "b", "c"]);
    expect(members(headers.ratelimit as string).map(({ name, parameters }) => [name, parameters.r])).toEqual([
      ["a", 1],
      ["b", 2],
      ["c", 3],
    ]);
  });

  test("that share a rule keep their own names and units", () => {
    const policy = headersOf(limit("a", "tokens", BUCKET, 1), limit("b", "requests", BUCKET, 1))["ratelimit-policy"] as string;
    expect(members(policy).map(({ name, parameters }) => [name, parameters.qu])).toEqual([
      ["a", "tokens"],
      ["b", "requests"],
    ]);
  });

  test("say what is new once a rule was changed", () => {
    const limits = [{ name: "a" }];
    const charge = (capacity: number): Charge[] => [{ key: "a", rule: { ...BUCKET, capacity }, unit: "tokens", amount: 1, enforce: true }];
    const standings: Standing[] = [{ available: 1, resetMs: 0 }];
    expect(rateLimitHeaders(limits, charge(10), standings)[1]).toContain("q=10;");
    expect(rateLimitHeaders(limits, charge(20), standings)[1]).toContain("q=20;");
  });

  test("OpenAI's names show the tightest of each kind", () => {
    const tight: Rule = { ...BUCKET, capacity: 100 };
    const headers = headersOf(
      limit("wide", "tokens", BUCKET, 4_000, 40_000),
      limit("tight", "tokens", tight, 60, 1_600),
      limit("rpm", "requests", { kind: "sliding", limit: 9, perMs: 60_000, cellMs: 1_000 }, -2, 59_001),
      limit("input", "input_tokens", BUCKET, 1, 0),
      limit("usd", "usd", BUCKET, 1, 0),
    );
    expect(Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith("x-")))).toEqual({
      "x-ratelimit-limit-tokens": "100",
      "x-ratelimit-remaining-tokens": "60",
      "x-ratelimit-reset-tokens": "2s",
      "x-ratelimit-limit-requests": "9",
      "x-ratelimit-remaining-requests": "0",
      "x-ratelimit-reset-requests": "60s",
    });
  });

  test("that never refill have no reset", () => {
    expect(headersOf(limit("a", "tokens", { ...BUCKET, n: 0 }, 1, null))["x-ratelimit-reset-tokens"]).toBeUndefined();
  });

  test.each([
    ["all", ["ratelimit", "ratelimit-policy", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]],
    ["standard", ["ratelimit", "ratelimit-policy"]],
    ["legacy", ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"]],
    ["none", []],
  ] as const)("are told in the style %s", (style, names) => {
    const charges: Charge[] = [{ key: "a", rule: BUCKET, unit: "tokens", amount: 1, enforce: true }];
    const list = rateLimitHeaders([{ name: "a" }], charges, [{ available: 1, resetMs: 1 }], style);
    expect(list.filter((_, i) => i % 2 === 0).toSorted()).toEqual(names);
  });

  test("none are no headers", () => {
    expect(rateLimitHeaders([], [], [])).toEqual([]);
  });
});

describe("whatever a limit is called and however large it is", () => {
  test("the fields stay structured fields, fit for a header", () => {
    const name = fc.oneof(
      fc.string({ unit: "binary", maxLength: 20 }),
      fc.constantFrom('a"b', "a\\b", "line\r\nset-cookie: x=1", "имя", "😀", "", "a, b", "a;q=1", "\0"),
    );
    fc.assert(
      fc.property(fc.array(name, { minLength: 1, maxLength: 4 }), (names) => {
        const headers = headersOf(...names.map((text) => limit(text, "tokens", BUCKET, 5, 1_000)));
        expect(members(headers["ratelimit-policy"] as string)).toHaveLength(names.length);
        expect(members(headers.ratelimit as string)).toHaveLength(names.length);
        for (const value of Object.values(headers)) expect(value).toMatch(/^[\x20-\x7e]*$/);
      }),
    );
  });

  test.each<[string, Limit]>([
    ["the largest capacity, one unit a day", limit("a", "tokens", { kind: "bucket", capacity: 4e15, n: 1, d: DAY }, 4e15, 4e15)],
    ["the largest debt", limit("a", "tokens", BUCKET, -4e15, 1e17)],
    ["the longest period", limit("a", "requests", { kind: "sliding", limit: 4e15, perMs: 1e12, cellMs: 1e9 }, 4e15, 1e12)],
    ["the most money", limit("a", "usd", { kind: "bucket", capacity: 4e15, n: 1, d: 9e14 }, 4e15, 0)],
  ])("the fields hold integers of 15 digits at most: %s", (_name, given) => {
    const headers = headersOf(given);
    expect(() => [members(headers["ratelimit-policy"] as string), members(headers.ratelimit as string)]).not.toThrow();
  });
});
