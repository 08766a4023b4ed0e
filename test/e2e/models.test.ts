// The list of models as clients of a whole gateway see it.
import OpenAI from "openai";
import { afterEach, expect, test } from "vitest";
import { fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import type { GuardOptions } from "quotaguard";
import { chat, KEY, OTHER_KEY, testGateway, type TestGateway } from "../helpers/app.ts";

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).toReversed()) await each.close();
});

async function started(options: GuardOptions | ((upstream: FakeUpstream) => GuardOptions) = {}): Promise<TestGateway> {
  const gateway = await testGateway(options);
  opened.push(gateway);
  return gateway;
}

const get = (gateway: TestGateway, path = "", key = KEY) =>
  fetch(`${gateway.url}/llm/v1/models${path}`, { headers: { authorization: `Bearer ${key}` } });
async function listed(client: OpenAI): Promise<string[]> {
  const names: string[] = [];
  for await (const { id } of client.models.list()) names.push(id);
  return names;
}

const ids = async (gateway: TestGateway, key = KEY) =>
  ((await (await get(gateway, "", key)).json()) as { data: { id: string }[] }).data.map(({ id }) => id);

/** What the scripted provider lists. */
const OFFERED = ["claude-sonnet-5", "gemini-2.5-flash", "gpt-3.5-turbo-instruct", "gpt-4o", "gpt-4o-mini", "text-embedding-3-small"];

test("each key sees what it may use, and a stranger sees nothing", async () => {
  const gateway = await started({
    auth: {
      keys: [
        { name: "all", key: KEY },
        { name: "mini", key: OTHER_KEY, models: ["*-mini", "text-*"] },
      ],
    },
  });
  expect(await ids(gateway)).toEqual(OFFERED);
  expect(await ids(gateway, OTHER_KEY)).toEqual(["gpt-4o-mini", "text-embedding-3-small"]);
  expect((await get(gateway, "/gpt-4o", OTHER_KEY)).status).toBe(404);
  expect((await get(gateway, "", "qg-a-stranger")).status).toBe(401);
});

test("an official client lists and retrieves models, also by an alias and with a slash", async () => {
  const gateway = await started({ models: [{ name: "meta/llama-3" }], modelAlias: { fast: "gpt-4o-mini" } });
  const client = new OpenAI({ apiKey: KEY, baseURL: `${gateway.url}/llm/v1`, maxRetries: 0 });
  expect(await listed(client)).toEqual(["meta/llama-3", ...OFFERED]);
  for (const id of ["gpt-4o", "meta/llama-3", "fast"]) expect(await client.models.retrieve(id)).toMatchObject({ id, object: "model" });
  await expect(client.models.retrieve("nothing")).rejects.toMatchObject({ status: 404, code: "model_not_found", param: "model" });
});

test("in this process it is the same list", async () => {
  const gateway = await started();
  const client = new OpenAI(gateway.guard.sdk());
  expect(await listed(client)).toEqual(await ids(gateway));
});

test("what is listed decides who is asked: a model goes to the credential whose provider has it", async () => {
  const other = await fakeUpstream({ models: ["llama-3"] });
  opened.push(other);
  const gateway = await started((upstream) => ({
    credentials: [
      { name: "one", apiKey: "sk-1", baseUrl: upstream.url },
      { name: "two", provider: "openai-compatible", baseUrl: other.url },
    ],
  }));
  expect(await ids(gateway)).toContain("llama-3");
  for (let i = 0; i < 4; i += 1) expect((await chat(gateway.url, { model: "llama-3" })).status).toBe(200);
  expect([gateway.upstream.log, other.log].map((log) => log.filter(({ method }) => method === "POST").length)).toEqual([0, 4]);
});

test("costs nothing and leaves no row", async () => {
  const gateway = await started({ limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] });
  for (let i = 0; i < 3; i += 1) expect((await get(gateway)).status).toBe(200);
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
  expect(await gateway.guard.ledger.list({})).toEqual([]);
});
