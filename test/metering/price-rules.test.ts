import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NO_USAGE, totalInputTokens, totalOutputTokens, type Usage } from "../../src/core/usage.ts";
import type { ModelPrice } from "../../src/metering/price.ts";
import type { PriceRule } from "../../src/metering/price-rules.ts";
import type { PriceBookOptions } from "../../src/metering/prices.ts";
import { priceBook } from "./prices-kit.ts";

const usage = (parts: Partial<Usage>): Usage => ({ ...NO_USAGE, ...parts });
/** One USD per thousand tokens of either kind is a million nano-USD for each. */
const USD = 1_000_000_000;
const flat = (perMtok: number): ModelPrice => ({ inputPerMtok: perMtok, outputPerMtok: perMtok });
/** Input for as many nano-USD as its price per million tokens says thousands. */
const ONE = usage({ inputTokens: 1 });

/** Two accounts at one provider, one at another. */
const providers = new Map([
  ["main", "openai"],
  ["spare", "openai"],
  ["box", "azure"],
]);
const credentials = {
  version: 0,
  find(name: string) {
    const provider = providers.get(name);
    return provider === undefined ? undefined : { provider };
  },
};
const bookOf = (rules: readonly PriceRule[], more: Partial<PriceBookOptions> = {}) => priceBook({ rules, credentials, ...more });
const whole = (price: ModelPrice, parts: Partial<Usage>): number | undefined => bookOf([{ price }]).cost("m", null, usage(parts))?.rawNanoUsd;

describe("the numbers of the gateways before this one", () => {
  /** Per token there, per thousand tokens here. */
  const OLD: ModelPrice = { inputPerKtok: 10, outputPerKtok: 20 };

  test("auto_ai_router: 100 in and 50 out at 0.01 and 0.02 a token", () => {
    expect(whole(OLD, { inputTokens: 100, outputTokens: 50 })).toBe(2 * USD);
  });

  test("auto_ai_router: reasoning has its own price, 30 of 100 output tokens at 0.1", () => {
    expect(whole({ ...OLD, reasoningPerKtok: 100 }, { inputTokens: 50, outputTokens: 70, reasoningTokens: 30 })).toBe(4.9 * USD);
  });

  test("auto_ai_router: what the cache served is not charged as input, too", () => {
    expect(whole({ ...OLD, cacheReadPerKtok: 0.1 }, { inputTokens: 80, cacheReadTokens: 20, outputTokens: 50 })).toBe(1.802 * USD);
  });

  test("auto_ai_router: below the tier nothing changes; above it, all of the request does, as providers bill it", () => {
    const tiered: ModelPrice = { inputPerKtok: 1, outputPerKtok: 2, tiers: [{ aboveInputTokens: 200_000, inputPerKtok: 0.5 }] };
    expect(whole(tiered, { inputTokens: 150_000 })).toBe(150 * USD);
    expect(whole(tiered, { inputTokens: 200_000 })).toBe(200 * USD);
    // It charged the lower price for the part above 200,000 only, 250 in all.
    expect(whole(tiered, { inputTokens: 300_000 })).toBe(150 * USD);
  });

  test("aigate: 0.01 raw and ten per cent", () => {
    const reported = bookOf([{ markupPct: 10 }]).cost("m", null, usage({ reportedUsd: 0.01 }));
    expect(reported).toMatchObject({ rawNanoUsd: 0.01 * USD, billedNanoUsd: 0.011 * USD });
  });

  test("aigate: 1,000 in at 0.001 and 500 out at 0.002 a thousand", () => {
    expect(whole({ inputPerKtok: 0.001, outputPerKtok: 0.002 }, { inputTokens: 1_000, outputTokens: 500 })).toBe(0.002 * USD);
  });

  test("aigate: the answer's 0.00001550 USD", () => {
    expect(whole({ inputPerKtok: "0.0005", outputPerKtok: "0.001" }, { inputTokens: 11, outputTokens: 10 })).toBe(0.0000155 * USD);
  });

  test("aigate: without a rule there is no cost, not one of nothing", () => {
    expect(bookOf([{ model: "other", price: flat(1) }]).cost("m", null, ONE)).toBeNull();
    expect(bookOf([{ markupPct: 10 }]).cost("m", null, ONE)).toBeNull();
  });
});

describe("units", () => {
  test("a price per thousand is a thousand times one per million, class by class", () => {
    const parts = { inputTokens: 1, cacheReadTokens: 10, cacheWriteTokens: 100, outputTokens: 1_000, reasoningTokens: 10_000 };
    const per1k = { inputPerKtok: "0.002", cacheReadPerKtok: "0.0002", cacheWritePerKtok: "0.0025", outputPerKtok: 0.008, reasoningPerKtok: 0.009 };
    const perMtok = { inputPerMtok: 2, cacheReadPerMtok: "0.2", cacheWritePerMtok: 2.5, outputPerMtok: 8, reasoningPerMtok: 9 };
    expect(whole(per1k, parts)).toBe(2_000 + 2_000 + 250_000 + 8_000_000 + 90_000_000);
    expect(whole(per1k, parts)).toBe(whole(perMtok, parts));
    expect(whole({ ...per1k, inputPerKtok: undefined, inputPerMtok: 2 }, parts)).toBe(whole(perMtok, parts));
  });

  test("what is priced by the request costs that, whatever it used", () => {
    expect(whole({ perRequest: 0.04 }, { inputTokens: 999, outputTokens: 999 })).toBe(0.04 * USD);
  });
});

describe("tiers", () => {
  const price: ModelPrice = {
    inputPerMtok: 3,
    outputPerMtok: 15,
    cacheReadPerMtok: 0.3,
    perRequest: "0.001",
    tiers: [
      { aboveInputTokens: 1_000, inputPerMtok: 9 },
      { aboveInputTokens: 100, inputPerKtok: "0.006", outputPerMtok: 22.5 },
    ],
  };

  test("are chosen by the whole input, cached or not, and keep what they do not say", () => {
    expect(whole(price, { inputTokens: 100, outputTokens: 1 })).toBe(300_000 + 15_000 + 1_000_000);
    expect(whole(price, { inputTokens: 1, cacheReadTokens: 100, outputTokens: 1 })).toBe(6_000 + 30_000 + 22_500 + 1_000_000);
    expect(whole(price, { inputTokens: 1_001, outputTokens: 1 })).toBe(1_001 * 9_000 + 22_500 + 1_000_000);
    expect(whole(price, { outputTokens: 5_000 })).toBe(5_000 * 15_000 + 1_000_000);
  });

  test("a class without a price of its own follows its base class into the tier", () => {
    const bare: ModelPrice = { inputPerMtok: 1, outputPerMtok: 1, tiers: [{ aboveInputTokens: 10, inputPerMtok: 2, outputPerMtok: 4 }] };
    expect(whole(bare, { cacheWriteTokens: 11, reasoningTokens: 1 })).toBe(11 * 2_000 + 4_000);
  });

  test("that are cheaper do not lower the ceiling: the request may turn out to be smaller", () => {
    const cheaper: ModelPrice = { ...flat(10), tiers: [{ aboveInputTokens: 1_000, ...flat(1) }] };
    const prices = bookOf([{ price: cheaper }]);
    const ceiling = (inputTokens: number): number | null => prices.ceiling([{ model: "m", credential: "main" }], inputTokens, 0);
    expect([999, 1_000, 1_001, 20_000].map(ceiling)).toEqual([9_990_000, 10_000_000, 10_000_000, 20_000_000]);
  });
});

describe("which rule counts", () => {
  const raw = (rules: readonly PriceRule[], model: string, credential: string | null, org: string | null = null, at = 0): number | undefined =>
    bookOf(rules).at(org, at).cost(model, credential, ONE)?.rawNanoUsd;

  test("a name before a pattern, a longer pattern before a shorter one, and that before a rule for all", () => {
    const rules = [
      { price: flat(1) },
      { model: "gpt-*", price: flat(2) },
      { model: "gpt-4o*", price: flat(3) },
      { model: "gpt-4o-mini", price: flat(4) },
    ];
    for (const list of [rules, rules.toReversed()])
      expect(["o1", "gpt-5", "gpt-4o-2024", "gpt-4o-mini"].map((model) => raw(list, model, null))).toEqual([1_000, 2_000, 3_000, 4_000]);
  });

  test("an org's own before everybody's, however general it is", () => {
    const rules = [
      { model: "m", price: flat(1) },
      { org: "acme", price: flat(2) },
      { org: "beta", model: "x", price: flat(3) },
    ];
    expect([null, "acme", "beta", "nobody"].map((org) => raw(rules, "m", null, org))).toEqual([1_000, 2_000, 1_000, 1_000]);
  });

  test("a provider's before all providers', and nobody else's", () => {
    const rules = [
      { model: "m", price: flat(1) },
      { provider: "azure", model: "m", price: flat(2) },
      { provider: "openai", price: flat(3) },
    ];
    expect(["main", "spare", "box", "unheard-of", null].map((name) => raw(rules, "m", name))).toEqual([1_000, 1_000, 2_000, 1_000, 1_000]);
    expect(["main", "box", null].map((name) => raw(rules, "n", name))).toEqual([3_000, undefined, undefined]);
  });

  test("where nobody knows the provider, the dearest of those that name the model", () => {
    const bound = [
      { provider: "azure", model: "m", price: { inputPerMtok: 5, outputPerMtok: 1 } },
      { provider: "openai", model: "m*", price: { inputPerMtok: 1, outputPerMtok: 7 } },
    ];
    const prices = bookOf(bound, { models: [{ name: "m", credential: "box", price: flat(3) }] });
    expect(prices.cost("m", null, usage({ inputTokens: 1, outputTokens: 1 }))?.rawNanoUsd).toBe(5_000 + 7_000);
    expect(prices.cost("m", "box", ONE)?.rawNanoUsd).toBe(5_000);
  });

  test("before the price at the model's entry", () => {
    const models = [{ name: "m", price: flat(9) }];
    expect(bookOf([{ model: "m", price: flat(1) }], { models }).cost("m", "main", ONE)?.rawNanoUsd).toBe(1_000);
    expect(bookOf([{ model: "m", markupPct: 50 }], { models }).cost("m", "main", ONE)).toMatchObject({ rawNanoUsd: 9_000, billedNanoUsd: 13_500 });
  });

  test("also one that knows the model as its provider does", () => {
    const models = [
      { name: "big", model: "gpt-4o-2024-11-20", credential: "main" },
      { name: "big", model: "llama-3" },
    ];
    const rules = [{ model: "gpt-4o*", price: flat(2) }];
    const prices = bookOf(rules, { models });
    expect(["main", "box"].map((name) => prices.cost("big", name, ONE)?.rawNanoUsd)).toEqual([2_000, undefined]);
    expect(prices.ceiling([{ model: "big", credential: "main" }], 1, 1)).toBe(4_000);
  });

  test("the markup is the most specific one that is said, whoever says the price", () => {
    const rules = [{ price: flat(1) }, { markupPct: 100, provider: "azure" }, { org: "acme", markupPct: 50 }];
    const prices = bookOf(rules, { markupPct: 10 });
    const billed = (org: string | null, name: string): number | undefined => prices.at(org, 0).cost("m", name, ONE)?.billedNanoUsd;
    expect([billed(null, "main"), billed(null, "box"), billed("acme", "main"), billed("acme", "box")]).toEqual([1_100, 2_000, 1_500, 1_500]);
  });

  test("the ceiling is the dearest after markup, not before it", () => {
    const rules = [
      { provider: "openai", price: flat(10) },
      { provider: "azure", price: flat(9), markupPct: 50 },
    ];
    const pairs = ["main", "box"].map((credential) => ({ model: "m", credential }));
    expect(bookOf(rules).ceiling(pairs, 1, 0)).toBe(13_500);
    expect(bookOf(rules).ceiling(pairs.toReversed(), 1, 0)).toBe(13_500);
  });
});

describe("dates", () => {
  const DAY = 86_400_000;
  const rules = [
    { model: "m", price: flat(1) },
    { model: "m", price: flat(2), from: 10 * DAY },
    { model: "m", price: flat(3), from: 20 * DAY, until: 21 * DAY },
    { model: "old", price: flat(4), until: 10 * DAY },
  ];

  test("begin with `from`, end before `until`, and the newest counts", () => {
    const prices = bookOf(rules);
    const at = (ms: number): number | undefined => prices.at(null, ms).cost("m", null, ONE)?.rawNanoUsd;
    expect([0, 10 * DAY - 1, 10 * DAY, 20 * DAY - 1, 20 * DAY, 21 * DAY - 1, 21 * DAY].map(at)).toEqual([
      1_000, 1_000, 2_000, 2_000, 3_000, 3_000, 2_000,
    ]);
    expect([10 * DAY - 1, 10 * DAY].map((ms) => prices.at(null, ms).cost("old", null, ONE)?.rawNanoUsd)).toEqual([4_000, undefined]);
  });

  test("go by the clock, also when it is set back", () => {
    let now = 0;
    const prices = bookOf(rules, { clock: { now: () => now } });
    const seen = [0, 10 * DAY, 20 * DAY, 30 * DAY, 5 * DAY].map((ms) => ((now = ms), prices.cost("m", null, ONE)?.rawNanoUsd));
    expect(seen).toEqual([1_000, 2_000, 3_000, 2_000, 1_000]);
  });

  test("a request keeps the prices that it was held by", () => {
    let now = 10 * DAY - 1;
    const prices = bookOf(rules, { clock: { now: () => now } });
    const [early, late] = [{ scopes: {} }, { scopes: {} }];
    const held = prices.of(early).ceiling([{ model: "m", credential: null }], 1, 0);
    now += 1;
    expect(prices.of(early).cost("m", null, ONE)?.billedNanoUsd).toBe(held);
    expect(prices.of(late).cost("m", null, ONE)?.billedNanoUsd).toBe(2_000);
  });

  test("a request whose org is said later is priced as that org's from then on", () => {
    const prices = bookOf([...rules, { org: "acme", price: flat(7) }]);
    const ctx: { scopes: Record<string, string> | undefined } = { scopes: undefined };
    expect(prices.of(ctx).cost("m", null, ONE)?.rawNanoUsd).toBe(1_000);
    ctx.scopes = { org: "acme" };
    expect(prices.of(ctx).cost("m", null, ONE)?.rawNanoUsd).toBe(7_000);
  });
});

describe("the version", () => {
  const versionOf = (rules: readonly PriceRule[], more: Partial<PriceBookOptions> = {}): string | undefined =>
    bookOf(rules, more).cost("m", "main", ONE)?.priceVersion;

  test("is the same for the same prices, however they are written", () => {
    const one = versionOf([{ price: { inputPerMtok: 2.5, outputPerMtok: 10 } }]);
    expect(one).toMatch(/^rules:[0-9a-f]{10}$/);
    expect(versionOf([{ price: { inputPerKtok: "0.0025", outputPerMtok: "10.0", cacheReadPerMtok: 2.5 } }])).toBe(one);
    expect(versionOf([], { models: [{ name: "m", price: { inputPerMtok: 2.5, outputPerMtok: 10 } }] })).toBe(one?.replace("rules", "models"));
  });

  test("is another as soon as anything is", () => {
    const versions = [
      versionOf([{ price: flat(1) }]),
      versionOf([{ price: flat(2) }]),
      versionOf([{ price: flat(1), markupPct: 1 }]),
      versionOf([{ price: { ...flat(1), perRequest: 1 } }]),
      versionOf([{ price: { ...flat(1), tiers: [{ aboveInputTokens: 5, inputPerMtok: 2 }] } }]),
      versionOf([{ price: { ...flat(1), tiers: [{ aboveInputTokens: 6, inputPerMtok: 2 }] } }]),
    ];
    expect(new Set(versions).size).toBe(versions.length);
  });

  test("of a reported cost says that it was, and by which markup", () => {
    const reported = (pct: number): string | undefined =>
      bookOf([{ price: flat(1), markupPct: pct }]).cost("m", null, usage({ reportedUsd: 1 }))?.priceVersion;
    expect(reported(0)).toMatch(/^reported:[0-9a-f]{10}$/);
    expect(reported(0)).not.toBe(reported(1));
  });
});

test("a credential that moves to another provider is priced there", () => {
  const moving = { version: 0, provider: "openai", find: () => ({ provider: moving.provider }) };
  const prices = bookOf(
    [
      { provider: "openai", price: flat(1) },
      { provider: "azure", price: flat(2) },
    ],
    { credentials: moving },
  );
  expect(prices.cost("m", "main", ONE)?.rawNanoUsd).toBe(1_000);
  Object.assign(moving, { version: 1, provider: "azure" });
  expect(prices.cost("m", "main", ONE)?.rawNanoUsd).toBe(2_000);
});

const rate = fc.nat(50_000).map((milli) => milli / 1_000);
const rates = fc.record({
  inputPerMtok: rate,
  outputPerMtok: rate,
  cacheReadPerMtok: fc.option(rate, { nil: undefined }),
  cacheWritePerMtok: fc.option(rate, { nil: undefined }),
  reasoningPerMtok: fc.option(rate, { nil: undefined }),
  perRequest: fc.option(rate, { nil: undefined }),
});
const tiered = fc
  .tuple(
    rates,
    fc.uniqueArray(fc.record({ aboveInputTokens: fc.integer({ min: 1, max: 3_000 }), rates }), {
      maxLength: 3,
      selector: (tier) => tier.aboveInputTokens,
    }),
  )
  .map(([base, tiers]): ModelPrice => ({ ...base, tiers: tiers.map(({ aboveInputTokens, rates: own }) => ({ aboveInputTokens, ...own })) }));
const few = fc.nat(1_500);
const anyUsage = fc.record({ inputTokens: few, cacheReadTokens: few, cacheWriteTokens: few, outputTokens: few, reasoningTokens: few });

test("a cost is the sum of its classes in their tier, rounded up once", () => {
  fc.assert(
    fc.property(tiered, anyUsage, (price, used) => {
      const total = totalInputTokens(used);
      const { tiers = [], tiersApplyTo: _whole, ...base } = price;
      const reached = tiers.filter(({ aboveInputTokens }) => total > aboveInputTokens).sort((a, b) => a.aboveInputTokens - b.aboveInputTokens);
      const say = (name: keyof typeof base): number => {
        const said = [base, ...reached].map((each) => each[name]).findLast((value) => value !== undefined);
        return Math.round(Number(said ?? Number.NaN) * 1_000);
      };
      const or = (own: number, instead: number): number => (Number.isNaN(own) ? instead : own);
      const [input, output] = [say("inputPerMtok"), say("outputPerMtok")];
      // A thousandth of a USD per million tokens is one nano-USD per token.
      const sum =
        used.inputTokens * input +
        used.cacheReadTokens * or(say("cacheReadPerMtok"), input) +
        used.cacheWriteTokens * or(say("cacheWritePerMtok"), input) +
        used.outputTokens * output +
        used.reasoningTokens * or(say("reasoningPerMtok"), output) +
        or(say("perRequest"), 0) * 1_000_000;
      expect(whole(price, used)).toBe(sum);
    }),
    { numRuns: 500 },
  );
});

test("no usage within the token counts costs more than the ceiling, in whichever tier it ends up", () => {
  fc.assert(
    fc.property(fc.array(tiered, { minLength: 1, maxLength: 3 }), anyUsage, few, few, fc.nat(300), (list, used, moreInput, moreOutput, markupPct) => {
      const names = list.map((_, i) => `c${i}`);
      const prices = priceBook({ models: list.map((price, i) => ({ name: "m", credential: names[i], price })), markupPct });
      const pairs = names.map((credential) => ({ model: "m", credential }));
      const most = prices.ceiling(pairs, totalInputTokens(used) + moreInput, totalOutputTokens(used) + moreOutput) as number;
      for (const credential of names) expect(prices.cost("m", credential, used)?.billedNanoUsd).toBeLessThanOrEqual(most);
      // What nobody knows the credential of is held and settled by one price, the dearest.
      const anywhere = prices.ceiling([{ model: "m", credential: null }], totalInputTokens(used), totalOutputTokens(used));
      expect(prices.cost("m", null, used)?.billedNanoUsd).toBeLessThanOrEqual(anywhere as number);
      for (const credential of names)
        expect(prices.cost("m", credential, used)?.billedNanoUsd).toBeLessThanOrEqual(prices.cost("m", null, used)?.billedNanoUsd as number);
    }),
    { numRuns: 500 },
  );
});
