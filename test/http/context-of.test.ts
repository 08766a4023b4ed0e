import { describe, expect, test } from "vitest";
import type { Context, Pricer } from "../../src/core/context.ts";
import { MAX_AMOUNT } from "../../src/core/money.ts";
import { NO_USAGE, TOKEN_CLASSES, totalInputTokens, totalOutputTokens, type Usage } from "../../src/core/usage.ts";
import { usageIn } from "../../src/dialects/usage.ts";
import { contextOf, type RequestQuota } from "../../src/http/context-of.ts";
import { contextWith, kit } from "../core/context-kit.ts";

/** 1 nano-USD a token in, 10 out, with a markup of 10 %; only `known` has a price. */
const pricer: Pricer = {
  cost(model, _credential, usage) {
    if (model !== "known") return null;
    const rawNanoUsd = totalInputTokens(usage) + 10 * totalOutputTokens(usage);
    return { rawNanoUsd, billedNanoUsd: Math.ceil(rawNanoUsd * 1.1), priceVersion: "v1" };
  },
  of: () => pricer,
};

function metered(): { ctx: Context; quota: RequestQuota } {
  const ctx = contextWith(kit({ pricer }).services);
  ctx.scopes = { user: "alice" };
  const req = { [Symbol.for("quotaguard.context")]: ctx };
  return { ctx, quota: contextOf(req) };
}

const used = ({ charged }: Context) => (charged?.kind === "usage" ? charged : undefined);
const chunk = (id: string, input: number, output: number) => ({
  id,
  model: "known",
  choices: [],
  usage: { prompt_tokens: input, completion_tokens: output },
});

test("a request that passed none of our steps has no quota", () => {
  expect(() => contextOf({})).toThrow("no quotaguard step ran on this request");
});

test("one request has one quota, with its id, scopes and signal", () => {
  const ctx = contextWith(kit().services);
  const req = { [Symbol.for("quotaguard.context")]: ctx };
  const quota = contextOf(req);
  expect(contextOf(req)).toBe(quota);
  expect([quota.requestId, quota.scopes]).toEqual(["req-1", {}]);
  ctx.leave();
  expect(quota.signal.aborted).toBe(true);
});

describe("what is reported by hand", () => {
  test("adds", () => {
    const { ctx, quota } = metered();
    quota.meter({ model: "known", inputTokens: 10, outputTokens: 2 });
    quota.meter({ model: "known", inputTokens: 1 });
    expect(used(ctx)).toMatchObject({ usage: { ...NO_USAGE, inputTokens: 11, outputTokens: 2 }, provenance: "exact", billedNanoUsd: 33 + 2 });
  });

  test("has all classes, by their names", () => {
    const { ctx, quota } = metered();
    const classes = Object.fromEntries(TOKEN_CLASSES.map((name, i) => [name, i + 1]));
    quota.meter({ model: "known", ...classes, images: 2, requests: 3 });
    expect(used(ctx)?.usage).toEqual({ ...classes, images: 2, requests: 3 });
    quota.meter({ model: "known", audioInputTokens: 4, images: 1 });
    expect(used(ctx)?.usage).toEqual({ ...classes, audioInputTokens: 9, images: 3, requests: 4 });
  });

  test("in the AI SDK's words has its parts inside its totals", () => {
    const { ctx, quota } = metered();
    quota.meter({ model: "known", inputTokens: 100, outputTokens: 50, totalTokens: 150, reasoningTokens: 20, cachedInputTokens: 30 });
    expect(used(ctx)).toMatchObject({ usage: { inputTokens: 70, cacheReadTokens: 30, outputTokens: 30, reasoningTokens: 20 }, rawNanoUsd: 600 });
  });

  test("as a provider's usage object adds, as nobody can say whose it is", () => {
    const { ctx, quota } = metered();
    quota.meter({ prompt_tokens: 5, completion_tokens: 1 });
    quota.meter({ prompt_tokens: 5, completion_tokens: 1 });
    expect(used(ctx)).toMatchObject({ usage: { inputTokens: 10, outputTokens: 2, requests: 2 }, rawNanoUsd: null });
  });

  test("in USD is the cost", () => {
    const { ctx, quota } = metered();
    quota.meter({ usd: 0.5 });
    quota.meter({ usd: 0.25, inputTokens: 3 });
    expect(used(ctx)).toMatchObject({ billedNanoUsd: 750_000_000, usage: { inputTokens: 3 } });
  });

  test("in USD alone says nothing of tokens: what was held of them stands", () => {
    const { ctx, quota } = metered();
    quota.meter({ usd: 0.5 });
    expect(used(ctx)).toMatchObject({ billedNanoUsd: 500_000_000, usage: null });
    quota.meter(chunk("a", 5, 1));
    expect(used(ctx)?.usage).toMatchObject({ inputTokens: 5, outputTokens: 1 });
  });

  test.each([
    [{ inputTokens: undefined, outputTokens: undefined }],
    [{ model: "known", inputTokens: undefined, outputTokens: undefined }],
    [{ usd: undefined }],
    [null],
    [undefined],
  ])("is ignored when it says nothing, as an SDK's usage of a provider that reports none: %j", (report) => {
    const { ctx, quota } = metered();
    quota.meter(report as object);
    expect(ctx.charged).toBeUndefined();
  });

  test("without a price has no cost, then or later", () => {
    const { ctx, quota } = metered();
    quota.meter({ inputTokens: 3 });
    expect(used(ctx)).toMatchObject({ rawNanoUsd: null, billedNanoUsd: null });
    quota.meter({ model: "known", inputTokens: 3 });
    expect(used(ctx)).toMatchObject({ rawNanoUsd: null, billedNanoUsd: null, usage: { inputTokens: 6 } });
  });

  test.each([
    [{ inputTokens: -1 }],
    [{ outputTokens: 1.5 }],
    [{ inputTokens: NaN }],
    [{ outputTokens: "3" as unknown as number }],
    [{ audioInputTokens: -1 }],
    [{ predictionTokens: 0.5 }],
    [{ images: -1 }],
    [{ inputTokens: 1, requests: 1.5 }],
    [{ usd: NaN }],
    [{ usd: -1 }],
    [{ usd: Infinity }],
    [{ usd: "1" as unknown as number }],
    // Nano-USD, perhaps: no budget and no row could say so much.
    [{ usd: 12_000_000 }],
    [{ inputTokens: 1e300 }],
    [{ inputTokens: 1, reportedUsd: -1 }],
  ])("is refused when nobody can have used it, and changes nothing: %j", (report) => {
    const { ctx, quota } = metered();
    quota.meter({ model: "known", inputTokens: 1 });
    const before = ctx.charged;
    const name = Object.keys(report).at(-1) as string;
    expect(() => quota.meter(report)).toThrow(new RegExp(`^meter: ${name} must be `));
    expect(ctx.charged).toBe(before);
  });
});

test("what reports add up to is never more than a limit can be charged and a row can say", () => {
  const { ctx, quota } = metered();
  for (let n = 0; n < 2; n += 1) quota.meter({ usd: 8_000_000, outputTokens: 8e15, images: 8e15, requests: 8e15 });
  expect(used(ctx)).toMatchObject({
    rawNanoUsd: MAX_AMOUNT,
    billedNanoUsd: MAX_AMOUNT,
    usage: { outputTokens: MAX_AMOUNT, images: MAX_AMOUNT, requests: MAX_AMOUNT },
  });
});

test("what usage() finds costs the same as the response itself, also where the provider says what it billed", () => {
  const price = (usage: Usage) => ({
    rawNanoUsd: usage.reportedUsd === undefined ? 1 : usage.reportedUsd * 1e9,
    billedNanoUsd: 2,
    priceVersion: "v",
  });
  const told: Pricer = { cost: (_model, _credential, usage) => price(usage), of: () => told };
  const response = { id: "a", model: "known", usage: { prompt_tokens: 5, completion_tokens: 1, cost: 0.25 } };
  const costs = [response, { model: "known", ...usageIn(response) }].map((report) => {
    const ctx = contextWith(kit({ pricer: told }).services);
    contextOf({ [Symbol.for("quotaguard.context")]: ctx }).meter(report);
    return used(ctx)?.rawNanoUsd;
  });
  expect(costs).toEqual([250_000_000, 250_000_000]);
});

describe("a provider's own object", () => {
  test("of the same response replaces, of another adds", () => {
    const { ctx, quota } = metered();
    quota.meter(chunk("a", 5, 1));
    quota.meter(chunk("a", 5, 3));
    quota.meter(chunk("b", 7, 0));
    const raw = [chunk("a", 5, 3).usage, chunk("b", 7, 0).usage];
    expect(used(ctx)?.usage).toEqual({ ...NO_USAGE, requests: 2, inputTokens: 12, outputTokens: 3, raw });
  });

  test("without usage is ignored", () => {
    const { ctx, quota } = metered();
    quota.meter({ id: "a", choices: [{ delta: { content: "hi" } }], usage: null });
    expect(ctx.charged).toBeUndefined();
  });

  test("an Anthropic stream is its start with the last output", () => {
    const { ctx, quota } = metered();
    quota.meter({
      type: "message_start",
      message: { id: "m", model: "known", type: "message", usage: { input_tokens: 20, cache_read_input_tokens: 5, output_tokens: 1 } },
    });
    // What it produces is not known yet: should the client leave now, the estimate stands.
    expect(ctx.charged).toEqual({ kind: "estimate" });
    quota.meter({ type: "message_delta", usage: { output_tokens: 9 } });
    quota.meter({ type: "message_delta", usage: { output_tokens: 15 } });
    expect(used(ctx)).toMatchObject({
      usage: { ...NO_USAGE, inputTokens: 20, cacheReadTokens: 5, outputTokens: 15 },
      billedNanoUsd: Math.ceil(175 * 1.1),
    });
  });

  test("an Anthropic stream keeps what was stored for an hour, whether or not its end repeats the input", () => {
    const start = {
      input_tokens: 20,
      cache_creation_input_tokens: 30,
      cache_creation: { ephemeral_5m_input_tokens: 10, ephemeral_1h_input_tokens: 20 },
      cache_read_input_tokens: 5,
      output_tokens: 1,
    };
    const classes = { ...NO_USAGE, cacheReadTokens: 5, cacheWriteTokens: 10, cacheWriteLongTokens: 20, outputTokens: 15 };
    for (const [end, inputTokens] of [
      [{ output_tokens: 15 }, 20],
      [{ input_tokens: null, cache_read_input_tokens: null, output_tokens: 15 }, 20],
      // Searching the web puts more into the prompt.
      [{ input_tokens: 25, cache_creation_input_tokens: 30, cache_read_input_tokens: 5, output_tokens: 15 }, 25],
    ] as const) {
      const { ctx, quota } = metered();
      quota.meter({ type: "message_start", message: { id: "m", model: "known", type: "message", usage: start } });
      quota.meter({ type: "message_delta", usage: end });
      expect(used(ctx)).toMatchObject({ usage: { ...classes, inputTokens, raw: [{ ...start, input_tokens: inputTokens, output_tokens: 15 }] } });
      expect(used(ctx)?.rawNanoUsd).toBe(inputTokens + 35 + 150);
    }
  });

  test("and a report by hand add up", () => {
    const { ctx, quota } = metered();
    quota.meter(chunk("a", 5, 1));
    quota.meter({ model: "known", inputTokens: 2 });
    quota.meter(chunk("a", 6, 1));
    expect(used(ctx)?.usage).toMatchObject({ inputTokens: 8, outputTokens: 1 });
  });

  test("costs what it costs before the markup, and is billed with it", () => {
    const { ctx, quota } = metered();
    quota.meter(chunk("a", 100, 0));
    expect(used(ctx)).toMatchObject({ rawNanoUsd: 100, billedNanoUsd: 111 });
  });
});

test("given back, nothing is charged; metered after all, the usage is", () => {
  const { ctx, quota } = metered();
  quota.meter(chunk("a", 5, 1));
  quota.release();
  expect(ctx.charged).toEqual({ kind: "nothing" });
  quota.meter({ model: "known", inputTokens: 1 });
  expect(ctx.charged?.kind).toBe("usage");
});

test("a report after the end is a correction, one before it is not", async () => {
  const { ctx, quota } = metered();
  let corrections = 0;
  ctx.onCorrection(() => void (corrections += 1));
  quota.meter(chunk("a", 5, 1));
  await ctx.close({ status: 200, code: null, error: null });
  expect(corrections).toBe(0);
  quota.meter(chunk("a", 5, 2));
  expect([corrections, used(ctx)?.usage?.outputTokens]).toEqual([1, 2]);
});
