// Gemini's callers and providers: the model and the stream stand in the path.
import { describe, expect, test } from "vitest";
import type { ProviderRow } from "../../../src/core/credential.ts";
import type { JsonObject } from "../../../src/dialects/message.ts";
import { ANTHROPIC, anthropicStream, dataOf, gateway, OPENAI, openaiAnswer, openaiStream, provider, said } from "./wire-kit.ts";

const GEMINI: ProviderRow = {
  ...OPENAI,
  id: "gemini",
  dialect: "gemini",
  paths: {
    chat: "/v1beta/models/{model}:generateContent",
    stream: "/v1beta/models/{model}:streamGenerateContent?alt=sse",
    count_tokens: "/v1beta/models/{model}:countTokens",
  },
};
/** One that puts everything into an envelope, and only streams. */
const WRAPPED: ProviderRow = {
  ...GEMINI,
  id: "wrapped",
  streamsOnly: true,
  paths: { chat: "/v1internal:generateContent", stream: "/v1internal:streamGenerateContent?alt=sse" },
  adapt: (request, { model }) => ({ model, project: "p", request }),
  unwrap: (body) => (body.response as JsonObject | undefined) ?? body,
  requestHeaders: (body, { requestId, stream }) => ({ "x-request": `${requestId} ${String(stream)} ${String(body.project)}` }),
};

const contents = [{ role: "user", parts: [{ text: "hi" }] }];
const fragment = (text: string, more: JsonObject = {}): JsonObject => ({
  candidates: [{ index: 0, content: { role: "model", parts: [{ text }] }, ...more }],
  modelVersion: "gemini-x",
  responseId: "r1",
  ...("finishReason" in more ? { usageMetadata: { promptTokenCount: 11, candidatesTokenCount: 7, totalTokenCount: 18 } } : {}),
});
const whole = fragment("hello", { finishReason: "STOP" });
const stream = [said(fragment("hel")), said(fragment("lo", { finishReason: "STOP" }))];
const textOf = (events: readonly unknown[]): string =>
  (events as readonly { readonly candidates?: readonly { readonly content?: { readonly parts?: readonly { readonly text?: string }[] } }[] }[])
    .flatMap(({ candidates }) => candidates?.[0]?.content?.parts ?? [])
    .map(({ text }) => text ?? "")
    .join("");

describe("a provider of Gemini's", () => {
  test("is asked at its path, with the model escaped, and bytes untouched for its own callers", async () => {
    const it = await provider("it", GEMINI, { json: whole });
    const { url } = await gateway([it]);
    const text = '{ "contents":[{"parts":[{"text":"hi"}]}] , "odd": 1.0 }';
    const response = await fetch(`${url}/v1beta/models/tuned%2Fmy%3Fmodel:generateContent`, { method: "POST", body: text });
    expect(await response.text()).toBe(JSON.stringify(whole));
    expect(it.arrived[0]).toMatchObject({ path: "/v1beta/models/tuned%2Fmy%3Fmodel:generateContent", text });
    const up = await fetch(`${url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ model: "..", messages: [] }) });
    expect([up.status, await up.json()]).toMatchObject([400, { error: { param: "model" } }]);
    expect(it.arrived).toHaveLength(1);
  });

  test("streams to callers of OpenAI's and of its own", async () => {
    const it = await provider("it", GEMINI, { events: stream });
    const { post } = await gateway([it]);
    expect(await (await post("/v1beta/models/g:streamGenerateContent?alt=sse", { contents })).text()).toBe(stream.join(""));
    expect(it.arrived[0]?.path).toBe("/v1beta/models/g:streamGenerateContent?alt=sse");
    const { post: ask } = await gateway([it]);
    const text = await (await ask("/v1/chat/completions", { model: "g", messages: [{ role: "user", content: "hi" }], stream: true })).text();
    expect(text).toContain('"content":"hel"');
    expect(text.trimEnd().endsWith("[DONE]")).toBe(true);
  });
});

describe("a caller of Gemini's", () => {
  test("is answered by OpenAI, and in a stream by Anthropic", async () => {
    const gpt = await provider("gpt", OPENAI, { json: openaiAnswer("hello") });
    const { post } = await gateway([gpt]);
    const answer = (await (await post("/v1beta/models/gpt-x:generateContent", { contents })).json()) as JsonObject;
    expect(textOf([answer])).toBe("hello");
    expect(answer).toMatchObject({ candidates: [{ finishReason: "STOP" }], usageMetadata: { promptTokenCount: 11, candidatesTokenCount: 7 } });
    expect(gpt.arrived[0]?.body).toMatchObject({ model: "gpt-x", messages: [{ role: "user", content: "hi" }] });

    const claude = await provider("claude", ANTHROPIC, { events: anthropicStream(["hel", "lo"]) });
    const { post: ask } = await gateway([claude]);
    const events = dataOf(await (await ask("/v1beta/models/claude-x:streamGenerateContent?alt=sse", { contents })).text());
    expect(textOf(events)).toBe("hello");
    expect(claude.arrived[0]?.body).toMatchObject({ model: "claude-x", stream: true });
  });
});

describe("a provider with an envelope that only streams", () => {
  const wrapped = stream.map((event) => said({ response: JSON.parse(event.slice(6)) as unknown }));

  test("its own callers' streams are unwrapped, event by event, wherever they are cut", async () => {
    const text = wrapped.join("");
    for (const at of [0, 1, 7, 30, 60, text.length - 3]) {
      const it = await provider("it", WRAPPED, { events: [text.slice(0, at), text.slice(at)].filter((piece) => piece !== "") });
      const { post, ended } = await gateway([it]);
      expect(await (await post("/v1beta/models/g:streamGenerateContent?alt=sse", { contents })).text()).toBe(stream.join(""));
      expect(it.arrived[0]).toMatchObject({
        path: "/v1internal:streamGenerateContent?alt=sse",
        headers: { "x-request": "id-1 true p" },
        body: { model: "g", project: "p", request: { contents } },
      });
      await expect.poll(() => ended).toMatchObject([{ outcome: { kind: "served", tokens: 18 }, charged: { provenance: "exact" } }]);
    }
  });

  test.each([
    ["its own", "/v1beta/models/g:generateContent", { contents }],
    ["OpenAI's", "/v1/chat/completions", { model: "g", messages: [{ role: "user", content: "hi" }] }],
  ])("a whole answer for %s caller is put together", async (_whose, path, body) => {
    const it = await provider("it", WRAPPED, { events: wrapped });
    const { post, ended } = await gateway([it]);
    const response = await post(path, body);
    expect([response.status, response.headers.get("content-type")]).toEqual([200, "application/json"]);
    expect(await response.text()).toContain('"hello"');
    expect(it.arrived[0]?.headers["x-request"]).toBe("id-1 true p");
    expect(ended).toMatchObject([{ outcome: { kind: "served", tokens: 18 }, charged: { provenance: "exact" } }]);
  });

  test("an end without its empty line is an end, and half an event is none", async () => {
    const it = await provider("it", WRAPPED, { events: [wrapped.join("").slice(0, -2)] });
    const { post } = await gateway([it]);
    expect(await (await post("/v1beta/models/g:streamGenerateContent?alt=sse", { contents })).text()).toBe(stream.join(""));
    it.script({ events: [wrapped.join("").slice(0, -9)] });
    const { post: again } = await gateway([it]);
    expect(await (await again("/v1beta/models/g:streamGenerateContent?alt=sse", { contents })).text()).toMatch(/"hel".*"status":"INTERNAL"/s);
  });

  test("where the body asks for a stream, it is asked for", async () => {
    const it = await provider("it", { ...OPENAI, streamsOnly: true }, { events: openaiStream(["hel", "lo"]) });
    const { post } = await gateway([it]);
    const answer = (await (await post("/v1/chat/completions", { model: "g", messages: [], seed: 1 })).json()) as JsonObject;
    expect(answer).toMatchObject({ choices: [{ message: { content: "hello" } }], usage: { total_tokens: 18 } });
    expect(it.arrived[0]?.body).toEqual({ model: "g", messages: [], seed: 1, stream: true, stream_options: { include_usage: true } });
  });

  test("a stream that breaks off is no whole answer", async () => {
    const it = await provider("it", WRAPPED, { events: wrapped.slice(0, 1) });
    const { post, ended } = await gateway([it]);
    const response = await post("/v1beta/models/g:generateContent", { contents });
    expect([response.status, await response.json()]).toMatchObject([502, { error: { status: "INTERNAL" } }]);
    expect(ended).toMatchObject([{ outcome: { kind: "failed", error: { code: "upstream_protocol" } } }]);
  });
});
