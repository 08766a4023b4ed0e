// Another credential takes over before the first byte has gone to the client, and never after.
import { afterEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { digestOf, expectConserved, pacer, recordingStore, type FakeReply, type FakeRequest } from "quotaguard/testing";
import { chat, gatewayOptions, testGateway, type TestGateway } from "../helpers/app.ts";

const keyOf = (name: string): string => `sk-upstream-secret-of-${name}`;
const DIGESTS = new Map(["a", "b", "c"].map((name) => [digestOf(`Bearer ${keyOf(name)}`), name]));

let gateway: TestGateway;
let conserved: () => Promise<unknown>;
// However many attempts it took: each is in the books, and only what served is charged.
afterEach(async () => {
  await conserved();
  await gateway.close();
});

type CredentialInput = NonNullable<GuardOptions["credentials"]>[number];

async function start(
  credentials: readonly Partial<CredentialInput>[] = [{ name: "a" }, { name: "b" }, { name: "c" }],
  more: GuardOptions = {},
): Promise<void> {
  const store = recordingStore();
  let options: GuardOptions = {};
  gateway = await testGateway((upstream) => {
    const accounts = credentials.map((each) => ({
      name: "a",
      provider: "openai" as const,
      apiKey: keyOf(each.name ?? "a"),
      baseUrl: upstream.url,
      ...each,
    }));
    return (options = gatewayOptions(upstream, { store, credentials: accounts, ...more }));
  });
  conserved = () => expectConserved({ guard: gateway.guard, store, upstreams: [gateway.upstream], options });
}

/** Which credential a request came with, by its key's digest. */
const whoSent = (headers: FakeRequest["headers"]): string => DIGESTS.get(String(headers.authorization)) ?? "?";
const asked = (): string => gateway.upstream.log.map(({ headers }) => whoSent(headers)).join("");
/** What each credential's account answers. */
const accounts = (replies: Readonly<Record<string, FakeReply>>): void => gateway.upstream.script(({ headers }) => replies[whoSent(headers)]);
const row = async (response: Response) => gateway.guard.ledger.get(response.headers.get("x-request-id") as string);
const closed = async (): Promise<void> => {
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
};

const FAULTS: readonly (readonly [string, FakeReply])[] = [
  ["401", { status: 401 }],
  ["402", { status: 402 }],
  ["403", { status: 403 }],
  ["429", { status: 429, headers: { "retry-after": "30" } }],
  ["500", { status: 500 }],
  ["503", { status: 503 }],
  ["529", { status: 529 }],
  [
    "an exhausted account told as 400",
    { status: 400, body: { error: { message: "pay", type: "insufficient_quota", param: null, code: "insufficient_quota" } } },
  ],
  [
    "a Cloudflare challenge",
    { status: 403, body: "<html>Just a moment...</html>", headers: { "cf-mitigated": "challenge", "content-type": "text/html" } },
  ],
  ["a failing server's page", { status: 502, body: "<html>Bad Gateway: content policy</html>", headers: { "content-type": "text/html" } }],
  ["a reset", { fault: { at: "start", how: "reset" } }],
  ["a polite close", { fault: { at: "start", how: "close" } }],
  ["a redirect", { status: 302, headers: { location: "http://127.0.0.1:1/" } }],
  ["an answer that is no HTTP", { raw: ["SSH-2.0-not-http\r\n"] }],
];

describe("before the first byte", () => {
  test.each(FAULTS)("%s goes on to the next credential, for answers", async (_what, fault) => {
    await start([{ name: "a" }, { name: "b" }]);
    accounts({ a: fault });
    const response = await chat(gateway.url);
    expect(response.status).toBe(200);
    expect(await response.json()).toMatchObject({ object: "chat.completion" });
    expect(asked()).toBe("ab");
    await closed();
    expect(await row(response)).toMatchObject({ state: "settled", attempts: 2, credential: "b" });
    for (const { inFlight } of gateway.guard.admin.health().credentials) expect(inFlight).toBe(0);
  });

  test.each(FAULTS)("%s goes on to the next credential, for streams", async (_what, fault) => {
    await start([{ name: "a" }, { name: "b" }]);
    accounts({ a: fault });
    const response = await chat(gateway.url, { stream: true });
    const text = await response.text();
    expect(text.trimEnd().endsWith("data: [DONE]")).toBe(true);
    expect(text).not.toContain('"error"');
    expect(asked()).toBe("ab");
    await closed();
    expect(await row(response)).toMatchObject({ state: "settled", attempts: 2, credential: "b" });
    for (const { inFlight } of gateway.guard.admin.health().credentials) expect(inFlight).toBe(0);
  });

  test.each(["reset", "close"] as const)(
    "half a whole answer and then a %s goes on to the next one: the client has seen nothing of it",
    async (how) => {
      await start([{ name: "a" }, { name: "b" }]);
      accounts({ a: { text: ["from a"], fault: { at: 60, how } } });
      const response = await chat(gateway.url);
      expect(response.status).toBe(200);
      expect(await response.text()).not.toContain("from a");
      expect(asked()).toBe("ab");
    },
  );

  test("a stream that does not begin in time goes on to the next one", async () => {
    await start([{ name: "a" }, { name: "b" }], { resilience: { firstByteTimeout: 100 } });
    accounts({ a: { fault: { at: "start", how: "hang" } } });
    expect(await (await chat(gateway.url, { stream: true })).text()).toContain("[DONE]");
    expect(asked()).toBe("ab");
    await gateway.upstream.log[0]?.ended;
    expect(gateway.upstream.log[0]?.end).toBe("client");
  });

  test.each([
    ["breaks after its headers", { fault: { at: "headers", how: "reset" } }],
    ["ends before its first event", { events: [] }],
    ["hangs after its headers", { fault: { at: "headers", how: "hang" } }],
  ] as const)("a stream that %s goes on to the next one", async (_what, fault) => {
    await start([{ name: "a" }, { name: "b" }], { resilience: { firstByteTimeout: 150 } });
    accounts({ a: fault });
    const response = await chat(gateway.url, { stream: true });
    const text = await response.text();
    expect(text).toContain("[DONE]");
    expect(text).not.toContain('"error"');
    expect(asked()).toBe("ab");
    await closed();
    expect(await row(response)).toMatchObject({ state: "settled", credential: "b", attempts: 2 });
  });

  test("a whole answer that times out does not: it may be billed, and the client has waited", async () => {
    await start([{ name: "a" }, { name: "b" }], { server: { requestTimeout: 150 } });
    accounts({ a: { fault: { at: "start", how: "hang" } } });
    expect((await chat(gateway.url)).status).toBe(504);
    expect(asked()).toBe("a");
  });

  test("each hop gets its own key and the same bytes", async () => {
    await start();
    accounts({ a: { status: 500 }, b: { status: 429 } });
    const body = '{"model":"gpt-4o-mini",  "temperature":0.70,"messages":[{"role":"user","content":"\\u00e9 hello"}], "big":12345678901234567890}';
    const response = await fetch(`${gateway.url}/llm/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: "Bearer qg-test-key-of-alice-0001" },
      body,
    });
    expect(response.status).toBe(200);
    expect(asked()).toBe("abc");
    for (const entry of gateway.upstream.log) expect(String(entry.body)).toBe(body);
  });

  test("each hop gets the model's name at its own provider, and nothing else changes", async () => {
    await start([{ name: "a" }, { name: "b" }], {
      models: [
        { name: "gpt-4o-mini", credential: "a", model: "deployment-7" },
        { name: "gpt-4o-mini", credential: "b", model: "gpt-4o-mini-2024-07-18" },
      ],
    });
    accounts({ a: { status: 500 } });
    const response = await chat(gateway.url);
    expect(gateway.upstream.log.map(({ body }) => (JSON.parse(String(body)) as { model: string }).model)).toEqual([
      "deployment-7",
      "gpt-4o-mini-2024-07-18",
    ]);
    expect(response.headers.get("x-quotaguard-model")).toBe("gpt-4o-mini-2024-07-18");
  });
});

describe("never", () => {
  test.each([400, 404, 413, 422])("for a fault of the request itself: %i passes through as it came", async (status) => {
    await start();
    const body = `{"error":{"message":"as the provider put it ${status}","type":"invalid_request_error","param":"messages","code":null}}`;
    gateway.upstream.script({ status, body });
    const response = await chat(gateway.url);
    expect(response.status).toBe(status);
    expect(await response.text()).toBe(body);
    expect(asked()).toBe("a");
  });

  test.each([
    [403, "This request was flagged by our content policy."],
    [404, "The model does not exist."],
    [403, "Unsupported model for this endpoint"],
  ])("for a fault of the request that is told by %i and in words: %s", async (status, message) => {
    await start();
    gateway.upstream.script({ status, body: { error: { message, type: "x", param: null, code: null } } });
    const response = await chat(gateway.url);
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ error: { message } });
    expect(asked()).toBe("a");
  });

  test.each(["reset", "close", "hang"] as const)("after the first byte of a stream: a %s is one error event", async (how) => {
    await start(undefined, { resilience: { idleTimeout: 150 } });
    const events = pacer();
    accounts({ a: { fault: { at: 3, how }, pacer: events } });
    events.step(2);
    const response = await chat(gateway.url, { stream: true });
    events.open();
    const text = await response.text();
    expect(text).toContain("chat.completion.chunk");
    expect(text.match(/"error"/g)).toHaveLength(1);
    expect(text).not.toContain("[DONE]");
    expect(text).not.toContain('"finish_reason":"');
    // The event is the last thing, and whole.
    const last = text.trimEnd().split("\n\n").at(-1) ?? "";
    expect(JSON.parse(last.replace("data: ", ""))).toMatchObject({ error: { code: how === "hang" ? "upstream_timeout" : "upstream_protocol" } });
    expect(asked()).toBe("a");
  });

  test("once the client has left", async () => {
    await start();
    gateway.upstream.script({ fault: { at: "start", how: "hang" } });
    const leaving = new AbortController();
    const pending = chat(gateway.url, {}, { signal: leaving.signal });
    await gateway.upstream.received(1);
    leaving.abort();
    await expect(pending).rejects.toThrow();
    await gateway.upstream.log[0]?.ended;
    await closed();
    expect(asked()).toBe("a");
  });
});

describe("how often", () => {
  test.each([0, 1, 2])("max_retries %i", async (maxRetries) => {
    await start(undefined, { resilience: { maxRetries } });
    gateway.upstream.script({ status: 500 });
    expect((await chat(gateway.url)).status).toBe(500);
    expect(asked()).toBe("abc".slice(0, maxRetries + 1));
  });

  test("never the same credential twice", async () => {
    await start([{ name: "a" }, { name: "b" }], { resilience: { maxRetries: 10 } });
    gateway.upstream.script({ status: 500 });
    await chat(gateway.url);
    expect(asked()).toBe("ab");
  });

  test("all failed: the last provider's answer passes through", async () => {
    await start();
    accounts({
      a: { status: 500 },
      b: { status: 401 },
      c: {
        status: 429,
        headers: { "retry-after": "7", "x-ratelimit-remaining-tokens": "0" },
        body: '{"error":{"message":"c is busy","type":"tokens","param":null,"code":"rate_limit_exceeded"}}',
      },
    });
    const response = await chat(gateway.url);
    expect(response.status).toBe(429);
    expect(response.headers.get("retry-after")).toBe("7");
    expect(await response.text()).toBe('{"error":{"message":"c is busy","type":"tokens","param":null,"code":"rate_limit_exceeded"}}');
    expect(await row(response)).toMatchObject({ state: "released", attempts: 3, credential: "c", rawNanoUsd: 0 });
  });

  test("all failed, and the last one without an answer: our own error", async () => {
    await start([{ name: "a" }, { name: "b" }]);
    accounts({ a: { status: 500 }, b: { fault: { at: "start", how: "reset" } } });
    const response = await chat(gateway.url);
    expect(response.status).toBe(502);
    expect(await response.json()).toMatchObject({ error: { code: "upstream_unreachable" } });
  });

  test("what failed before is charged to nobody", async () => {
    await start(undefined, { limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 1, per: "hour" } }] });
    gateway.upstream.script({ status: 500 });
    expect((await chat(gateway.url)).status).toBe(500);
    await closed();
    gateway.upstream.script({});
    expect((await chat(gateway.url)).status).toBe(200);
    expect((await chat(gateway.url)).status).toBe(429);
  });
});

describe("in which order", () => {
  const several = async (count: number): Promise<string> => {
    for (let i = 0; i < count; i += 1) await (await chat(gateway.url)).text();
    return asked();
  };

  test("in turn", async () => {
    await start();
    expect(await several(7)).toBe("abcabca");
  });

  test("models with other candidates do not disturb each other's turn", async () => {
    await start([{ name: "a" }, { name: "b" }, { name: "c", models: ["gpt-4o"] }]);
    const order: string[] = [];
    for (const model of ["gpt-4o-mini", "gpt-4o", "gpt-4o-mini", "gpt-4o", "gpt-4o-mini", "gpt-4o"]) {
      await (await chat(gateway.url, { model })).text();
      order.push(asked().at(-1) as string);
    }
    expect(order.filter((_, i) => i % 2 === 0).join("")).toBe("aba");
    expect(order.filter((_, i) => i % 2 === 1).join("")).toBe("abc");
  });

  test("higher priority first, and the rest only when it fails", async () => {
    await start([{ name: "a" }, { name: "b", priority: 5 }, { name: "c", priority: 5 }]);
    expect(await several(3)).toBe("bcb");
    accounts({ b: { status: 500 }, c: { status: 500 } });
    expect((await chat(gateway.url)).status).toBe(200);
    const then = asked().slice(3);
    expect(then.at(-1)).toBe("a");
    expect(then).toHaveLength(3);
  });

  test("fallbacks last, whatever their priority", async () => {
    await start([{ name: "a", isFallback: true, priority: 100 }, { name: "b" }, { name: "c", priority: -100 }]);
    accounts({ b: { status: 503 }, c: { status: 503 } });
    expect((await chat(gateway.url)).status).toBe(200);
    expect(asked()).toBe("bca");
  });

  test("provider:model narrows it to one provider", async () => {
    await start([{ name: "a" }, { name: "b", provider: "openai-compatible" }]);
    for (let i = 0; i < 3; i += 1) await (await chat(gateway.url, { model: "openai-compatible:llama" })).text();
    expect(asked()).toBe("bbb");
    expect((JSON.parse(String(gateway.upstream.log[0]?.body)) as { model: string }).model).toBe("llama");
  });
});
