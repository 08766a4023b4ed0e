import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MAX_AMOUNT, nanoToUsd, NANO_PER_USD, usdToNano } from "../../src/core/money.ts";

describe("USD to nano-USD", () => {
  test.each([
    [0, 0],
    [1, 1_000_000_000],
    [0.1, 100_000_000],
    [0.1 + 0.2, 300_000_000],
    [0.000000001, 1],
    [0.0000000011, 2],
    [0.0000000001, 1],
    [2.675, 2_675_000_000],
    [4.35, 4_350_000_000],
    [1.005, 1_005_000_000],
    [4_000_000, 4_000_000_000_000_000],
    [20.000000001, 20_000_000_001],
  ])("%d is %d", (usd, nano) => {
    expect(usdToNano(usd)).toBe(nano);
  });

  test("an amount written with nine decimals is exact, at any size", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4_000_000_000_000_000 }), (nano) => {
        const [whole, rest] = [Math.floor(nano / NANO_PER_USD), nano % NANO_PER_USD];
        const usd = Number(`${whole}.${String(rest).padStart(9, "0")}`);
        // Up to the largest limit a double still tells two neighbouring nano-USD apart.
        expect(usdToNano(usd)).toBe(nano);
      }),
      { numRuns: 2_000 },
    );
  });

  test("is never less than what was written", () => {
    fc.assert(
      fc.property(fc.double({ min: 1e-9, max: 4_000_000, noNaN: true }), (usd) => {
        const nano = usdToNano(usd);
        expect(Number.isSafeInteger(nano)).toBe(true);
        // Up to the last bits of a double.
        expect(nano).toBeGreaterThanOrEqual(usd * NANO_PER_USD * (1 - 2 ** -50) - 1e-6);
        expect(nano - usd * NANO_PER_USD).toBeLessThan(1 + 1e-6);
      }),
      { numRuns: 2_000 },
    );
  });

  test("the way back gives the same nano-USD again", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 4_000_000_000_000_000 }), (nano) => {
        expect(usdToNano(nanoToUsd(nano))).toBe(nano);
      }),
      { numRuns: 2_000 },
    );
  });
});

test("the largest amount is exact in a double", () => {
  expect(Number.isSafeInteger(MAX_AMOUNT)).toBe(true);
});
