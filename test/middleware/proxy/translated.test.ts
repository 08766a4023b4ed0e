// Callers of one dialect, providers of another: what goes out, what comes back, and what failures look like.
import { brotliCompressSync, gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import type { Choice } from "../../../src/core/credential.ts";
import { GuardError } from "../../../src/core/errors.ts";
import type { JsonObject } from "../../../src/dialects/message.ts";
import {
  ANTHROPIC,
  anthropicAnswer,
  anthropicStream,
  dataOf,
  gateway,
  named,
  OPENAI,
  openaiAnswer,
  openaiStream,
  provider,
  said,
} from "./wire-kit.ts";

const CHAT = "/v1/chat/completions";
const MESSAGES = "/v1/messages";
const asked = (more: JsonObject = {}): JsonObject => ({ model: "claude-x", messages: [{ role: "user", content: "hi" }], ...more });
const askedOfClaude = (more: JsonObject = {}): JsonObject => asked({ max_tokens: 100, ...more });
const json = async (response: Response): Promise<JsonObject> => (await response.json()) as JsonObject;

describe("a whole answer", () => {
  test("OpenAI asks, Anthropic answers", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("hello") });
    const { post, ended } = await gateway([claude]);
    const response = await post(CHAT, asked({ max_tokens: 50, temperature: 0.5 }), { "x-request-id": "mine" });
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(await json(response)).toMatchObject({
      id: expect.any(String),
      object: "chat.completion",
      model: "claude-x",
      choices: [{ index: 0, message: { role: "assistant", content: "hello" }, finish_reason: "stop" }],
      usage: { prompt_tokens: 11, completion_tokens: 7, total_tokens: 18 },
    });
    const [sent] = claude.arrived;
    expect(sent).toMatchObject({ path: "/v1/messages", headers: { "x-api-key": "sk-secret-of-claude", "content-type": "application/json" } });
    expect(sent?.body).toEqual({ model: "claude-x", max_tokens: 50, temperature: 0.5, messages: [{ role: "user", content: expect.anything() }] });
    expect(ended).toMatchObject([{ outcome: { kind: "served", tokens: 18 }, charged: { kind: "usage", provenance: "exact" } }]);
  });

  test("Anthropic asks, OpenAI answers", async () => {
    const gpt = await provider("gpt", OPENAI, { json: openaiAnswer("hello") });
    const { post } = await gateway([gpt]);
    const response = await post(MESSAGES, askedOfClaude({ system: "be brief" }), { "anthropic-version": "2023-06-01" });
    expect(await json(response)).toMatchObject({
      type: "message",
      role: "assistant",
      content: [{ type: "text", text: "hello" }],
      stop_reason: "end_turn",
      usage: { input_tokens: 11, output_tokens: 7 },
    });
    expect(gpt.arrived[0]).toMatchObject({
      path: "/v1/chat/completions",
      body: {
        max_tokens: 100,
        messages: [
          { role: "system", content: "be brief" },
          { role: "user", content: "hi" },
        ],
      },
    });
    expect(gpt.arrived[0]?.headers["anthropic-version"]).toBeUndefined();
  });

  test("a provider that also speaks the caller's dialect gets its bytes as they are", async () => {
    const both = await provider(
      "both",
      { ...OPENAI, also: { anthropic: { chat: "/anthropic/v1/messages" } } },
      { json: anthropicAnswer("as it is") },
    );
    const { post } = await gateway([both]);
    const text = '{ "model":"claude-x", "max_tokens": 1e2, "messages":[] , "odd": {"a":1.0} }';
    const response = await fetch((await post(MESSAGES, askedOfClaude())).url, { method: "POST", body: text });
    expect(await response.text()).toBe(JSON.stringify(anthropicAnswer("as it is")));
    expect(both.arrived[1]).toMatchObject({ path: "/anthropic/v1/messages", text });
  });

  test.each([
    ["no JSON", "<html>"],
    ["no answer", '{"hello":"world"}'],
    ["cut off", '{"id":"msg_1","type":"message","content":[{"type":"te'],
    ["gzip without a header", gzipSync(JSON.stringify(anthropicAnswer("x"))).toString("latin1")],
  ])("%s is a failure of that provider, and another one takes over", async (_what, body) => {
    const broken = await provider("broken", ANTHROPIC, (res) => res.writeHead(200, { "content-type": "application/json" }).end(body, "latin1"));
    const well = await provider("well", OPENAI, { json: openaiAnswer("well") });
    const { post, ended } = await gateway([broken, well]);
    expect(await json(await post(CHAT, asked()))).toEqual(openaiAnswer("well"));
    expect(ended).toMatchObject([
      { name: "broken", outcome: { kind: "failed", error: { code: "upstream_protocol" }, tokens: null } },
      { name: "well", outcome: { kind: "served" } },
    ]);
  });

  // The bytes of the last are no matter: its name is enough.
  test.each<[string, (text: string) => Buffer]>([
    ["gzip", gzipSync],
    ["br", brotliCompressSync],
    ["zstd", (text) => Buffer.from(text)],
  ])(
    "gzip/br/zstd upstream body: %s, which nobody asked for, is a failure of that provider; nothing of it is delivered",
    async (encoding, packed) => {
      const bytes = packed(JSON.stringify(openaiAnswer("packed")));
      const headers = { "content-type": "application/json", "content-encoding": encoding };
      const broken = await provider("broken", OPENAI, (res) => res.writeHead(200, headers).end(bytes));
      const well = await provider("well", OPENAI, { json: openaiAnswer("well") });
      const { post, ended } = await gateway([broken, well]);
      const response = await post(CHAT, asked());
      expect([response.headers.get("content-encoding"), await json(response)]).toEqual([null, openaiAnswer("well")]);
      expect(broken.arrived[0]?.headers["accept-encoding"]).toBe("identity");
      expect(ended).toMatchObject([{ name: "broken", outcome: { kind: "failed", error: { code: "upstream_protocol" } } }, { name: "well" }]);
    },
  );

  test("unsupported-level-clamped-across-families-rejected-within", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("hello") });
    const across = await gateway([claude]);
    expect((await across.post(CHAT, asked({ model: "claude-opus-4-6", reasoning_effort: "xhigh" }))).status).toBe(200);
    expect(claude.arrived[0]?.body).toMatchObject({ output_config: { effort: "max" } });

    const refusal = '{"error":{"message":"reasoning_effort is not supported","type":"invalid_request_error","param":"reasoning_effort","code":null}}';
    const gpt = await provider("gpt", OPENAI, { status: 400, json: refusal });
    const within = await gateway([gpt]);
    const response = await within.post(CHAT, asked({ model: "gpt-5.1", reasoning_effort: "xhigh" }));
    expect([response.status, await response.text()]).toEqual([400, refusal]);
    expect(gpt.arrived[0]?.body).toMatchObject({ reasoning_effort: "xhigh" });
  });
});

describe("a stream", () => {
  test("OpenAI asks, Anthropic answers", async () => {
    const claude = await provider("claude", ANTHROPIC, { events: anthropicStream(["hel", "lo"]) });
    const { post, ended } = await gateway([claude]);
    const response = await post(CHAT, asked({ stream: true, stream_options: { include_usage: true } }));
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    expect(response.headers.get("cache-control")).toBe("no-cache, no-transform");
    const events = dataOf(await response.text()) as readonly JsonObject[];
    const pieces = events.map(
      ({ choices }) => (choices as readonly { readonly delta: { readonly content?: string } }[] | undefined)?.[0]?.delta.content,
    );
    expect(pieces.join("")).toBe("hello");
    expect(events.at(-2)).toMatchObject({ choices: [], usage: { prompt_tokens: 11, completion_tokens: 7 } });
    expect(events.at(-1)).toBe("[DONE]");
    expect(claude.arrived[0]?.body.stream).toBe(true);
    expect(ended).toMatchObject([{ outcome: { kind: "served", tokens: 18 }, charged: { provenance: "exact" } }]);
  });

  test("Anthropic asks, OpenAI answers, and is asked for usage", async () => {
    const gpt = await provider("gpt", OPENAI, { events: openaiStream(["hel", "lo"]) });
    const { post } = await gateway([gpt]);
    const events = dataOf(await (await post(MESSAGES, askedOfClaude({ stream: true }))).text()) as readonly JsonObject[];
    expect(events.map(({ type }) => type)).toEqual([
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop",
    ]);
    expect(gpt.arrived[0]?.body).toMatchObject({ stream: true, stream_options: { include_usage: true } });
  });

  test("upstream-closes-without-terminal-event: one error event, no forged end, what was delivered is charged", async () => {
    const claude = await provider("claude", ANTHROPIC, { events: anthropicStream(["half"]).slice(0, 3) });
    const { post, ended } = await gateway([claude]);
    const text = await (await post(CHAT, asked({ stream: true }))).text();
    const events = dataOf(text) as readonly JsonObject[];
    expect(events.at(-1)).toMatchObject({ error: { code: "upstream_protocol" } });
    expect(events.filter((event) => "error" in event)).toHaveLength(1);
    expect(text).not.toContain("[DONE]");
    expect(text).not.toContain('"finish_reason":"stop"');
    await expect.poll(() => ended).toMatchObject([{ outcome: { kind: "failed" }, charged: { kind: "usage", provenance: "counted" } }]);
  });

  test("error-event-inside-200-stream: in the middle it is one error event in the caller's dialect, with the provider's words and without its key", async () => {
    const failed = { type: "error", error: { type: "overloaded_error", message: "busy, sk-secret-of-claude" } };
    const claude = await provider("claude", ANTHROPIC, { events: [...anthropicStream(["half"]).slice(0, 3), named("error", failed)] });
    const { post, last } = await gateway([claude]);
    const events = dataOf(await (await post(CHAT, asked({ stream: true }))).text()) as readonly JsonObject[];
    expect(events.filter((event) => "error" in event)).toMatchObject([{ error: { message: "busy, [redacted]", code: "upstream_refused" } }]);
    expect(events.at(-1)).toHaveProperty("error");
    expect(last().failure).toMatchObject({ code: "upstream_refused" });
  });

  test.each(["alone", "behind its start"])("error-before-first-payload: a stream that begins with its failure, %s, fails over", async (where) => {
    const error = named("error", { type: "error", error: { type: "overloaded_error", message: "busy, sk-secret-of-claude" } });
    const events = where === "alone" ? [error] : [anthropicStream([])[0] as string, named("ping", { type: "ping" }), error];
    const claude = await provider("claude", ANTHROPIC, { events });
    const well = await provider("well", OPENAI, { events: openaiStream(["well"]) });
    const { post, ended } = await gateway([claude, well]);
    expect(await (await post(CHAT, asked({ stream: true }))).text()).toContain("well");
    expect(ended[0]).toMatchObject({ name: "claude", outcome: { kind: "failed" }, charged: { kind: "nothing" } });
    const { post: alone } = await gateway([claude]);
    const response = await alone(CHAT, asked({ stream: true }));
    expect([response.status, await json(response)]).toMatchObject([502, { error: { message: "busy, [redacted]" } }]);
  });

  test("a stream of the caller's own dialect that begins with its failure fails over, too; in the middle its own event stays the only one", async () => {
    const failure = said({ error: { message: "no room", type: "server_error", code: null } });
    const first = await provider("first", OPENAI, { events: [failure] });
    const well = await provider("well", OPENAI, { events: openaiStream(["well"]) });
    const { post } = await gateway([first, well]);
    expect(await (await post(CHAT, asked({ stream: true }))).text()).toContain("well");

    const late = await provider("late", OPENAI, { events: [...openaiStream(["half"]).slice(0, 2), failure] });
    const { post: again, ended, last } = await gateway([late]);
    const text = await (await again(CHAT, asked({ stream: true }))).text();
    expect(text.endsWith(failure)).toBe(true);
    expect(text.split('"error"')).toHaveLength(2);
    expect(ended).toMatchObject([{ outcome: { kind: "failed" }, charged: { provenance: "counted" } }]);
    expect(last().failure?.code).toBe("upstream_refused");
  });

  test("client-disconnect-stops-upstream-and-is-neutral", async () => {
    const gone = Promise.withResolvers<void>();
    const claude = await provider("claude", ANTHROPIC, (res) => {
      res.writeHead(200, { "content-type": "text/event-stream" });
      for (const event of anthropicStream(["one", "two"]).slice(0, 4)) res.write(event);
      res.once("close", () => gone.resolve());
    });
    const { url, ended } = await gateway([claude]);
    const leaving = new AbortController();
    const response = await fetch(url + CHAT, { method: "POST", body: JSON.stringify(asked({ stream: true })), signal: leaving.signal });
    await response.body?.getReader().read();
    leaving.abort();
    await gone.promise;
    await expect.poll(() => ended.at(-1)).toMatchObject({ outcome: { kind: "abandoned" }, charged: { kind: "usage", provenance: "counted" } });
  });
});

describe("a refusal", () => {
  test("error-body-in-other-dialect-unwrapped: its status, words and wait, in the caller's dialect", async () => {
    const error = { type: "error", error: { type: "rate_limit_error", message: "slow down, sk-secret-of-claude" } };
    const claude = await provider("claude", ANTHROPIC, { status: 429, json: error, headers: { "retry-after": "7" } });
    const { post } = await gateway([claude]);
    const response = await post(CHAT, asked());
    expect(response.status).toBe(429);
    expect(response.headers.get("retry-after")).toBe("7");
    expect(await json(response)).toMatchObject({
      error: { message: "slow down, [redacted]", type: "rate_limit_error", upstream_type: "rate_limit_error", retry_after_ms: 7_000 },
    });
  });

  test.each([400, 401, 403, 404, 413, 429, 500, 529])("of status %i keeps its status", async (status) => {
    const gpt = await provider("gpt", OPENAI, { status, json: { error: { message: "no", type: "some_type", code: "some_code" } } });
    const { post } = await gateway([gpt]);
    const response = await post(MESSAGES, askedOfClaude());
    expect([response.status, await json(response)]).toMatchObject([status, { type: "error", error: { message: "no", upstream_type: "some_code" } }]);
  });

  test("of the caller's own dialect passes byte for byte", async () => {
    const text = '{ "error" : {"message":"as it is","type":"t","code":null} }';
    const gpt = await provider("gpt", OPENAI, { status: 400, json: text });
    const { post } = await gateway([gpt]);
    expect(await (await post(CHAT, asked())).text()).toBe(text);
  });

  test("that says nothing is told by its status", async () => {
    const claude = await provider("claude", ANTHROPIC, (res) => res.writeHead(503, { "content-type": "text/html" }).end("<h1>no</h1>"));
    const { post } = await gateway([claude]);
    const response = await post(CHAT, asked());
    expect([response.status, await json(response)]).toMatchObject([503, { error: { code: "upstream_refused" } }]);
  });
});

describe("what cannot be expressed", () => {
  test("is refused before anybody is asked, with the field as the caller wrote it", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("no") });
    const { post, ended } = await gateway([claude]);
    const response = await post(CHAT, asked({ n: 2 }));
    expect([response.status, await json(response)]).toMatchObject([422, { error: { code: "untranslatable", param: "n" } }]);
    expect(claude.arrived).toHaveLength(0);
    expect(ended).toMatchObject([{ outcome: { kind: "abandoned", tokens: null } }]);
  });

  test("is no try: the next candidate that can say it is asked", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("no") });
    const gpt = await provider("gpt", OPENAI, { json: openaiAnswer("two") });
    const { post, last } = await gateway([claude, claude, gpt], { maxRetries: 0 });
    expect((await post(CHAT, asked({ n: 2 }))).status).toBe(200);
    expect(last().attempts).toBe(1);
  });

  test("is no last word while a candidate that could say it is only busy", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("no") });
    const { post } = await gateway([claude], {}, (ctx) => {
      const choice = ctx.choice as Choice;
      ctx.choice = { next: () => choice.next(), busy: () => new GuardError("all_credentials_limited", "later", { retryAfterMs: 3_000 }) };
    });
    const response = await post(CHAT, asked({ n: 2 }));
    expect([response.status, response.headers.get("retry-after")]).toEqual([429, "3"]);
  });

  test("leaves the failure of the provider that was asked", async () => {
    const gpt = await provider("gpt", OPENAI, { status: 500, json: { error: { message: "broken" } } });
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("no") });
    const { post } = await gateway([gpt, claude]);
    expect((await post(CHAT, asked({ n: 2 }))).status).toBe(500);
  });

  test("is dropped and named where the operator prefers an answer without it", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("one") });
    const { post } = await gateway([claude], { lossy: true });
    const response = await post(CHAT, asked({ n: 2, seed: 7 }));
    expect(response.status).toBe(200);
    expect(response.headers.get("x-quotaguard-dropped")).toBe("n, seed");
  });

  test("what only tunes is dropped and named always, whatever the client called it", async () => {
    const claude = await provider("claude", ANTHROPIC, { events: anthropicStream(["x"]) });
    const { post } = await gateway([claude]);
    const odd = Object.fromEntries(Array.from({ length: 60 }, (_, i) => [`ö, ${"x".repeat(40)}${i}`, 1]));
    const response = await post(CHAT, asked({ seed: 1, stream: true, ...odd }));
    const dropped = response.headers.get("x-quotaguard-dropped") ?? "";
    expect(dropped).toMatch(/^%C3%B6%2C%20x+0, /);
    expect(dropped.endsWith("...")).toBe(true);
    expect(dropped.length).toBeLessThan(1_100);
    expect(await response.text()).toContain("[DONE]");
  });

  test("a provider without the operation is passed over", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("no") });
    const gpt = await provider("gpt", OPENAI, { json: { object: "list", data: [], usage: { prompt_tokens: 2, total_tokens: 2 } } });
    const { post } = await gateway([claude, gpt]);
    expect((await post("/v1/embeddings", { model: "e", input: "x" })).status).toBe(200);
    const { post: alone } = await gateway([claude]);
    expect(await json(await alone("/v1/embeddings", { model: "e", input: "x" }))).toMatchObject({
      error: { code: "untranslatable", param: "model" },
    });
  });

  test("a malformed request names the field", async () => {
    const claude = await provider("claude", ANTHROPIC, { json: anthropicAnswer("no") });
    const { post } = await gateway([claude]);
    const response = await post(CHAT, asked({ messages: [{ role: "user", content: [{ type: "text", text: 7 }] }] }));
    expect([response.status, await json(response)]).toMatchObject([400, { error: { code: "body_invalid" } }]);
    expect(claude.arrived).toHaveLength(0);
  });
});
