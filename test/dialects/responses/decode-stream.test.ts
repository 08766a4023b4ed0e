import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { anthropicCodec } from "../../../src/dialects/anthropic/index.ts";
import type { ChatEvent } from "../../../src/dialects/message.ts";
import { responsesCodec as codec } from "../../../src/dialects/responses/index.ts";
import { collected, decoded, same, sse } from "../codec-kit.ts";
import { toClient, USAGE } from "./stream-kit.ts";

const event = (type: string, fields: object = {}) => ({ type, sequence_number: 0, ...fields });
const CREATED = event("response.created", { response: { id: "resp_1", model: "gpt-5", status: "in_progress", output: [] } });
const completed = (more: object = {}, type = "response.completed") =>
  event(type, { response: { id: "resp_1", status: type.slice(9), output: [], usage: USAGE, ...more } });
const added = (output_index: number, item: object) => event("response.output_item.added", { output_index, item });
const done = (output_index: number, item: object) => event("response.output_item.done", { output_index, item });
const says = (delta: string, more: object = {}) =>
  event("response.output_text.delta", { output_index: 0, item_id: "msg_1", content_index: 0, delta, ...more });
const args = (output_index: number, delta: string, more: object = {}) =>
  event("response.function_call_arguments.delta", { output_index, item_id: `fc_${output_index}`, delta, ...more });
const call = (id: string, input = "", more: object = {}) => ({
  type: "function_call",
  id: `fc_${id}`,
  call_id: id,
  name: "look",
  arguments: input,
  ...more,
});
const message = (text: string) => ({ type: "message", id: "msg_1", role: "assistant", content: [{ type: "output_text", text }] });
const thought = (...texts: string[]) => ({
  type: "reasoning",
  id: "rs_1",
  summary: texts.map((text) => ({ type: "summary_text", text })),
  encrypted_content: "sealed",
});

/** What is wrong with the order of events: each block is opened once, before anything else is said of it, and closed at most once; the end comes last. */
function disorderIn(events: readonly ChatEvent[]): string | null {
  const open = new Map<number, boolean>();
  for (const [i, each] of events.entries()) {
    if (each.type === "end" || each.type === "error") {
      if (i !== events.length - 1) return "something after the end";
      if (each.type === "end" && [...open.values()].includes(true)) return "a block without an end";
    }
    if (!("key" in each)) continue;
    if ((each.type === "open") === open.has(each.key)) return "opened twice, or never";
    if (each.type !== "open" && open.get(each.key) !== true) return "after its end";
    open.set(each.key, each.type !== "close");
  }
  return null;
}

const answerOf = (...events: object[]) => collected(codec, sse(...events))?.choices[0];
describe("a stream of a Responses provider, read", () => {
  test("text, usage, ids: cached-tokens-add-and-subtract", () => {
    expect(collected(codec, sse(CREATED, added(0, message("")), says("he"), says("llo"), done(0, message("hello")), completed()))).toMatchObject({
      id: "resp_1",
      model: "gpt-5",
      usage: { ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 4, reasoningTokens: 3 },
      choices: [{ index: 0, stop: "stop", stopSequence: null, blocks: [{ type: "text", text: "hello" }] }],
    });
  });

  test("tool-calls-beat-max_tokens, finish-tool_calls-without-tool-becomes-stop, refusal-becomes-content_filter", () => {
    const cut = completed({ incomplete_details: { reason: "max_output_tokens" } }, "response.incomplete");
    expect(answerOf(CREATED, added(0, call("1")), args(0, "{}"), cut)?.stop).toBe("tool_calls");
    expect(answerOf(CREATED, says("a"), cut)?.stop).toBe("length");
    expect(answerOf(CREATED, says("a"), completed())?.stop).toBe("stop");
    expect(answerOf(CREATED, event("response.refusal.delta", { output_index: 0, content_index: 0, delta: "no" }), completed())).toMatchObject({
      stop: "content_filter",
      blocks: [{ type: "text", text: "no" }],
    });
    const refusal = { type: "message", id: "msg_1", content: [{ type: "refusal", refusal: "no" }] };
    expect(answerOf(CREATED, done(0, refusal), completed())).toMatchObject({ stop: "content_filter", blocks: [{ text: "no" }] });
  });

  test("incomplete-terminal-event: cut by the cap or by a filter", () => {
    const cut = (reason: string) => completed({ incomplete_details: { reason } }, "response.incomplete");
    expect(answerOf(CREATED, says("a"), cut("content_filter"))?.stop).toBe("content_filter");
    expect(answerOf(CREATED, says("a"), cut("max_output_tokens"))?.blocks).toEqual([{ type: "text", text: "a" }]);
    // The event alone says it, too; `response.done` is a WebSocket's completed.
    expect(answerOf(CREATED, says("a"), event("response.incomplete", { response: {} }))?.stop).toBe("length");
    expect(answerOf(CREATED, says("a"), event("response.done", { response: { status: "completed" } }))?.stop).toBe("stop");
  });

  test("tool-name-empty-null-nonstring-repeated, tool-id-arrives-late, tool-name-never-arrives-gets-placeholder", () => {
    for (const name of ["", null, 5]) {
      const text = [added(0, call("1", "", { name })), args(0, '{"a"'), args(0, ":1}"), done(0, call("1", '{"a":1}', { name: "look" }))];
      expect(answerOf(CREATED, ...text, completed())?.blocks).toEqual([{ type: "tool_call", id: "1", name: "look", input: '{"a":1}' }]);
    }
    const late = { id: "", call_id: "" };
    expect(answerOf(CREATED, added(0, call("1", "", late)), args(0, "{}"), done(0, call("late")), completed())?.blocks).toEqual([
      { type: "tool_call", id: "late", name: "look", input: "{}" },
    ]);
    expect(answerOf(CREATED, args(0, '{"a":1}'), completed())?.blocks).toMatchObject([{ name: "unnamed_tool", input: '{"a":1}' }]);
  });

  test("interleaved-function-calls-serialised: told apart by their place, and written one after the other", () => {
    const text = sse(
      CREATED,
      added(0, call("0")),
      added(1, call("1", "", { name: "other" })),
      args(1, '{"b"'),
      args(0, '{"a"'),
      args(1, ":2}"),
      args(0, ":1}"),
      done(1, call("1", '{"b":2}', { name: "other" })),
      done(0, call("0", '{"a":1}')),
      completed(),
    );
    const blocks = [
      { type: "tool_call", id: "0", name: "look", input: '{"a":1}' },
      { type: "tool_call", id: "1", name: "other", input: '{"b":2}' },
    ];
    expect(collected(codec, text)?.choices[0]).toMatchObject({ stop: "tool_calls", blocks });
    for (const to of [anthropicCodec, codec]) expect(collected(to, toClient(to, text))?.choices[0]?.blocks).toEqual(blocks);
  });

  test("items are told apart by their id where the place is missing, and by their place where the id changes", () => {
    const byId = (id: string, delta: string) => event("response.function_call_arguments.delta", { item_id: id, delta });
    const item = (id: string) => event("response.output_item.added", { item: call(id) });
    expect(answerOf(CREATED, item("a"), item("b"), byId("fc_b", "{}"), byId("fc_a", '{"a":1}'), completed())?.blocks).toMatchObject([
      { id: "a", input: '{"a":1}' },
      { id: "b", input: "{}" },
    ]);
    expect(
      answerOf(CREATED, says("a", { item_id: "x" }), says("b", { item_id: "y" }), done(0, { ...message("ab"), id: "z" }), completed())?.blocks,
    ).toEqual([{ type: "text", text: "ab" }]);
    const bare = { output_index: undefined, item_id: undefined };
    expect(answerOf(CREATED, says("a", bare), says("b", bare), completed())?.blocks).toEqual([{ type: "text", text: "ab" }]);
  });

  test("done-event-fallback-when-no-deltas, and no text twice when there were some", () => {
    const whole = [
      event("response.output_text.done", { output_index: 0, content_index: 0, text: "a" }),
      done(0, message("a")),
      event("response.reasoning_summary_text.done", { output_index: 1, summary_index: 0, text: "hm" }),
      done(1, { ...thought("hm"), id: "rs_2" }),
      event("response.function_call_arguments.done", { output_index: 2, item_id: "fc_2", arguments: "{}" }),
      done(2, call("2", "{}")),
      event("response.custom_tool_call_input.done", { output_index: 3, item_id: "ctc_3", input: "ls" }),
      done(3, { type: "custom_tool_call", id: "ctc_3", call_id: "3", name: "shell", input: "ls" }),
    ];
    const blocks = [
      { type: "text", text: "a" },
      { type: "thinking", text: "hm", signature: { family: "openai", value: "sealed" } },
      { type: "tool_call", id: "2", name: "look", input: "{}" },
      { type: "tool_call", id: "3", name: "shell", isCustom: true, input: "ls" },
    ];
    expect(answerOf(CREATED, ...whole, completed())?.blocks).toEqual(blocks);
    expect(answerOf(CREATED, ...whole.filter(({ type }) => type === "response.output_item.done"), completed())?.blocks).toEqual(blocks);
    const pieces = [
      says("a"),
      event("response.reasoning_summary_text.delta", { output_index: 1, summary_index: 0, delta: "hm" }),
      added(2, call("2")),
      args(2, "{}"),
      event("response.custom_tool_call_input.delta", { output_index: 3, item_id: "ctc_3", delta: "ls" }),
    ];
    expect(answerOf(CREATED, ...pieces, ...whole, completed())?.blocks).toEqual(blocks);
  });

  test("output-filled-from-done-items: also from the last event, each once", () => {
    const output = [thought("hm"), message("a"), call("2", "{}")];
    const blocks = [{ type: "thinking" }, { type: "text", text: "a" }, { type: "tool_call", id: "2" }];
    expect(answerOf(completed({ output }))?.blocks).toMatchObject(blocks);
    const known = answerOf(CREATED, ...output.map((item, i) => done(i, item)), completed({ output }))?.blocks;
    expect(known).toMatchObject(blocks);
    expect(known).toHaveLength(3);
    // An item whose end did not come has the rest from there.
    expect(answerOf(CREATED, added(0, call("2")), completed({ output: [call("2", '{"a":1}')] }))?.blocks).toMatchObject([{ input: '{"a":1}' }]);
  });

  test("one-thinking-block-many-summary-parts, reasoning-item-without-text-keeps-signature, signature-only-chunk-opens-no-text-block", () => {
    const piece = (summary_index: number, delta: string) => event("response.reasoning_summary_text.delta", { output_index: 0, summary_index, delta });
    expect(answerOf(CREATED, piece(0, "a"), piece(0, "b"), piece(1, "c"), done(0, thought("ab", "c")), completed())?.blocks).toEqual([
      { type: "thinking", text: "ab\n\nc", signature: { family: "openai", value: "sealed" } },
    ]);
    expect(answerOf(CREATED, done(0, thought()), completed())?.blocks).toEqual([
      { type: "thinking", text: "", signature: { family: "openai", value: "sealed" } },
    ]);
    const open = event("response.reasoning_text.delta", { output_index: 0, content_index: 0, delta: "raw" });
    expect(answerOf(CREATED, open, completed())?.blocks).toEqual([{ type: "thinking", text: "raw", signature: null }]);
  });

  test("stream-without-finish_reason-still-terminates; upstream-closes-without-terminal-event has no end; nothing counts after the last event", () => {
    expect(answerOf(CREATED, says("a"), event("response.completed", {}))?.blocks).toEqual([{ type: "text", text: "a" }]);
    expect(collected(codec, sse(CREATED, says("a"), done(0, message("a"))))).toBeNull();
    expect(
      decoded(codec, sse(CREATED, says("a"), completed(), says("late"), completed(), "[DONE]"))
        .flat()
        .filter(({ type }) => type === "end"),
    ).toHaveLength(1);
    expect(answerOf(CREATED, says("a"), completed(), says("late", { output_index: 1 }))?.blocks).toHaveLength(1);
  });

  test("late-usage-after-stop-ignored, bare-usage-chunk, zero-and-missing-completion-tokens, null usage", () => {
    expect(collected(codec, sse(CREATED, completed(), completed({ usage: { ...USAGE, input_tokens: 9_000 } })))?.usage).toMatchObject({
      inputTokens: 60,
    });
    const usage = (value: unknown) => collected(codec, sse(completed({ usage: value })))?.usage;
    expect(usage({ input_tokens: 5, output_tokens: 0 })).toMatchObject({ inputTokens: 5, outputTokens: 0 });
    expect(usage({ input_tokens: 5 })).toMatchObject({ inputTokens: 5, outputTokens: 0 });
    expect(usage(null)).toBeNull();
  });

  test.each<[string, object, object]>([
    ["flat", { type: "error", code: "server_is_overloaded", message: "busy", sequence_number: 3 }, { message: "busy", kind: "server_is_overloaded" }],
    ["in an envelope", { type: "error", error: { code: "rate_limit", message: "busy" } }, { message: "busy", kind: "rate_limit" }],
    ["without a type", { error: { message: "busy", type: "service_unavailable_error" } }, { message: "busy", kind: "service_unavailable_error" }],
    [
      "of a response",
      event("response.failed", { response: { error: { code: "server_error", message: "busy" } } }),
      { message: "busy", kind: "server_error" },
    ],
    ["of nothing", event("response.failed", { response: {} }), { kind: null }],
    ["in a completed one", completed({ error: { code: "x", message: "busy" } }), { message: "busy", kind: "x" }],
  ])("error-event-inside-200-stream: %s", (_name, error, told) => {
    const events = decoded(codec, sse(CREATED, says("a"), error, says("b"), completed())).flat();
    expect(events.at(-1)).toMatchObject({ type: "error", ...told });
    expect(events.filter(({ type }) => type === "end")).toEqual([]);
  });

  test("multi-line-data-frame, data-only-frame-without-event, CRLF-and-comment-lines, two-events-glued-in-one-chunk, incomplete-trailing-frame-dropped", () => {
    const text = `: hello\r\n\r\ndata: {"type":"response.output_text.delta",\r\ndata: "output_index":0,"delta":"a"}\r\n\r\n${sse(completed())}data: {"typ`;
    expect(collected(codec, text)?.choices[0]).toMatchObject({ blocks: [{ text: "a" }], stop: "stop" });
    expect(decoded(codec, text)[0]?.[0]).toEqual({ type: "ping" });
  });

  test("an image that was made, events and items of a kind that nobody knows", () => {
    const image = { type: "image_generation_call", id: "ig_1", status: "completed", result: "AAAA" };
    const events = [
      event("codex.rate_limits", { x: 1 }),
      event("keepalive"),
      done(0, { type: "web_search_call", id: "ws" }),
      added(1, image),
      done(1, image),
    ];
    expect(answerOf(CREATED, ...events, completed({ output: [{ type: "web_search_call" }, image] }))?.blocks).toEqual([
      { type: "image", source: { kind: "base64", mediaType: "image/png", data: "AAAA" } },
    ]);
  });

  test("whatever a provider sends: events, or a protocol error, never anything else", () => {
    const json = fc.jsonValue({ maxDepth: 1 });
    const types = [
      ..."created in_progress output_item.added output_item.done output_text.delta output_text.done refusal.delta refusal.done completed failed".split(
        " ",
      ),
      ..."reasoning_summary_text.delta reasoning_summary_text.done reasoning_text.delta incomplete function_call_arguments.delta".split(" "),
      ..."function_call_arguments.done custom_tool_call_input.delta custom_tool_call_input.done done".split(" "),
    ].map((type) => `response.${type}`);
    const kinds = fc.constantFrom("message", "reasoning", "function_call", "custom_tool_call", "image_generation_call", "__proto__");
    const item = fc.dictionary(
      fc.constantFrom("id", "content", "summary", "name", "call_id", "arguments", "input", "encrypted_content", "result", "type"),
      fc.oneof(json, kinds),
    );
    const place = fc.oneof(fc.integer({ min: -2, max: 3 }), json, fc.constant("__proto__"));
    const response = fc.dictionary(fc.constantFrom("id", "output", "usage", "error", "status", "incomplete_details"), fc.oneof(json, fc.array(item)));
    const hostile = fc.record(
      {
        type: fc.constantFrom(...types),
        item,
        response: fc.oneof(response, json),
        output_index: place,
        item_id: place,
        content_index: place,
        summary_index: place,
        delta: fc.oneof(fc.string(), json),
        text: fc.oneof(fc.string(), json),
        arguments: json,
      },
      { requiredKeys: ["type"] },
    );
    fc.assert(
      fc.property(fc.array(fc.oneof(json, { weight: 8, arbitrary: hostile }), { maxLength: 8 }), (events) => {
        let seen: readonly ChatEvent[] = [];
        try {
          seen = decoded(codec, sse(...events)).flat();
        } catch (error) {
          expect(error).toMatchObject({ code: "upstream_protocol" });
        }
        expect(disorderIn(seen)).toBeNull();
      }),
      { numRuns: 1_000 },
    );
  });

  test("items, their parts and early input have a bound", () => {
    for (const of of ["output_index", "content_index"]) {
      const many = Array.from({ length: 20_001 }, (_, i) => says("a", { item_id: undefined, [of]: i }));
      expect(() => decoded(codec, sse(...many))).toThrow(/more parts/);
    }
    const piece = args(0, "x".repeat(500_000));
    expect(() => decoded(codec, sse(piece, piece, piece))).toThrow(/before its name/);
  });
});

describe("a whole answer", () => {
  test("refusal-becomes-content_filter, incomplete-terminal-event, an answer of another kind", () => {
    const output = [{ type: "message", content: [{ type: "refusal", refusal: "no" }] }];
    expect(codec.decodeAnswer({ status: "completed", output }, same)?.choices[0]).toMatchObject({ stop: "content_filter", blocks: [{ text: "no" }] });
    expect(codec.decodeAnswer({ status: "incomplete", output: [] }, same)?.choices[0]?.stop).toBe("length");
    expect(codec.decodeAnswer({ choices: [] }, same)).toBeNull();
    expect(() => codec.decodeAnswer({ status: "failed", error: { message: "busy" }, output: [] }, same)).toThrow(/busy/);
  });

  test("whatever comes: an answer, none, or a protocol error", () => {
    const fields = fc.dictionary(fc.constantFrom("type", "content", "summary", "name", "arguments", "result", "text"), fc.jsonValue());
    const bodies = fc.record({
      output: fc.oneof(fc.array(fields), fc.jsonValue()),
      usage: fc.jsonValue(),
      error: fc.jsonValue(),
      status: fc.jsonValue(),
    });
    fc.assert(
      fc.property(bodies, (body) => {
        try {
          codec.decodeAnswer(body, same);
        } catch (error) {
          expect(error).toMatchObject({ code: "upstream_protocol" });
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test("error-body-in-other-dialect-unwrapped: also one inside another's message", () => {
    expect(codec.decodeError({ error: { message: '{"error":{"message":"inner"}}', type: "t", code: null } })).toEqual({
      message: "inner",
      kind: "t",
    });
    expect(codec.decodeError({ error: "plain" })).toEqual({ message: "plain", kind: null });
    expect(codec.decodeError({ output: [], error: null, status: "completed" })).toBeNull();
  });
});
