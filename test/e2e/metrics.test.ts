// What a scrape shows after a mix of traffic, to the unit, and what it never shows.
import { afterEach, describe, expect, test } from "vitest";
import { GuardError, memoryStore, type GuardOptions } from "quotaguard";
import { pacer } from "quotaguard/testing";
import { chat, KEY, OTHER_KEY, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";

let gateway: TestGateway;
afterEach(() => gateway.close());

const monitoring = { prometheusEnabled: true };
const models = [{ name: "gpt-4o-mini", price: { inputPerMtok: 1, outputPerMtok: 2 } }];
const closed = async (): Promise<void> => {
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
};

/** A scrape: `name{labels}` without our prefix -> value. */
async function scrape(): Promise<ReadonlyMap<string, number>> {
  const text = (await gateway.guard.metrics())?.text ?? "";
  const samples = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return new Map(
    samples.map((line) => {
      const space = line.lastIndexOf(" ");
      return [line.slice(0, space).replace(/^quotaguard_/, ""), Number(line.slice(space + 1))];
    }),
  );
}

const of = (samples: ReadonlyMap<string, number>, family: string): Readonly<Record<string, number>> =>
  Object.fromEntries(
    [...samples].filter(([name]) => name === family || name.startsWith(`${family}{`)).map(([name, value]) => [name.slice(family.length), value]),
  );

describe("after a mix of traffic", () => {
  async function mix(): Promise<ReadonlyMap<string, number>> {
    gateway = await testGateway((upstream) => ({
      monitoring,
      models,
      credentials: ["first", "second"].map((name) => ({
        name,
        provider: "openai" as const,
        apiKey: `${UPSTREAM_KEY}-${name}`,
        baseUrl: upstream.url,
        models: ["gpt-4o-mini"],
      })),
      limits: [
        { name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } },
        { name: "user-day", scope: "user", unit: "usd", window: { limit: 1, per: "day" } },
        { name: "team-requests", scope: "team", unit: "requests", window: { limit: 6, per: "day" } },
      ],
    }));
    const usage = (prompt: number, completion: number) => ({
      usage: { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion },
    });
    gateway.upstream.script([
      usage(10, 20),
      usage(10, 20),
      { status: 500 },
      usage(10, 20),
      // More than was held: 89 tokens beyond it.
      usage(50, 100),
      { status: 400 },
    ]);
    const ask = async (body: Record<string, unknown> = {}, key = KEY): Promise<number> => {
      const response = await chat(gateway.url, { messages: [], max_tokens: 54, ...body }, { key });
      await response.text();
      await closed();
      return response.status;
    };
    expect(await ask()).toBe(200);
    expect(await ask({ stream: true })).toBe(200);
    expect(await ask()).toBe(200);
    expect(await ask({}, OTHER_KEY)).toBe(200);
    expect(await ask()).toBe(400);
    expect(await ask({ max_tokens: 5_000 })).toBe(400);
    expect(await ask({}, "qg-a-stranger")).toBe(401);
    expect(await ask({ model: "gpt-unheard-of" })).toBe(400);
    return scrape();
  }

  test("every family is there, and exact", async () => {
    const samples = await mix();
    const route = "/v1/chat/completions";
    const labels = (fields: Record<string, string | boolean>): string =>
      `{${Object.entries(fields)
        .map(([name, value]) => `${name}="${value}"`)
        .join(",")}}`;
    const request = (provider: string, model: string, stream: boolean, status: number): string =>
      labels({ route, dialect: "openai", provider, model, stream, status: String(status) });
    expect(of(samples, "requests_total")).toEqual({
      [request("openai", "gpt-4o-mini", false, 200)]: 3,
      [request("openai", "gpt-4o-mini", true, 200)]: 1,
      [request("openai", "gpt-4o-mini", false, 400)]: 1,
      // Refused by a budget: it has no provider yet.
      [request("none", "gpt-4o-mini", false, 400)]: 1,
      [request("none", "other", false, 400)]: 1,
      [labels({ route, dialect: "none", provider: "none", model: "none", stream: false, status: "401" })]: 1,
    });
    expect(of(samples, "attempts_total")).toEqual({
      // In turn until the first failed; from then on it cools down and the second serves alone.
      [labels({ credential: "first", model: "gpt-4o-mini", status: "200" })]: 1,
      [labels({ credential: "second", model: "gpt-4o-mini", status: "200" })]: 3,
      [labels({ credential: "first", model: "gpt-4o-mini", status: "500" })]: 1,
      [labels({ credential: "second", model: "gpt-4o-mini", status: "400" })]: 1,
    });
    expect(of(samples, "decisions_total")).toEqual({
      [labels({ limit: "user-tokens", outcome: "allowed" })]: 5,
      [labels({ limit: "user-day", outcome: "allowed" })]: 5,
      [labels({ limit: "team-requests", outcome: "allowed" })]: 5,
      [labels({ limit: "user-tokens", outcome: "refused" })]: 1,
    });
    expect(of(samples, "tokens_total")).toMatchObject({
      '{direction="input",model="gpt-4o-mini"}': 80,
      '{direction="output",model="gpt-4o-mini"}': 160,
    });
    expect(of(samples, "cost_usd_total")['{model="gpt-4o-mini"}']).toBeCloseTo((80 * 1_000 + 160 * 2_000) / 1e9, 12);
    // Held: 7 + 54 tokens; used: 150. In money 17 x 1,000 + 54 x 2,000 were held and 50 x 1,000 + 100 x 2,000 used.
    expect(of(samples, "debt_units_total")).toEqual({
      '{limit="user-tokens",unit="tokens"}': 89,
      '{limit="user-day",unit="usd"}': (250_000 - 125_000) / 1e9,
    });
    for (const [series, value] of Object.entries(of(samples, "reserved_units"))) expect([series, value]).toEqual([series, 0]);
    expect(Object.keys(of(samples, "reserved_units"))).toHaveLength(3);
    expect(of(samples, "settled_units_total")).toMatchObject({
      '{unit="requests",state="settled"}': 4,
      '{unit="input_tokens",state="settled"}': 80,
      '{unit="output_tokens",state="settled"}': 160,
      '{unit="tokens",state="settled"}': 240,
    });
    // Of the worst off since the last scrape, as their last reservation left them.
    const remaining = of(samples, "bucket_remaining");
    expect(remaining['{limit="team-requests"}']).toBe(1);
    expect(remaining['{limit="user-tokens"}']).toBe(1_000 - 90 - 61);
    // The first failed, and gpt-4o-mini is all that it serves.
    expect(of(samples, "credential_ready")).toEqual({ '{credential="first"}': 0, '{credential="second"}': 1 });
    expect(of(samples, "credential_cooling")).toEqual({ '{credential="first"}': 1, '{credential="second"}': 0 });
    expect(of(samples, "breaker_state")).toEqual({ '{credential="first"}': 0, '{credential="second"}': 0 });
    expect(of(samples, "selection_rejected_total")['{reason="cooling"}']).toBeGreaterThan(0);
    expect(of(samples, "conservation_violations_total")).toEqual({ "": 0 });
    expect(of(samples, "request_duration_seconds_count")).toEqual({ [labels({ route, stream: false })]: 7, [labels({ route, stream: true })]: 1 });
    expect(of(samples, "time_to_first_byte_seconds_count")[""]).toBe(4);
    expect(of(samples, "overhead_seconds_count")['{phase="admission"}']).toBe(5);
  });

  test("what is held shows while it is held", async () => {
    gateway = await testGateway({
      monitoring,
      limits: [
        { name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } },
        { name: "user-parallel", scope: "user", unit: "concurrent", concurrency: { limit: 4 } },
      ],
    });
    const events = pacer();
    gateway.upstream.script({ pacer: events });
    events.step();
    const response = await chat(gateway.url, { messages: [], max_tokens: 50, stream: true });
    expect(of(await scrape(), "reserved_units")).toEqual({
      '{limit="user-tokens",unit="tokens"}': 57,
      '{limit="user-parallel",unit="concurrent"}': 1,
    });
    events.open();
    await response.text();
    await closed();
    expect(of(await scrape(), "reserved_units")).toEqual({
      '{limit="user-tokens",unit="tokens"}': 0,
      '{limit="user-parallel",unit="concurrent"}': 0,
    });
  });

  test("a store that fails is counted by what the limits did about it", async () => {
    const store = memoryStore();
    const away = {
      ...store,
      limits: {
        ...store.limits,
        reserve: () => {
          throw new GuardError("store_unavailable", "away");
        },
      },
    };
    gateway = await testGateway({
      monitoring,
      store: away,
      limits: [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } }],
    });
    for (let i = 0; i < 3; i += 1) expect((await chat(gateway.url)).status).toBe(200);
    expect(of(await scrape(), "store_errors_total")).toEqual({ '{op="reserve",mode="local"}': 3 });
  });

  test("no exposition of anybody's key, name or text", async () => {
    await mix();
    await chat(gateway.url, { model: "secret-project-model", messages: [{ role: "user", content: "secret question" }], user: "secret-user" });
    const text = (await gateway.guard.metrics())?.text ?? "";
    for (const never of [KEY, OTHER_KEY, UPSTREAM_KEY, "alice", "bob", "secret", "unheard"]) expect(text).not.toContain(never);
  });
});

test("3,000 models and users that nobody configured stay under 2,000 series and out of the labels", async () => {
  const options: GuardOptions = {
    monitoring,
    models,
    auth: async (key) => (key === null ? null : { name: key.slice(0, 40), scopes: { user: key.slice(0, 40), team: `team-${key.length}` } }),
    limits: [
      { name: "user-model", scope: ["user", "model"], unit: "requests", window: { limit: 1, per: "hour" } },
      { name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } },
    ],
  };
  gateway = await testGateway(options);
  const failing: number[] = [];
  for (let i = 0; i < 3_000; i += 50) {
    await Promise.all(
      Array.from({ length: 50 }, async (_, k) => {
        const response = await chat(gateway.url, { model: `strange-model-${i + k}` }, { key: `strange-user-${i + k}` });
        await response.text();
        if (response.status !== 200) failing.push(response.status);
      }),
    );
  }
  expect(failing).toEqual([]);
  const samples = await scrape();
  expect(samples.size).toBeLessThan(2_000);
  const text = [...samples.keys()].join("\n");
  expect(text).not.toContain("strange");
  expect(Object.values(of(samples, "requests_total")).reduce((sum, value) => sum + value, 0)).toBe(3_000);
}, 60_000);
