// Money limits: what is held, what is sent upstream so that the hold is enough, and what is billed in the end.
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { digestOf } from "quotaguard/testing";
import { chat, testGateway, type TestGateway } from "../helpers/app.ts";

/**
 * A chat without messages: 4 + 3 tokens expected; the ceiling adds a quarter and 8 for the frame. Prices are nano-USD per token: 1 USD per
 * million is 1,000.
 */
const EXPECTED_INPUT = 7;
const CEILING_INPUT = 17;
const CHEAP = { inputPerMtok: 1, outputPerMtok: 2 };
const DEAR = { inputPerMtok: 10, outputPerMtok: 20 };
const ceilingOf = (outputTokens: number, price = DEAR): number =>
  CEILING_INPUT * price.inputPerMtok * 1_000 + outputTokens * price.outputPerMtok * 1_000;

const dayOf = (usd: number, more: object = {}) => ({
  name: "user-day",
  scope: "user",
  unit: "usd" as const,
  window: { limit: usd, per: "day" },
  ...more,
});

let gateway: TestGateway;
afterEach(() => gateway.close());

/** Two accounts that serve the same model at different prices, and a money limit. */
async function start(limit: number, more: GuardOptions = {}, limitMore: object = {}): Promise<void> {
  gateway = await testGateway((upstream) => ({
    credentials: ["cheap", "dear"].map((name) => ({ name, provider: "openai" as const, apiKey: `sk-upstream-${name}`, baseUrl: upstream.url })),
    models: [
      { name: "gpt-4o", credential: "cheap", price: CHEAP },
      { name: "gpt-4o", credential: "dear", price: DEAR },
    ],
    limits: [dayOf(limit, limitMore)],
    ...more,
  }));
}

const ask = (body: Record<string, unknown> = {}) => chat(gateway.url, { model: "gpt-4o", messages: [], max_tokens: 100, ...body });
const row = async (response: Response) => {
  await response.clone().text();
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
  return gateway.guard.ledger.get(response.headers.get("x-request-id") as string);
};
const sent = (index = -1) => JSON.parse(String(gateway.upstream.log.at(index)?.body)) as Record<string, unknown>;
const errorOf = async (response: Response) => ((await response.json()) as { error: Record<string, unknown> }).error;

describe("what is held", () => {
  test("the most that the dearest candidate may bill, whoever serves; what is not used comes back", async () => {
    await start(1);
    const answers = [await ask(), await ask()];
    const rows = await Promise.all(answers.map(row));
    expect(rows.map((each) => each?.credential)).toEqual(["cheap", "dear"]);
    expect(rows.map((each) => each?.held.usd)).toEqual([ceilingOf(100), ceilingOf(100)]);
    // The fake bills one token of input and two of output here.
    expect(rows.map((each) => each?.rawNanoUsd)).toEqual([1_000 + 4_000, 10_000 + 40_000]);
    expect(answers.map((answer) => answer.headers.get("x-quotaguard-cost-usd"))).toEqual(["0.000005000", "0.000050000"]);
    const { headers } = await ask();
    // A dollar less what the two cost and what the third one holds, in millionths.
    expect(headers.get("ratelimit")).toBe(
      `"user-day";r=${Math.floor((1e9 - 55_000 - ceilingOf(100)) / 1_000)};t=${/t=(\d+)/.exec(headers.get("ratelimit") ?? "")?.[1]}`,
    );
  });

  test("of a call that nobody answered in time the row bills what the budget is charged: its input", async () => {
    await start(1, { server: { requestTimeout: 150 }, resilience: { maxRetries: 0 } });
    gateway.upstream.script({ fault: { at: "start", how: "hang" } });
    const input = EXPECTED_INPUT * DEAR.inputPerMtok * 1_000;
    expect(await row(await ask())).toMatchObject({ state: "estimated", billedNanoUsd: input, held: { usd: ceilingOf(100) } });
    const [day] = await gateway.guard.remaining({ user: "alice" });
    expect(day?.used).toBe(input / 1e9);
  });

  test("a refusal tells USD", async () => {
    await start(0.0025);
    let answer = (): void => {};
    gateway.upstream.script({ hold: new Promise<void>((resolve) => (answer = resolve)) });
    const open = ask();
    await gateway.upstream.received(1);
    const refused = await ask();
    expect(refused.status).toBe(429);
    expect(refused.headers.get("x-should-retry")).toBe("false");
    const error = await errorOf(refused);
    expect(error).toMatchObject({ code: "budget_exhausted", limit: "user-day", scope: "user", needed: 0.00217, available: 0.00033 });
    expect(error.message).toContain("limit user-day (per user) has 0.00033 USD left and this request needs 0.00217");
    answer();
    expect((await open).status).toBe(200);
  });

  test("what can never fit is no question of waiting", async () => {
    await start(0.002);
    const refused = await ask();
    expect(refused.status).toBe(400);
    expect(refused.headers.get("retry-after")).toBeNull();
    expect(await errorOf(refused)).toMatchObject({ code: "budget_too_small", needed: 0.00217, available: 0.002 });
    expect(gateway.upstream.log).toHaveLength(0);
  });

  test("n answers may each use the whole cap", async () => {
    await start(1);
    expect((await row(await ask({ n: 3 })))?.held.usd).toBe(ceilingOf(300));
  });
});

describe("a model without a price", () => {
  const NO_BOOK: GuardOptions = { prices: { book: false } };

  test("is refused under a money limit, before anything is sent", async () => {
    await start(1, NO_BOOK);
    const refused = await ask({ model: "gpt-4o-mini" });
    expect(refused.status).toBe(400);
    expect(await errorOf(refused)).toMatchObject({ code: "model_not_priced", param: "model" });
    expect(gateway.upstream.log).toHaveLength(0);
  });

  test("at one of its candidates only, too: it might be served there", async () => {
    await start(1, {
      ...NO_BOOK,
      models: [
        { name: "gpt-4o", credential: "cheap", price: CHEAP },
        { name: "gpt-4o", credential: "dear" },
      ],
    });
    expect(await errorOf(await ask())).toMatchObject({ code: "model_not_priced" });
  });

  test("passes where no limit counts money, and has no cost", async () => {
    await start(1, { ...NO_BOOK, limits: [] });
    const response = await ask({ model: "gpt-4o-mini" });
    expect(response.status).toBe(200);
    expect(response.headers.get("x-quotaguard-cost-usd")).toBeNull();
    expect(await row(response)).toMatchObject({ state: "settled", rawNanoUsd: null, billedNanoUsd: null });
  });
});

describe("the output cap that is sent upstream", () => {
  const estimate = { defaultMaxOutputTokens: 77 };
  const bare = { model: "gpt-4o", messages: [] };
  const post = (body: Record<string, unknown>, path = "chat/completions") =>
    fetch(`${gateway.url}/llm/v1/${path}`, {
      method: "POST",
      headers: { authorization: "Bearer qg-test-key-of-alice-0001" },
      body: JSON.stringify(body),
    });

  test("is the default when nobody named one and the ceiling counts on it", async () => {
    await start(1, { estimate });
    const response = await post(bare);
    expect(sent()).toEqual({ ...bare, max_completion_tokens: 77 });
    expect((await row(response))?.held.usd).toBe(ceilingOf(77));
  });

  test("is max_tokens for an openai-compatible server", async () => {
    await start(1, { estimate });
    await gateway.close();
    gateway = await testGateway((upstream) => ({
      credentials: [{ name: "own", provider: "openai-compatible", baseUrl: upstream.url }],
      models: [{ name: "gpt-4o", price: CHEAP }],
      limits: [dayOf(1)],
      estimate,
    }));
    await (await post(bare)).text();
    expect(sent()).toEqual({ ...bare, max_tokens: 77 });
  });

  test("is max_tokens for legacy completions, which know no other field", async () => {
    await start(1, { estimate });
    const body = { model: "gpt-4o", prompt: "say" };
    await (await post(body, "completions")).text();
    expect(sent()).toEqual({ ...body, max_tokens: 77 });
  });

  test.each([
    ["the client named its own", {}, {}, { ...bare, max_tokens: 5 }],
    ["the model's maximum is known", { models: [{ name: "gpt-4o", price: CHEAP, maxOutputTokens: 500 }] }, {}, bare],
    [
      "no limit rests on a ceiling",
      { limits: [{ name: "t", scope: "user", unit: "tokens", bucket: { capacity: 9_000, refillPerSec: 0 } }] },
      {},
      bare,
    ],
    ["it is switched off", { estimate: { ...estimate, capOutput: false } }, {}, bare],
    ["embeddings have no output", {}, { path: "embeddings" }, { model: "gpt-4o", input: "x" }],
  ] as const)("is not sent when %s: the bytes stay as they came", async (_why, more, { path }: { path?: string }, body) => {
    await start(1, { estimate, ...(more as GuardOptions) });
    await (await post(body, path)).text();
    expect(String(gateway.upstream.log.at(-1)?.body)).toBe(JSON.stringify(body));
  });
});

describe("when_short: shorten", () => {
  const shorten = { whenShort: "shorten" };
  // What a thousandth of a dollar pays at the dearest candidate.
  const FITS = Math.floor((1_000_000 - CEILING_INPUT * 10_000) / 20_000);

  test("sends what is left as the cap, in the client's own field", async () => {
    await start(0.001, {}, shorten);
    gateway.upstream.script({ text: Array.from({ length: 200 }, () => "word ") });
    const response = await ask({ max_tokens: 1_000 });
    expect(sent()).toMatchObject({ max_tokens: FITS });
    expect(await response.clone().json()).toMatchObject({ usage: { completion_tokens: FITS }, choices: [{ finish_reason: "length" }] });
    expect((await row(response))?.held.usd).toBe(ceilingOf(FITS));
  });

  test("adds the cap where the client named none", async () => {
    await start(0.001, {}, shorten);
    await (await ask({ max_tokens: undefined })).text();
    expect(sent()).toMatchObject({ max_completion_tokens: FITS });
  });

  test("shares the cap among n answers", async () => {
    await start(0.001, {}, shorten);
    const response = await ask({ max_tokens: 1_000, n: 2 });
    expect(sent()).toMatchObject({ max_tokens: Math.floor(FITS / 2) });
    expect((await row(response))?.held.usd).toBe(ceilingOf(Math.floor(FITS / 2) * 2));
  });

  test("leaves a smaller wish alone, and refuses when not even one token is left", async () => {
    await start(0.001, {}, shorten);
    await (await ask({ max_tokens: 3 })).text();
    expect(sent()).toMatchObject({ max_tokens: 3 });
    gateway.upstream.script({ usage: { prompt_tokens: 100, completion_tokens: 0, total_tokens: 100 } });
    await (await ask({ max_tokens: 3 })).text();
    const refused = await ask({ max_tokens: 1_000 });
    expect([refused.status, (await errorOf(refused)).code]).toEqual([400, "budget_too_small"]);
  });

  test("does not help where another limit that is short does not shorten", async () => {
    await start(0.001, { limits: [dayOf(0.001, shorten), { ...dayOf(0.001), name: "hard-day" }] });
    const refused = await ask({ max_tokens: 1_000 });
    expect(refused.status).toBe(400);
    expect(gateway.upstream.log).toHaveLength(0);
  });

  test("works for tokens and output tokens as well", async () => {
    const limit = (unit: "tokens" | "output_tokens", capacity: number) => ({
      name: unit,
      scope: "user",
      unit,
      bucket: { capacity, refillPerSec: 0 },
      estimate: "ceiling" as const,
      whenShort: "shorten" as const,
    });
    await start(1, { limits: [limit("tokens", 60)] });
    await (await ask({ max_tokens: 1_000 })).text();
    expect(sent()).toMatchObject({ max_tokens: 60 - CEILING_INPUT });
    await gateway.close();
    await start(1, { limits: [limit("output_tokens", 9)] });
    await (await ask({ max_tokens: 1_000 })).text();
    expect(sent()).toMatchObject({ max_tokens: 9 });
  });
});

describe("markup", () => {
  test("is in what limits, headers and metrics count; the row keeps both", async () => {
    await start(1, { prices: { markupPct: 25 }, monitoring: { prometheusEnabled: true } });
    const response = await ask();
    expect(response.headers.get("x-quotaguard-cost-usd")).toBe("0.000006250");
    expect(await row(response)).toMatchObject({ rawNanoUsd: 5_000, billedNanoUsd: 6_250, held: { usd: ceilingOf(100) * 1.25 } });
    expect((await gateway.guard.metrics())?.text).toContain('quotaguard_cost_usd_total{model="gpt-4o"} 0.00000625');
    const { headers } = await ask();
    expect(Number(/r=(\d+)/.exec(headers.get("ratelimit") ?? "")?.[1])).toBe(Math.floor((1e9 - 6_250 - ceilingOf(100) * 1.25) / 1_000));
  });

  test("is rounded up once", async () => {
    await start(1, { prices: { markupPct: 0.01 } });
    expect(await row(await ask())).toMatchObject({ rawNanoUsd: 5_000, billedNanoUsd: 5_001 });
  });
});

test("a cost that the provider itself reports is what is billed", async () => {
  await start(1);
  gateway.upstream.script({ usage: { prompt_tokens: 10, completion_tokens: 10, total_tokens: 20, cost: 0.0123 } });
  const response = await ask();
  expect(response.headers.get("x-quotaguard-cost-usd")).toBe("0.012300000");
  expect(await row(response)).toMatchObject({ rawNanoUsd: 12_300_000 });
});

test("200 parallel requests never bill more than the limit, by the provider's own count", async () => {
  const LIMIT_USD = 0.05;
  await start(LIMIT_USD);
  // Everybody gets as much as the cap allows.
  gateway.upstream.script({ text: Array.from({ length: 200 }, () => "word ") });
  const answers = await Promise.all(Array.from({ length: 200 }, (_, i) => ask({ stream: i % 2 === 0, max_tokens: 40 + (i % 40) })));
  await Promise.all(answers.map((answer) => answer.text()));
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
  const passed = answers.filter(({ status }) => status === 200).length;
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 429]));
  expect(gateway.upstream.log).toHaveLength(passed);

  const isDear = digestOf("Bearer sk-upstream-dear");
  let billed = 0;
  for (const { headers, billed: tokens } of gateway.upstream.log) {
    const price = headers.authorization === isDear ? DEAR : CHEAP;
    billed += (tokens.inputTokens * price.inputPerMtok + tokens.outputTokens * price.outputPerMtok) * 1_000;
  }
  expect(billed).toBeLessThanOrEqual(LIMIT_USD * 1e9);
  expect(billed).toBeGreaterThan(LIMIT_USD * 1e9 * 0.3);
  const rows = await gateway.guard.ledger.list({ state: "settled" });
  expect(rows.reduce((sum, { billedNanoUsd }) => sum + (billedNanoUsd ?? 0), 0)).toBe(billed);
});
