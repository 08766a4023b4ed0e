import express from "express";
import { afterEach, describe, expect, test } from "vitest";
import { contextOf, createGuard, quotaGuard } from "quotaguard";
import { fakeUpstream } from "quotaguard/testing";
import { chat, gatewayOptions, KEY, listen, testGateway, type Listening, type TestGateway } from "../helpers/app.ts";

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function started(...args: Parameters<typeof testGateway>): Promise<TestGateway> {
  const gateway = await testGateway(...args);
  cleanups.push(() => gateway.close());
  return gateway;
}

async function host(app: express.Express): Promise<Listening> {
  const listening = await listen(app);
  cleanups.push(() => listening.close());
  return listening;
}

test("mounted at the root it leaves the host's routes alone", async () => {
  const upstream = await fakeUpstream();
  cleanups.push(() => upstream.close());
  const app = express();
  const gateway = quotaGuard(gatewayOptions(upstream));
  cleanups.push(() => gateway.close());
  app.use(gateway);
  app.get("/health", (_req, res) => void res.send("the host's"));
  app.get("/v1/orders", (_req, res) => void res.send("orders"));
  app.post("/chat/completions", (_req, res) => void res.send("the host's chat"));
  app.use((_req, res) => void res.status(404).send("the host's 404"));
  const { url } = await host(app);
  expect(await (await fetch(`${url}/health`)).text()).toBe("the host's");
  expect(await (await fetch(`${url}/v1/orders`)).text()).toBe("orders");
  expect(await (await fetch(`${url}/chat/completions`, { method: "POST" })).text()).toBe("the host's chat");
  expect(await (await fetch(`${url}/metrics`)).text()).toBe("the host's 404");
  expect((await fetch(`${url}/v1/models`)).status).toBe(401);
  expect((await fetch(`${url}/v1/models`, { headers: { "x-api-key": KEY } })).status).toBe(200);
});

test("under a prefix the /v1 may be missing", async () => {
  const gateway = await started();
  const init = { method: "POST", headers: { authorization: `Bearer ${KEY}` }, body: JSON.stringify({ model: "gpt-4o", messages: [] }) };
  expect((await fetch(`${gateway.url}/llm/chat/completions`, init)).status).toBe(200);
  expect((await fetch(`${gateway.url}/llm/v1/chat/completions`, init)).status).toBe(200);
});

test("the parts, composed by hand on routes of the host's choice", async () => {
  const upstream = await fakeUpstream();
  cleanups.push(() => upstream.close());
  const guard = createGuard(
    gatewayOptions(upstream, { limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] }),
  );
  cleanups.push(() => guard.close());
  const app = express();
  app.post("/api/v1/chat/completions", guard.auth(), guard.scopes(), guard.budgets(), guard.credentials(), guard.proxy());
  const { url } = await host(app);
  const post = () =>
    fetch(`${url}/api/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}` },
      body: JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] }),
    });
  expect(await (await post()).json()).toMatchObject({ object: "chat.completion" });
  const refused = await post();
  expect(refused.status).toBe(429);
  expect(await refused.json()).toMatchObject({ error: { type: "rate_limit_error", code: "budget_exhausted" } });
});

describe("a budget on the host's own route", () => {
  async function summariser(meter: (quota: ReturnType<typeof contextOf>) => void) {
    const guard = createGuard({
      scopes: (req) => ({ user: req.headers["x-login"] as string | undefined }),
      limits: [{ name: "user-day", scope: "user", unit: "usd", window: { limit: 2, per: "day" } }],
      models: [{ name: "gpt-4o", price: { inputPerMtok: 1_000, outputPerMtok: 1_000 } }],
    });
    cleanups.push(() => guard.close());
    const app = express();
    app.use(express.json());
    app.post("/summarise", guard.budgets({ limits: ["user-day"], cost: { model: "gpt-4o", input: "x", maxOutputTokens: 800 } }), (req, res) => {
      meter(contextOf(req));
      res.json({ ok: true });
    });
    const { url } = await host(app);
    const post = (user?: string) =>
      fetch(`${url}/summarise`, {
        method: "POST",
        headers: { "content-type": "application/json", ...(user ? { "x-login": user } : {}) },
        body: "{}",
      });
    return { guard, post };
  }

  test("holds, settles what was metered, and refuses with a problem document", async () => {
    const { guard, post } = await summariser((quota) => quota.meter({ model: "gpt-4o", inputTokens: 500, outputTokens: 1_000 }));
    const debts: unknown[] = [];
    guard.events.on("debt", (debt) => debts.push(debt));
    const first = await post("alice");
    expect(first.status).toBe(200);
    expect(first.headers.get("ratelimit-policy")).toContain('"user-day"');
    const refused = await post("alice");
    expect(refused.status).toBe(429);
    expect(refused.headers.get("content-type")).toContain("application/problem+json");
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(await refused.json()).toMatchObject({ code: "budget_exhausted", status: 429, limit: "user-day", scope: "user", available: 0.5 });
    expect((await post("bob")).status).toBe(200);
    // In USD, as everything that leaves the guard: 1.5 were spent, 0.801 were held.
    const beyond = { limit: "user-day", unit: "usd", amount: 0.699 };
    expect(debts).toMatchObject([beyond, beyond]);
  });

  test("without a report the estimate stands, and release() gives it back", async () => {
    let released = false;
    const { post } = await summariser((quota) => {
      if (released) quota.release();
    });
    released = true;
    for (let i = 0; i < 5; i += 1) expect((await post("alice")).status).toBe(200);
    released = false;
    expect((await post("alice")).status).toBe(200);
    expect((await post("alice")).status).toBe(200);
    expect((await post("alice")).status).toBe(429);
  });

  test("a response reported again replaces, another adds", async () => {
    const chunk = (id: string, tokens: number) => ({
      id,
      model: "gpt-4o",
      choices: [],
      usage: { prompt_tokens: 0, completion_tokens: tokens, total_tokens: tokens },
    });
    const { guard, post } = await summariser((quota) => {
      quota.meter(chunk("a", 100));
      quota.meter(chunk("a", 300));
      quota.meter({ id: "b", model: "gpt-4o", choices: [] });
      quota.meter(chunk("b", 200));
    });
    const settled = new Promise((resolve) => guard.events.on("settled", resolve));
    await (await post("alice")).json();
    expect(await settled).toMatchObject({ amounts: { tokens: 500, usd: 0.5 }, provenance: "exact" });
  });

  test("a missing scope is 400 and says what to mount", async () => {
    const { post } = await summariser(() => {});
    const response = await post();
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ code: "scope_invalid", detail: "limit user-day needs scope user; is your auth before it?" });
  });
});

test("500 clients leave in mid-stream: upstream sockets close within 100 ms, and the gateway still answers", async () => {
  let lastLeftAt = 0;
  const gateway = await started({}, (app) =>
    app.use((_req, res, next) => {
      res.once("close", () => (lastLeftAt = performance.now()));
      next();
    }),
  );
  gateway.upstream.script({ fault: { at: 2, how: "hang" } });
  const leaving = Array.from({ length: 500 }, () => new AbortController());
  const reading = leaving.map(async (controller) => {
    const response = await chat(gateway.url, { stream: true }, { signal: controller.signal });
    await response.body?.getReader().read();
  });
  // The pool has 256 connections: the others wait for one and leave before they were sent.
  await gateway.upstream.received(256);
  await Promise.all(reading.slice(0, 200));
  for (const controller of leaving) controller.abort();
  await Promise.allSettled(reading);
  await expect.poll(() => gateway.guard.admin.health().openRequests, { timeout: 10_000 }).toBe(0);
  await Promise.all(gateway.upstream.log.map((entry) => entry.ended));
  const lastClosedAt = Math.max(...gateway.upstream.log.map((entry) => entry.endedAtMs ?? Infinity));
  expect(lastClosedAt - lastLeftAt).toBeLessThan(100);
  gateway.upstream.reset();
  expect(await (await chat(gateway.url)).json()).toMatchObject({ object: "chat.completion" });
});
