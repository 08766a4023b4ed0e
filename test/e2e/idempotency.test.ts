// One key, one charge: clients that send a request again get the first one's answer, from any node, and never cause a second call.
import { randomUUID } from "node:crypto";
import OpenAI from "openai";
import express from "express";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, GuardError, memoryStore, type GuardEvents, type GuardOptions, type LedgerRow, type Store } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import { faultyStore, pacer, type FakeUpstream, type Pacer } from "quotaguard/testing";
import { chat, gatewayOptions, KEY, listen, OTHER_KEY, type TestGateway } from "../helpers/app.ts";
import { rawClient } from "../http/server-kit.ts";
import { testServer } from "../setup/test-server.ts";
import {
  accounts,
  asking,
  closeLater,
  databasePath,
  endAccounts,
  MODEL,
  PATIENTLY,
  provider,
  quiet,
  replyOf,
  type Accounts,
} from "./accounts-kit.ts";

const redis = await testServer("redis");

afterEach(endAccounts);

const keyed = (key: string, more: Record<string, string> = {}) => ({ headers: { "idempotency-key": key, ...more } });

const limits: GuardOptions["limits"] = [
  { name: "tokens", scope: "user", unit: "tokens", bucket: { capacity: 100_000, refillPerSec: 0 } },
  { name: "calls", scope: "user", unit: "requests", window: { limit: 1_000, per: "hour" } },
];

async function rows({ guard }: TestGateway): Promise<readonly LedgerRow[]> {
  await guard.ledger.flush();
  return guard.ledger.list({});
}

const billed = async (gateway: TestGateway): Promise<readonly LedgerRow[]> => (await rows(gateway)).filter(({ attempts }) => attempts > 0);

async function metered(kit: Accounts): Promise<Readonly<Record<string, number>>> {
  const found = await kit.metric("idempotency_total");
  return Object.fromEntries(Object.entries(found).map(([labels, value]) => [/outcome="(\w+)"/.exec(labels)?.[1] ?? labels, value]));
}

const chargedTokens = async ({ guard }: TestGateway, id: string): Promise<number> =>
  100_000 - (await guard.admin.bucket({ scope: "user", id })).tokens;

function billedTokens({ providers }: Accounts): number {
  const { inputTokens = 0, outputTokens = 0 } = providers["x"]?.totals() ?? {};
  return inputTokens + outputTokens;
}

const ONE = { x: 1 };
const TWO = { x: 2 };

/** Makes stores of one place, one for each node. */
const PLACES: readonly (readonly [name: string, isThere: boolean, place: () => () => Store])[] = [
  [
    "memory",
    true,
    () => {
      const one = memoryStore();
      return () => one;
    },
  ],
  [
    "SQLite",
    true,
    () => {
      const path = databasePath();
      return () => closeLater(sqliteStore(path) as Store & { close(): Promise<unknown> });
    },
  ],
  [
    "Redis",
    redis !== undefined,
    () => {
      const partition = randomUUID();
      return () => closeLater(redisStore(redis as string, { partition }) as Store & { close(): Promise<unknown> });
    },
  ],
];

describe.each(PLACES.filter(([, isThere]) => isThere))("two gateways on %s", (_name, _isThere, place) => {
  test("50 twins at once are one call, one row and one charge", async () => {
    const node = place();
    const kit = await accounts(["x"], { limits, store: node() });
    const other = await kit.another({ store: node() });
    const gate = Promise.withResolvers<void>();
    kit.answer("x", async () => {
      await gate.promise;
      return {};
    });
    const body = asking(20);
    const asked = Array.from({ length: 50 }, (_, i) => kit.ask(body, { ...keyed("k-1"), of: i % 2 === 0 ? kit.gateway : other }));
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual(ONE);
    gate.resolve();
    const replies = await Promise.all(asked);
    expect(new Set(replies.map(({ status }) => status))).toEqual(new Set([200]));
    expect(new Set(replies.map(({ text }) => text)).size).toBe(1);
    expect(replies.filter(({ headers }) => headers.get("idempotency-replayed") === "true")).toHaveLength(49);
    expect(new Set(replies.map(({ headers }) => headers.get("x-request-id"))).size).toBe(50);
    expect(kit.counts()).toEqual(ONE);
    await Promise.all([quiet(kit.guard), quiet(other.guard)]);
    const all = new Map([...(await rows(kit.gateway)), ...(await rows(other))].map((row) => [row.id, row]));
    expect(all.size).toBe(1);
    const [calls] = (await kit.guard.remaining({ user: "alice" })).filter(({ name }) => name === "calls");
    expect(calls?.used).toBe(1);
    expect(await chargedTokens(kit.gateway, "alice")).toBe(billedTokens(kit));
  });

  test("50 twins of a stream at once hear the same bytes in the same chunks, and another tenant's 50 with the same key hear their own", async () => {
    const node = place();
    const kit = await accounts(["x"], { limits, store: node(), secrets: { key: "a-secret-key-for-this-test-only" } });
    const other = await kit.another({ store: node(), secrets: { key: "a-secret-key-for-this-test-only" } });
    const paces: Pacer[] = [];
    kit.answer("x", ({ id }) => {
      const pace = pacer();
      paces.push(pace);
      return { pacer: pace, text: [`${id}`, " one", " two €"] };
    });
    const twins = (key: string) => Promise.all(Array.from({ length: 50 }, (_, i) => raw(i % 2 === 0 ? kit.gateway : other, "same", key)));
    const clients = await Promise.all([twins(KEY), twins(OTHER_KEY)]);
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual(TWO);
    // Each event reaches the two firsts before the next is sent: then a chunk is an event.
    const heard = (): number => clients.flat().reduce((sum, { received }) => sum + framesOf(received()).length, 0);
    for (let events = 1; events <= 5; events += 1) {
      for (const pace of paces) pace.step();
      await expect.poll(heard, PATIENTLY).toBeGreaterThanOrEqual(2 * events);
    }
    for (const pace of paces) pace.open();
    const told = await Promise.all(clients.map((some) => Promise.all(some.map(ended))));
    const bodies = told.map((some) => new Set(some.map((text) => JSON.stringify(framesOf(text)))));
    expect(bodies.map(({ size }) => size)).toEqual([1, 1]);
    const [ours = "", theirs = ""] = bodies.map((some) => [...some][0]);
    expect(ours).not.toBe(theirs);
    for (const body of [ours, theirs]) expect((JSON.parse(body) as string[]).length).toBeGreaterThanOrEqual(5);
    for (const some of told) expect(some.filter((text) => /\r\nidempotency-replayed: true\r\n/i.test(text))).toHaveLength(49);
    expect(kit.counts()).toEqual(TWO);
    await Promise.all([quiet(kit.guard), quiet(other.guard)]);
    const all = new Map([...(await rows(kit.gateway)), ...(await rows(other))].map((row) => [row.id, row]));
    expect([...all.values()].map(({ key, state, provenance }) => [key, state, provenance].join(" ")).toSorted()).toEqual([
      "alice settled exact",
      "bob settled exact",
    ]);
    const [alice, bob] = [await chargedTokens(kit.gateway, "alice"), await chargedTokens(other, "bob")];
    expect(alice).toBe(bob);
    expect(alice + bob).toBe(billedTokens(kit));
  });

  test("a stream is told again byte for byte, in the same chunks, by the other one", async () => {
    const node = place();
    const kit = await accounts(["x"], { store: node() });
    const other = await kit.another({ store: node() });
    const pace = pacer();
    kit.answer("x", () => ({ pacer: pace, events: EVENTS }));
    const first = raw(kit.gateway, "s-1");
    for (const said of ["one", "two", "three", '"stop"', "[DONE]"]) {
      pace.step();
      await (await first).until(said);
    }
    pace.open();
    const one = framesOf(await ended(await first));
    await quiet(kit.guard);
    const again = await ended(await raw(other, "s-1"));
    expect(again).toMatch(/\r\nidempotency-replayed: true\r\n/i);
    expect(again).toMatch(/\r\ncontent-type: text\/event-stream/i);
    expect(framesOf(again)).toEqual(one);
    expect(one.length).toBe(EVENTS.length);
    expect(one.join("")).toBe(EVENTS.join(""));
    expect(kit.counts()).toEqual(ONE);
  });

  test("with a secret key an answer is told again, by the other one too, and nobody reads it in the store", async () => {
    const node = place();
    const kept = node();
    const secrets = { key: "a-secret-key-for-tests-0001" };
    const kit = await accounts(["x"], { store: kept, secrets });
    const [other, stranger] = [
      await kit.another({ store: node() }),
      await kit.another({ store: node(), secrets: { key: "another-secret-key-0001" } }),
    ];
    const first = await kit.ask(asking(3), keyed("k"));
    await quiet(kit.guard);
    expect((await kit.ask(asking(3), { ...keyed("k"), of: other })).text).toBe(first.text);
    const records = JSON.stringify(await kept.records.list("idempotency/"));
    const inMemory = kept.name === "memory";
    expect(records.includes(Buffer.from(first.text).toString("base64"))).toBe(inMemory);
    // Who has another key cannot tell it, and does not pay for it again either.
    const strange = await kit.ask(asking(3), { ...keyed("k"), of: stranger });
    expect([strange.status, strange.code]).toEqual(inMemory ? [200, null] : [409, "idempotency_mismatch"]);
    expect(kit.counts()).toEqual(ONE);
  });
});

const chunkOf = (content: string, finish: string | null = null): string =>
  `data: ${JSON.stringify({ id: "c", object: "chat.completion.chunk", choices: [{ index: 0, delta: { content }, finish_reason: finish }] })}\n\n`;
const EVENTS = [chunkOf("one"), chunkOf("two €"), chunkOf("three"), chunkOf("", "stop"), "data: [DONE]\n\n"];

/** The answer as it comes over the wire. */
async function raw({ url }: TestGateway, key: string, client = KEY): Promise<Awaited<ReturnType<typeof rawClient>>> {
  const body = JSON.stringify({ model: MODEL, stream: true, messages: [], stream_options: { include_usage: true } });
  const head = [
    "POST /llm/v1/chat/completions HTTP/1.1",
    "host: x",
    "connection: close",
    "content-type: application/json",
    `authorization: Bearer ${client}`,
    `idempotency-key: ${key}`,
    `content-length: ${Buffer.byteLength(body)}`,
  ];
  return rawClient(Number(new URL(url).port), `${head.join("\r\n")}\r\n\r\n${body}`);
}

async function ended(client: Awaited<ReturnType<typeof rawClient>>): Promise<string> {
  await client.closed;
  return client.received();
}

/** The chunks of a chunked body. */
function framesOf(text: string): string[] {
  const frames: string[] = [];
  let rest = text.slice(text.indexOf("\r\n\r\n") + 4);
  for (;;) {
    const end = rest.indexOf("\r\n");
    const size = Number.parseInt(rest.slice(0, end), 16);
    if (!(size > 0)) return frames;
    frames.push(Buffer.from(rest.slice(end + 2, end + 2 + size), "latin1").toString());
    rest = rest.slice(end + 4 + size);
  }
}

describe("whose a key is", () => {
  test.each([
    ["with scopes of its own", { user: "bob" }],
    ["of the same team and user", { user: "alice" }],
  ])("another client's same key is another one, and never gets this one's answer: %s", async (_whose, scopes) => {
    const kit = await accounts(["x"], {
      auth: {
        keys: [
          { name: "alice", key: KEY, scopes: { user: "alice" } },
          { name: "bob", key: OTHER_KEY, scopes },
        ],
      },
    });
    const one = await kit.ask(asking(3), keyed("same"));
    const two = await kit.ask(asking(3), { ...keyed("same"), key: OTHER_KEY });
    expect([one.status, two.status]).toEqual([200, 200]);
    expect(two.headers.get("idempotency-replayed")).toBeNull();
    expect(kit.counts()).toEqual(TWO);
  });

  test("other scopes of the same client, and another route, are separate too", async () => {
    const kit = await accounts(["x"], {
      auth: { keys: [{ name: "alice", key: KEY, scopes: { user: "alice" }, mayAssertScopes: true }] },
    });
    await kit.ask(asking(3), keyed("same", { "x-team-id": "red" }));
    const other = await kit.ask(asking(3), keyed("same", { "x-team-id": "blue" }));
    expect(other.headers.get("idempotency-replayed")).toBeNull();
    const again = await kit.ask(asking(3), keyed("same", { "x-team-id": "red" }));
    expect(again.headers.get("idempotency-replayed")).toBe("true");
    const embedded = await fetch(`${kit.gateway.url}/llm/v1/embeddings`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}`, "idempotency-key": "same", "x-team-id": "red" },
      body: JSON.stringify({ model: "text-embedding-3-small", input: "a" }),
    });
    expect(embedded.status).toBe(200);
    expect(embedded.headers.get("idempotency-replayed")).toBeNull();
  });

  test("another body is 422, and the same fields in another order are the same body", async () => {
    const kit = await accounts(["x"]);
    const ask = (body: string) =>
      replyOf(
        fetch(`${kit.gateway.url}/llm/v1/chat/completions`, {
          method: "POST",
          headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json", "idempotency-key": "b" },
          body,
        }),
      );
    expect((await ask(`{"model":"${MODEL}","messages":[],"seed":1}`)).status).toBe(200);
    const other = await ask(`{"model":"${MODEL}","messages":[],"seed":2}`);
    expect([other.status, other.code, other.headers.get("x-should-retry")]).toEqual([422, "idempotency_mismatch", "false"]);
    const same = await ask(`{ "seed": 1, "messages": [], "model": "${MODEL}" }`);
    expect([same.status, same.headers.get("idempotency-replayed")]).toEqual([200, "true"]);
    expect(kit.counts()).toEqual(ONE);
  });

  test("who may not ask any more is not told again", async () => {
    let models: readonly string[] = ["*"];
    const kit = await accounts(["x"], {
      auth: (key) => (key === KEY ? { name: "alice", scopes: { user: "alice" }, models } : null),
    });
    expect((await kit.ask(asking(3), keyed("k"))).status).toBe(200);
    models = ["other-*"];
    expect((await kit.ask(asking(3), keyed("k"))).code).toBe("model_not_allowed");
    expect((await kit.ask(asking(3), { ...keyed("k"), key: "qg_wrong_wrong_wrong" })).code).toBe("unauthenticated");
    expect(kit.counts()).toEqual(ONE);
  });

  test.each([
    ["empty", ""],
    ["256 characters", "k".repeat(256)],
    ["a space", "a b"],
    ["beyond ASCII", "k\u00e9y"],
  ])("a key that is %s is 400", async (_what, key) => {
    const kit = await accounts(["x"]);
    const reply = await kit.ask(asking(3), keyed(key));
    expect([reply.status, reply.code]).toEqual([400, "body_invalid"]);
    expect(kit.counts()).toEqual({ x: 0 });
  });

  test("a key in quotes is the same key, also one of 255 characters, or called __proto__", async () => {
    const kit = await accounts(["x"]);
    for (const key of ["k".repeat(255), "__proto__"]) {
      kit.forget();
      await kit.ask(asking(3), keyed(key));
      const again = await kit.ask(asking(3), keyed(`"${key}"`));
      expect(again.headers.get("idempotency-replayed")).toBe("true");
      expect(kit.counts()).toEqual(ONE);
    }
  });
});

describe("what is kept", () => {
  test("an answer with its status and headers, none of which belonged to the first connection or its budgets", async () => {
    const events: GuardEvents["request"][] = [];
    const kit = await accounts(["x"], {
      limits,
      monitoring: { prometheusEnabled: true },
      models: [{ name: MODEL, price: { inputPerMtok: 1, outputPerMtok: 2 } }],
    });
    kit.guard.events.on("request", (event) => void events.push(event));
    kit.answer("x", () => ({
      headers: { "set-cookie": "a=b", "x-request-id": "up-1", "openai-processing-ms": "12", "x-ratelimit-remaining-requests": "3" },
    }));
    const one = await kit.ask(asking(5), keyed("k", { "x-request-id": "first" }));
    const two = await kit.ask(asking(5), keyed("k", { "x-request-id": "second" }));
    expect(one.headers.get("ratelimit")).not.toBeNull();
    const told = Object.fromEntries(two.headers);
    for (const name of ["date", "connection", "keep-alive", "content-length"]) delete told[name];
    expect(told).toEqual({
      "content-type": "application/json",
      "idempotency-replayed": "true",
      "openai-processing-ms": "12",
      "openai-version": "2020-10-01",
      "x-quotaguard-cost-usd": one.headers.get("x-quotaguard-cost-usd"),
      "x-powered-by": "Express",
      "x-request-id": "second",
      "x-upstream-request-id": "up-1",
    });
    expect(two.text).toBe(one.text);
    await quiet(kit.guard);
    // It cost nothing, and is told all the same.
    expect(events.map(({ requestId, costUsd, replayOf, status }) => [requestId, costUsd !== 0, replayOf, status])).toEqual([
      ["first", true, undefined, 200],
      ["second", false, "first", 200],
    ]);
    expect((await rows(kit.gateway)).map(({ requestId }) => requestId)).toEqual(["first"]);
    expect(await metered(kit)).toEqual({ first: 1, replayed: 1 });
  });

  test("nothing of a refusal: what cost nothing may be tried again with the same key", async () => {
    const kit = await accounts(["x"], {
      limits: [{ name: "calls", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }],
      resilience: { maxRetries: 0 },
    });
    kit.answer("x", () => ({ status: 400 }));
    expect((await kit.ask(asking(3), keyed("k"))).status).toBe(400);
    kit.answer("x", () => ({ status: 503 }));
    expect((await kit.ask(asking(3), keyed("k"))).status).toBe(503);
    expect(kit.counts()).toEqual(TWO);
    kit.clock.advance(120_000);
    kit.answer("x", {});
    expect((await kit.ask(asking(3), keyed("other"))).status).toBe(200);
    await quiet(kit.guard);
    const limited = await kit.ask(asking(3), keyed("k"));
    expect([limited.status, limited.code]).toEqual([429, "budget_exhausted"]);
    kit.clock.advance(3 * 3_600_000);
    const passed = await kit.ask(asking(3), keyed("k"));
    expect([passed.status, passed.headers.get("idempotency-replayed")]).toEqual([200, null]);
  });

  test("a key for so long as `ttl` says, from the store's clock", async () => {
    const kit = await accounts(["x"], { idempotency: { ttl: "1h" } });
    await kit.ask(asking(3), keyed("k"));
    kit.clock.advance(3_599_000);
    expect((await kit.ask(asking(3), keyed("k"))).headers.get("idempotency-replayed")).toBe("true");
    kit.clock.advance(2_000);
    expect((await kit.ask(asking(3), keyed("k"))).headers.get("idempotency-replayed")).toBeNull();
    expect(kit.counts()).toEqual(TWO);
  });

  test("not an answer beyond `maxBody`, whole or streamed: its twin is told, and not sent", async () => {
    const kit = await accounts(["x"], { idempotency: { maxBody: 300 } });
    for (const [key, body] of [
      ["whole", {}],
      ["stream", { stream: true }],
    ] as const) {
      kit.forget();
      const one = await kit.ask(body, keyed(key));
      expect(one.status).toBe(200);
      expect(one.text.length).toBeGreaterThan(300);
      await quiet(kit.guard);
      const two = await kit.ask(body, keyed(key));
      expect([two.status, two.code, two.headers.get("x-should-retry")]).toEqual([409, "idempotency_mismatch", "false"]);
      expect(two.text).toContain("too large");
      expect(kit.counts()).toEqual(ONE);
    }
  });

  test("without the header, and with `idempotency: false`, nothing is", async () => {
    const kit = await accounts(["x"]);
    await kit.ask(asking(3));
    await kit.ask(asking(3));
    expect(kit.counts()).toEqual(TWO);
    const off = await kit.another({ idempotency: false });
    await kit.ask(asking(3), { ...keyed("k"), of: off });
    await kit.ask(asking(3), { ...keyed("k"), of: off });
    expect(kit.counts()).toEqual({ x: 4 });
    expect(() => off.guard.idempotency()).toThrow("idempotency: is off");
  });
});

describe("a first request that is not over, or never will be", () => {
  test("a twin waits ten seconds, is then told to come back, and is charged nothing", async () => {
    const kit = await accounts(["x"], { limits, monitoring: { prometheusEnabled: true } });
    const gate = Promise.withResolvers<void>();
    kit.answer("x", async () => {
      await gate.promise;
      return {};
    });
    const first = kit.ask(asking(3), keyed("k"));
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual(ONE);
    let isOver = false;
    const twin = kit.ask(asking(3), keyed("k")).finally(() => (isOver = true));
    await expect.poll(() => kit.guard.admin.health().openRequests, PATIENTLY).toBe(2);
    // It looks once a second, each time anew.
    const aSecondLater = (): boolean => {
      kit.clock.advance(1_000);
      return isOver;
    };
    await expect.poll(aSecondLater, { ...PATIENTLY, interval: 1 }).toBe(true);
    const reply = await twin;
    expect([reply.status, reply.code, reply.retryAfter]).toEqual([409, "idempotency_in_progress", 2]);
    gate.resolve();
    expect((await first).status).toBe(200);
    expect((await kit.ask(asking(3), keyed("k"))).headers.get("idempotency-replayed")).toBe("true");
    expect(kit.counts()).toEqual(ONE);
    expect(await metered(kit)).toEqual({ first: 1, in_progress: 1, replayed: 1 });
  });

  test("a client that leaves a stream stops it as ever; its twin hears what became of it, and causes no second call", async () => {
    const kit = await accounts(["x"], { limits });
    kit.answer("x", () => ({ fault: { at: 2, how: "hang" } }));
    const leaving = new AbortController();
    const response = await chat(kit.gateway.url, { model: MODEL, stream: true }, { ...keyed("k"), signal: leaving.signal });
    const reader = response.body?.getReader();
    await reader?.read();
    leaving.abort();
    await quiet(kit.guard);
    const twin = await kit.ask({ stream: true }, keyed("k"));
    expect([twin.status, twin.code]).toEqual([409, "idempotency_mismatch"]);
    expect(twin.text).toContain("charged for what it used");
    expect(kit.counts()).toEqual(ONE);
    expect(await billed(kit.gateway)).toHaveLength(1);
  });

  test("a client that leaves while it waits frees nothing and takes nothing", async () => {
    const kit = await accounts(["x"]);
    const gate = Promise.withResolvers<void>();
    kit.answer("x", async () => {
      await gate.promise;
      return {};
    });
    const first = kit.ask(asking(3), keyed("k"));
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual(ONE);
    const leaving = new AbortController();
    const twin = chat(kit.gateway.url, { model: MODEL, ...asking(3) }, { ...keyed("k"), signal: leaving.signal }).catch(() => "left");
    await expect.poll(() => kit.guard.admin.health().openRequests, PATIENTLY).toBe(2);
    leaving.abort();
    expect(await twin).toBe("left");
    await expect.poll(() => kit.guard.admin.health().openRequests, PATIENTLY).toBe(1);
    gate.resolve();
    expect((await first).status).toBe(200);
    expect((await kit.ask(asking(3), keyed("k"))).headers.get("idempotency-replayed")).toBe("true");
  });

  test("a stream that its provider broke was charged, so its key is used up", async () => {
    const kit = await accounts(["x"]);
    kit.answer("x", () => ({ fault: { at: 2, how: "close" } }));
    expect((await kit.ask({ stream: true }, keyed("k"))).text).toContain("error");
    await quiet(kit.guard);
    const twin = await kit.ask({ stream: true }, keyed("k"));
    expect([twin.status, twin.code]).toEqual([409, "idempotency_mismatch"]);
    expect(kit.counts()).toEqual(ONE);
  });
});

describe("a store that is away", () => {
  test("refuses requests with a key, and lets the others pass", async () => {
    const store = faultyStore();
    const kit = await accounts(["x"], { store });
    store.fail("refuses", "records.get", "records.put");
    const refused = await kit.ask(asking(3), keyed("k"));
    expect([refused.status, refused.code]).toEqual([503, "store_unavailable"]);
    expect((await kit.ask(asking(3))).status).toBe(200);
    expect(kit.counts()).toEqual(ONE);
  });

  test("a claim whose reply was lost is given back, for nothing was sent", async () => {
    const store = faultyStore();
    const kit = await accounts(["x"], { store });
    store.fail("reply lost", "records.put");
    expect((await kit.ask(asking(3), keyed("k"))).status).toBe(503);
    store.recover();
    kit.clock.advance(1_000);
    await expect.poll(async () => (await kit.ask(asking(3), keyed("k"))).status, PATIENTLY).toBe(200);
    expect(kit.counts()).toEqual(ONE);
  });

  test("does not forget that an answer was charged, although it could not be kept", async () => {
    const store = faultyStore();
    const kit = await accounts(["x"], { store });
    const gate = Promise.withResolvers<void>();
    kit.answer("x", async () => {
      await gate.promise;
      return {};
    });
    const first = kit.ask(asking(3), keyed("k"));
    await expect.poll(() => kit.counts(), PATIENTLY).toEqual(ONE);
    store.fail("refuses", "records.put");
    gate.resolve();
    expect((await first).status).toBe(200);
    await quiet(kit.guard);
    store.recover();
    kit.clock.advance(1_000);
    await expect.poll(async () => (await kit.ask(asking(3), keyed("k"))).text, PATIENTLY).toContain("could not be kept");
    expect(kit.counts()).toEqual(ONE);
  });
});

describe("where it stands", () => {
  test("as a part on a route of the host's", async () => {
    const upstream = await provider();
    const guard = closeLater(createGuard(gatewayOptions(upstream, { limits })));
    const app = express();
    app.post("/api/v1/chat/completions", guard.auth(), guard.scopes(), guard.idempotency(), guard.budgets(), guard.credentials(), guard.proxy());
    app.post("/other", guard.idempotency(), (_req, res) => void res.send("mine"));
    const { url } = closeLater(await listen(app));
    const ask = (path: string) =>
      fetch(`${url}${path}`, {
        method: "POST",
        headers: { authorization: `Bearer ${KEY}`, "content-type": "application/json", "idempotency-key": "k" },
        body: JSON.stringify({ model: MODEL, messages: [] }),
      });
    const texts: string[] = [];
    for (let i = 0; i < 3; i += 1) texts.push(await (await ask("/api/v1/chat/completions")).text());
    expect(new Set(texts).size).toBe(1);
    expect(upstream.log).toHaveLength(1);
    expect(await (await ask("/other")).text()).toBe("mine");
    expect(await (await ask("/other")).text()).toBe("mine");
  });

  test("inside a route with a budget: what is told again is not charged to the route either", async () => {
    const upstream = await provider();
    const guard = closeLater(createGuard({ ...gatewayOptions(upstream), limits }));
    await guard.ready();
    const client = new OpenAI(guard.sdk());
    const app = express();
    app.post("/ask", guard.auth(), guard.budgets({ limits: ["tokens"], cost: { tokens: 5_000 } }), async (_req, res) => {
      const answer = await client.chat.completions.create({ model: MODEL, messages: [] }, { headers: { "Idempotency-Key": "k" } });
      res.json(answer.usage);
    });
    const { url } = closeLater(await listen(app));
    const ask = async () => {
      const usage = await (await fetch(`${url}/ask`, { method: "POST", headers: { authorization: `Bearer ${KEY}` } })).json();
      await quiet(guard);
      const [tokens] = (await guard.remaining({ user: "alice" })).filter(({ name }) => name === "tokens");
      return { usage: usage as { total_tokens: number }, used: tokens?.used };
    };
    const one = await ask();
    expect(one.used).toBe(one.usage.total_tokens);
    expect(await ask()).toEqual(one);
    expect(upstream.log).toHaveLength(1);
  });

  test("of two accounts of its callers' own is two keys: no answer goes from one to the other", async () => {
    const [one, two] = [await provider(), await provider()];
    const guard = closeLater(createGuard({ limits: [], credentials: [] }));
    const call = guard.fetch();
    const ask = async (at: FakeUpstream, key: string) => {
      const headers = { authorization: `Bearer ${key}`, "idempotency-key": "job-1" };
      const body = JSON.stringify({ model: MODEL, messages: [{ role: "user", content: "hi" }] });
      const response = await call(`${at.url}/v1/chat/completions`, { method: "POST", headers, body });
      await response.text();
      return response.headers.get("idempotency-replayed");
    };
    expect(await ask(one, "sk-of-a")).toBeNull();
    expect([await ask(two, "sk-of-a"), await ask(one, "sk-of-b"), await ask(one, "sk-of-a")]).toEqual([null, null, "true"]);
    expect([one.log.length, two.log.length]).toEqual([2, 1]);
  });

  test.each(["over HTTP", "in process", "in process, with its own key"])("under the OpenAI SDK %s", async (where) => {
    const upstream = await provider();
    const isOwn = where.endsWith("own key");
    const guard = closeLater(createGuard(gatewayOptions(upstream, { limits, ...(isOwn ? { credentials: [] } : {}) })));
    await guard.ready();
    const app = express();
    if (!isOwn) app.use("/llm", guard.handler());
    const { url } = closeLater(await listen(app));
    const scoped = guard.sdk({ scopes: { user: "alice" } });
    const client =
      where === "over HTTP"
        ? new OpenAI({ baseURL: `${url}/llm/v1`, apiKey: KEY })
        : new OpenAI({ ...scoped, ...(isOwn ? { apiKey: "sk-own-key-of-the-host", baseURL: `${upstream.url}/v1` } : {}) });
    // The SDK has the option for other providers, and names the header nowhere by itself.
    Object.assign(client, { idempotencyHeader: "Idempotency-Key" });
    const ask = (stream: boolean, key: string) =>
      client.chat.completions.create({ model: MODEL, messages: [{ role: "user", content: "hi" }], stream }, { idempotencyKey: key });
    const whole = await ask(false, "w");
    expect(await ask(false, "w")).toEqual(whole);
    const streams: unknown[] = [];
    for (let i = 0; i < 2; i += 1) {
      const chunks: unknown[] = [];
      for await (const chunk of (await ask(true, "s")) as AsyncIterable<unknown>) chunks.push(chunk);
      streams.push(chunks);
    }
    expect(streams[1]).toEqual(streams[0]);
    expect(upstream.log).toHaveLength(2);
    const thrown: unknown = await ask(true, "w").catch((error: unknown) => error);
    expect(GuardError.from(thrown)).toMatchObject({ code: "idempotency_mismatch", status: 422 });
    expect(upstream.log).toHaveLength(2);
  });
});
