import { waitForUpdate } from "@pydantic/genai-prices";
import { beforeAll, describe, expect, test } from "vitest";
import { datedPrices, priceBookSource } from "../../src/config/price-book.ts";
import { systemClock } from "../../src/core/time.ts";
import { NO_USAGE, type Usage } from "../../src/core/usage.ts";
import { compilePrice, costOf, type ModelPrice } from "../../src/metering/price.ts";
import type { PriceSource } from "../../src/metering/price-source.ts";
import type { PriceBook } from "../../src/metering/prices.ts";
import { priceBook } from "../metering/prices-kit.ts";

const NOW = Date.UTC(2026, 10, 1);
const DAY = 86_400_000;
const usage = (parts: Partial<Usage>): Usage => ({ ...NO_USAGE, ...parts });

let source: PriceSource;
beforeAll(async () => {
  source = await priceBookSource(systemClock);
});

/** By the book alone, at credentials that are named after their providers. */
const bookAt = (now: number): PriceBook =>
  priceBook({ sources: { current: [source] }, credentials: { version: 0, find: (name) => ({ provider: name }) }, clock: { now: () => now } });
const nanoUsd = (model: string, provider: string | null, parts: Partial<Usage>, now = NOW): number | undefined =>
  bookAt(now).cost(model, provider, usage(parts))?.rawNanoUsd;
const priceOf = (written: unknown): ModelPrice | null | undefined => datedPrices(written)[0]?.price;

describe("every model in the book", () => {
  /** What these bill is nothing that a model call counts. */
  const NOT_BY_TOKEN = /_(hours|kpages|messages_kcount)$|video_mtok$/;

  test("has a price, unless it says none or bills something else than tokens", async () => {
    const providers = (await waitForUpdate()) ?? [];
    const left: string[] = [];
    let priced = 0;
    for (const { id: provider, models } of providers) {
      for (const { id, prices } of models) {
        for (const [i, { price }] of datedPrices(prices).entries()) {
          const written = Array.isArray(prices) ? prices[i]?.prices : prices;
          const keys = Object.keys(written ?? {});
          if (price === null) {
            if (keys.length > 0 && !keys.some((key) => NOT_BY_TOKEN.test(key))) left.push(`${provider}/${id}`);
            continue;
          }
          priced += 1;
          const compiled = compilePrice(price, id);
          const input = written?.input_mtok;
          const base = typeof input === "object" ? input.base : input;
          expect(costOf(compiled, usage({ inputTokens: 1_000 })) - costOf(compiled, NO_USAGE), `${provider}/${id}`).toBe(
            Math.ceil(Number(base) * 1e6 - 1e-6),
          );
        }
      }
    }
    expect(left).toEqual([]);
    expect(priced).toBeGreaterThan(1_000);
  });

  test("costs what the package itself says, also above its tiers and from its dates on", async () => {
    const { calcPrice } = await import("@pydantic/genai-prices");
    const amounts = [
      { inputTokens: 900, cacheReadTokens: 90, cacheWriteTokens: 10, outputTokens: 500, reasoningTokens: 0 },
      { inputTokens: 500_000, cacheReadTokens: 50_000, cacheWriteTokens: 1, outputTokens: 70_000, reasoningTokens: 0 },
    ];
    for (const now of [Date.UTC(2026, 1, 1), Date.UTC(2026, 9, 1), Date.UTC(2027, 5, 1)]) {
      for (const model of ["gpt-4o", "gpt-4o-2024-11-20", "o3", "gpt-5.6-sol", "gpt-5.6-luna"]) {
        for (const parts of amounts) {
          const tokens = {
            input_tokens: parts.inputTokens + parts.cacheReadTokens + parts.cacheWriteTokens,
            cache_read_tokens: parts.cacheReadTokens,
            cache_write_tokens: parts.cacheWriteTokens,
            output_tokens: parts.outputTokens,
          };
          const theirs = calcPrice(tokens, model, { providerId: "openai", timestamp: new Date(now) });
          expect(theirs).not.toBeNull();
          const said = theirs?.total_price as number;
          expect((nanoUsd(model, "openai", parts, now) as number) / 1e9, `${model} at ${now}`).toBeCloseTo(said, 8);
        }
      }
    }
  });
});

describe("whose price it is", () => {
  test("follows our providers' names, and those that plugins take from the book", () => {
    expect(nanoUsd("gpt-4o", "openai", { inputTokens: 1, outputTokens: 1 })).toBe(2_500 + 10_000);
    expect(nanoUsd("gpt-4o", "azure", { inputTokens: 1 })).toBe(2_500);
    expect(nanoUsd("gemini-2.5-flash", "gemini", { inputTokens: 1, outputTokens: 1 })).toBe(300 + 2_500);
    expect(nanoUsd("gemini-2.5-flash", "vertex-ai", { inputTokens: 1 })).toBe(300);
    expect(nanoUsd("llama-3.3-70b-versatile", "groq", { outputTokens: 1 })).toBe(790);
  });

  test("a provider that is known for another is never priced as somebody else", () => {
    expect(nanoUsd("claude-sonnet-4-5", "openai", { inputTokens: 1 })).toBeUndefined();
    expect(nanoUsd("gpt-4o", "qwen", { inputTokens: 1 })).toBeUndefined();
    // The book has a rule that takes any name with openai in it for OpenAI.
    expect(nanoUsd("gpt-4o", "my-openai-relay", { inputTokens: 1 })).toBeUndefined();
    expect(nanoUsd("gpt-4o", "__proto__", { inputTokens: 1 })).toBeUndefined();
  });

  test("an account that may be anybody's, or nobody's in particular, pays the dearest of that name", () => {
    const model = "openai/gpt-oss-120b";
    const each = source.find(model, null, NOW).map(({ price }) => costOf(compilePrice(price, ""), usage({ inputTokens: 1_000_000 })));
    expect(new Set(each).size).toBeGreaterThan(1);
    for (const provider of ["openai-compatible", null]) expect(nanoUsd(model, provider, { inputTokens: 1_000_000 })).toBe(Math.max(...each));
  });

  test.each(["nobody-knows-it", "", "__proto__", "constructor", "toString", `gpt-4o${"x".repeat(300)}`, "a".repeat(1_000_000), "gpt-4o\u0000"])(
    "%.20s is nobody's model",
    (name) => {
      expect(source.find(name, "openai", NOW)).toEqual([]);
      expect(source.find(name, null, NOW)).toEqual([]);
    },
  );

  test("what the book lists without a price is not free", () => {
    expect(source.find("gpt-4o", "copilot", NOW)).toEqual([]);
    expect(nanoUsd("openai/gpt-oss-20b:free", "openrouter", { inputTokens: 1 })).toBeUndefined();
    expect(nanoUsd("whisper-1", "openai", { inputTokens: 1 })).toBeUndefined();
  });
});

describe("a model that clients know by another name", () => {
  const renamed = (name: string, real: string): PriceBook =>
    priceBook({
      models: [{ name, model: real }],
      sources: { current: [source] },
      credentials: { version: 0, find: (provider) => ({ provider }) },
      clock: { now: () => NOW },
    });
  const input = usage({ inputTokens: 1 });

  test("costs what the provider's own name for it costs", () => {
    for (const credential of ["openai", null])
      expect(renamed("gpt-4o-mini", "gpt-4o").cost("gpt-4o-mini", credential, input)?.rawNanoUsd).toBe(2_500);
    expect(renamed("gpt-4o", "gpt-4o-mini").cost("gpt-4o", "openai", input)?.rawNanoUsd).toBe(150);
  });

  test("costs what its name among clients does where the other is in no list, as that of a deployment", () => {
    expect(renamed("gpt-4o", "our-deployment-7").cost("gpt-4o", "azure", input)?.rawNanoUsd).toBe(2_500);
  });
});

describe("a price that changes", () => {
  const CHANGE = Date.UTC(2027, 0, 1);

  test("changes at midnight of its day, in a book that was made before", () => {
    let now = CHANGE - 1;
    const book = priceBook({
      sources: { current: [source] },
      credentials: { version: 0, find: (name) => ({ provider: name }) },
      clock: { now: () => now },
    });
    const cost = (): number | undefined => book.cost("gemini-3.6-flash", "gemini", usage({ inputTokens: 1 }))?.rawNanoUsd;
    const request = { scopes: undefined };
    const held = book.of(request);
    expect(cost()).toBe(750);
    expect(held.cost("gemini-3.6-flash", "gemini", usage({ inputTokens: 1 }))?.rawNanoUsd).toBe(750);
    now = CHANGE;
    expect(cost()).toBe(1_500);
    // What is under way is billed by the prices that it was held by.
    expect(book.of(request).cost("gemini-3.6-flash", "gemini", usage({ inputTokens: 1 }))?.rawNanoUsd).toBe(750);
    expect(book.at(null, CHANGE - 1).cost("gemini-3.6-flash", "gemini", usage({ inputTokens: 1 }))?.rawNanoUsd).toBe(750);
  });

  test("by the hour is the dearest of the day", () => {
    for (const hour of [0, 2, 5, 8, 12, 23]) {
      const now = NOW + hour * 3_600_000;
      expect(nanoUsd("deepseek-v4-flash", "deepseek", { inputTokens: 1, outputTokens: 1 }, now)).toBe(440 + 1_320);
    }
  });

  test("by the hour and the day: what has not begun, and what was before it, does not count", () => {
    const before = Date.UTC(2026, 7, 17) - DAY;
    const found = (now: number) => source.find("deepseek-v4-flash", "deepseek", now).map(({ price }) => price.inputPerMtok);
    expect(found(before)).toEqual([0.44, 0.44, 0.14]);
    expect(found(NOW)).toEqual([0.44, 0.44, 0.22]);
  });
});

describe("a price of the book", () => {
  test("keeps its digits", () => {
    expect(priceOf({ input_mtok: 0.0028, output_mtok: 0.1, requests_kcount: 12 })).toEqual({
      inputPerMtok: 0.0028,
      outputPerMtok: 0.1,
      perRequest: "1.2e-2",
    });
    const price = compilePrice(priceOf({ input_mtok: 1, output_mtok: 1, requests_kcount: 0.07 }) as ModelPrice, "");
    expect(costOf(price, NO_USAGE)).toBe(70_000);
  });

  test("has the tiers of each class where they begin, also where only some have one", () => {
    const written = {
      input_mtok: { base: 1, tiers: [{ start: 1_000, price: 2 }] },
      output_mtok: { base: 5, tiers: [{ start: 2_000, price: 9 }] },
      cache_read_mtok: 0.1,
    };
    const price = compilePrice(priceOf(written) as ModelPrice, "");
    const at = (cacheReadTokens: number): number =>
      costOf(price, usage({ inputTokens: 1, cacheReadTokens, outputTokens: 1 })) - cacheReadTokens * 100;
    expect([at(999), at(1_000), at(1_999), at(2_000)]).toEqual([6_000, 7_000, 7_000, 11_000]);
  });

  test("asks for output that is not priced as for input, and is free only when it says 0", () => {
    expect(priceOf({ input_mtok: 0.1 })).toEqual({ inputPerMtok: 0.1, outputPerMtok: 0.1 });
    expect(priceOf({ input_mtok: 0, output_mtok: 0 })).toEqual({ inputPerMtok: 0, outputPerMtok: 0 });
    for (const none of [{}, { input_mtok: 0 }, { output_mtok: 1 }, null, undefined, "free", 0]) expect(priceOf(none)).toBeNull();
  });

  test.each([
    ["negative", { input_mtok: -1, output_mtok: 1 }],
    ["not a number", { input_mtok: Number.NaN, output_mtok: 1 }],
    ["without end", { input_mtok: 1, output_mtok: Infinity }],
    ["beyond all prices", { input_mtok: 1e300, output_mtok: 1 }],
    ["text", { input_mtok: "1", output_mtok: 1 }],
    ["of a broken tier", { input_mtok: { base: 1, tiers: [{ start: -1, price: 2 }] }, output_mtok: 1 }],
    ["with a tier of requests", { input_mtok: 1, output_mtok: 1, requests_kcount: { base: 1, tiers: [] } }],
    ["by something that is not counted", { input_mtok: 1, output_mtok: 1, output_video_mtok: 17 }],
    ["of a name of the prototype", { input_mtok: 1, output_mtok: 1, constructor: 3 }],
  ])("that is %s is none", (_what, written) => {
    expect(priceOf(written)).toBeNull();
  });

  test("of several, one of which cannot be read, is none while that one counts", () => {
    const good = { input_mtok: 1, output_mtok: 1 };
    expect(datedPrices([{ prices: good }, { constraint: { type: "full_moon" }, prices: good }])).toEqual([]);
    expect(datedPrices([{ prices: good }, { constraint: { type: "start_date", start_date: "soon" }, prices: good }])).toEqual([]);
  });
});

test("the book says which version it is, and knows no maxima of output", async () => {
  expect(source.name).toMatch(/^@pydantic\/genai-prices \d+\.\d+\.\d+$/);
  expect(source.maxOutputTokens("gpt-4o", "openai")).toBeNull();
});
