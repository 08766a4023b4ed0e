import { describe, expect, test } from "vitest";
import { priceFile } from "../../src/config/price-file.ts";
import { NO_USAGE, type Usage } from "../../src/core/usage.ts";
import { priceBook } from "../metering/prices-kit.ts";

/** Excerpts of what the files have, with what is odd about them. */
const LITELLM = {
  sample_spec: { litellm_provider: "one of https://docs.litellm.ai/docs/providers", max_tokens: "LEGACY parameter", input_cost_per_token: "prose" },
  fallback_generalizations: { rules: [{ name: "x", pattern: ".*" }] },
  "gpt-4o": {
    litellm_provider: "openai",
    mode: "chat",
    input_cost_per_token: 2.5e-6,
    output_cost_per_token: 1e-5,
    cache_read_input_token_cost: 1.25e-6,
  },
  "azure/gpt-4o": { litellm_provider: "azure", mode: "chat", input_cost_per_token: 2.75e-6, output_cost_per_token: 1.1e-5 },
  "gemini/gemini-2.5-pro": {
    litellm_provider: "gemini",
    mode: "chat",
    input_cost_per_token: 1.25e-6,
    output_cost_per_token: 1e-5,
    input_cost_per_token_above_200k_tokens: 2.5e-6,
    output_cost_per_token_above_200k_tokens: 1.5e-5,
    cache_creation_input_token_cost: 2e-6,
    cache_creation_input_token_cost_above_1hr: 3e-6,
    input_cost_per_audio_token: 4e-6,
    input_cost_per_image_token: 5e-6,
    output_cost_per_reasoning_token: 1.1e-5,
    output_cost_per_audio_token: 1.2e-5,
    output_cost_per_image_token: 1.3e-5,
    output_cost_per_image: 0.04,
    output_cost_per_prediction_token: 1.4e-5,
    input_cost_per_audio_token_above_200k_tokens: 6e-6,
    cache_creation_input_token_cost_above_1hr_above_200k_tokens: 7e-6,
  },
  "dashscope/qwen-flash": {
    litellm_provider: "dashscope",
    mode: "chat",
    tiered_pricing: [
      { range: [256_000, 1_000_000], input_cost_per_token: 2.5e-7, output_cost_per_token: 2e-6 },
      { range: [0, 256_000], input_cost_per_token: 5e-8, output_cost_per_token: 4e-7 },
    ],
  },
  "text-embedding-3-small": { litellm_provider: "openai", mode: "embedding", input_cost_per_token: 2e-8 },
  sonar: { litellm_provider: "perplexity", mode: "chat", input_cost_per_token: 1e-6, output_cost_per_token: 1e-6, input_cost_per_request: 0.005 },
  "image-chat": { litellm_provider: "openai", mode: "chat", input_cost_per_token: 1e-6, output_cost_per_token: 1e-6, output_cost_per_image: 0.04 },
  "dall-e-3": { litellm_provider: "openai", mode: "image_generation", input_cost_per_token: 1, output_cost_per_token: 1 },
  "half-known": { litellm_provider: "openai", mode: "chat", input_cost_per_token: 1e-6 },
  "broken-tier": {
    litellm_provider: "openai",
    mode: "chat",
    input_cost_per_token: 1e-6,
    output_cost_per_token: 1e-6,
    input_cost_per_token_above_200k_tokens: -1,
  },
  "below-nothing": { litellm_provider: "openai", mode: "chat", input_cost_per_token: -1e-6, output_cost_per_token: 1e-6 },
  "free-or-unknown": { litellm_provider: "openai", mode: "chat", input_cost_per_token: 0, output_cost_per_token: 0 },
};

const MODELS_DEV = {
  openai: {
    id: "openai",
    models: {
      "gpt-4o": { id: "gpt-4o", cost: { input: 2.5, output: 10, cache_read: 1.25 }, limit: { context: 128_000, output: 16_384 } },
      "no-cost": { id: "no-cost", limit: {} },
    },
  },
  google: {
    id: "google",
    models: {
      "gemini-2.5-pro": {
        id: "gemini-2.5-pro",
        cost: {
          input: 1.25,
          output: 10,
          cache_read: 0.31,
          input_audio: 3,
          output_audio: 12,
          context_over_200k: { input: 2.5, output: 15, cache_read: 0.625 },
        },
      },
    },
  },
  "github-copilot": { id: "github-copilot", models: { "gpt-4o": { id: "gpt-4o", cost: { input: 0, output: 0 } } } },
};

const usage = (parts: Partial<Usage>): Usage => ({ ...NO_USAGE, ...parts });

/** Costs by a file alone, at credentials that are named after their providers. */
function costs(file: unknown) {
  const source = priceFile(JSON.stringify(file), "prices.json");
  const prices = priceBook({ sources: { current: [source] }, credentials: { version: 0, find: (name) => ({ provider: name }) } });
  const nanoUsd = (model: string, provider: string | null, parts: Partial<Usage>): number | undefined =>
    prices.cost(model, provider, usage(parts))?.rawNanoUsd;
  return { source, prices, nanoUsd };
}

describe("LiteLLM's file", () => {
  const { source, prices, nanoUsd } = costs(LITELLM);

  test("has USD per token, digit for digit", () => {
    expect([source.shape, source.models]).toEqual(["litellm", 7]);
    expect(nanoUsd("gpt-4o", "openai", { inputTokens: 3, cacheReadTokens: 2, outputTokens: 1 })).toBe(3 * 2_500 + 2 * 1_250 + 10_000);
    expect(nanoUsd("qwen-flash", "qwen", { inputTokens: 1 })).toBe(50);
    expect(nanoUsd("text-embedding-3-small", "openai", { inputTokens: 1_000 })).toBe(20_000);
    expect(nanoUsd("sonar", "perplexity", { inputTokens: 1 })).toBe(1_000 + 5_000_000);
  });

  test("has a price at each provider, which is nobody else's", () => {
    expect(["openai", "azure", "bedrock"].map((name) => nanoUsd("gpt-4o", name, { inputTokens: 1 }))).toEqual([2_500, 2_750, undefined]);
    expect(nanoUsd("azure/gpt-4o", "azure", { inputTokens: 1 })).toBe(2_750);
  });

  test("prices an account of nobody knows whom as the dearest", () => {
    for (const name of ["openai-compatible", null]) expect(nanoUsd("gpt-4o", name, { inputTokens: 1, cacheReadTokens: 1 })).toBe(2_750 * 2);
    expect(prices.ceiling([{ model: "gpt-4o", credential: null }], 1, 0)).toBe(2_750);
  });

  test("has a price for each class", () => {
    const classes = { cacheWriteTokens: 2, cacheWriteLongTokens: 3, audioInputTokens: 4, imageInputTokens: 5 };
    const written = { reasoningTokens: 11, audioOutputTokens: 12, imageOutputTokens: 13, predictionTokens: 14 };
    for (const [name, rate] of Object.entries({ ...classes, ...written }))
      expect([name, nanoUsd("gemini-2.5-pro", "gemini", { [name]: 1 })]).toEqual([name, rate * 1_000]);
    const long = { inputTokens: 200_000, audioInputTokens: 1, cacheWriteLongTokens: 1 };
    expect(nanoUsd("gemini-2.5-pro", "gemini", long)).toBe(200_000 * 2_500 + 6_000 + 7_000);
    // An image that is billed by its tokens is not billed once more.
    expect(nanoUsd("gemini-2.5-pro", "gemini", { images: 1 })).toBe(0);
    expect(nanoUsd("image-chat", "openai", { images: 2 })).toBe(80_000_000);
  });

  test("has tiers, as fields and as ranges", () => {
    expect(nanoUsd("gemini-2.5-pro", "gemini", { inputTokens: 200_000, outputTokens: 1 })).toBe(200_000 * 1_250 + 10_000);
    expect(nanoUsd("gemini-2.5-pro", "gemini", { inputTokens: 200_001, outputTokens: 1 })).toBe(200_001 * 2_500 + 15_000);
    expect(nanoUsd("qwen-flash", "qwen", { inputTokens: 256_001, outputTokens: 1 })).toBe(256_001 * 250 + 2_000);
  });

  test.each(["dall-e-3", "half-known", "broken-tier", "below-nothing", "free-or-unknown", "sample_spec", "unheard-of"])(
    "does not price %s",
    (model) => {
      expect(nanoUsd(model, "openai", { inputTokens: 1 })).toBeUndefined();
      expect(nanoUsd(model, null, { inputTokens: 1 })).toBeUndefined();
    },
  );
});

test("models.dev's file has USD per million tokens, by provider", () => {
  const { source, nanoUsd } = costs(MODELS_DEV);
  expect([source.shape, source.models]).toEqual(["models.dev", 2]);
  expect(nanoUsd("gpt-4o", "openai", { inputTokens: 3, cacheReadTokens: 2, outputTokens: 1 })).toBe(3 * 2_500 + 2 * 1_250 + 10_000);
  expect(nanoUsd("gemini-2.5-pro", "gemini", { inputTokens: 1, cacheReadTokens: 200_000 })).toBe(2_500 + 200_000 * 625);
  expect(nanoUsd("gemini-2.5-pro", "gemini", { audioInputTokens: 1, audioOutputTokens: 1 })).toBe(15_000);
  expect(nanoUsd("gpt-4o", "copilot", { inputTokens: 1 })).toBeUndefined();
  expect(nanoUsd("no-cost", "openai", { inputTokens: 1 })).toBeUndefined();
});

test("auto_ai_router's own name for cached input is understood", () => {
  const { nanoUsd } = costs({
    m: { litellm_provider: "openai", input_cost_per_token: 0.01, output_cost_per_token: 0.02, input_cost_per_cached_token: 0.0001 },
  });
  expect(nanoUsd("m", "openai", { inputTokens: 80, cacheReadTokens: 20, outputTokens: 50 })).toBe(1_802_000_000);
});

test("what is no price list says so", () => {
  const wrong = (text: string): unknown => {
    try {
      return priceFile(text, "x");
    } catch (error) {
      return (error as Error).message;
    }
  };
  expect([wrong(""), wrong("{"), wrong("<html>")]).toEqual(["it is not JSON", "it is not JSON", "it is not JSON"]);
  expect([wrong("[]"), wrong("3"), wrong("null")]).toEqual(Array.from({ length: 3 }, () => "it is not a JSON object"));
  for (const text of [
    "{}",
    '{"error":{"message":"not found"}}',
    '{"__proto__":{"litellm_provider":"openai"}}',
    '{"m":{"litellm_provider":"openai","input_cost_per_token":2500000,"output_cost_per_token":2500000}}',
  ])
    expect(wrong(text)).toMatch(/^it prices no model: expected the JSON of LiteLLM/);
});
