import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { MAX_AMOUNT } from "../../src/core/money.ts";
import { INPUT_CLASSES, NO_USAGE, OUTPUT_CLASSES, TOKEN_CLASSES, totalInputTokens, totalOutputTokens, type Usage } from "../../src/core/usage.ts";
import { RATE_NAMES, type ModelPrice, type RateName } from "../../src/metering/price.ts";
import type { PriceBook } from "../../src/metering/prices.ts";
import { priceBook } from "./prices-kit.ts";

const book = (price: ModelPrice, markupPct = 0): PriceBook => priceBook({ models: [{ name: "m", price }], markupPct });
const usd = (price: ModelPrice, parts: Partial<Usage>): number => (book(price).cost("m", null, { ...NO_USAGE, ...parts })?.rawNanoUsd ?? NaN) / 1e9;
const PAIR = [{ model: "m", credential: null }];

describe("each class", () => {
  const own = Object.fromEntries(RATE_NAMES.map((name, i) => [`${name}PerMtok`, i + 1])) as { [name in `${RateName}PerMtok`]: number };

  test.each(TOKEN_CLASSES.map((name, i) => [name, i + 1]))("has a rate of its own: %s", (name, rate) => {
    expect(usd(own, { [name as string]: 1_000_000 })).toBe(rate);
  });

  test.each([
    ["cacheWriteLongTokens", 3, { cacheWritePerMtok: 3 }],
    ["cacheWriteLongTokens", 1, {}],
    ["audioInputTokens", 1, {}],
    ["imageInputTokens", 1, {}],
    ["audioOutputTokens", 2, {}],
    ["imageOutputTokens", 2, {}],
    ["predictionTokens", 2, {}],
  ])("costs as its base class where it has none: %s", (name, rate, more) => {
    expect(usd({ inputPerMtok: 1, outputPerMtok: 2, reasoningPerMtok: 9, cacheReadPerMtok: 9, ...more }, { [name]: 1_000_000 })).toBe(rate);
  });

  test("is charged beside requests and images, which are billed one by one", () => {
    const price = { ...own, perRequest: 0.5, perImage: 0.04 };
    expect(usd(price, {})).toBe(0.5);
    expect(usd(price, { requests: 3, images: 2, audioOutputTokens: 1_000_000 })).toBe(1.5 + 0.08 + own.audioOutputPerMtok);
    expect(usd({ perImage: "0.000000000001" }, { images: 1 })).toBe(1e-9);
  });

  test("tells versions apart, but not one that says only what would hold anyway", () => {
    const version = (price: ModelPrice): string | undefined => book(price).find("m", null)?.version;
    const base = { inputPerMtok: 1, outputPerMtok: 2 };
    const tiers = [{ aboveInputTokens: 5, inputPerMtok: 3 }];
    const others: readonly ModelPrice[] = [
      { ...base, audioInputPerMtok: 2 },
      { ...base, imageInputPerMtok: 2 },
      { ...base, cacheWriteLongPerMtok: 2 },
      { ...base, predictionPerMtok: 1 },
      { ...base, perImage: 1 },
      { ...base, perRequest: 1 },
      { ...base, tiers },
      { ...base, tiers, tiersApplyTo: "excess" },
    ];
    expect(new Set([base, ...others].map(version)).size).toBe(others.length + 1);
    expect(version({ ...base, audioInputPerMtok: 1, perImage: 0, predictionPerMtok: "2.0" })).toBe(version(base));
    expect(version({ ...base, tiersApplyTo: "excess" })).toBe(version(base));
  });
});

// USD per token, as auto_ai_router's tests write them; its usage says totals and their parts.
const perToken = (rates: { readonly [name in RateName]?: number }): ModelPrice =>
  Object.fromEntries(Object.entries(rates).map(([name, each]) => [`${name}PerMtok`, `${Math.round(each * 1e6)}`]));

describe("auto_ai_router's numbers", () => {
  const base = { input: 0.01, output: 0.02 };
  test.each<[string, number, ModelPrice, Partial<Usage>]>([
    ["plain", 2, perToken(base), { inputTokens: 100, outputTokens: 50 }],
    [
      "audio and cache",
      1.721,
      perToken({ ...base, audioInput: 0.001, audioOutput: 0.002, cacheRead: 0.0001 }),
      { inputTokens: 75, audioInputTokens: 5, cacheReadTokens: 20, outputTokens: 48, audioOutputTokens: 2 },
    ],
    ["reasoning", 4.9, perToken({ ...base, reasoning: 0.1 }), { inputTokens: 50, outputTokens: 70, reasoningTokens: 30 }],
    ["predictions", 3.2, perToken({ ...base, prediction: 0.03 }), { inputTokens: 100, outputTokens: 80, predictionTokens: 20 }],
    ["more audio than prompt: the total stands", 0.05, perToken({ ...base, audioInput: 0.001 }), { audioInputTokens: 50 }],
  ])("%s", (_name, cost, price, used) => {
    expect(usd(price, used)).toBe(cost);
  });

  const above = (more: { readonly [name in RateName]?: number } = {}): ModelPrice => ({
    ...perToken({ input: 0.001, output: 0.002, ...more }),
    tiers: [{ aboveInputTokens: 200_000, ...perToken({ input: 0.0005, output: 0.001 }) }],
    tiersApplyTo: "excess",
  });
  test.each<[string, number, ModelPrice, Partial<Usage>]>([
    ["a third of the prompt is above", 250, above(), { inputTokens: 300_000 }],
    ["so is a third of each class", 228, above({ audioInput: 0.0001 }), { inputTokens: 270_000, audioInputTokens: 30_000 }],
    ["output is counted by itself", 450, above(), { outputTokens: 250_000 }],
    ["below there is no tier", 150, above(), { inputTokens: 150_000 }],
    ["nor exactly there", 200, above(), { inputTokens: 200_000 }],
  ])("what is above a tier's beginning: %s", (_name, cost, price, used) => {
    expect(usd(price, used)).toBe(cost);
  });

  test("a tier of the whole request is another price", () => {
    expect(usd({ ...above(), tiersApplyTo: "request" }, { inputTokens: 300_000 })).toBe(150);
  });
});

describe("aigate's numbers", () => {
  test("what the provider says it cost, and ten percent", () => {
    const cost = book({ inputPerMtok: 1, outputPerMtok: 1 }, 10).cost("m", null, { ...NO_USAGE, reportedUsd: 0.01 });
    expect(cost).toMatchObject({ rawNanoUsd: 10_000_000, billedNanoUsd: 11_000_000 });
  });
  test("prices per thousand tokens", () => {
    expect(usd({ inputPerKtok: 0.001, outputPerKtok: 0.002 }, { inputTokens: 1_000, outputTokens: 500 })).toBe(0.002);
  });
  test("without a price there is no cost", () => {
    expect(priceBook({ models: [{ name: "m" }] }).cost("m", null, { ...NO_USAGE, inputTokens: 1_000 })).toBeNull();
  });
});

// --- laws

const rate = fc.oneof(
  fc.nat(50_000).map((thousandths) => thousandths / 1_000),
  fc.nat(999_999_999).map((digits) => `12.${`${digits}`.padStart(9, "0")}`),
);
const rates = fc.record(
  Object.fromEntries(
    RATE_NAMES.map((name) => [`${name}PerMtok`, name === "input" || name === "output" ? rate : fc.option(rate, { nil: undefined })]),
  ),
) as fc.Arbitrary<{ readonly [name in `${RateName}PerMtok`]?: number | string }>;
const price = fc
  .tuple(
    fc.record({ base: rates, perRequest: fc.nat(3), perImage: fc.nat(3), isExcess: fc.boolean() }),
    fc.uniqueArray(fc.record({ aboveInputTokens: fc.integer({ min: 1, max: 6_000 }), own: rates }), {
      maxLength: 3,
      selector: (tier) => tier.aboveInputTokens,
    }),
  )
  .map(([{ base, isExcess, ...one }, tiers]): ModelPrice => ({
    ...base,
    ...one,
    tiers: tiers.map(({ aboveInputTokens, own }) => ({ aboveInputTokens, ...own })),
    tiersApplyTo: isExcess ? "excess" : "request",
  }));
const few = fc.oneof(fc.constant(0), fc.nat(1_500), fc.nat(900_000));
const anyUsage = fc.record({
  ...(Object.fromEntries(TOKEN_CLASSES.map((name) => [name, few])) as { [name in (typeof TOKEN_CLASSES)[number]]: typeof few }),
  images: fc.nat(3),
});

test("no usage within the counts costs more than what is held, in whichever classes and tiers", () => {
  fc.assert(
    fc.property(fc.array(price, { minLength: 1, maxLength: 3 }), anyUsage, few, few, fc.boolean(), (list, any, moreInput, moreOutput, isText) => {
      const used: Usage = isText ? { ...any, audioInputTokens: 0, imageInputTokens: 0 } : any;
      const prices = priceBook({ models: list.map((each, i) => ({ name: "m", credential: `c${i}`, price: each })) });
      const [input, output] = [totalInputTokens(used) + moreInput, totalOutputTokens(used) + moreOutput];
      const most = (at: string | null): number => prices.ceiling([{ model: "m", credential: at }], input, output, isText, used.images) as number;
      for (const credential of [...list.map((_, i) => `c${i}`), null]) {
        const cost = prices.cost("m", credential, used)?.rawNanoUsd as number;
        expect(Number.isSafeInteger(cost)).toBe(true);
        expect(cost).toBeLessThanOrEqual(most(credential));
        // What nobody knows the credential of is billed by one price, the dearest.
        expect(cost).toBeLessThanOrEqual(most(null));
      }
    }),
    { numRuns: 400 },
  );
});

test("a cost is the exact sum of its classes, each in its share above each tier, rounded up once", () => {
  fc.assert(
    fc.property(price, anyUsage, ({ tiers: _tiers, tiersApplyTo: _whole, ...base }, used) => {
      // Tiers that change nothing, so that all bands together are the one.
      const same = [{ aboveInputTokens: 700 }, { aboveInputTokens: 2_000 }];
      const cost = usd(base, used);
      expect(cost).toBeLessThan(MAX_AMOUNT / 1e9);
      for (const tiersApplyTo of ["excess", "request"] as const) expect(usd({ ...base, tiers: same, tiersApplyTo }, used)).toBe(cost);
      const micro = (name: RateName, as: number): number => Math.round(Number(base[`${name}PerMtok`] ?? Number.NaN) * 1e9) || as;
      if (RATE_NAMES.some((name) => Number(base[`${name}PerMtok`]) === 0)) return;
      const [input, output] = [micro("input", 0), micro("output", 0)];
      const write = micro("cacheWrite", input);
      const names = TOKEN_CLASSES.map((name, i) => [name, RATE_NAMES[i] as RateName] as const);
      let sum = BigInt((Number(base.perRequest) + (used.images ?? 0) * Number(base.perImage)) * 1e9) * 1_000_000n;
      for (const [name, text] of names) {
        const as = text === "cacheWriteLong" ? write : (INPUT_CLASSES as readonly string[]).includes(name) ? input : output;
        sum += BigInt(used[name] ?? 0) * BigInt(micro(text, as));
      }
      expect(cost).toBe(Number((sum + 999_999n) / 1_000_000n) / 1e9);
    }),
    { numRuns: 400 },
  );
});

test("the dearest of several is dearer than each, also where tiers of one are for what is above them", () => {
  const falling: ModelPrice = { inputPerMtok: 50, outputPerMtok: 50, tiers: [{ aboveInputTokens: 1_000, inputPerMtok: 1, outputPerMtok: 1 }] };
  const prices = priceBook({
    models: [
      { name: "m", credential: "a", price: { ...falling, tiersApplyTo: "excess" } },
      { name: "m", credential: "b", price: { inputPerMtok: 2, outputPerMtok: 2 } },
    ],
  });
  const used = { ...NO_USAGE, inputTokens: 2_000, outputTokens: 2_000 };
  expect(prices.cost("m", "a", used)?.rawNanoUsd).toBe(2 * (50_000_000 + 1_000_000));
  expect(prices.cost("m", null, used)?.rawNanoUsd).toBe(2 * 100_000_000);
});

test("audio in a prompt is held at its own rate only where there may be some", () => {
  const audio = book({ inputPerMtok: 2.5, outputPerMtok: 10, audioInputPerMtok: 40, imageInputPerMtok: 5, cacheWriteLongPerMtok: 6 });
  expect([audio.ceiling(PAIR, 1_000, 0), audio.ceiling(PAIR, 1_000, 0, true)]).toEqual([40_000_000, 6_000_000]);
  expect(book({ perImage: 0.04 }).ceiling(PAIR, 0, 0, false, 2)).toBe(80_000_000);
  expect(OUTPUT_CLASSES.length + INPUT_CLASSES.length).toBe(RATE_NAMES.length);
});
