import { describe, expect, test } from "vitest";
import { NO_USAGE } from "../../../src/core/usage.ts";
import type { ChatEvent, ChatRequest } from "../../../src/dialects/message.ts";
import { responsesCodec as codec } from "../../../src/dialects/responses/index.ts";
import { answering, REQUEST } from "../codec-kit.ts";
import { toldIn, USAGE, type Told } from "./stream-kit.ts";

const written = (events: readonly ChatEvent[], request: ChatRequest = REQUEST): readonly Told[] =>
  toldIn(codec.encoder(answering({ request })).push(events));

const START: ChatEvent = { type: "start", id: null, model: "m" };
const STOP: Extract<ChatEvent, { type: "stop" }> = { type: "stop", choice: 0, reason: "stop", stopSequence: null };
const openBlock = (key: number, block: object): ChatEvent => ({ type: "open", choice: 0, key, block }) as ChatEvent;
const delta = (key: number, text: string): ChatEvent => ({ type: "delta", key, text });
const close = (key: number): ChatEvent => ({ type: "close", key });

describe("a stream for a Responses client, written", () => {
  test("all events in their order: finish-reason-only-on-final-chunk, text-before-tool-no-ghost-stop", () => {
    const events = written([
      START,
      openBlock(1, { type: "thinking" }),
      delta(1, "hm"),
      { type: "signature", key: 1, signature: { family: "openai", value: "sealed" } },
      close(1),
      openBlock(2, { type: "text" }),
      delta(2, "he"),
      delta(2, "llo"),
      close(2),
      openBlock(3, { type: "tool_call", id: "call_1", name: "look" }),
      delta(3, '{"a":1}'),
      close(3),
      { type: "usage", usage: { ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 4, reasoningTokens: 3 } },
      { ...STOP, reason: "tool_calls" },
      { type: "end" },
    ]);
    expect(events.map(({ type }) => type.replace("response.", ""))).toEqual([
      "created",
      "in_progress",
      "output_item.added",
      "reasoning_summary_part.added",
      "reasoning_summary_text.delta",
      "reasoning_summary_text.done",
      "reasoning_summary_part.done",
      "output_item.done",
      "output_item.added",
      "content_part.added",
      "output_text.delta",
      "output_text.delta",
      "output_text.done",
      "content_part.done",
      "output_item.done",
      "output_item.added",
      "function_call_arguments.delta",
      "function_call_arguments.done",
      "output_item.done",
      "completed",
    ]);
    expect(events.map(({ sequence_number: n }) => n)).toEqual(events.map((_, i) => i));
    expect(events.filter(({ type }) => type.endsWith("item.done")).map(({ output_index: at, item }) => [at, item?.type])).toEqual([
      [0, "reasoning"],
      [1, "message"],
      [2, "function_call"],
    ]);
    const last = events.at(-1)?.response;
    expect(last).toMatchObject({
      object: "response",
      status: "completed",
      model: "some-model",
      error: null,
      usage: USAGE,
      created_at: 1_767_225_600,
    });
    expect(last?.output).toEqual(events.filter(({ type }) => type.endsWith("item.done")).map(({ item }) => item));
    expect(last?.output).toMatchObject([
      { summary: [{ type: "summary_text", text: "hm" }], encrypted_content: "sealed" },
      { role: "assistant", status: "completed", content: [{ type: "output_text", text: "hello", annotations: [] }] },
      { call_id: "call_1", name: "look", arguments: '{"a":1}', status: "completed" },
    ]);
    // Events of an item carry the id of the item.
    for (const { item_id: id, output_index: at } of events) if (id !== undefined) expect(last?.output[at as number]?.id).toBe(id);
  });

  test.each([
    ["length", "max_output_tokens"],
    ["content_filter", "content_filter"],
  ] as const)("incomplete-terminal-event: %s, and the item that was cut", (reason, told) => {
    const all = [openBlock(1, { type: "text" }), delta(1, "a"), close(1), openBlock(2, { type: "text" }), delta(2, "b"), close(2)];
    const events = written([START, ...all, { ...STOP, reason }, { type: "end" }]);
    expect(events.at(-1)).toMatchObject({
      type: "response.incomplete",
      response: { status: "incomplete", incomplete_details: { reason: told }, output: [{ status: "completed" }, { status: "incomplete" }] },
    });
    expect(events.at(-2)?.item?.status).toBe("incomplete");
  });

  test("an empty answer is a whole one: empty texts and thoughts are no items", () => {
    const events = written([START, openBlock(1, { type: "text" }), close(1), openBlock(2, { type: "thinking" }), close(2), STOP, { type: "end" }]);
    expect(events.map(({ type }) => type)).toEqual(["response.created", "response.in_progress", "response.completed"]);
    // Usage has both of its details always.
    expect(events.at(-1)?.response).toMatchObject({
      output: [],
      usage: { input_tokens: 0, input_tokens_details: { cached_tokens: 0 }, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: 0 },
    });
    expect(written([{ type: "end" }]).map(({ type }) => type)).toEqual(["response.created", "response.in_progress", "response.completed"]);
  });

  test("an answer that has no end gets none; of several answers the first is told", () => {
    expect(written([START, openBlock(1, { type: "text" }), delta(1, "a")]).at(-1)?.type).toBe("response.output_text.delta");
    const other: ChatEvent = { type: "open", choice: 1, key: 2, block: { type: "text" } };
    const events = written([
      START,
      openBlock(1, { type: "text" }),
      other,
      delta(2, "b"),
      delta(1, "a"),
      close(2),
      { ...STOP, choice: 1, reason: "length" },
      close(1),
      STOP,
      { type: "end" },
    ]);
    expect(events.at(-1)?.response).toMatchObject({ status: "completed", output: [{ content: [{ text: "a" }] }] });
  });

  test("a custom tool's text is told as text, taken out of the JSON that stood for it", () => {
    const request: ChatRequest = { ...REQUEST, tools: [{ kind: "custom", name: "shell", description: null, format: null }] };
    const piece = [openBlock(1, { type: "tool_call", id: "1", name: "shell" }), delta(1, '{"input":'), delta(1, '"ls"}'), close(1)];
    const events = written([START, ...piece, STOP, { type: "end" }], request);
    expect(events.filter(({ type }) => type === "response.custom_tool_call_input.delta").map((each) => each.delta)).toEqual(["ls"]);
    expect(events.at(-1)?.response?.output).toMatchObject([{ type: "custom_tool_call", name: "shell", input: "ls" }]);
    const own = [openBlock(1, { type: "tool_call", id: "1", name: "shell", isCustom: true }), delta(1, '{"input":'), delta(1, "x"), close(1)];
    expect(written([START, ...own, STOP, { type: "end" }], request).at(-1)?.response?.output).toMatchObject([{ input: '{"input":x' }]);
  });

  test("a call without input is an empty object; an image is told as one that was made; a ping keeps the line open", () => {
    const image = { type: "image", source: { kind: "base64", mediaType: "image/png", data: "AAAA" } };
    const events = written([
      START,
      openBlock(1, { type: "tool_call", id: "1", name: "look" }),
      close(1),
      openBlock(2, { type: "media", block: image }),
      close(2),
      STOP,
      { type: "end" },
    ]);
    expect(events.at(-1)?.response?.output).toMatchObject([{ arguments: "{}" }, { type: "image_generation_call", result: "AAAA" }]);
    expect(codec.encoder(answering()).push([{ type: "ping" }])).toBe(": keep-alive\n\n");
  });

  test("redacted-thinking-never-becomes-text, and what signs a call stands before it", () => {
    const events = written([
      START,
      openBlock(1, { type: "redacted_thinking", signature: { family: "anthropic", value: "hidden" } }),
      close(1),
      openBlock(2, { type: "tool_call", id: "1", name: "look", signature: { family: "gemini", value: "sig" } }),
      close(2),
      STOP,
      { type: "end" },
    ]);
    const [redacted, signed, called] = events.at(-1)?.response?.output ?? [];
    expect(redacted).toMatchObject({ type: "reasoning", summary: [], encrypted_content: expect.stringContaining("hidden") as string });
    expect(signed).toMatchObject({ type: "reasoning", summary: [], encrypted_content: expect.stringContaining("sig") as string });
    expect(called).toMatchObject({ type: "function_call", call_id: "1" });
    expect(events.filter(({ delta: piece }) => piece?.includes("hidden") || piece?.includes("sig"))).toEqual([]);
  });

  test("reasoning-item-without-text-keeps-signature: thoughts of which nothing is shown", () => {
    const signature = { family: "openai" as const, value: "sealed" };
    const events = written([START, openBlock(1, { type: "thinking" }), { type: "signature", key: 1, signature }, close(1), STOP, { type: "end" }]);
    expect(events.map(({ type }) => type.replace("response.", ""))).toEqual([
      "created",
      "in_progress",
      "output_item.added",
      "output_item.done",
      "completed",
    ]);
    expect(events.at(-1)?.response?.output).toMatchObject([{ type: "reasoning", summary: [], encrypted_content: "sealed" }]);
  });

  test("an answer that grows without end is given up", () => {
    const encoder = codec.encoder(answering());
    encoder.push([START, openBlock(1, { type: "text" })]);
    const piece = "x".repeat(8 * 1024 * 1024);
    expect(() => [1, 2, 3, 4, 5].map(() => encoder.push([delta(1, piece)]))).toThrow(/larger than 32 MiB/);
  });
});
