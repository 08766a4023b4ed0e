// The guard as a whole: what it refuses to be made of, when it serves, and how it ends.
import express from "express";
import OpenAI from "openai";
import { afterEach, describe, expect, test } from "vitest";
import { ConfigError, contextOf, createGuard, memoryStore, quotaGuard, type GuardOptions, type QuotaGuard, type Store } from "quotaguard";
import { fakeUpstream, pacer, testClock, type FakeUpstream } from "quotaguard/testing";
import { chat, gatewayOptions, KEY, listen } from "./helpers/app.ts";
import { folder } from "./helpers/child.ts";

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function provider(): Promise<FakeUpstream> {
  const upstream = await fakeUpstream();
  cleanups.push(() => upstream.close());
  return upstream;
}

/** A host app with the guard's gateway at `/llm`; ready or not. */
async function mounted(guard: QuotaGuard): Promise<string> {
  const { url, close } = await listen(express().use("/llm", guard.handler()));
  cleanups.push(
    () => guard.close(),
    () => close(),
  );
  return url;
}

const limits: GuardOptions["limits"] = [{ name: "user-tokens", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } }];
const left = async (guard: QuotaGuard): Promise<number> => (await guard.admin.bucket({ scope: "user", id: "alice" })).tokens;

/** A store that opens when the test says so. */
function slowStore(): Store & { open(): void; break(error: Error): void } {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  // A guard may be refused before anybody waits for its store.
  promise.catch(() => {});
  return { ...memoryStore(), ready: () => promise, open: resolve, break: reject };
}

/** A database and a folder in its place, for as long as the test. */
function sqlitePlace(): { readonly url: string; readonly unusable: string } {
  const place = folder();
  cleanups.push(async () => place.remove());
  return { url: `sqlite:${place.path}/quota.db`, unusable: `sqlite:${place.path}` };
}

describe("options", () => {
  test("mistakes are told at once, all of them, each by the option's path", () => {
    const wrong = {
      server: { prot: 1 },
      limits: [{ name: "x", scope: "usr", unit: "requests", window: { limit: 1, per: "hour" } }],
      credentials: [{ name: "main" }],
    };
    const make = () => createGuard(wrong as GuardOptions);
    expect(make).toThrow(ConfigError);
    try {
      make();
    } catch (error) {
      expect((error as ConfigError).problems).toEqual([
        "server.prot: unknown option; did you mean port?",
        expect.stringMatching(/^limits\[0\]\.scope: unknown scope usr; did you mean user\?/),
        expect.stringMatching(/^credentials\[0\]\.apiKey: is required/),
      ]);
    }
  });

  test("handler() needs a decision on who may call; parts and budgets do not", async () => {
    const upstream = await provider();
    const { auth: _auth, ...undecided } = gatewayOptions(upstream);
    const guard = createGuard(undecided);
    cleanups.push(() => guard.close());
    expect(() => guard.handler()).toThrow(ConfigError);
    expect(() => guard.handler()).toThrow(/auth: decide who may call the gateway/);
    expect(() => quotaGuard(undecided)).toThrow(ConfigError);
    expect(() => guard.auth()).toThrow(ConfigError);
    expect(guard.budgets()).toBeTypeOf("function");
    expect(() => createGuard({ ...undecided, auth: false }).handler()).not.toThrow();
  });

  test("sdk() leaves the client its own key where there is no credential", async () => {
    const guard = createGuard({});
    cleanups.push(() => guard.close());
    expect(guard.sdk()).toEqual({ fetch: expect.any(Function), maxRetries: 0 });
    expect(() => guard.fetch({ scope: "user" } as never)).toThrow(ConfigError);
  });

  test("the ledger before ready() says what to do", async () => {
    const guard = createGuard({});
    cleanups.push(() => guard.close());
    expect(() => guard.ledger).toThrow(/await guard\.ready\(\)/);
    await guard.ready();
    expect(guard.ledger).toBeDefined();
  });
});

describe("the start", () => {
  test("requests before ready() wait for it", async () => {
    const upstream = await provider();
    const store = slowStore();
    const guard = createGuard(gatewayOptions(upstream, { store }));
    const url = await mounted(guard);
    expect(guard.admin.health()).toMatchObject({ status: "starting" });
    const pending = chat(url);
    await expect.poll(() => guard.admin.health().openRequests).toBe(1);
    expect(upstream.log).toHaveLength(0);
    store.open();
    expect((await pending).status).toBe(200);
    expect(guard.admin.health()).toMatchObject({ status: "ok" });
  });

  test("what operators ask about bans, or change, is refused before the store is there: an empty list would be a lie", async () => {
    const upstream = await provider();
    const store = slowStore();
    const guard = createGuard(gatewayOptions(upstream, { store, management: { key: "admin-key-for-tests-0001" } }));
    const url = await mounted(guard);
    const { admin } = guard;
    for (const ask of [
      () => admin.bans(),
      () => admin.liftBans("main", null),
      () => admin.cooldowns(),
      () => admin.clearCooldowns("main", null),
      () => admin.clientBans(),
      () => admin.liftClientBan("ip:203.0.113.7"),
      () => admin.limits.list(),
    ]) {
      expect(ask).toThrow(expect.objectContaining({ code: "store_unavailable", retryAfterMs: 1_000 }));
    }
    const manage = (method: string, path: string) =>
      fetch(`${url}/llm/v0/management/${path}`, { method, headers: { authorization: "Bearer admin-key-for-tests-0001" } });
    for (const path of ["bans/main", "cooldowns/main", "client-bans/ip:203.0.113.7"]) {
      const refused = await manage("DELETE", path);
      expect([path, refused.status, refused.headers.get("retry-after")]).toEqual([path, 503, "1"]);
    }
    expect((await manage("GET", "bans")).status).toBe(503);
    store.open();
    await guard.ready();
    expect(await (await manage("DELETE", "bans/main")).json()).toEqual({ lifted: 0 });
    expect((await manage("DELETE", "client-bans/ip:203.0.113.7")).status).toBe(404);
  });

  test.each(["the ledger", "a part after the stores"])("what was opened before %s failed does not stay open", async (what) => {
    const { url, unusable } = sqlitePlace();
    const clock = testClock();
    const broken = memoryStore();
    const fails: Store = { ...broken, records: { ...broken.records, list: () => Promise.reject(new Error("no records")) } };
    const stores: GuardOptions = what === "the ledger" ? { store: { url }, ledger: { url: unusable } } : { store: fails, ledger: { url } };
    const guard = createGuard({ ...stores, clock });
    await expect(guard.ready()).rejects.toThrow(what === "the ledger" ? /is a folder/ : /no records/);
    expect(clock.pending()).toBe(0);
    await guard.close();
  });

  test("not for ever: 503 after ten seconds, and the next one may pass", async () => {
    const upstream = await provider();
    const store = slowStore();
    const clock = testClock();
    const guard = createGuard(gatewayOptions(upstream, { store, clock }));
    const url = await mounted(guard);
    const pending = chat(url);
    await expect.poll(() => clock.pending()).toBeGreaterThan(0);
    clock.advance(10_000);
    const refused = await pending;
    expect(refused.status).toBe(503);
    expect(refused.headers.get("retry-after")).toBe("5");
    expect(await refused.json()).toMatchObject({ error: { code: "store_unavailable" } });
    store.open();
    await guard.ready();
    expect((await chat(url)).status).toBe(200);
  });

  test("a store that cannot open: ready() rejects with the reason, requests get 503, close() still works", async () => {
    const upstream = await provider();
    const store = slowStore();
    const logged: string[] = [];
    const log = (_fields: object, message: string): void => void logged.push(message);
    const guard = createGuard(gatewayOptions(upstream, { store, logger: { debug: log, info: log, warn: log, error: log } }));
    const url = await mounted(guard);
    const waiting = chat(url);
    await expect.poll(() => guard.admin.health().openRequests).toBe(1);
    store.break(new Error("the disk is full"));
    await expect(guard.ready()).rejects.toThrow("the disk is full");
    for (const response of [await waiting, await chat(url)]) {
      expect(response.status).toBe(503);
      expect(await response.text()).not.toContain("disk");
    }
    expect(guard.admin.health()).toMatchObject({ status: "unavailable" });
    expect(logged.join()).toContain("could not start");
    await guard.close();
  });
});

describe("the end", () => {
  test("close() lets open requests finish, refuses new ones with 503, and is idempotent", async () => {
    const upstream = await provider();
    const guard = createGuard(gatewayOptions(upstream, { limits }));
    const url = await mounted(guard);
    await guard.ready();
    const events = pacer();
    upstream.script({ pacer: events });
    events.step();
    const open = await chat(url, { stream: true });
    let closed = false;
    const closing = guard.close().then(() => (closed = true));
    expect(guard.close()).toBe(guard.close());
    expect(guard.admin.health()).toMatchObject({ status: "closing", openRequests: 1 });

    const refused = await chat(url);
    expect(refused.status).toBe(503);
    expect(refused.headers.get("connection")).toBe("close");
    expect(refused.headers.get("retry-after")).toBe("1");
    expect(await refused.json()).toMatchObject({ error: { code: "overloaded" } });
    expect(closed).toBe(false);
    events.open();
    expect(await open.text()).toContain("[DONE]");
    await closing;
    await guard.close();
    expect((await chat(url)).status).toBe(503);
    expect(upstream.log).toHaveLength(1);
  });

  test("a guard that never served closes as well, and one that is closed before it is ready", async () => {
    const guard = createGuard({});
    await guard.close();
    await guard.close();
    expect(guard.admin.health().status).toBe("closing");
  });

  test("close() does not wait for ever for a store that never opens", async () => {
    const clock = testClock();
    const guard = createGuard({ store: slowStore(), clock, server: { shutdownTimeout: 5_000 } });
    let closed = false;
    const closing = guard.close().then(() => (closed = true));
    await expect.poll(() => clock.pending()).toBeGreaterThan(0);
    clock.advance(5_000);
    await expect.poll(() => closed).toBe(true);
    await closing;
  });

  test("in-process calls are refused as well", async () => {
    const upstream = await provider();
    const guard = createGuard(gatewayOptions(upstream));
    const client = new OpenAI(guard.sdk());
    await guard.ready();
    await guard.close();
    await expect(client.chat.completions.create({ model: "gpt-4o", messages: [] })).rejects.toMatchObject({ status: 503, code: "overloaded" });
    expect(upstream.log).toHaveLength(0);
  });

  test("close() closes what it can when a part of it fails, and tells of that", async () => {
    const clock = testClock();
    const memory = memoryStore({ clock });
    const flush = (): never => {
      throw new Error("the disk is full");
    };
    const guard = createGuard({ store: { url: sqlitePlace().url }, ledger: { ...memory, ledger: { ...memory.ledger, flush } }, clock });
    await guard.ready();
    expect(clock.pending()).toBeGreaterThan(0);
    await expect(guard.close()).rejects.toThrow("the disk is full");
    expect(clock.pending()).toBe(0);
  });

  test("usage that is reported after close() still corrects the charge, in a store that stays open", async () => {
    const store = memoryStore();
    const guard = createGuard({ store, limits, scopes: () => ({ user: "alice" }) });
    let quota: ReturnType<typeof contextOf> | undefined;
    const app = express().get("/", guard.budgets({ cost: { tokens: 100 } }), (req, res) => {
      quota = contextOf(req);
      res.send("ok");
    });
    const { url, close } = await listen(app);
    cleanups.push(() => close());
    await (await fetch(url)).text();
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
    expect(await left(guard)).toBe(900);
    await guard.close();
    quota?.meter({ inputTokens: 30, outputTokens: 10 });
    const later = createGuard({ store, limits });
    cleanups.push(() => later.close());
    await expect.poll(() => left(later)).toBe(960);
  });
});

describe("errorHandler()", () => {
  async function host(): Promise<{ readonly url: string; readonly upstream: FakeUpstream }> {
    const upstream = await provider();
    const guard = createGuard(
      gatewayOptions(upstream, { limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] }),
    );
    cleanups.push(() => guard.close());
    const client = new OpenAI(guard.sdk({ scopes: { user: "alice" } }));
    const app = express();
    app.get("/ask", async (_req, res) => {
      const answer = await client.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] });
      res.json({ said: answer.choices[0]?.message.content });
    });
    app.get("/late", async (_req, res) => {
      res.write("begun ");
      await client.chat.completions.create({ model: "gpt-4o", messages: [] });
      res.end("done");
    });
    app.get("/bug", () => {
      throw new TypeError("a bug of the host's");
    });
    app.use(guard.errorHandler());
    app.use((error: Error, _req: express.Request, res: express.Response, _next: express.NextFunction) => {
      if (res.headersSent) res.destroy();
      else res.status(500).send(`the host's own: ${error.message}`);
    });
    const { url, close } = await listen(app);
    cleanups.push(close);
    return { url, upstream };
  }

  test("answers a refusal that an SDK threw inside a handler", async () => {
    const { url } = await host();
    expect(await (await fetch(`${url}/ask`)).json()).toMatchObject({ said: expect.any(String) });
    const refused = await fetch(`${url}/ask`);
    expect(refused.status).toBe(429);
    expect(refused.headers.get("content-type")).toContain("application/problem+json");
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(10);
    expect(refused.headers.get("x-should-retry")).toBe("false");
    expect(await refused.json()).toMatchObject({
      code: "budget_exhausted",
      status: 429,
      limit: "user-requests",
      scope: "user",
      needed: 1,
      available: 0,
      request_id: expect.any(String),
    });
  });

  test("leaves everything else to the host: its bugs, a provider's refusal, an answer that has begun", async () => {
    const { url, upstream } = await host();
    expect(await (await fetch(`${url}/bug`)).text()).toBe("the host's own: a bug of the host's");
    upstream.script({ status: 401 });
    expect(await (await fetch(`${url}/ask`)).text()).toContain("the host's own: 401");
    upstream.script({});
    await fetch(`${url}/ask`);
    await expect(fetch(`${url}/late`).then((response) => response.text())).rejects.toThrow();
  });
});

describe("events", () => {
  test("a listener that throws or rejects hurts nobody, and is logged", async () => {
    const upstream = await provider();
    const logged: string[] = [];
    const log = (_fields: object, message: string): void => void logged.push(message);
    const guard = createGuard(gatewayOptions(upstream, { limits, logger: { debug: log, info: log, warn: log, error: log } }));
    const url = await mounted(guard);
    const seen: string[] = [];
    for (const name of ["request", "refused", "attempt", "settled"] as const) {
      guard.events.on(name, () => {
        throw new Error(`a bug in a listener of ${name}`);
      });
      // oxlint-disable-next-line typescript/no-misused-promises -- what a host may well do
      guard.events.on(name, () => Promise.reject(new Error(`a late bug in a listener of ${name}`)));
      guard.events.on(name, () => void seen.push(name));
    }
    expect(await (await chat(url)).json()).toMatchObject({ object: "chat.completion" });
    expect((await chat(url, { max_tokens: 5_000 })).status).toBe(400);
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
    expect(seen.toSorted()).toEqual(["attempt", "refused", "request", "request", "settled"]);
    expect(logged.filter((message) => message === "an event listener failed").length).toBe(10);
    const { inputTokens, outputTokens } = upstream.totals();
    expect(await left(guard)).toBe(1_000 - inputTokens - outputTokens);
  });

  test("tell what happened, in USD, and stop when told to", async () => {
    const upstream = await provider();
    const guard = createGuard(gatewayOptions(upstream, { limits, models: [{ name: "gpt-4o-mini", price: { inputPerMtok: 1, outputPerMtok: 2 } }] }));
    const url = await mounted(guard);
    const requests: unknown[] = [];
    const stop = guard.events.on("request", (event) => requests.push(event));
    const response = await chat(url);
    await response.text();
    await expect.poll(() => requests).toHaveLength(1);
    expect(requests[0]).toEqual({
      requestId: response.headers.get("x-request-id"),
      scopes: { team: "data", role: "dev", user: "alice" },
      model: "gpt-4o-mini",
      servedModel: "gpt-4o-mini",
      credential: "main",
      attempts: 1,
      usage: { inputTokens: 1, outputTokens: 3, cacheReadTokens: 0, cacheWriteTokens: 0, reasoningTokens: 0, raw: [expect.any(Object)] },
      costUsd: 0.000007,
      code: null,
      status: 200,
    });
    stop();
    await (await chat(url)).text();
    await expect.poll(() => guard.admin.health().openRequests).toBe(0);
    expect(requests).toHaveLength(1);
  });
});

test("the mounted gateway carries its guard", async () => {
  const upstream = await provider();
  const gateway = quotaGuard(gatewayOptions(upstream));
  await gateway.ready();
  expect(gateway.name).toBe("quotaGuard");
  expect(gateway.guard.admin.health()).toMatchObject({
    status: "ok",
    store: "memory",
    credentials: [{ name: "main", provider: "openai", inFlight: 0 }],
  });
  const { url, close } = await listen(express().use(gateway));
  const init = { method: "POST", headers: { authorization: `Bearer ${KEY}` }, body: '{"model":"gpt-4o","messages":[]}' };
  expect((await fetch(`${url}/v1/chat/completions`, init)).status).toBe(200);
  await close();
  await gateway.close();
  expect(gateway.guard.admin.health().status).toBe("closing");
});
