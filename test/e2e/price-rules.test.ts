// Prices by rule: whose they are, from when they count, and that what is held, billed and written down are of one price.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { testClock } from "quotaguard/testing";
import { chat, KEY, OTHER_KEY, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";

/** The ceiling of the input of a chat without messages, in tokens; the fake bills one token of input and two of output. */
const CEILING_INPUT = 17;
const MAX_OUTPUT = 100;
const flat = (perMtok: number) => ({ inputPerMtok: perMtok, outputPerMtok: perMtok });
const ceilingOf = (perMtok: number): number => (CEILING_INPUT + MAX_OUTPUT) * perMtok * 1_000;
const billOf = (perMtok: number): number => 3 * perMtok * 1_000;

let gateway: TestGateway;
afterEach(() => gateway.close());

async function start(more: GuardOptions): Promise<void> {
  gateway = await testGateway((upstream) => ({
    auth: {
      keys: [
        { name: "alice", key: KEY, scopes: { org: "acme", user: "alice" } },
        { name: "bob", key: OTHER_KEY, scopes: { org: "beta", user: "bob" } },
      ],
    },
    credentials: [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: upstream.url }],
    limits: [{ name: "org-day", scope: "org", unit: "usd", window: { limit: 1, per: "day" } }],
    ...more,
  }));
}

const ask = (key: string = KEY) => chat(gateway.url, { model: "gpt-4o", messages: [], max_tokens: MAX_OUTPUT }, { key });
async function row(response: Response) {
  await response.clone().text();
  const id = response.headers.get("x-request-id") as string;
  await expect.poll(async () => (await gateway.guard.ledger.get(id))?.state ?? "intent").not.toBe("intent");
  return gateway.guard.ledger.get(id);
}

describe("an org's own price", () => {
  test("is what its requests hold and are billed, and nobody else's", async () => {
    await start({
      prices: {
        rules: [
          { model: "gpt-*", price: flat(2) },
          { org: "acme", model: "gpt-*", price: flat(5), markupPct: 20 },
        ],
      },
    });
    const acme = await row(await ask());
    const beta = await row(await ask(OTHER_KEY));
    expect(acme).toMatchObject({ held: { usd: ceilingOf(5) * 1.2 }, rawNanoUsd: billOf(5), billedNanoUsd: billOf(5) * 1.2 });
    expect(beta).toMatchObject({ held: { usd: ceilingOf(2) }, rawNanoUsd: billOf(2), billedNanoUsd: billOf(2) });
    expect([acme?.priceVersion, beta?.priceVersion]).toEqual([expect.stringMatching(/^rules:/), expect.stringMatching(/^rules:/)]);
    expect(acme?.priceVersion).not.toBe(beta?.priceVersion);
  });

  test("does not price what others may not use without one", async () => {
    await start({ prices: { book: false, rules: [{ org: "acme", price: flat(5) }] } });
    expect((await ask()).status).toBe(200);
    const refused = await ask(OTHER_KEY);
    expect([refused.status, await refused.json()]).toMatchObject([400, { error: { code: "model_not_priced" } }]);
    expect(gateway.upstream.log).toHaveLength(1);
  });
});

test("a price that rises while a request is under way does not charge more than it held", async () => {
  const clock = testClock({ now: Date.UTC(2027, 0, 1) - 1_000 });
  await start({
    clock,
    limits: [{ name: "org-total", scope: "org", unit: "usd", bucket: { capacity: 1, refillPerSec: 0 } }],
    prices: {
      rules: [
        { model: "gpt-4o", price: flat(1) },
        { model: "gpt-4o", price: flat(1_000), from: "2027-01-01" },
      ],
    },
  });
  let answer = (): void => {};
  gateway.upstream.script({ hold: new Promise<void>((resolve) => (answer = resolve)) });
  const open = ask();
  await gateway.upstream.received(1);
  await clock.advance(2_000);
  answer();
  const [before, after] = [await row(await open), await row(await ask())];
  expect(before).toMatchObject({ held: { usd: ceilingOf(1) }, billedNanoUsd: billOf(1) });
  expect(after).toMatchObject({ held: { usd: ceilingOf(1_000) }, billedNanoUsd: billOf(1_000) });
  expect(after?.priceVersion).not.toBe(before?.priceVersion);
});

test("a price file that changes while a request is under way does not change what that one costs; those after it it does", async () => {
  const folder = mkdtempSync(join(tmpdir(), "quotaguard-price-file-"));
  const file = join(folder, "prices.json");
  const write = (perMtok: number) =>
    writeFileSync(
      file,
      JSON.stringify({ "gpt-4o": { litellm_provider: "openai", input_cost_per_token: perMtok / 1e6, output_cost_per_token: perMtok / 1e6 } }),
    );
  write(1);
  const clock = testClock();
  await start({ clock, prices: { files: [file], refresh: "1m" } });
  let answer = (): void => {};
  gateway.upstream.script({ hold: new Promise<void>((resolve) => (answer = resolve)) });
  const open = ask();
  await gateway.upstream.received(1);
  gateway.upstream.script({});
  write(500);
  clock.advance(60_000);
  await expect.poll(async () => (await row(await ask(OTHER_KEY)))?.held.usd).toBe(ceilingOf(500));
  answer();
  expect(await row(await open)).toMatchObject({
    held: { usd: ceilingOf(1) },
    billedNanoUsd: billOf(1),
    priceVersion: expect.stringMatching(/^file:/),
  });
  expect(await row(await ask())).toMatchObject({ held: { usd: ceilingOf(500) }, billedNanoUsd: billOf(500) });
  await gateway.guard.close();
  rmSync(folder, { recursive: true });
});

test("rows say no version where no price was applied", async () => {
  await start({ limits: [], prices: { book: false } });
  expect(await row(await ask())).toMatchObject({ state: "settled", billedNanoUsd: null, priceVersion: null });
  await gateway.close();
  await start({ limits: [], models: [{ name: "gpt-4o", price: flat(1) }] });
  expect(await row(await ask())).toMatchObject({ priceVersion: expect.stringMatching(/^models:[0-9a-f]{10}$/) });
  gateway.upstream.script({ usage: { prompt_tokens: 1, completion_tokens: 1, total_tokens: 2, cost: 0.5 } });
  expect(await row(await ask())).toMatchObject({ rawNanoUsd: 500_000_000, priceVersion: expect.stringMatching(/^reported:/) });
});
