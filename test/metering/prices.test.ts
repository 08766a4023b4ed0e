import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import { MAX_AMOUNT } from "../../src/core/money.ts";
import { NO_USAGE, type Usage } from "../../src/core/usage.ts";
import type { ModelPrice } from "../../src/metering/price.ts";
import type { PriceBook, PricedModel } from "../../src/metering/prices.ts";
import { priceBook } from "./prices-kit.ts";

const book = (price: ModelPrice, markupPct = 0): PriceBook => priceBook({ models: [{ name: "m", price }], markupPct });
const usage = (parts: Partial<Usage>): Usage => ({ ...NO_USAGE, ...parts });
const raw = (price: ModelPrice, parts: Partial<Usage>): number | undefined => book(price).cost("m", null, usage(parts))?.rawNanoUsd;

const GPT: ModelPrice = { inputPerMtok: 2.5, outputPerMtok: 10 };

describe("the cost of a row", () => {
  test("is the sum of its classes in nano-USD", () => {
    expect(raw(GPT, { inputTokens: 1000, outputTokens: 500 })).toBe(1000 * 2500 + 500 * 10_000);
    expect(raw(GPT, {})).toBe(0);
    const all = { inputPerMtok: 3, outputPerMtok: 15, cacheReadPerMtok: 0.3, cacheWritePerMtok: 3.75, reasoningPerMtok: 20, perRequest: 0.01 };
    const tokens = { inputTokens: 10, cacheReadTokens: 20, cacheWriteTokens: 30, outputTokens: 40, reasoningTokens: 50 };
    expect(raw(all, tokens)).toBe(10 * 3000 + 20 * 300 + 30 * 3750 + 40 * 15_000 + 50 * 20_000 + 10_000_000);
  });

  test("takes the base class where a class has no price of its own", () => {
    expect(raw(GPT, { cacheReadTokens: 7 })).toBe(7 * 2500);
    expect(raw(GPT, { cacheWriteTokens: 7 })).toBe(7 * 2500);
    expect(raw(GPT, { reasoningTokens: 7 })).toBe(7 * 10_000);
    expect(raw({ ...GPT, cacheReadPerMtok: 0 }, { cacheReadTokens: 7 })).toBe(0);
  });

  test("is rounded up once, from the exact sum", () => {
    // 0.0375 USD a million = 37.5 nano-USD a token: 37.5 + 37.5 is 75, not 76.
    const price = { inputPerMtok: "0.0375", outputPerMtok: "0.0375" };
    expect(raw(price, { inputTokens: 1 })).toBe(38);
    expect(raw(price, { inputTokens: 1, outputTokens: 1 })).toBe(75);
    expect(raw({ inputPerMtok: "0.000000000001", outputPerMtok: 0 }, { inputTokens: 1 })).toBe(1);
    expect(raw({ inputPerMtok: "0.000000000001", outputPerMtok: 0 }, { inputTokens: 1_000_000_000 })).toBe(1);
    expect(raw({ inputPerMtok: "0.0010000000000000001", outputPerMtok: 0 }, { inputTokens: 1 })).toBe(2);
  });

  test("takes numbers as they are meant, not as binary has them", () => {
    expect(raw({ inputPerMtok: 0.1 + 0.2, outputPerMtok: 0 }, { inputTokens: 1 })).toBe(300);
    expect(raw({ inputPerMtok: 1e-7, outputPerMtok: 0 }, { inputTokens: 10_000 })).toBe(1);
    expect(raw({ inputPerMtok: 2e-8, outputPerMtok: 3e21 }, {})).toBe(0);
    expect(raw({ inputPerMtok: "2.50", outputPerMtok: 10 }, { inputTokens: 1 })).toBe(2500);
  });

  test("stays exact where a product leaves the safe integers, and within what a row can hold", () => {
    const price = { inputPerMtok: "123.456789012345", outputPerMtok: "0.000000000001" };
    expect(raw(price, { inputTokens: 999_999_999, outputTokens: 1 })).toBe(123_456_788_888_889);
    expect(raw({ inputPerMtok: 999_999_999, outputPerMtok: 0 }, { inputTokens: 1_000_000_000 })).toBe(MAX_AMOUNT);
    expect(book({ inputPerMtok: 999_999_999, outputPerMtok: 0 }, 50).cost("m", null, usage({ inputTokens: 9_000_000 }))?.billedNanoUsd).toBe(
      MAX_AMOUNT,
    );
  });

  test("is what the provider reports, if it does", () => {
    const reported = book(GPT, 10).cost("m", null, usage({ inputTokens: 1000, reportedUsd: 0.002 }));
    expect(reported).toMatchObject({ rawNanoUsd: 2_000_000, billedNanoUsd: 2_200_000 });
    expect(book(GPT).cost("unknown", null, usage({ reportedUsd: 0.002 }))?.rawNanoUsd).toBe(2_000_000);
    expect(book(GPT).cost("m", null, usage({ inputTokens: 1, reportedUsd: 0 }))?.rawNanoUsd).toBe(0);
    for (const odd of [-1, NaN, Infinity]) expect(book(GPT).cost("m", null, usage({ inputTokens: 1, reportedUsd: odd }))?.rawNanoUsd).toBe(2500);
  });

  test("is null, not zero, for a model without a price", () => {
    expect(book(GPT).cost("unknown", null, usage({ inputTokens: 1 }))).toBeNull();
    expect(book(GPT).find("unknown", null)).toBeNull();
    expect(priceBook({ models: [{ name: "m" }], markupPct: 0 }).find("m", null)).toBeNull();
    expect(book({ inputPerMtok: 0, outputPerMtok: 0 }).cost("m", null, usage({ inputTokens: 5 }))).toMatchObject({ rawNanoUsd: 0, billedNanoUsd: 0 });
  });
});

describe("the markup", () => {
  const billed = (markupPct: number, inputTokens: number): number | undefined =>
    book(GPT, markupPct).cost("m", null, usage({ inputTokens }))?.billedNanoUsd;

  test("is added to the rounded raw cost and rounded up once", () => {
    expect(billed(0, 3)).toBe(7500);
    expect(billed(20, 3)).toBe(9000);
    expect(billed(12.5, 1)).toBe(2813);
    expect(billed(33.3, 1)).toBe(3333);
    expect(billed(10_000, 1)).toBe(252_500);
    expect(billed(0.1 + 0.2, 1000)).toBe(2_507_500);
  });

  test("leaves the raw cost as it is", () => {
    expect(book(GPT, 20).cost("m", null, usage({ inputTokens: 3 }))?.rawNanoUsd).toBe(7500);
  });
});

describe("which price applies", () => {
  const models: readonly PricedModel[] = [
    { name: "m", price: { inputPerMtok: 1, outputPerMtok: 1 } },
    { name: "m", credential: "cheap", price: { inputPerMtok: 0.5, outputPerMtok: 2 } },
    { name: "n", credential: "a", model: "n-2026", price: { inputPerMtok: 1, outputPerMtok: 8 } },
    { name: "n", credential: "b", price: { inputPerMtok: "4.0005", outputPerMtok: 2 } },
    { name: "n", credential: "c" },
    { name: "fast", model: "m", price: { inputPerMtok: 9, outputPerMtok: 9 } },
  ];
  const prices = priceBook({ models, markupPct: 0 });
  const input = (model: string, credential: string | null): number | undefined =>
    prices.cost(model, credential, usage({ inputTokens: 10_000 }))?.rawNanoUsd;
  const output = (model: string, credential: string | null): number | undefined =>
    prices.cost(model, credential, usage({ outputTokens: 10_000 }))?.rawNanoUsd;

  test("the one bound to the credential before the unbound one", () => {
    expect(input("m", "cheap")).toBe(5_000_000);
    expect(input("m", "another")).toBe(10_000_000);
    expect(input("m", null)).toBe(10_000_000);
  });

  test("a bound price is nobody else's", () => {
    expect(input("n", "a")).toBe(10_000_000);
    expect(input("n", "c")).toBeUndefined();
    expect(input("n", "d")).toBeUndefined();
  });

  test("without a credential the dearest bound one counts, class by class", () => {
    expect(input("n", null)).toBe(40_005_000);
    expect(output("n", null)).toBe(80_000_000);
  });

  test("a provider's own name for a model finds its price, but never hides a client's name", () => {
    expect(input("n-2026", "a")).toBe(10_000_000);
    expect(input("fast", null)).toBe(90_000_000);
    expect(input("m", null)).toBe(10_000_000);
  });

  test("a model that is priced twice is refused, and so is what is no price", () => {
    const twice = [
      { name: "m", price: GPT },
      { name: "m", price: GPT },
    ];
    expect(() => priceBook({ models: twice, markupPct: 0 })).toThrow(new ConfigError(["models[1].price: m already has a price; keep one of them"]));
    const bound = twice.map((model) => ({ ...model, credential: "a" }));
    expect(() => priceBook({ models: bound, markupPct: 0 })).toThrow(/models\[1\]\.price: m already has a price at a/);
    for (const bad of [-1, NaN, Infinity, "", "free", "-2", "1,5", "0x10"])
      expect(() => book({ inputPerMtok: 1, outputPerMtok: bad })).toThrow(/^models\[0\]\.price\.outputPerMtok: expected USD/);
    expect(() => book(GPT, -5)).toThrow(/^prices\.markupPct: /);
  });
});

describe("the ceiling", () => {
  test("is the dearest of the pairs, at its dearest classes, billed", () => {
    const models: readonly PricedModel[] = [
      { name: "m", credential: "a", price: { inputPerMtok: 1, outputPerMtok: 4, cacheWritePerMtok: 1.25 } },
      { name: "m", credential: "b", price: { inputPerMtok: 2, outputPerMtok: 3, reasoningPerMtok: 6 } },
      { name: "m", credential: "c", price: { inputPerMtok: 1, outputPerMtok: 1, perRequest: 1 } },
    ];
    const prices = priceBook({ models, markupPct: 10 });
    const ceiling = (credentials: readonly string[], inputTokens: number, outputTokens: number): number | null =>
      prices.ceiling(
        credentials.map((credential) => ({ model: "m", credential })),
        inputTokens,
        outputTokens,
      );
    expect(ceiling(["a"], 100, 10)).toBe(181_500);
    expect(ceiling(["a", "b"], 100, 10)).toBe(286_000);
    expect(ceiling(["a", "b"], 0, 1)).toBe(6600);
    expect(ceiling(["c", "a", "b"], 1, 1)).toBe(1_100_002_200);
  });

  test("is null as soon as one pair has no price, or there is none", () => {
    const prices = priceBook({ models: [{ name: "m", credential: "a", price: GPT }], markupPct: 0 });
    expect(prices.ceiling([{ model: "m", credential: "a" }], 1, 1)).toBe(12_500);
    expect(
      prices.ceiling(
        [
          { model: "m", credential: "a" },
          { model: "m", credential: "b" },
        ],
        1,
        1,
      ),
    ).toBeNull();
    expect(prices.ceiling([], 1, 1)).toBeNull();
  });
});

/** USD per million tokens as an integer of 10^-12, and its decimal text. */
const decimal = fc
  .tuple(fc.nat(100_000), fc.oneof(fc.constant(0), fc.nat(999_999_999_999)), fc.constantFrom(0, 1, 2, 3, 4, 6, 12))
  .map(([whole, fraction, places]) => {
    const kept = fraction.toString().padStart(12, "0").slice(0, places);
    return { text: places === 0 ? `${whole}` : `${whole}.${kept}`, pico: BigInt(whole) * 10n ** 12n + BigInt(kept.padEnd(12, "0") || "0") };
  });
const count = fc.oneof(fc.nat(1000), fc.nat(2_000_000), fc.nat(1_000_000_000));
const anyUsage = fc.record({ inputTokens: count, cacheReadTokens: count, cacheWriteTokens: count, outputTokens: count, reasoningTokens: count });
const up = (dividend: bigint, divisor: bigint): bigint => (dividend + divisor - 1n) / divisor;
const held = (amount: bigint): number => Number(amount > BigInt(MAX_AMOUNT) ? BigInt(MAX_AMOUNT) : amount);

test("costs are those of a reference in whole big numbers", () => {
  fc.assert(
    fc.property(fc.tuple(decimal, decimal, decimal, decimal, decimal, decimal), anyUsage, fc.nat(20_000), (digits, used, markup) => {
      const [input, output, read, write, reasoning, request] = digits;
      const price = {
        inputPerMtok: input.text,
        outputPerMtok: output.text,
        cacheReadPerMtok: read.text,
        cacheWritePerMtok: write.text,
        reasoningPerMtok: reasoning.text,
        perRequest: request.text,
      };
      const perMillion =
        BigInt(used.inputTokens) * input.pico +
        BigInt(used.cacheReadTokens) * read.pico +
        BigInt(used.cacheWriteTokens) * write.pico +
        BigInt(used.outputTokens) * output.pico +
        BigInt(used.reasoningTokens) * reasoning.pico;
      // 10^-12 USD per million tokens is 10^-9 nano-USD per token; 10^-12 USD is 10^-3 nano-USD.
      const rawNano = held(up(perMillion + request.pico * 1_000_000n, 1_000_000_000n));
      const billedNano = held(up(BigInt(rawNano) * BigInt(10_000 + markup), 10_000n));
      expect(book(price, markup / 100).cost("m", null, used)).toMatchObject({ rawNanoUsd: rawNano, billedNanoUsd: billedNano });
    }),
    { numRuns: 500 },
  );
});

test("no usage within the token counts costs more than the ceiling, wherever it is served", () => {
  const price = fc.record({
    inputPerMtok: decimal.map(({ text }) => text),
    outputPerMtok: decimal.map(({ text }) => text),
    cacheReadPerMtok: fc.option(
      decimal.map(({ text }) => text),
      { nil: undefined },
    ),
    cacheWritePerMtok: fc.option(
      decimal.map(({ text }) => text),
      { nil: undefined },
    ),
    reasoningPerMtok: fc.option(
      decimal.map(({ text }) => text),
      { nil: undefined },
    ),
    perRequest: fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { nil: undefined }),
  });
  fc.assert(
    fc.property(fc.array(price, { minLength: 1, maxLength: 4 }), anyUsage, fc.double({ min: 0, max: 300, noNaN: true }), (list, used, markupPct) => {
      const names = list.map((_, i) => `c${i}`);
      const prices = priceBook({ models: list.map((each, i) => ({ name: "m", credential: names[i], price: each })), markupPct });
      const inputTokens = used.inputTokens + used.cacheReadTokens + used.cacheWriteTokens;
      const most = prices.ceiling(
        names.map((credential) => ({ model: "m", credential })),
        inputTokens,
        used.outputTokens + used.reasoningTokens,
      ) as number;
      for (const credential of [...names, null]) {
        const cost = prices.cost("m", credential, used);
        expect(Number.isSafeInteger(cost?.billedNanoUsd)).toBe(true);
        expect(cost?.billedNanoUsd).toBeGreaterThanOrEqual(cost?.rawNanoUsd as number);
        if (credential !== null) expect(cost?.billedNanoUsd).toBeLessThanOrEqual(most);
      }
    }),
    { numRuns: 500 },
  );
});
