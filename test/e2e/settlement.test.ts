import express from "express";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { contextOf, createGuard, type GuardOptions } from "quotaguard";
import { expectConserved, pacer, recordingStore, type FakeReply, type FakeUpstream } from "quotaguard/testing";
import { chat, gatewayOptions, listen, testGateway, type TestGateway } from "../helpers/app.ts";
import { ownTime } from "../helpers/own-time.ts";

/** One bucket that never refills: what is left says to the unit what was charged. */
const CAPACITY = 100_000;
const limits = [
  { name: "user-tokens", scope: "user", unit: "tokens" as const, bucket: { capacity: CAPACITY, refillPerSec: 0 }, estimate: "expected" as const },
];
const resilience = { firstByteTimeout: 150, idleTimeout: 150, maxRetries: 0 };
const server = { requestTimeout: 150 };

let gateway: TestGateway;
let conserved: () => Promise<unknown>;

async function start(more: (upstream: FakeUpstream) => GuardOptions): Promise<void> {
  const store = recordingStore();
  let options: GuardOptions = {};
  gateway = await testGateway((upstream) => (options = gatewayOptions(upstream, { store, ...more(upstream) })));
  conserved = () => expectConserved({ guard: gateway.guard, store, upstreams: [gateway.upstream], options });
}

beforeEach(() => start(() => ({ limits, resilience, server })));
// Whatever happened to a request: nothing of it is lost, spent twice or still held.
afterEach(async () => {
  await conserved();
  await gateway.close();
});

/** What alice was charged, once every request has closed. */
async function charged(): Promise<number> {
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
  return CAPACITY - (await gateway.guard.admin.bucket({ scope: "user", id: "alice" })).tokens;
}

const row = async (response: Response) => gateway.guard.ledger.get(response.headers.get("x-request-id") as string);
const script = (reply: FakeReply) => gateway.upstream.script(reply);
const billed = () => {
  const { inputTokens, outputTokens } = gateway.upstream.totals();
  return inputTokens + outputTokens;
};

describe("what is charged in the end", () => {
  test("a whole answer: its usage", async () => {
    const response = await chat(gateway.url, { max_tokens: 1_000 });
    await response.json();
    expect(await charged()).toBe(billed());
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "exact", status: 200, attempts: 1 });
  });

  test("a stream: the usage of its last chunk", async () => {
    const response = await chat(gateway.url, { stream: true });
    await response.text();
    expect(await charged()).toBe(billed());
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "exact", stream: true });
  });

  test("a stream whose provider tells no usage: counted", async () => {
    script({ usage: "missing" });
    const response = await chat(gateway.url, { stream: true });
    expect(await response.text()).toContain("[DONE]");
    expect(await charged()).toBeGreaterThan(0);
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "counted" });
  });

  test.each([false, true])("a usage of zero is a real zero, and exact (stream: %s)", async (stream) => {
    script({ usage: "zero" });
    const response = await chat(gateway.url, { stream });
    await response.text();
    expect(await charged()).toBe(0);
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "exact", usage: { inputTokens: 0, outputTokens: 0 } });
  });

  test.each([
    ["missing", false, "missing"],
    ["missing", true, "missing"],
    ["null", false, "null"],
    ["null", true, "null"],
    ["no count", true, { prompt_tokens: "many", completion_tokens: 1 }],
    ["below zero", true, { prompt_tokens: 3, completion_tokens: -1 }],
    ["beyond all reason", false, { prompt_tokens: 3, completion_tokens: 1e18 }],
  ] as const)("a usage that is %s is counted, and says so (stream: %s)", async (_what, stream, usage) => {
    script({ usage, text: Array.from({ length: 40 }, () => " word") });
    const response = await chat(gateway.url, { stream });
    await response.text();
    // Forty words, give or take what the fast tokenizer is wrong by, and a short question.
    const output = (await row(response))?.usage?.outputTokens ?? 0;
    expect(output).toBeGreaterThanOrEqual(40);
    expect(output).toBeLessThanOrEqual(50);
    expect(await charged()).toBe(output + 12);
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "counted" });
  });

  test("an error status: nothing, and it keeps its status and bytes", async () => {
    script({ status: 400, body: '{"error":{"message":"no","type":"invalid_request_error","code":"x","param":null}}' });
    const response = await chat(gateway.url);
    expect(response.status).toBe(400);
    expect(await response.text()).toBe('{"error":{"message":"no","type":"invalid_request_error","code":"x","param":null}}');
    expect(await charged()).toBe(0);
    expect(await row(response)).toMatchObject({ state: "released", code: null });
  });

  test("a break before the answer: nothing", async () => {
    script({ fault: { at: "start", how: "reset" } });
    const response = await chat(gateway.url);
    expect(response.status).toBe(502);
    expect(await response.json()).toMatchObject({ error: { code: "upstream_unreachable" } });
    expect(await charged()).toBe(0);
  });

  test("a timeout of a whole answer: the input, because the provider may have billed it", async () => {
    script({ fault: { at: "start", how: "hang" } });
    const response = await chat(gateway.url, { max_tokens: 5_000 });
    expect(response.status).toBe(504);
    expect(await response.json()).toMatchObject({ error: { code: "upstream_timeout" } });
    const input = await charged();
    expect(input).toBeGreaterThan(0);
    expect(input).toBeLessThan(100);
    expect(await row(response)).toMatchObject({ state: "estimated", provenance: "estimated" });
  });

  test("a stream that breaks in the middle: what was delivered, told by one error event and no forged end", async () => {
    const events = pacer();
    script({ fault: { at: 3, how: "reset" }, pacer: events });
    const pending = chat(gateway.url, { stream: true });
    events.step(2);
    const response = await pending;
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    let text = Buffer.from((await reader.read()).value ?? []).toString();
    events.open();
    for (let read = await reader.read(); !read.done; read = await reader.read()) text += Buffer.from(read.value).toString();
    expect(text).not.toContain("[DONE]");
    expect(text.match(/"error"/g)).toHaveLength(1);
    expect(text).toContain('"upstream_');
    // A reset may overtake what was written just before it: one chunk at most.
    expect(await charged()).toBeGreaterThanOrEqual(gateway.upstream.totals().outputTokens - 1);
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "counted" });
  });

  test("a stream that stalls in the middle: cut after the idle timeout", async () => {
    script({ fault: { at: 3, how: "hang" } });
    const response = await chat(gateway.url, { stream: true });
    expect(await response.text()).toContain('"upstream_timeout"');
    expect(await charged()).toBeGreaterThanOrEqual(gateway.upstream.totals().outputTokens);
  });

  test("a stream without its terminal event: failed, and none is added", async () => {
    script({ fault: { at: 4, how: "close" } });
    const response = await chat(gateway.url, { stream: true });
    const text = await response.text();
    expect(text).not.toContain("[DONE]");
    expect(text).toContain('"upstream_protocol"');
  });

  test("a client that leaves in mid-stream: what was delivered; the upstream is closed within 100 ms", async () => {
    script({ fault: { at: 5, how: "hang" } });
    const leaving = new AbortController();
    const response = await chat(gateway.url, { stream: true }, { signal: leaving.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    const entry = gateway.upstream.log[0];
    const sinceLeft = ownTime();
    leaving.abort();
    await entry?.ended;
    expect(sinceLeft()).toBeLessThan(100);
    expect(entry?.end).toBe("client");
    const delivered = entry?.billed.outputTokens ?? 0;
    const total = await charged();
    expect(total).toBeGreaterThanOrEqual(delivered - 1);
    expect(total).toBeLessThan(100);
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "counted", code: "client_closed" });
  });

  test("a client that leaves before the answer: the input", async () => {
    script({ fault: { at: "start", how: "hang" } });
    const leaving = new AbortController();
    const pending = chat(gateway.url, { stream: true }, { signal: leaving.signal });
    await gateway.upstream.received(1);
    leaving.abort();
    await expect(pending).rejects.toThrow();
    await gateway.upstream.log[0]?.ended;
    const input = await charged();
    expect(input).toBeGreaterThan(0);
    expect(input).toBeLessThan(100);
  });

  test("more than was held: debt, and the next request waits for it", async () => {
    const debts: unknown[] = [];
    gateway.guard.events.on("debt", (debt) => debts.push(debt));
    script({ usage: { prompt_tokens: 10, completion_tokens: CAPACITY + 500, total_tokens: CAPACITY + 510 } });
    await (await chat(gateway.url)).json();
    expect(await charged()).toBe(CAPACITY + 510);
    expect(debts).toHaveLength(1);
    const next = await chat(gateway.url);
    expect(next.status).toBe(429);
    expect(await next.json()).toMatchObject({ error: { code: "budget_exhausted", limit: "user-tokens", scope: "user", available: 0 } });
  });

  test("an answer that is no JSON, or endless: a protocol error, nothing charged", async () => {
    script({ body: "<html>busy</html>", headers: { "content-type": "text/html" } });
    const response = await chat(gateway.url);
    expect(response.status).toBe(502);
    expect(await response.json()).toMatchObject({ error: { code: "upstream_protocol" } });
    expect(await charged()).toBe(0);
  });
});

test("a retried failure charges only the attempt that served", async () => {
  await gateway.close();
  await start((upstream) => ({
    limits,
    credentials: ["a", "b"].map((name) => ({ name, provider: "openai" as const, apiKey: `sk-upstream-${name}`, baseUrl: upstream.url })),
  }));
  gateway.upstream.script([{ status: 500 }, {}]);
  const response = await chat(gateway.url);
  expect(response.status).toBe(200);
  await response.json();
  expect(gateway.upstream.log).toHaveLength(2);
  expect(gateway.upstream.log[0]?.headers.authorization).not.toBe(gateway.upstream.log[1]?.headers.authorization);
  expect(await charged()).toBe(billed());
  expect(await row(response)).toMatchObject({ attempts: 2, credential: "b" });
});

test("a client that leaves while a second hold is being made leaves none behind", async () => {
  const asked = Promise.withResolvers<void>();
  const answer = Promise.withResolvers<number>();
  const guard = createGuard({
    scopes: () => ({ user: "alice" }),
    limits: [
      { name: "first", scope: "user", unit: "requests", window: { limit: 100, per: "hour" } },
      { name: "parallel", scope: "user", unit: "concurrent", concurrency: { limit: () => (asked.resolve(), answer.promise) } },
    ],
  });
  const app = express();
  app.get("/work", guard.budgets({ limits: ["first"] }), guard.budgets({ limits: ["parallel"] }), (_req, res) => void res.send("done"));
  const { url, close } = await listen(app);
  const leaving = new AbortController();
  const pending = fetch(`${url}/work`, { signal: leaving.signal });
  await asked.promise;
  leaving.abort();
  await expect(pending).rejects.toThrow();
  await expect.poll(() => guard.admin.health().openRequests).toBe(0);
  answer.resolve(1);
  expect((await fetch(`${url}/work`)).status).toBe(200);
  await close();
  await guard.close();
});

test("a model whose name no header can carry is answered all the same", async () => {
  await gateway.close();
  await start(() => ({}));
  const response = await chat(gateway.url, { model: "openai:модель" });
  expect(response.status).toBe(200);
  expect(response.headers.get("x-quotaguard-model")).toBe(encodeURIComponent("модель"));
});

test("a host whose reports add up to more than a limit can count has spent all of it, and not what was held", async () => {
  const guard = createGuard({ auth: false, limits: [{ name: "all-usd", scope: "global", unit: "usd", window: { limit: 100, per: "month" } }] });
  const app = express();
  app.get("/work", guard.budgets({ cost: 1 }), (req, res) => {
    for (let n = 0; n < 2; n += 1) contextOf(req).meter({ usd: 8_000_000, inputTokens: 8e15, outputTokens: 8e15 });
    res.send("done");
  });
  const { url, close } = await listen(app);
  const first = await fetch(`${url}/work`);
  const next = await fetch(`${url}/work`);
  expect([first.status, next.status]).toEqual([200, 429]);
  expect(await guard.admin.audit()).toMatchObject({ rows: 2, violations: [] });
  await close();
  await guard.close();
});
