// The whole guard behind callers of other dialects than its provider's: budgets, rows, model lists, refusals; over HTTP and in this process.
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { afterEach, describe, expect, test } from "vitest";
import { GuardError } from "quotaguard";
import { KEY, testGateway, type TestGateway } from "../helpers/app.ts";
import { asked, DAY, endHosts, host, RPM } from "./in-process-kit.ts";

let gateway: TestGateway | undefined;
afterEach(async () => {
  await gateway?.close();
  gateway = undefined;
  await endHosts();
});

const PRICED = [{ name: "gpt-4o-mini", price: { inputPerMtok: 1_000, outputPerMtok: 1_000 } }];
const messages = [{ role: "user" as const, content: "one two three" }];

async function start(more: Parameters<typeof testGateway>[0] = {}): Promise<TestGateway> {
  return (gateway = await testGateway(more));
}

const post = (at: TestGateway, path: string, body: object, headers: Record<string, string> = { "x-api-key": KEY }): Promise<Response> =>
  fetch(`${at.url}/llm${path}`, { method: "POST", headers: { "content-type": "application/json", ...headers }, body: JSON.stringify(body) });

describe("over HTTP", () => {
  test("Anthropic's client: an answer, a stream, its row and what it was charged", async () => {
    const at = await start({ models: PRICED, limits: [{ name: "spend", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }] });
    const client = new Anthropic({ apiKey: KEY, baseURL: `${at.url}/llm`, maxRetries: 0 });
    const { data, response } = await client.messages.create({ model: "gpt-4o-mini", max_tokens: 20, messages }).withResponse();
    expect(data.content).toMatchObject([{ type: "text", text: expect.stringContaining("one two three") as string }]);
    expect(data.usage.input_tokens).toBe(3);
    expect(Number(response.headers.get("x-quotaguard-cost-usd"))).toBeGreaterThan(0);
    const whole = await client.messages.stream({ model: "gpt-4o-mini", max_tokens: 20, messages }).finalMessage();
    expect(whole.usage.output_tokens).toBe(data.usage.output_tokens);
    await expect.poll(() => at.guard.admin.health().openRequests).toBe(0);
    const row = await at.guard.ledger.get(response.headers.get("x-request-id") as string);
    expect(row).toMatchObject({
      dialect: "anthropic",
      route: "/v1/messages",
      state: "settled",
      provenance: "exact",
      usage: { inputTokens: 3, outputTokens: data.usage.output_tokens },
    });
    const [spend] = await at.guard.remaining({ user: "alice" });
    expect(spend?.used).toBeCloseTo((2 * (3 + data.usage.output_tokens)) / 1_000, 6);
  });

  test("official clients list the models, and find one, as each knows them", async () => {
    const at = await start({ models: PRICED });
    const google = new GoogleGenAI({ apiKey: KEY, httpOptions: { baseUrl: `${at.url}/llm` } });
    const names: (string | undefined)[] = [];
    for await (const { name } of await google.models.list()) names.push(name);
    expect(names).toContain("models/gpt-4o-mini");
    expect((await google.models.get({ model: "gpt-4o-mini" })).name).toBe("models/gpt-4o-mini");
    const claude = new Anthropic({ apiKey: KEY, baseURL: `${at.url}/llm`, maxRetries: 0 });
    const ids: string[] = [];
    for await (const { id } of claude.models.list()) ids.push(id);
    expect(ids).toContain("gpt-4o-mini");
    expect((await claude.models.retrieve("gpt-4o-mini")).id).toBe("gpt-4o-mini");
    await expect(google.models.get({ model: "nobody-s" })).rejects.toMatchObject({ status: 404 });
  });

  test("what is held is sent as the cap, in the provider's own field", async () => {
    const at = await start({
      models: PRICED,
      estimate: { defaultMaxOutputTokens: 33 },
      limits: [{ name: "spend", scope: "user", unit: "usd", window: { limit: 1, per: "day" } }],
    });
    const said = { contents: [{ role: "user", parts: [{ text: "one two" }] }] };
    expect((await post(at, "/v1beta/models/gpt-4o-mini:generateContent", said, { "x-goog-api-key": KEY })).status).toBe(200);
    expect(JSON.parse(String(at.upstream.log[0]?.body))).toMatchObject({ max_completion_tokens: 33 });
  });

  test("a budget refuses in the caller's dialect", async () => {
    const at = await start({ limits: [{ name: "calls", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] });
    const client = new Anthropic({ apiKey: KEY, baseURL: `${at.url}/llm`, maxRetries: 0 });
    await client.messages.create({ model: "gpt-4o-mini", max_tokens: 20, messages });
    const refused: unknown = await client.messages.create({ model: "gpt-4o-mini", max_tokens: 20, messages }).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(Anthropic.RateLimitError);
    expect(refused).toMatchObject({ status: 429, error: { type: "error", error: { type: "rate_limit_error", code: "budget_exhausted" } } });
    expect((refused as { headers: Headers }).headers.get("retry-after")).not.toBeNull();
    expect(at.upstream.log).toHaveLength(1);
    const gemini = await post(at, "/v1beta/models/gpt-4o-mini:generateContent", { contents: [] }, { "x-goog-api-key": KEY });
    expect([gemini.status, await gemini.json()]).toMatchObject([429, { error: { code: 429, status: "RESOURCE_EXHAUSTED" } }]);
  });

  test("who has no key is told so in its own dialect", async () => {
    const at = await start();
    const wrong = { "x-api-key": "wrong" };
    const body = { model: "gpt-4o-mini", max_tokens: 1, messages };
    expect(await (await post(at, "/v1/messages", body, wrong)).json()).toMatchObject({ type: "error", error: { type: "authentication_error" } });
    const gemini = await post(at, "/v1beta/models/m:generateContent", { contents: [] }, { "x-goog-api-key": "wrong" });
    expect([gemini.status, await gemini.json()]).toMatchObject([401, { error: { status: "UNAUTHENTICATED" } }]);
    const list = await fetch(`${at.url}/llm/v1/models`, { headers: { ...wrong, "anthropic-version": "2023-06-01" } });
    expect([list.status, await list.json()]).toMatchObject([401, { type: "error", error: { type: "authentication_error" } }]);
  });

  test("Anthropic's client lists models", async () => {
    const at = await start();
    const client = new Anthropic({ apiKey: KEY, baseURL: `${at.url}/llm`, maxRetries: 0 });
    const ids = [];
    for await (const { id } of client.models.list()) ids.push(id);
    expect(ids).toContain("gpt-4o-mini");
    expect((await client.models.retrieve("gpt-4o-mini")).display_name).toBe("gpt-4o-mini");
    await expect(client.models.retrieve("nobody")).rejects.toBeInstanceOf(Anthropic.NotFoundError);
  });

  test("a count of tokens costs one request and no money, also of a model without a price", async () => {
    const at = await start({
      limits: [
        { name: "spend", scope: "user", unit: "usd", window: { limit: 1, per: "day" } },
        { name: "calls", scope: "user", unit: "requests", window: { limit: 10, per: "hour" } },
      ],
    });
    const response = await post(at, "/v1/messages/count_tokens", { model: "nobody-knows-its-price", messages });
    expect([response.status, response.headers.get("x-quotaguard-estimated")]).toEqual([200, "true"]);
    expect(await response.json()).toEqual({ input_tokens: expect.any(Number) as number });
    await expect.poll(() => at.guard.admin.health().openRequests).toBe(0);
    const rows = await at.guard.remaining({ user: "alice" });
    expect(rows.map(({ name, used, held }) => [name, used, held])).toEqual([
      ["spend", 0, 0],
      ["calls", 1, 0],
    ]);
    expect(at.upstream.log).toHaveLength(0);
  });

  test("the same Idempotency-Key with another level is another request", async () => {
    const at = await start();
    const ask = (model: string): Promise<Response> =>
      post(at, "/v1/chat/completions", { model, messages }, { authorization: `Bearer ${KEY}`, "idempotency-key": "one" });
    expect((await ask("gpt-5(low)")).status).toBe(200);
    expect((await ask("gpt-5(high)")).status).toBe(422);
    expect((await ask("gpt-5(low)")).headers.get("idempotency-replayed")).toBe("true");
    const gemini = (model: string): Promise<Response> =>
      post(
        at,
        `/v1beta/models/${model}:generateContent`,
        { contents: [{ parts: [{ text: "x" }] }] },
        { "x-goog-api-key": KEY, "idempotency-key": "two" },
      );
    expect((await gemini("gpt-4o")).status).toBe(200);
    expect((await gemini("gpt-4o-mini")).status).toBe(422);
  });

  test("what has no counterpart is refused, unless losses are allowed", async () => {
    const body = { model: "gpt-4o-mini", max_tokens: 20, top_k: 5, messages };
    const strict = await post(await start(), "/v1/messages", body);
    expect([strict.status, await strict.json()]).toMatchObject([422, { error: { code: "untranslatable", param: "top_k" } }]);
    expect(gateway?.upstream.log).toHaveLength(0);
    await gateway?.close();
    const loose = await post(await start({ router: { lossy: true } }), "/v1/messages", body);
    expect([loose.status, loose.headers.get("x-quotaguard-dropped")]).toEqual([200, "top_k"]);
  });
});

describe("in this process", () => {
  test("Anthropic's client has no key, and another provider's credential answers", async () => {
    const at = await host({ limits: [DAY] }, () => undefined);
    const client = new Anthropic(at.guard.sdk({ scopes: { user: "alice" } }));
    const { content } = await client.messages.create({ ...asked("one two"), max_tokens: 20 });
    expect(content).toMatchObject([{ type: "text" }]);
    const stream = client.messages.stream({ ...asked("one two"), max_tokens: 20 });
    expect((await stream.finalMessage()).usage.input_tokens).toBe(2);
    await at.quiet();
    expect((await at.standing("user-day"))[0]).toBeGreaterThan(0);
    expect(at.upstream.log.map(({ path }) => path)).toEqual(["/v1/chat/completions", "/v1/chat/completions"]);
    await at.conserved();
  });

  test("Google's client says it in its message, and ours is inside that, too", async () => {
    const at = await start({ limits: [{ name: "calls", scope: "user", unit: "requests", window: { limit: 0, per: "hour" } }] });
    const client = new GoogleGenAI({ apiKey: KEY, httpOptions: { baseUrl: `${at.url}/llm` } });
    const refused: unknown = await client.models.generateContent({ model: "gpt-4o-mini", contents: "hi" }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ status: 400 });
    expect(GuardError.from(refused)).toMatchObject({ code: "budget_too_small", status: 400, limit: "calls", needed: 1 });
  });

  test("a refusal is one of the client's own, and ours inside", async () => {
    const at = await host({ limits: [{ ...RPM, window: { limit: 1, per: "hour" } }] }, () => undefined);
    const client = new Anthropic(at.guard.sdk({ scopes: { user: "alice" } }));
    await client.messages.create({ ...asked("one"), max_tokens: 20 });
    const refused: unknown = await client.messages.create({ ...asked("one"), max_tokens: 20 }).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(Anthropic.RateLimitError);
    expect(GuardError.from(refused)).toMatchObject({ code: "budget_exhausted", limit: "user-rpm" });
  });
});
