import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { fakeUpstream, testClock, type FakeUpstream, type FakeUpstreamOptions } from "quotaguard/testing";
import { KEY, OTHER_KEY, testGateway, type TestGateway } from "../helpers/app.ts";

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

async function provider(options: FakeUpstreamOptions): Promise<FakeUpstream> {
  const upstream = await fakeUpstream(options);
  opened.push(upstream);
  return upstream;
}

async function started(options: GuardOptions | ((upstream: FakeUpstream) => GuardOptions)): Promise<TestGateway> {
  const gateway = await testGateway(options);
  opened.push(gateway);
  return gateway;
}

const get = (gateway: TestGateway, path = "", key = KEY) =>
  fetch(`${gateway.url}/llm/v1/models${path}`, { headers: { authorization: `Bearer ${key}` } });
const ids = async (gateway: TestGateway, key = KEY) =>
  ((await (await get(gateway, "", key)).json()) as { data: { id: string }[] }).data.map(({ id }) => id);

describe("GET /v1/models", () => {
  test("joins what is configured and what each provider lists, each name once", async () => {
    const one = await provider({ models: ["gpt-4o", "gpt-4o-mini", "internal-model"] });
    const two = await provider({ models: ["gpt-4o", "llama-3"] });
    const gateway = await started({
      credentials: [
        { name: "one", apiKey: "sk-1", baseUrl: one.url, models: ["gpt-*"] },
        { name: "two", provider: "openai-compatible", baseUrl: two.url },
        { name: "three", provider: "openai-compatible", baseUrl: "http://127.0.0.1:9", models: ["named-here"] },
      ],
      models: [{ name: "my-model", model: "llama-3", credential: "two" }],
    });
    const response = await get(gateway);
    expect(response.headers.get("content-type")).toContain("application/json");
    const list = (await response.json()) as { object: string; data: { id: string; object: string; created: number; owned_by: string }[] };
    expect(list.object).toBe("list");
    expect(list.data.map(({ id }) => id).toSorted()).toEqual(["gpt-4o", "gpt-4o-mini", "llama-3", "my-model", "named-here"]);
    for (const model of list.data)
      expect(model).toEqual({ id: model.id, object: "model", created: expect.any(Number), owned_by: expect.any(String) });
    // A credential whose models are all named is not asked.
    expect(one.log).toHaveLength(1);
    expect(two.log).toHaveLength(1);
  });

  test("a provider that fails takes nothing from the others, and its last good list stays", async () => {
    const clock = testClock();
    const one = await provider({ models: ["gpt-4o"], keys: ["sk-1"] });
    const two = await provider({ models: ["llama-3"] });
    const gateway = await started({
      clock,
      credentials: [
        { name: "one", apiKey: "sk-wrong", baseUrl: one.url },
        { name: "two", provider: "openai-compatible", baseUrl: two.url },
      ],
    });
    expect(await ids(gateway)).toEqual(["llama-3"]);
    await two.close();
    clock.advance(5 * 60_000 + 1);
    expect(await ids(gateway)).toEqual(["llama-3"]);
    expect(one.log).toHaveLength(2);
  });

  test("is asked for once in five minutes, and once for many at the same time", async () => {
    const clock = testClock();
    const gateway = await started({ clock });
    await Promise.all(Array.from({ length: 20 }, () => ids(gateway)));
    await ids(gateway);
    expect(gateway.upstream.log).toHaveLength(1);
    clock.advance(5 * 60_000 + 1);
    await ids(gateway);
    expect(gateway.upstream.log).toHaveLength(2);
  });

  test("a provider that does not answer holds nobody for longer than five seconds", async () => {
    const clock = testClock();
    const gateway = await started({ clock, models: [{ name: "configured" }] });
    gateway.upstream.script({});
    const silent = await provider({});
    silent.script({ fault: { at: "start", how: "hang" } });
    const hanging = await started({
      clock,
      models: [{ name: "configured" }],
      credentials: [{ name: "silent", provider: "openai-compatible", baseUrl: silent.url }],
    });
    const pending = ids(hanging);
    await silent.received(1);
    clock.advance(5_000);
    expect(await pending).toEqual(["configured"]);
  });

  test("each key sees what it may use", async () => {
    const gateway = await started({
      auth: {
        keys: [
          { name: "all", key: KEY },
          { name: "mini", key: OTHER_KEY, models: ["*-mini", "text-*"] },
        ],
      },
    });
    expect((await ids(gateway)).toSorted()).toEqual(["gpt-3.5-turbo-instruct", "gpt-4o", "gpt-4o-mini", "text-embedding-3-small"]);
    expect((await ids(gateway, OTHER_KEY)).toSorted()).toEqual(["gpt-4o-mini", "text-embedding-3-small"]);
    expect((await get(gateway, "/gpt-4o", OTHER_KEY)).status).toBe(404);
    expect((await get(gateway, "", "qg-a-stranger")).status).toBe(401);
  });

  test("one model by its id, also with a slash in it; an unknown one is 404", async () => {
    const gateway = await started({ models: [{ name: "meta/llama-3" }] });
    expect(await (await get(gateway, "/gpt-4o")).json()).toMatchObject({ id: "gpt-4o", object: "model" });
    expect(await (await get(gateway, "/meta%2Fllama-3")).json()).toMatchObject({ id: "meta/llama-3" });
    expect(await (await get(gateway, "/meta/llama-3")).json()).toMatchObject({ id: "meta/llama-3" });
    for (const path of ["/nothing", "/%zz"]) {
      const response = await get(gateway, path);
      expect(response.status).toBe(404);
      expect(await response.json()).toMatchObject({ error: { code: "model_not_found", param: "model" } });
    }
  });

  test("costs nothing and leaves no row", async () => {
    const gateway = await started({ limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] });
    for (let i = 0; i < 3; i += 1) expect((await get(gateway)).status).toBe(200);
    await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
    expect(await gateway.guard.ledger.list({})).toEqual([]);
  });
});
