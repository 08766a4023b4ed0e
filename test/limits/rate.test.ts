import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { bucketRule, rateFrom, rateOf } from "../../src/limits/rate.ts";

describe("rateFrom", () => {
  it.each([
    [25, 1, 40],
    [0.5, 1, 2000],
    [0.333333, 333_333, 1_000_000_000],
    [7716.049383, 625, 81],
    [0.0001157407407, 22_359, 193_181_760_068],
    [0, 0, 1],
    [-0, 0, 1],
    [1e-7, 1, 10_000_000_000],
    [1e15, 1_000_000_000_000, 1],
    [1500, 3, 2],
    // One unit in 142,000 years is as slow as a rate can be; slower ones never refill.
    [2.3e-13, 1, 4_347_826_086_956_522],
    [1e-20, 0, 1],
  ])("%d per second is %d per %d ms", (perSec, n, d) => {
    expect(rateFrom(perSec)).toEqual({ n, d });
  });

  it("takes a rate from its decimal text, not from the binary fraction", () => {
    expect(rateFrom(0.3)).toEqual({ n: 3, d: 10_000 });
    expect(rateFrom(1.005)).toEqual({ n: 201, d: 200_000 });
  });

  it("is never above the rate asked for, at most a billionth below, and fits the arithmetic", () => {
    const decimals = fc.tuple(fc.integer({ min: 1, max: 999_999_999 }), fc.integer({ min: -9, max: 5 }));
    fc.assert(
      fc.property(decimals, ([digits, exponent]) => {
        const { n, d } = rateFrom(Number(`${digits}e${exponent}`));
        expect(n).toBeLessThanOrEqual(1e12);
        expect(BigInt(d) * BigInt(n + 1) <= 9_000_000_000_000_000n).toBe(true);
        // p/q, the exact rate per ms, against n/d.
        const p = BigInt(digits) * 10n ** BigInt(Math.max(exponent, 0));
        const q = 1000n * 10n ** BigInt(Math.max(-exponent, 0));
        const short = p * BigInt(d) - BigInt(n) * q;
        expect(short >= 0n).toBe(true);
        expect(short * 10n ** 7n <= p * BigInt(d)).toBe(true);
      }),
    );
  });

  it("no other fraction that fits comes closer from below", () => {
    const p = 123_456_789_012_345n;
    const q = 10n ** 12n;
    const { n, d } = rateFrom(123_456.789012345);
    expect({ n, d }).not.toEqual({ n: 123_456_789_012_345, d: 1e12 });
    const candidate = fc.oneof(
      fc.integer({ min: 1, max: 10_000_000 }),
      fc.integer({ min: 1, max: 1000 }).map((times) => d + times),
      fc.constant(d - 1),
    );
    fc.assert(
      fc.property(candidate, (other) => {
        const most = (p * BigInt(other)) / q;
        const fits = BigInt(other) * (most + 1n) <= 9_000_000_000_000_000n;
        expect(!fits || most * BigInt(d) <= BigInt(n) * BigInt(other)).toBe(true);
      }),
      { numRuns: 20_000 },
    );
  });

  it.each([-1, NaN, Infinity, 1.1e15, 1e300])("refuses %d", (perSec) => {
    expect(() => rateFrom(perSec)).toThrow(RangeError);
  });
});

describe("rateOf", () => {
  it("is exact where a rate per second is not", () => {
    expect(rateOf({ amount: 10, perMs: 86_400_000 })).toEqual({ n: 1, d: 8_640_000 });
    expect(rateOf({ amount: 2.5, perMs: 60_000 })).toEqual({ n: 1, d: 24_000 });
  });

  it.each([0, -1, 1.5, NaN, 2 ** 53])("refuses a period of %d ms", (perMs) => {
    expect(() => rateOf({ amount: 1, perMs })).toThrow(RangeError);
  });
});

it("bucketRule joins capacity and rate", () => {
  expect(bucketRule({ capacity: 100, refillPerSec: 25 })).toEqual({ kind: "bucket", capacity: 100, n: 1, d: 40 });
});
