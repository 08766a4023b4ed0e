// The most output that a price file says: what a request holds when nobody else says a maximum, and what it is capped at.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { chat, KEY, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";

/** The ceiling of the input of a chat without messages, in tokens. */
const CEILING_INPUT = 17;
const heldOf = (outputTokens: number): number => (CEILING_INPUT + outputTokens) * 1_000;
const DEFAULT = 300;

let folder: string;
let gateway: TestGateway;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "quotaguard-output-"));
});
afterEach(async () => {
  await gateway.close();
  rmSync(folder, { recursive: true });
});

const entry = (more: object): object => ({ litellm_provider: "openai", input_cost_per_token: 1e-6, output_cost_per_token: 1e-6, ...more });

async function start(list: object, more: GuardOptions = {}): Promise<void> {
  const file = join(folder, "prices.json");
  writeFileSync(file, JSON.stringify(list));
  gateway = await testGateway((upstream) => ({
    credentials: [
      { name: "first", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: upstream.url },
      { name: "second", provider: "openai-compatible", apiKey: UPSTREAM_KEY, baseUrl: upstream.url, isFallback: true },
    ],
    limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }],
    prices: { files: [file], book: false },
    estimate: { defaultMaxOutputTokens: DEFAULT },
    ...more,
  }));
}

async function asked(body: object = {}): Promise<{ readonly held: unknown; readonly sent: unknown }> {
  const response = await chat(gateway.url, { model: "m", messages: [], ...body }, { key: KEY });
  expect(response.status).toBe(200);
  await response.text();
  const id = response.headers.get("x-request-id") as string;
  await expect.poll(async () => (await gateway.guard.ledger.get(id))?.state ?? "intent").not.toBe("intent");
  const sent = JSON.parse(String(gateway.upstream.log.at(-1)?.body)) as Record<string, unknown>;
  return { held: (await gateway.guard.ledger.get(id))?.held.usd, sent: sent.max_completion_tokens ?? sent.max_tokens };
}

describe("the most output of a model in a price file", () => {
  test("is what is held and sent as the cap", async () => {
    await start({ m: entry({ max_output_tokens: 800, max_input_tokens: 10_000, max_tokens: 7 }) });
    expect(await asked()).toEqual({ held: heldOf(800), sent: 800 });
    expect(await asked({ n: 2 })).toEqual({ held: heldOf(1_600), sent: 800 });
  });

  test("is max_tokens where a list knows no other, and limit.output in models.dev's", async () => {
    await start({ m: entry({ max_tokens: 700 }) });
    expect(await asked()).toEqual({ held: heldOf(700), sent: 700 });
    await gateway.close();
    await start({ openai: { models: { m: { cost: { input: 1, output: 1 }, limit: { context: 9_000, output: 900 } } } } });
    expect(await asked()).toEqual({ held: heldOf(900), sent: 900 });
  });

  test("gives way to the client's and to that of models[]", async () => {
    await start({ m: entry({ max_output_tokens: 800 }) });
    expect(await asked({ max_tokens: 50 })).toEqual({ held: heldOf(50), sent: 50 });
    await gateway.close();
    await start({ m: entry({ max_output_tokens: 800 }) }, { models: [{ name: "m", maxOutputTokens: 600 }] });
    expect(await asked()).toEqual({ held: heldOf(600), sent: undefined });
  });

  test("of several accounts the largest counts, and the default for those that nobody knows", async () => {
    await start({ m: entry({ max_output_tokens: 100 }), "groq/m": entry({ litellm_provider: "groq", max_output_tokens: 1_200 }) });
    expect(await asked()).toEqual({ held: heldOf(1_200), sent: 1_200 });
    await gateway.close();
    // The second account knows the model by a name that is in no list.
    const price = { inputPerMtok: 1, outputPerMtok: 1 };
    await start(
      { m: entry({ max_output_tokens: 100 }) },
      {
        models: [
          { name: "house", model: "m", credential: "first", price },
          { name: "house", model: "other", credential: "second", price },
        ],
      },
    );
    expect(await asked({ model: "house" })).toEqual({ held: heldOf(DEFAULT), sent: DEFAULT });
  });

  test.each([
    ["it fills the window", { max_output_tokens: 8_000, max_input_tokens: 8_000 }],
    ["it is none", { max_output_tokens: 0 }],
    ["it is below none", { max_output_tokens: -5 }],
    ["it is beyond all sense", { max_output_tokens: 1e15 }],
    ["it is broken", { max_output_tokens: 12.5 }],
    ["it is prose", { max_output_tokens: "see the docs" }],
  ])("is passed over when %s: the default holds", async (_why, more) => {
    await start({ m: entry(more) });
    expect(await asked()).toEqual({ held: heldOf(DEFAULT), sent: DEFAULT });
  });

  test("is held and not sent when caps are switched off", async () => {
    await start({ m: entry({ max_output_tokens: 800 }) }, { estimate: { defaultMaxOutputTokens: DEFAULT, capOutput: false } });
    expect(await asked()).toEqual({ held: heldOf(800), sent: undefined });
  });

  test("counts also where the price itself comes from elsewhere", async () => {
    const rule = { model: "m", price: { inputPerMtok: 1, outputPerMtok: 1 } };
    const file = join(folder, "prices.json");
    await start(
      { m: { litellm_provider: "openai", max_output_tokens: 450 }, other: entry({}) },
      { prices: { files: [file], book: false, rules: [rule] } },
    );
    expect(await asked()).toEqual({ held: heldOf(450), sent: 450 });
  });
});

test("money is held and billed by the bundled book when nobody says a price, and a model that it does not know is refused", async () => {
  await start({ m: entry({}) }, { prices: {} });
  const response = await chat(gateway.url, { model: "gpt-4o", messages: [], max_tokens: 100 }, { key: KEY });
  await response.text();
  const id = response.headers.get("x-request-id") as string;
  await expect.poll(async () => (await gateway.guard.ledger.get(id))?.state ?? "intent").not.toBe("intent");
  expect(await gateway.guard.ledger.get(id)).toMatchObject({
    held: { usd: CEILING_INPUT * 2_500 + 100 * 10_000 },
    billedNanoUsd: 2_500 + 2 * 10_000,
    priceVersion: expect.stringMatching(/^book:[0-9a-f]{10}$/),
  });
  const refused = await chat(gateway.url, { model: "nobody-knows-it", messages: [] }, { key: KEY });
  expect([refused.status, await refused.json()]).toMatchObject([400, { error: { code: "model_not_priced" } }]);
  expect(gateway.upstream.log).toHaveLength(1);
});
