import OpenAI from "openai";
import { describe, expect, test } from "vitest";
import type { Answer, Sink, Source } from "../../src/core/answer.ts";
import type { Context } from "../../src/core/context.ts";
import { GuardError } from "../../src/core/errors.ts";
import type { Step } from "../../src/core/step.ts";
import { ambientRequests, type Ambient } from "../../src/http/ambient.ts";
import { inProcessFetch, type InProcessFetch, type InProcessOptions } from "../../src/http/in-process.ts";
import { opening } from "./server-kit.ts";

const URL_CHAT = "https://sdk.example/proxy/v1/chat/completions";
const CHAT = { method: "POST", body: '{"model":"gpt-4o","messages":[]}' };

function inProcess(step: Step, more: Partial<InProcessOptions> = {}) {
  const contexts: Context[] = [];
  const { options, logger } = opening({ onOpen: (ctx) => void contexts.push(ctx) });
  const ambient: Ambient = ambientRequests();
  ambient.switchOn();
  const fetch: InProcessFetch = inProcessFetch({
    ...options,
    ambient,
    stepFor: ({ matched }) => {
      if (!matched) throw new GuardError("not_found", "no such path");
      return matched.kind === "call" ? step : () => ({ status: 200, headers: [], body: Buffer.from("models") });
    },
    scopesOf: (init) => ({ user: new Headers(init.headers).get("x-user") ?? "nobody" }),
    tag: null,
    fetch: globalThis.fetch,
    ...more,
  });
  return { fetch, contexts, logger, ambient };
}

class FedSource implements Source {
  readonly calls: string[] = [];
  readonly sink = Promise.withResolvers<Sink>();
  start(sink: Sink): void {
    this.sink.resolve(sink);
  }
  resume(): void {
    this.calls.push("resume");
  }
  cancel(): void {
    this.calls.push("cancel");
  }
}

const answer = (more: Partial<Answer> = {}): Answer => ({
  status: 200,
  headers: ["content-type", "application/json"],
  body: Buffer.from("{}"),
  ...more,
});

describe("a call in this process", () => {
  test("has the scopes of its caller, and no other auth", async () => {
    const { fetch, contexts } = inProcess(async (ctx) => answer({ body: Buffer.from((await ctx.call()).model) }));
    const response = await fetch(URL_CHAT, { ...CHAT, headers: { "x-user": "alice", authorization: "Bearer sdk-key" } });
    expect([response.status, await response.text(), response.headers.get("x-request-id")]).toEqual([200, "gpt-4o", "id-1"]);
    expect(contexts[0]).toMatchObject({
      principal: { kind: "host", scopes: { user: "alice" }, mayAssertScopes: false },
      route: "/v1/chat/completions",
      closed: true,
    });
  });

  test.each<[string, Parameters<InProcessFetch>]>([
    ["text", [URL_CHAT, CHAT]],
    ["bytes", [new URL(URL_CHAT), { method: "post", body: new TextEncoder().encode(CHAT.body) }]],
    ["a stream", [URL_CHAT, { method: "POST", body: new Blob([CHAT.body]).stream(), duplex: "half" }]],
    ["a Request", [new Request(URL_CHAT, CHAT)]],
    ["a base URL without /v1", ["https://sdk.example/chat/completions", CHAT]],
  ])("may be made of %s", async (_name, [input, init]) => {
    const { fetch } = inProcess(async (ctx) => answer({ body: Buffer.from((await ctx.call()).model) }));
    expect(await (await fetch(input, init)).text()).toBe("gpt-4o");
  });

  test("lists models", async () => {
    expect(await (await inProcess(() => undefined).fetch("https://x.example/v1/models")).text()).toBe("models");
  });

  test.each<[string, string, RequestInit, number, string]>([
    ["another path", "https://x.example/v1/unknown", CHAT, 404, "not_found"],
    ["a body above the limit", URL_CHAT, { method: "POST", body: JSON.stringify({ x: "x".repeat(1_000) }) }, 413, "body_too_large"],
    ["a body that is no JSON", URL_CHAT, { method: "POST", body: "{" }, 400, "body_invalid"],
  ])("%s is answered, not thrown", async (_name, url, init, status, code) => {
    const { fetch } = inProcess(async (ctx) => (await ctx.call(), answer()));
    const response = await fetch(url, init);
    expect([response.status, await response.json(), response.headers.get("x-should-retry")]).toMatchObject([status, { error: { code } }, "false"]);
  });

  test("a refusal reaches the SDK's caller as ours", async () => {
    const { fetch, contexts } = inProcess(() => {
      throw new GuardError("budget_exhausted", "limit user-day has 0 left", { limit: "user-day", retryAfterMs: 5_000 });
    });
    const client = new OpenAI({ apiKey: "in-process", baseURL: "https://sdk.example/v1", fetch, maxRetries: 2 });
    const thrown: unknown = await client.chat.completions.create({ model: "gpt-4o", messages: [] }).catch((error: unknown) => error);
    expect(GuardError.from(thrown)).toMatchObject({ code: "budget_exhausted", limit: "user-day", retryAfterMs: 5_000, requestId: "id-1" });
    expect(contexts).toHaveLength(1);
    expect(contexts[0]?.outcome).toMatchObject({ status: 429, code: "budget_exhausted" });
  });

  test("is closed with the status that was answered", async () => {
    const { fetch, contexts } = inProcess(() => answer({ status: 404 }));
    expect((await fetch(URL_CHAT, CHAT)).status).toBe(404);
    expect(contexts[0]?.outcome).toMatchObject({ status: 404, code: null });
  });

  test("that no step answers is a fault of ours", async () => {
    const { fetch, logger } = inProcess(() => undefined);
    expect((await fetch(URL_CHAT, CHAT)).status).toBe(500);
    expect(logger.lines).toHaveLength(1);
  });

  test("that was aborted before it began reaches no step", async () => {
    let steps = 0;
    const { fetch } = inProcess(() => ((steps += 1), answer()));
    await expect(fetch(URL_CHAT, { ...CHAT, signal: AbortSignal.abort() })).rejects.toThrow("aborted");
    expect(steps).toBe(0);
  });

  test("that is aborted while it waits is left", async () => {
    const controller = new AbortController();
    const gate = Promise.withResolvers<void>();
    const source = new FedSource();
    const { fetch, contexts } = inProcess(async () => {
      controller.abort();
      await gate.promise;
      return answer({ body: source });
    });
    const pending = fetch(URL_CHAT, { ...CHAT, signal: controller.signal });
    gate.resolve();
    await expect(pending).rejects.toThrow("aborted");
    expect([source.calls, contexts[0]?.gone, contexts[0]?.outcome?.code]).toEqual([["cancel"], true, "client_closed"]);
  });
});

describe("a streamed answer", () => {
  async function streamed(init: RequestInit = {}) {
    const source = new FedSource();
    const { fetch, contexts } = inProcess(() => answer({ headers: ["content-type", "text/event-stream"], body: source }));
    const response = await fetch(URL_CHAT, { ...CHAT, ...init });
    return { source, sink: await source.sink.promise, response, ctx: contexts[0] as Context };
  }

  test("arrives as it comes, and ends", async () => {
    const { sink, response, ctx } = await streamed();
    sink.chunk(Buffer.from("data: 1\n\n"));
    sink.chunk(Buffer.from("data: [DONE]\n\n"));
    expect(ctx.closed).toBe(false);
    sink.end();
    expect([await response.text(), ctx.outcome]).toEqual(["data: 1\n\ndata: [DONE]\n\n", { status: 200, code: null, error: null }]);
  });

  test("that fails ends with one event and no forged end", async () => {
    const { sink, response, ctx } = await streamed();
    sink.chunk(Buffer.from("data: 1\n\n"));
    sink.error(new GuardError("upstream_protocol", "broken"));
    const text = await response.text();
    expect(JSON.parse(text.split("data: ")[2] as string)).toMatchObject({ error: { code: "upstream_protocol", request_id: "id-1" } });
    expect([text.includes("[DONE]"), ctx.outcome?.code]).toEqual([false, "upstream_protocol"]);
  });

  test("pauses its source for a reader that is slow, and lets it go on", async () => {
    const { source, sink, response } = await streamed();
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    expect(sink.chunk(Buffer.alloc(128 * 1024))).toBe(false);
    expect(source.calls).toEqual([]);
    await reader.read();
    await new Promise(setImmediate);
    expect(source.calls).toEqual(["resume"]);
    expect(sink.chunk(Buffer.from("a"))).toBe(true);
  });

  test("that nobody reads on ends its source", async () => {
    const { source, response, ctx } = await streamed();
    await response.body?.cancel();
    expect([source.calls.includes("cancel"), ctx.gone, ctx.outcome?.code]).toEqual([true, true, "client_closed"]);
  });

  test("that the guard must cut says so to its reader", async () => {
    const { source, sink, response, ctx } = await streamed();
    sink.chunk(Buffer.from("data: 1\n\n"));
    const reason = new GuardError("overloaded", "the gateway is shutting down");
    ctx.onGone((why) => sink.error(why as GuardError));
    ctx.leave(reason);
    expect(await response.text()).toContain('"code":"overloaded"');
    expect([source.calls, ctx.outcome?.error]).toEqual([[], reason]);
  });

  test("that is no model call ends with the failure itself: its bytes are nobody's events", async () => {
    const source = new FedSource();
    const { fetch } = inProcess(() => undefined, { stepFor: () => () => answer({ body: source }) });
    const response = await fetch("https://sdk.example/v1/files/f/content");
    (await source.sink.promise).error(new GuardError("upstream_timeout", "nobody read"));
    await expect(response.text()).rejects.toMatchObject({ code: "upstream_timeout" });
  });

  test("that is aborted is an abort for its reader, not an end", async () => {
    const controller = new AbortController();
    const { source, sink, response, ctx } = await streamed({ signal: controller.signal });
    sink.chunk(Buffer.from("data: 1\n\n"));
    controller.abort();
    await expect(response.text()).rejects.toThrow("aborted");
    expect([source.calls, ctx.gone, ctx.outcome?.code]).toEqual([["cancel"], true, "client_closed"]);
  });
});
