// The proxy step's own promises: what goes upstream, what comes back, and what happens at the edges of one exchange.
import express from "express";
import { once } from "node:events";
import { connect } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, GuardError, memoryStore } from "quotaguard";
import { fakeUpstream, pacer, type FakeReply } from "quotaguard/testing";
import { chat, gatewayOptions, KEY, listen, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";
import { ownTime } from "../helpers/own-time.ts";

let gateway: TestGateway;
afterEach(() => gateway.close());

const start = async (more: Parameters<typeof testGateway>[0] = {}): Promise<void> => {
  gateway = await testGateway(more);
};
const post = (body: string, headers: Record<string, string> = {}) =>
  fetch(`${gateway.url}/llm/v1/chat/completions`, { method: "POST", headers: { authorization: `Bearer ${KEY}`, ...headers }, body });
const sentText = (index = -1): string => String(gateway.upstream.log.at(index)?.body);
const row = async (response: Response) => gateway.guard.ledger.get(response.headers.get("x-request-id") as string);
const closed = async (): Promise<void> => {
  await expect.poll(() => gateway.guard.admin.health().openRequests).toBe(0);
};

describe("what goes upstream", () => {
  test("the client's bytes, whatever they look like", async () => {
    await start();
    const body =
      ' {\n "messages" : [ {"role":"user","content":"caf\\u00e9 \\ud83d\\ude00"} ] ,"model":"gpt-4o-mini","temperature":1.0e0,"x":{"model":"inner"} }\n';
    await (await post(body)).text();
    expect(sentText()).toBe(body);
    expect(gateway.upstream.log.at(-1)?.headers["content-length"]).toBe(String(Buffer.byteLength(body)));
  });

  test("only the name of an alias changes, and the answer says so", async () => {
    await start({ modelAlias: { fast: "gpt-4o-mini" } });
    const response = await post('{"x":{"model":"fast"},"model":"fast","messages":[],"seed":1.50}');
    expect(sentText()).toBe('{"x":{"model":"fast"},"model":"gpt-4o-mini","messages":[],"seed":1.50}');
    expect(response.headers.get("x-quotaguard-model")).toBe("gpt-4o-mini");
  });

  test("a stream asks for usage, and keeps what else it asked for", async () => {
    await start();
    await (await post('{"model":"gpt-4o","messages":[],"stream":true,"stream_options":{"include_obfuscation":false}}')).text();
    expect(JSON.parse(sentText())).toEqual({
      model: "gpt-4o",
      messages: [],
      stream: true,
      stream_options: { include_obfuscation: false, include_usage: true },
    });
    const asked = '{"model":"gpt-4o","messages":[],"stream":true,"stream_options":{"include_usage":true}}';
    await (await post(asked)).text();
    expect(sentText()).toBe(asked);
  });

  test("a base URL may end in /v1 or not, and may have a prefix", async () => {
    const upstream = await fakeUpstream();
    const paths = [];
    for (const suffix of ["", "/", "/v1", "/v1/", "/openai/v1"]) {
      await start({ credentials: [{ name: "main", apiKey: UPSTREAM_KEY, baseUrl: upstream.url + suffix }] });
      await (await chat(gateway.url)).text();
      paths.push(upstream.log.at(-1)?.path);
      await gateway.close();
    }
    expect(paths).toEqual([...Array.from({ length: 4 }, () => "/v1/chat/completions"), "/openai/v1/chat/completions"]);
    await upstream.close();
    await start();
  });

  test("an operator's own headers, and the right authorization", async () => {
    await start((upstream) => ({ credentials: [{ name: "main", apiKey: UPSTREAM_KEY, baseUrl: upstream.url, headers: { "x-gateway": "ours" } }] }));
    await (await post('{"model":"gpt-4o","messages":[]}', { "x-gateway": "theirs" })).text();
    const { headers } = gateway.upstream.log.at(-1) ?? {};
    expect(headers?.["x-gateway"]).toBe("ours");
    expect(headers?.authorization).toBe(gateway.upstream.digest(UPSTREAM_KEY));
  });
});

describe("reasoning models", () => {
  test("what such a model refuses is taken out, by its name at the provider", async () => {
    await start({ models: [{ name: "smart", model: "o3-mini" }] });
    await (await post('{"model":"smart", "temperature":0.7, "messages":[], "max_tokens" : 50}')).text();
    expect(sentText()).toBe('{"model":"o3-mini", "messages":[], "max_completion_tokens" : 50}');
    const plain = '{"model":"gpt-4o", "temperature":0.7, "messages":[], "max_tokens" : 50}';
    await (await post(plain)).text();
    expect(sentText()).toBe(plain);
  });

  test("a budget's cap goes where such a model looks for it", async () => {
    await start((upstream) => ({
      credentials: [{ name: "main", provider: "openai-compatible", apiKey: UPSTREAM_KEY, baseUrl: upstream.url }],
      models: [
        { name: "gpt-5", price: { inputPerMtok: 1, outputPerMtok: 1 } },
        { name: "llama", price: { inputPerMtok: 1, outputPerMtok: 1 } },
      ],
      estimate: { defaultMaxOutputTokens: 123 },
      limits: [{ name: "spend", scope: "user", unit: "usd", window: { limit: 5, per: "day" } }],
    }));
    await (await post('{"model":"gpt-5","messages":[]}')).text();
    expect(sentText()).toBe('{"max_completion_tokens":123,"model":"gpt-5","messages":[]}');
    await (await post('{"model":"llama","messages":[]}')).text();
    expect(sentText()).toBe('{"max_tokens":123,"model":"llama","messages":[]}');
  });
});

describe("what a stream used", () => {
  const text = ["one", " two", " three"];
  const settled = async (response: Response) => {
    await response.text();
    await closed();
    return row(response);
  };

  test.each(["cumulative", "in-finish", "as-asked"] as const)("is counted once, however often the provider says so far: %s", async (usage) => {
    await start();
    gateway.upstream.script({ text, usage });
    const written = await settled(await chat(gateway.url, { stream: true, messages: [{ role: "user", content: "a b c d" }] }));
    expect(gateway.upstream.totals()).toMatchObject({ inputTokens: 4, outputTokens: 3 });
    expect(written).toMatchObject({ state: "settled", provenance: "exact", usage: { inputTokens: 4, outputTokens: 3 } });
  });

  test("is read whole when its event comes in pieces", async () => {
    await start();
    const event = (body: object): string => `data: ${JSON.stringify({ object: "chat.completion.chunk", ...body })}\n\n`;
    const said = event({ choices: [{ index: 0, delta: { content: "hi" }, finish_reason: "stop" }] });
    const usage = event({ choices: [], usage: { prompt_tokens: 1_234, completion_tokens: 5_678, total_tokens: 6_912 } });
    const cut = said.length + usage.indexOf("1234") + 2;
    gateway.upstream.script({ events: [said, usage, "data: [DONE]\n\n"], splitAt: [said.length, cut, said.length + usage.length - 1] });
    const response = await chat(gateway.url, { stream: true });
    expect(await settled(response)).toMatchObject({ provenance: "exact", usage: { inputTokens: 1_234, outputTokens: 5_678 } });
    expect(gateway.upstream.log[0]?.chunks).toBe(4);
  });
});

describe("what comes back", () => {
  test("the provider's own bytes and id; our request id on top", async () => {
    await start();
    const body = '{"id":"chatcmpl-1","object":"chat.completion","choices":[], "usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}';
    gateway.upstream.script({ body });
    const response = await post('{"model":"gpt-4o","messages":[]}', { "x-request-id": "mine-1" });
    expect(await response.text()).toBe(body);
    expect(response.headers.get("x-request-id")).toBe("mine-1");
    expect(response.headers.get("x-quotaguard-credential")).toBeNull();
  });

  test("a stream is not to be cached or held back by a proxy in front", async () => {
    await start();
    const { headers } = await chat(gateway.url, { stream: true });
    expect(headers.get("content-type")).toContain("text/event-stream");
    expect(headers.get("cache-control")).toBe("no-cache, no-transform");
    expect(headers.get("x-accel-buffering")).toBe("no");
  });

  test.each<readonly [string, FakeReply, number, string]>([
    ["an error page", { status: 503, body: "<html>busy</html>", headers: { "content-type": "text/html" } }, 503, "upstream_refused"],
    ["a redirect", { status: 307, headers: { location: "https://elsewhere.test/" } }, 502, "upstream_"],
    [
      "a stream's headers with JSON in them that is none",
      { body: "nope", headers: { "content-type": "application/json" } },
      502,
      "upstream_protocol",
    ],
  ])("%s is told in the caller's dialect", async (_what, reply, status, code) => {
    await start();
    gateway.upstream.script(reply);
    const response = await chat(gateway.url);
    expect(response.status).toBe(status);
    const { error } = (await response.json()) as { error: { code: string; request_id: string } };
    expect(error.code).toContain(code);
    expect(error.request_id).toBe(response.headers.get("x-request-id"));
    expect(response.headers.get("location")).toBeNull();
  });

  test("a whole answer although a stream was asked for is passed on as it is, and its usage counts", async () => {
    await start();
    const body = '{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}';
    gateway.upstream.script({ body });
    const response = await chat(gateway.url, { stream: true });
    expect(await response.text()).toBe(body);
    expect(await row(response)).toMatchObject({ state: "settled", usage: { inputTokens: 3, outputTokens: 4 } });
  });

  test("an empty stream is a failure, not a silent end", async () => {
    await start();
    gateway.upstream.script({ events: [] });
    const response = await chat(gateway.url, { stream: true });
    expect(response.status).toBe(502);
    expect(await response.json()).toMatchObject({ error: { code: "upstream_protocol" } });
  });

  test("a stream whose connection breaks after [DONE] was complete: nothing is added, and its usage is exact", async () => {
    await start();
    gateway.upstream.script({ fault: { at: "end", how: "close" } });
    const response = await chat(gateway.url, { stream: true, stream_options: { include_usage: true } });
    const text = await response.text();
    expect(text.trimEnd().endsWith("data: [DONE]")).toBe(true);
    await closed();
    expect(await row(response)).toMatchObject({ state: "settled", provenance: "exact", code: null });
  });
});

/** More than the kernel's buffers of two connections ever hold: where they grow by themselves, some 40 MB together. */
const LONG = 15_000;
const ENDLESS_TEXT = Array.from({ length: 4_000 }, (_, i) => `${i} ${"x".repeat(LONG)} `);

describe("the edges of an exchange", () => {
  test("a client that does not read stops the upstream; when it reads on, everything arrives", async () => {
    await start();
    gateway.upstream.script({ text: ENDLESS_TEXT });
    const { hostname, port } = new URL(gateway.url);
    const socket = connect(Number(port), hostname);
    socket.pause();
    const body = JSON.stringify({ model: "gpt-4o", messages: [], stream: true });
    socket.write(
      `POST /llm/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${KEY}\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    const entry = await gateway.upstream.received(1);
    // Written until every buffer on the way is full, and no further.
    let before = -1;
    await expect
      .poll(
        () => {
          const still = entry.chunks > 0 && entry.chunks === before;
          before = entry.chunks;
          return still;
        },
        { interval: 100, timeout: 10_000 },
      )
      .toBe(true);
    expect(entry.chunks).toBeLessThan(ENDLESS_TEXT.length);
    let received = 0;
    let tail = "";
    socket.setEncoding("utf8").on("data", (piece: string) => {
      received += piece.length;
      tail = (tail + piece).slice(-2 * LONG);
      if (tail.includes("[DONE]")) socket.end();
    });
    socket.resume();
    await once(socket, "close");
    expect(received).toBeGreaterThan(ENDLESS_TEXT.length * LONG);
    expect(tail).toContain(`${ENDLESS_TEXT.length - 1} xxx`);
    await entry.ended;
    expect(entry.end).toBe("done");
  });

  test("a client that never reads again is cut after the idle timeout and charged by what was delivered", async () => {
    await start({ resilience: { idleTimeout: 300 } });
    gateway.upstream.script({ text: ENDLESS_TEXT });
    const { hostname, port } = new URL(gateway.url);
    const socket = connect(Number(port), hostname);
    socket.pause();
    socket.on("error", () => {});
    const body = JSON.stringify({ model: "gpt-4o", messages: [], stream: true });
    socket.write(
      `POST /llm/v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${KEY}\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
    );
    const entry = await gateway.upstream.received(1);
    await entry.ended;
    expect(entry.end).toBe("client");
    await closed();
    const [written] = await gateway.guard.ledger.list({});
    expect(written).toMatchObject({ state: "settled", provenance: "counted" });
    expect(written?.usage?.outputTokens).toBeGreaterThan(0);
    socket.destroy();
  });

  test.each<[string, FakeReply]>([
    ["before the answer", { fault: { at: "start", how: "hang" } }],
    ["in the middle of it", { fault: { at: 40, how: "hang" } }],
  ])("a client that leaves a whole answer %s stops the upstream at once", async (_when, reply) => {
    await start();
    gateway.upstream.script(reply);
    const leaving = new AbortController();
    const pending = chat(gateway.url, {}, { signal: leaving.signal });
    pending.catch(() => {});
    const entry = await gateway.upstream.received(1);
    if (typeof reply.fault?.at === "number") await expect.poll(() => entry.chunks).toBe(1);
    const sinceLeft = ownTime();
    leaving.abort();
    await entry.ended;
    expect(entry.end).toBe("client");
    expect(sinceLeft()).toBeLessThan(1_000);
    await closed();
    expect(gateway.guard.admin.health().credentials[0]?.inFlight).toBe(0);
  });

  test("events pass one by one, not collected", async () => {
    await start();
    const events = pacer();
    gateway.upstream.script({ pacer: events });
    events.step();
    const reader = ((await chat(gateway.url, { stream: true })).body as ReadableStream<Uint8Array>).getReader();
    const first = Buffer.from((await reader.read()).value ?? []).toString();
    expect(first.match(/^data: /gm)).toHaveLength(1);
    events.step();
    expect(
      Buffer.from((await reader.read()).value ?? [])
        .toString()
        .match(/^data: /gm),
    ).toHaveLength(1);
    events.open();
    await reader.cancel();
    await closed();
  });

  test("without a credentials step before it, it says what is missing to the operator and nothing to the client", async () => {
    await start();
    const logged: unknown[] = [];
    const log = (fields: object): void => void logged.push(fields);
    const guard = createGuard(gatewayOptions(gateway.upstream, { logger: { debug: log, info: log, warn: log, error: log } }));
    const app = express().post("/v1/chat/completions", guard.auth(), guard.proxy());
    const { url, close } = await listen(app);
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}` },
      body: '{"model":"gpt-4o","messages":[]}',
    });
    expect(response.status).toBe(500);
    expect(await response.json()).toMatchObject({ error: { code: "internal" } });
    expect(String((logged[0] as { err: Error }).err)).toContain("proxy needs a credentials step before it");
    await close();
    await guard.close();
  });

  test("a ledger that cannot take the intent refuses the request before anything is sent", async () => {
    const store = memoryStore();
    const away = { ...store, ledger: { ...store.ledger, intent: () => Promise.reject(new GuardError("store_unavailable", "the database is away")) } };
    await start({ store: away, limits: [{ name: "t", scope: "user", unit: "tokens", bucket: { capacity: 1_000, refillPerSec: 0 } }] });
    const response = await chat(gateway.url);
    expect(response.status).toBe(503);
    expect(gateway.upstream.log).toHaveLength(0);
    await closed();
    expect((await gateway.guard.admin.bucket({ scope: "user", id: "alice" })).tokens).toBe(1_000);
    expect(gateway.guard.admin.health().credentials[0]?.inFlight).toBe(0);
  });
});
