// Providers that send what no provider should: one failure, told and charged, and never more than that.
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../../src/dialects/message.ts";
import { ANTHROPIC, gateway, named, OPENAI, openaiAnswer, provider } from "./wire-kit.ts";

const CHAT = "/v1/chat/completions";
const MESSAGES = "/v1/messages";
const asked = (more: JsonObject = {}): JsonObject => ({ model: "claude-x", max_tokens: 100, messages: [{ role: "user", content: "hi" }], ...more });

const deep = `${'{"a":'.repeat(20_000)}1${"}".repeat(20_000)}`;
const BEGIN = named("message_start", {
  type: "message_start",
  message: { id: "msg_1", model: "claude-x", usage: { input_tokens: 11, output_tokens: 1 } },
});
const deepCall = `event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use","id":"error","name":"x","input":${deep}}}\n\n`;
const END = named("message_stop", { type: "message_stop" });
const text = (words: string, index = 0): string =>
  named("content_block_start", { type: "content_block_start", index, content_block: { type: "text", text: "" } }) +
  named("content_block_delta", { type: "content_block_delta", index, delta: { type: "text_delta", text: words } });

describe("input that is nested too deep to be written", () => {
  test.each([[CHAT], [MESSAGES]])("in a stream to %s", async (path) => {
    const hostile = await provider("hostile", ANTHROPIC, { events: [BEGIN + deepCall + END] });
    const { post, ended } = await gateway([hostile]);
    const response = await post(path, asked({ stream: true }));
    await response.text();
    expect(ended).toHaveLength(1);
  });

  test("in a stream to its own caller, behind text", async () => {
    const hostile = await provider("hostile", ANTHROPIC, { events: [BEGIN + text("error"), deepCall + "x".repeat(1)], cut: true });
    const { post, ended } = await gateway([hostile]);
    const response = await post(MESSAGES, asked({ stream: true }));
    await response.text();
    expect(ended).toHaveLength(1);
  });

  test("in a whole answer another one takes over", async () => {
    const hostile = await provider("hostile", ANTHROPIC, {
      json: `{"id":"m","type":"message","content":[{"type":"tool_use","id":"a","name":"x","input":${deep}}]}`,
    });
    const well = await provider("well", OPENAI, { json: openaiAnswer("well") });
    const { post, ended } = await gateway([hostile, well]);
    const response = await post(CHAT, asked());
    expect(await response.text()).toContain("well");
    expect(ended).toMatchObject([{ name: "hostile", outcome: { kind: "failed" } }, { name: "well" }]);
  });
});

describe.each([[CHAT], [MESSAGES]])("a stream to %s that ends well, and never says what it wrote", (path) => {
  test("is charged what was delivered, and the input as it said", async () => {
    const silent = await provider("silent", ANTHROPIC, { events: [BEGIN, text("x".repeat(400)), END] });
    const { post, ended } = await gateway([silent]);
    await (await post(path, asked({ stream: true }))).text();
    await expect
      .poll(() => ended)
      .toMatchObject([{ outcome: { kind: "served" }, charged: { provenance: "counted", usage: { inputTokens: 11, outputTokens: 100 } } }]);
  });
});

describe("a tool's input that is written whole at its end", () => {
  test("is no silence: what came is charged when the caller leaves, and nobody else is asked", async () => {
    const begun = named("content_block_start", {
      type: "content_block_start",
      index: 0,
      content_block: { type: "tool_use", id: "t", name: "write", input: {} },
    });
    const piece = named("content_block_delta", {
      type: "content_block_delta",
      index: 0,
      delta: { type: "input_json_delta", partial_json: "x".repeat(400) },
    });
    const slow = await provider("slow", ANTHROPIC, (res) => {
      res.writeHead(200, { "content-type": "text/event-stream" });
      res.write(BEGIN + begun + piece);
    });
    const { url, ended } = await gateway([slow]);
    const leaving = new AbortController();
    const response = await fetch(`${url}/v1beta/models/claude-x:streamGenerateContent?alt=sse`, {
      method: "POST",
      body: JSON.stringify({ contents: [{ role: "user", parts: [{ text: "hi" }] }] }),
      signal: leaving.signal,
    });
    const first = await response.body?.getReader().read();
    expect(Buffer.from(first?.value ?? []).toString()).toBe(": keep-alive\n\n");
    leaving.abort();
    await expect.poll(() => ended.at(-1)).toMatchObject({ outcome: { kind: "abandoned" }, charged: { usage: { inputTokens: 11 } } });
    expect(ended[0]?.charged).toMatchObject({ usage: { outputTokens: expect.toSatisfy((tokens: number) => tokens >= 100) } });
  });
});

test.each([
  ["message", "type"],
  ["type", "message"],
])("a key that is written with escapes in an error's %s is not told", async (where, other) => {
  const body = `{"type":"error","error":{"${other}":"bad","${where}":"no sk\\u002dsecret-of-sly here"}}`;
  const sly = await provider("sly", ANTHROPIC, { status: 400, json: body });
  const { post } = await gateway([sly]);
  const told = await (await post(CHAT, asked())).text();
  expect(told).toContain("[redacted]");
  expect(told).not.toContain("sk-secret");
});

describe("more blocks than one answer can hold", () => {
  const many = Array.from({ length: 10_100 }, (_, i) => text("x", i));
  test.each([[CHAT], [MESSAGES]])("to %s: one failure, and what came is charged", async (path) => {
    const hostile = await provider("hostile", ANTHROPIC, { events: [BEGIN, ...many, END] });
    const { post, ended } = await gateway([hostile]);
    const response = await post(path, asked({ stream: true }));
    const got = await response.text();
    expect(got.match(/"code":"upstream_protocol"/g)).toHaveLength(1);
    expect(ended).toMatchObject([{ charged: { kind: "usage", provenance: "counted" } }]);
  });
});
