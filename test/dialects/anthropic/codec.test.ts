import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { anthropicCodec as codec } from "../../../src/dialects/anthropic/index.ts";
import { capabilityOf } from "../../../src/dialects/anthropic/thinking.ts";
import { objectSchema } from "../../../src/dialects/anthropic/tool-schema.ts";
import type { ChatRequest } from "../../../src/dialects/message.ts";
import { openaiCodec } from "../../../src/dialects/openai/codec.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { answering, collected, decoded, encoding, eventsOf, read, REQUEST, same } from "../codec-kit.ts";
import { answers, requests, thinkingBlock, turns } from "../generators.ts";

const USER = { role: "user", content: "hi" };
const ask = (messages: readonly object[], more: object = {}) => ({ model: "claude", max_tokens: 100, messages, ...more });
/** As a Claude model gets it. */
const sent = (request: Partial<ChatRequest>, more: object = {}) => codec.encodeRequest({ ...REQUEST, ...request }, encoding("anthropic", more)).body;
const fromOpenai = (body: object, model = "claude-sonnet-4-5") =>
  codec.encodeRequest(read(openaiCodec, body as never, { model }).request, encoding("anthropic")).body;
const text = (value: string) => ({ type: "text" as const, text: value });
const call = (id: string, name = "look", input = "{}") => ({ type: "tool_call" as const, id, name, input });
const result = (id: string, value: string) => ({ type: "tool_result" as const, id, name: "look", isError: false, content: [text(value)] });
const user = (...blocks: readonly object[]) => ({ role: "user" as const, blocks: blocks as never });
const assistant = (...blocks: readonly object[]) => ({ role: "assistant" as const, blocks: blocks as never });

describe("a request for Claude", () => {
  test("developer-role-becomes-system, several-system-messages-merge-in-order, max_tokens-and-max_completion_tokens-both-accepted", () => {
    const body = { messages: [{ role: "system", content: "a" }, { role: "developer", content: "b" }, USER], max_completion_tokens: 7 };
    expect(fromOpenai(body)).toEqual({
      model: "claude-sonnet-4-5",
      max_tokens: 7,
      system: "a\n\nb",
      messages: [{ role: "user", content: [text("hi")] }],
    });
  });

  test("system-only-input-keeps-a-user-turn; without a cap the one that is held is sent, else the default", () => {
    expect(sent({ turns: [], system: [text("a")] }).messages).toEqual([{ role: "user", content: [text(".")] }]);
    expect(sent({}).max_tokens).toBe(32_000);
    expect(sent({}, { outputCap: 50 }).max_tokens).toBe(50);
    expect(sent({ maxOutputTokens: 10 }, { outputCap: 50 }).max_tokens).toBe(10);
    expect(sent({ maxOutputTokens: 90 }, { outputCap: 50 }).max_tokens).toBe(50);
  });

  test("stop-string-and-array (always an array)", () => expect(fromOpenai({ messages: [USER], stop: "x" }).stop_sequences).toEqual(["x"]));

  test("temperature-dropped-for-claude-thinking, and never above 1", () => {
    const thinking = { reasoning: { level: "low" as const, budgetTokens: null, wantsThoughts: null }, temperature: 2, topP: 0.5, topK: 3 };
    const body = sent({ ...thinking, model: "claude-sonnet-4-5" });
    expect(body).toMatchObject({ thinking: { type: "enabled", budget_tokens: 1_024 } });
    expect(Object.keys(body).filter((name) => ["temperature", "top_p", "top_k"].includes(name))).toEqual([]);
    expect(sent({ temperature: 2, topP: 0.5, topK: 3 })).toMatchObject({ temperature: 1, top_p: 0.5, top_k: 3 });
  });

  test("tool-call-id-sanitised-for-claude: in the call and in its answer", () => {
    const { messages } = sent({ turns: [user(text("a")), assistant(call("a.b:c")), user(result("a.b:c", "x"))] }) as {
      messages: { content: { id?: string; tool_use_id?: string }[] }[];
    };
    expect(messages[1]?.content[0]?.id).toBe("a_b_c");
    expect(messages[2]?.content[0]?.tool_use_id).toBe("a_b_c");
  });

  test("parallel-tool-results-grouped-in-one-user-turn, tool-result-first-when-mixed-with-user-text", () => {
    const tool = (id: string) => ({ role: "tool", tool_call_id: id, content: id });
    const calls = ["1", "2"].map((id) => ({ id, type: "function", function: { name: "look", arguments: "{}" } }));
    const { messages } = fromOpenai({
      messages: [USER, { role: "assistant", tool_calls: calls }, tool("1"), { role: "user", content: "and?" }, tool("2")],
    }) as {
      messages: { content: { type: string }[] }[];
    };
    expect(messages).toHaveLength(3);
    expect(messages[2]?.content.map(({ type }) => type)).toEqual(["tool_result", "tool_result", "text"]);
  });

  test("invalid-tool-arguments-become-empty-object", () => {
    const { messages } = sent({ turns: [user(text("a")), assistant(call("1", "look", "{broken")), user(result("1", "x"))] }) as {
      messages: { content: { input?: object }[] }[];
    };
    expect(messages[1]?.content[0]?.input).toEqual({});
  });

  test("tool-result-with-text-and-image, tool-result-url-image-only", () => {
    const image = (source: object) => ({ type: "image", source });
    const { messages } = sent({
      turns: [
        user(text("a")),
        assistant(call("1")),
        user({ ...result("1", "seen"), content: [text("seen"), image({ kind: "base64", mediaType: "image/png", data: "AAAA" })] }),
        assistant(call("2")),
        user({ ...result("2", ""), content: [image({ kind: "url", url: "https://example.test/a.png", mediaType: null })] }),
      ],
    }) as { messages: { content: { content: object[] }[] }[] };
    expect(messages[2]?.content[0]?.content).toEqual([
      text("seen"),
      { type: "image", source: { type: "base64", media_type: "image/png", data: "AAAA" } },
    ]);
    expect(messages[4]?.content[0]?.content).toEqual([{ type: "image", source: { type: "url", url: "https://example.test/a.png" } }]);
  });

  test("cache_control-max-four-and-ttl-order", () => {
    const marked = (ttl: "1h" | null) => ({ ...text("x"), cache: { ttl } });
    const { messages } = sent({ turns: [user(marked("1h"), marked("1h"), marked(null), marked("1h"), marked(null))] }) as {
      messages: { content: { cache_control?: object }[] }[];
    };
    expect(messages[0]?.content.map((block) => block.cache_control)).toEqual([
      undefined,
      { type: "ephemeral", ttl: "1h" },
      { type: "ephemeral" },
      { type: "ephemeral" },
      { type: "ephemeral" },
    ]);
  });

  test("schema-root-union-for-claude: one object with the properties of all branches", () => {
    const branch = (name: string, ...required: string[]) => ({
      type: "object",
      properties: { [name]: { type: "string" } },
      required: [name, ...required],
    });
    expect(objectSchema({ anyOf: [branch("a", "id"), branch("b", "id")], description: "d" })).toEqual({
      type: "object",
      description: "d",
      properties: { a: { type: "string" }, b: { type: "string" } },
      required: ["id"],
    });
    expect(objectSchema({ allOf: [branch("a"), branch("b")] }).required).toEqual(["a", "b"]);
    expect(objectSchema(null)).toEqual({ type: "object", properties: {} });
    expect(objectSchema({ type: "object", properties: { anyOf: { type: "string" } } })).toEqual({
      type: "object",
      properties: { anyOf: { type: "string" } },
    });
  });

  test("builtin-web-search-mapping, each way", () => {
    expect(sent({ tools: [{ kind: "web_search" }] }).tools).toEqual([{ type: "web_search_20250305", name: "web_search" }]);
    expect(read(codec, ask([USER], { tools: [{ type: "web_search_20250305", name: "web_search" }] })).request.tools).toEqual([
      { kind: "web_search" },
    ]);
  });

  test.each([
    ["auto", { type: "auto" }],
    ["required", { type: "any" }],
    ["none", { type: "none" }],
    [
      { type: "function", function: { name: "look" } },
      { type: "tool", name: "look" },
    ],
  ])("specific-tool-choice-each-way: %j", (choice, told) => {
    const tools = [{ type: "function", function: { name: "look" } }];
    expect(fromOpenai({ messages: [USER], tools, tool_choice: choice }).tool_choice).toEqual(told);
    const back = read(codec, ask([USER], { tools: [{ name: "look", input_schema: {} }], tool_choice: told })).request;
    expect(openaiCodec.encodeRequest(back, encoding()).body.tool_choice).toEqual(choice);
  });

  test("tool_choice-dropped-when-no-tools, parallel_tool_calls each way", () => {
    expect(Object.keys(sent({ toolChoice: { kind: "auto" }, parallelToolCalls: false }))).not.toContain("tool_choice");
    const tools = [{ kind: "function" as const, name: "look", description: null, schema: null, strict: null }];
    expect(sent({ tools, parallelToolCalls: false }).tool_choice).toEqual({ type: "auto", disable_parallel_tool_use: true });
    expect(read(codec, ask([USER], { tool_choice: { type: "any", disable_parallel_tool_use: true } })).request.parallelToolCalls).toBe(false);
  });

  test("json_schema-response-format-each-way; the mere wish for JSON cannot be expressed", () => {
    const schema = { type: "object", properties: {} };
    const format = { kind: "json_schema" as const, name: "a", schema, strict: true, description: null };
    expect(sent({ format }).output_config).toEqual({ format: { type: "json_schema", schema } });
    expect(read(codec, ask([USER], { output_config: { format: { type: "json_schema", schema } } })).request.format).toMatchObject({
      kind: "json_schema",
      schema,
    });
    expect(refusalOf(() => sent({ format: { kind: "json" } }))).toMatchObject({ code: "untranslatable", param: "response_format" });
  });

  test("sound and video cannot be expressed", () => {
    const media = { type: "media", source: { kind: "base64", mediaType: "audio/wav", data: "AAAA" } };
    expect(refusalOf(() => sent({ turns: [user(media)] })).code).toBe("untranslatable");
  });

  test("claude-text-tool_use-text-order-kept", () => {
    const { messages } = sent({ turns: [user(text("a")), assistant(text("b"), call("1"), text("c")), user(result("1", "x"))] }) as {
      messages: { content: { type: string }[] }[];
    };
    expect(messages[1]?.content.map(({ type }) => type)).toEqual(["text", "tool_use", "text"]);
  });
});

describe("thoughts", () => {
  const signed = { type: "thinking" as const, text: "hm", signature: { family: "anthropic" as const, value: "c2lnbmVk" } };
  const contentOf = (block: object, family: "anthropic" | "openai" = "anthropic") => {
    const { messages } = codec.encodeRequest({ ...REQUEST, turns: [user(text("a")), assistant(block, text("b")), user(text("c"))] }, encoding(family))
      .body as { messages: { content: object[] }[] };
    return messages[1]?.content;
  };

  test("signed-thinking-replayed-byte-exact", () => {
    expect(contentOf(signed)).toEqual([{ type: "thinking", thinking: "hm", signature: "c2lnbmVk" }, text("b")]);
    const message = { role: "assistant", content: [{ type: "thinking", thinking: "hm", signature: "c2lnbmVk" }] };
    expect(read(codec, ask([USER, message])).request.turns[1]?.blocks[0]).toEqual(signed);
  });

  test("foreign-signature-dropped-not-forged, unsigned-thinking-dropped-for-claude", () => {
    expect(contentOf({ ...signed, signature: { family: "gemini", value: "x" } })).toEqual([text("b")]);
    expect(contentOf({ ...signed, signature: null })).toEqual([text("b")]);
    expect(contentOf(signed, "openai")).toEqual([text("b")]);
  });

  test("redacted-thinking-never-becomes-text", () => {
    const redacted = { type: "redacted_thinking" as const, signature: { family: "anthropic" as const, value: "ENCRYPTED" } };
    expect(contentOf(redacted)).toEqual([{ type: "redacted_thinking", data: "ENCRYPTED" }, text("b")]);
    const answer = {
      id: "1",
      model: "m",
      usage: null,
      choices: [{ index: 0, blocks: [redacted, text("b")], stop: "stop" as const, stopSequence: null }],
    };
    expect(JSON.stringify(openaiCodec.encodeAnswer(answer, answering()))).not.toContain("ENCRYPTED");
  });

  test("thinking-in-user-role-ignored", () => {
    const message = { role: "user", content: [{ type: "thinking", thinking: "hm", signature: "x" }, text("a")] };
    expect(read(codec, ask([message])).request.turns).toEqual([user(text("a"))]);
  });

  test("a budget stays below the cap, and a cap that leaves none drops it", () => {
    const reasoning = { level: "high" as const, budgetTokens: null, wantsThoughts: null };
    expect(sent({ model: "claude-opus-4-1", reasoning, maxOutputTokens: 5_000 }).thinking).toEqual({ type: "enabled", budget_tokens: 4_999 });
    expect(sent({ model: "claude-opus-4-1", reasoning, maxOutputTokens: 1_000 })).not.toHaveProperty("thinking");
  });

  test("forced tools, and an answer to a call whose thoughts are gone, end the thinking", () => {
    const reasoning = { level: "high" as const, budgetTokens: null, wantsThoughts: null };
    const model = "claude-opus-4-1";
    expect(sent({ model, reasoning, toolChoice: { kind: "required" } })).not.toHaveProperty("thinking");
    expect(sent({ model, reasoning, turns: [user(text("a")), assistant(call("1")), user(result("1", "x"))] })).not.toHaveProperty("thinking");
    expect(sent({ model, reasoning, turns: [user(text("a")), assistant(signed, call("1")), user(result("1", "x"))] })).toHaveProperty("thinking");
  });

  test.each([
    ["claude-3-5-sonnet-20241022", "none"],
    ["claude-3-7-sonnet-latest", "budget"],
    ["claude-sonnet-4-20250514", "budget"],
    ["claude-opus-4-5", "budget"],
    ["claude-opus-4-6", "adaptive"],
    ["claude-sonnet-5", "adaptive"],
    ["my-own-model", "budget"],
  ])("%s: %s", (model, capability) => expect(capabilityOf(model)).toBe(capability));

  test("unsupported-level-clamped-across-families, cannot-disable, auto", () => {
    const asked = (level: "minimal" | "xhigh" | "none" | "auto", model: string) =>
      sent({ model, reasoning: { level, budgetTokens: null, wantsThoughts: null } });
    expect(asked("minimal", "claude-opus-4-6")).toMatchObject({ thinking: { type: "adaptive" }, output_config: { effort: "low" } });
    expect(asked("xhigh", "claude-opus-4-6")).toMatchObject({ output_config: { effort: "max" } });
    expect(asked("none", "claude-opus-4-6")).toMatchObject({ thinking: { type: "disabled" } });
    expect(asked("auto", "claude-opus-4-6")).toEqual(expect.objectContaining({ thinking: { type: "adaptive" } }));
    expect(asked("auto", "claude-opus-4-1")).toMatchObject({ thinking: { budget_tokens: 8_192 } });
    expect(asked("none", "claude-opus-4-1")).not.toHaveProperty("thinking");
  });
});

test("stable-user_id-per-conversation: the caller's own, whatever the turn, and none is made up", () => {
  const conversation = [[USER], [USER, { role: "assistant", content: "hello" }, { role: "user", content: "go on" }]];
  for (const messages of conversation)
    expect(fromOpenai({ model: "m", user: "conversation-1", messages })).toMatchObject({ metadata: { user_id: "conversation-1" } });
  expect(fromOpenai({ model: "m", messages: [USER] })).not.toHaveProperty("metadata");
});

describe("a request of a Claude client", () => {
  test("message-role-system-inside-claude-messages-becomes-reminder-user-text", () => {
    expect(read(codec, ask([USER, { role: "system", content: "now" }])).request.turns).toEqual([user(text("hi"), text("now"))]);
  });

  test("tool-result-null-or-missing-content, an error", () => {
    const use = { role: "assistant", content: [{ type: "tool_use", id: "1", name: "look", input: { a: 1 } }] };
    for (const content of [null, undefined, ""]) {
      const { request } = read(
        codec,
        ask([USER, use, { role: "user", content: [{ type: "tool_result", tool_use_id: "1", content, is_error: true }] }]),
      );
      expect(request.turns[2]?.blocks).toEqual([{ type: "tool_result", id: "1", name: "look", content: [], isError: true }]);
    }
  });

  test("cache_control of parts and tools is kept", () => {
    const mark = { cache_control: { type: "ephemeral", ttl: "1h" } };
    const { request } = read(
      codec,
      ask([{ role: "user", content: [{ ...text("a"), ...mark }] }], {
        system: [{ ...text("s"), ...mark }],
        tools: [{ name: "t", input_schema: {}, ...mark }],
      }),
    );
    expect(request.system[0]?.cache).toEqual({ ttl: "1h" });
    expect(request.turns[0]?.blocks[0]).toMatchObject({ cache: { ttl: "1h" } });
    expect(request.tools[0]).toMatchObject({ cache: { ttl: "1h" } });
  });

  test.each([
    [
      { type: "enabled", budget_tokens: 5_000 },
      { level: "medium", budgetTokens: 5_000, wantsThoughts: true },
    ],
    [{ type: "adaptive" }, { level: "xhigh", budgetTokens: null, wantsThoughts: true }],
    [{ type: "disabled" }, { level: "none", budgetTokens: null, wantsThoughts: false }],
  ])("thinking %j", (thinking, reasoning) => expect(read(codec, ask([USER], { thinking })).request.reasoning).toEqual(reasoning));

  test.each([
    ["mcp_servers", { mcp_servers: [{ url: "x" }] }],
    ["tools[0].type", { tools: [{ type: "computer_20250124", name: "computer" }] }],
    ["messages[0].content[0].type", { messages: [{ role: "user", content: [{ type: "container_upload" }] }] }],
    ["messages[0].content[0].source.type", { messages: [{ role: "user", content: [{ type: "image", source: { type: "file", file_id: "f" } }] }] }],
  ])("%s cannot be expressed elsewhere", (field, more) => {
    expect(refusalOf(() => read(codec, ask([USER], more)))).toMatchObject({ code: "untranslatable", param: field });
  });

  test("whatever JSON comes: a request, or a refusal that names a field", () => {
    const field = fc.constantFrom(
      "messages",
      "system",
      "tools",
      "tool_choice",
      "stop_sequences",
      "thinking",
      "output_config",
      "output_format",
      "metadata",
      "mcp_servers",
    );
    const block = fc.dictionary(
      fc.constantFrom("type", "text", "source", "content", "id", "name", "input", "tool_use_id", "cache_control", "signature"),
      fc.oneof(fc.jsonValue(), fc.constantFrom("text", "image", "tool_use", "tool_result", "thinking")),
    );
    const messages = fc.array(
      fc.record({ role: fc.constantFrom("user", "assistant", "system"), content: fc.oneof(fc.jsonValue(), fc.array(block)) }),
    );
    const bodies = fc.oneof(
      fc.dictionary(field, fc.jsonValue()),
      messages.map((all) => ({ messages: all })),
    );
    fc.assert(
      fc.property(bodies, (body) => {
        try {
          const { request } = read(codec, body, { lossy: true });
          codec.encodeRequest(request, encoding("anthropic"));
          openaiCodec.encodeRequest(request, { ...encoding(), losses: { cannot() {}, drops() {}, dropped: [] } });
        } catch (error) {
          expect(error).toBeInstanceOf(GuardError);
          expect((error as GuardError).param).toBeTruthy();
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

const events = (...all: readonly { readonly type: string }[]): string =>
  all.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join("");
const START = {
  type: "message_start",
  message: {
    id: "msg_1",
    type: "message",
    role: "assistant",
    model: "claude",
    usage: { input_tokens: 60, cache_read_input_tokens: 40, output_tokens: 1 },
  },
};
const block = (index: number, content: object) => ({ type: "content_block_start", index, content_block: content });
const piece = (index: number, delta: object) => ({ type: "content_block_delta", index, delta });
const stopped = (index: number) => ({ type: "content_block_stop", index });
const ended = (reason: string, more: object = {}) => ({
  type: "message_delta",
  delta: { stop_reason: reason, stop_sequence: null },
  usage: { output_tokens: 7 },
  ...more,
});
const STOP = { type: "message_stop" };

describe("a stream of Claude's, read", () => {
  test("usage-merges-message_start-and-delta, cached-tokens-add-and-subtract (AM 60 + 40 are OC 100 with 40 cached)", () => {
    const answer = collected(
      codec,
      events(START, block(0, text("")), piece(0, { type: "text_delta", text: "a" }), stopped(0), ended("end_turn"), STOP),
    );
    expect(answer).toMatchObject({
      id: "msg_1",
      choices: [{ blocks: [text("a")], stop: "stop" }],
      usage: { inputTokens: 60, cacheReadTokens: 40, outputTokens: 7 },
    });
    expect(openaiCodec.encodeUsage(answer?.usage ?? NO_USAGE)).toMatchObject({
      prompt_tokens: 100,
      completion_tokens: 7,
      prompt_tokens_details: { cached_tokens: 40 },
    });
  });

  test("tools are counted apart from blocks, and their input comes in pieces", () => {
    const all = events(
      START,
      block(0, text("")),
      piece(0, { type: "text_delta", text: "a" }),
      stopped(0),
      block(1, { type: "tool_use", id: "t1", name: "look", input: {} }),
      piece(1, { type: "input_json_delta", partial_json: '{"a"' }),
      piece(1, { type: "input_json_delta", partial_json: ":1}" }),
      stopped(1),
      ended("tool_use"),
      STOP,
    );
    const chunks = openaiCodec.encoder(answering()).push(decoded(codec, all).flat());
    expect(chunks).toContain('"tool_calls":[{"index":0,"id":"t1"');
    expect(collected(openaiCodec, chunks)?.choices[0]?.blocks).toEqual([text("a"), call("t1", "look", '{"a":1}')]);
  });

  test("tool-calls-beat-max_tokens, finish-tool_calls-without-tool-becomes-stop, refusal-becomes-content_filter", () => {
    const use = [block(0, { type: "tool_use", id: "t", name: "look", input: {} }), stopped(0)];
    expect(collected(codec, events(START, ...use, ended("max_tokens"), STOP))?.choices[0]?.stop).toBe("tool_calls");
    expect(collected(codec, events(START, ended("tool_use"), STOP))?.choices[0]?.stop).toBe("stop");
    expect(collected(codec, events(START, ended("refusal"), STOP))?.choices[0]?.stop).toBe("content_filter");
  });

  test("signature-only-chunk-opens-no-text-block", () => {
    const all = events(
      START,
      block(0, { type: "thinking", thinking: "", signature: "" }),
      piece(0, { type: "signature_delta", signature: "c2ln" }),
      stopped(0),
      ended("end_turn"),
      STOP,
    );
    expect(collected(codec, all)?.choices[0]?.blocks).toEqual([{ type: "thinking", text: "", signature: { family: "anthropic", value: "c2ln" } }]);
  });

  test("upstream-closes-without-terminal-event has no end; late-usage-after-stop-ignored", () => {
    expect(collected(codec, events(START, block(0, text("")), piece(0, { type: "text_delta", text: "a" })))).toBeNull();
    expect(
      collected(codec, events(START, ended("end_turn"), STOP, { type: "message_delta", usage: { output_tokens: 999 } } as never))?.usage
        ?.outputTokens,
    ).toBe(7);
  });

  test("error-event-inside-200-stream, ping, unknown events", () => {
    const told = decoded(
      codec,
      events(START, { type: "ping" }, { type: "from_the_future" }, { type: "error", error: { type: "overloaded_error", message: "busy" } } as never),
    ).flat();
    expect(told.map(({ type }) => type)).toEqual(["start", "usage", "ping", "error"]);
    expect(told.at(-1)).toEqual({ type: "error", message: "busy", kind: "overloaded_error" });
  });

  test("whatever a provider sends: events, or a protocol error, never anything else", () => {
    const kinds = fc.constantFrom(
      "message_start",
      "content_block_start",
      "content_block_delta",
      "content_block_stop",
      "message_delta",
      "message_stop",
      "error",
    );
    const one = fc.record({
      type: kinds,
      index: fc.jsonValue(),
      message: fc.jsonValue(),
      content_block: fc.jsonValue(),
      delta: fc.jsonValue(),
      usage: fc.jsonValue(),
      error: fc.jsonValue(),
    });
    fc.assert(
      fc.property(fc.array(one, { maxLength: 6 }), (all) => {
        try {
          decoded(codec, events(...all));
        } catch (error) {
          expect(error).toMatchObject({ code: "upstream_protocol" });
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

describe("a stream for a Claude client, written", () => {
  const written = (chunks: string): readonly { type: string; index?: number; content_block?: { type: string } }[] => {
    const all = codec.encoder(answering()).push(decoded(openaiCodec, chunks).flat());
    return all
      .split("\n\n")
      .filter((each) => each !== "")
      .map((each) => JSON.parse(each.slice(each.indexOf("data: ") + 6)) as never);
  };
  const chunk = (delta: object, finish: string | null = null) =>
    `data: ${JSON.stringify({ id: "c", choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`;

  test("text-before-tool-no-ghost-stop: thinking before text before tool, each opened and closed once", () => {
    const tool = (fn: object, id?: string) => ({ tool_calls: [{ index: 0, ...(id ? { id } : {}), function: fn }] });
    const all = written(
      chunk({ reasoning_content: "hm" }) +
        chunk({ content: "a" }) +
        chunk(tool({ name: "look", arguments: "{" }, "1")) +
        chunk(tool({ arguments: "}" })) +
        chunk({}, "tool_calls") +
        "data: [DONE]\n\n",
    );
    expect(all.map(({ type, index, content_block: start }) => [type, index, start?.type].filter((each) => each !== undefined).join(" "))).toEqual([
      "message_start",
      "content_block_start 0 thinking",
      "content_block_delta 0",
      "content_block_stop 0",
      "content_block_start 1 text",
      "content_block_delta 1",
      "content_block_stop 1",
      "content_block_start 2 tool_use",
      "content_block_delta 2",
      "content_block_delta 2",
      "content_block_stop 2",
      "message_delta",
      "message_stop",
    ]);
  });

  test("interleaved-function-calls-serialised", () => {
    const calls = (...all: readonly (readonly [number, string, string?])[]) =>
      chunk({
        tool_calls: all.map(([index, args, id]) => ({
          index,
          ...(id ? { id } : {}),
          function: { ...(id ? { name: `t${index}` } : {}), arguments: args },
        })),
      });
    const all = codec
      .encoder(answering())
      .push(
        decoded(
          openaiCodec,
          calls([0, '{"a"', "x"], [1, '{"b"', "y"]) + calls([1, ":2}"], [0, ":1}"]) + chunk({}, "tool_calls") + "data: [DONE]\n\n",
        ).flat(),
      );
    expect(collected(codec, all)?.choices[0]?.blocks).toEqual([call("x", "t0", '{"a":1}'), call("y", "t1", '{"b":2}')]);
  });

  test("an empty answer is a whole stream, and exactly one terminal event comes", () => {
    expect(written(chunk({ content: "" }, "stop") + "data: [DONE]\n\n").map(({ type }) => type)).toEqual([
      "message_start",
      "message_delta",
      "message_stop",
    ]);
  });
});

describe("laws", () => {
  const claude = requests({ model: "claude-opus-4-1", turns: turns([thinkingBlock("anthropic")]) });

  test("a request that is written and read again is the same", () => {
    fc.assert(
      fc.property(claude, (request) => {
        const { body } = codec.encodeRequest(request, encoding("anthropic"));
        const again = read(codec, body, { model: request.model, stream: request.stream }).request;
        expect(again).toEqual({
          ...request,
          maxOutputTokens: request.maxOutputTokens ?? 32_000,
          tools: request.tools.map((tool) => ({ ...tool, schema: { ...(tool as { schema: object }).schema } })),
        });
      }),
      { numRuns: 1_000 },
    );
  });

  test("an answer that is written and read again is the same, whole and as a stream: stream-and-non-stream-parity", () => {
    fc.assert(
      fc.property(answers([thinkingBlock("anthropic")]), (answer) => {
        const whole = codec.decodeAnswer(codec.encodeAnswer(answer, answering()), same);
        const streamed = collected(codec, codec.encoder(answering()).push(eventsOf(answer)));
        for (const told of [whole, streamed]) {
          expect(told?.choices).toEqual(answer.choices);
          expect(told?.usage).toMatchObject({
            inputTokens: answer.usage?.inputTokens,
            cacheReadTokens: answer.usage?.cacheReadTokens,
            // Anthropic does not tell thoughts apart.
            outputTokens: (answer.usage?.outputTokens ?? 0) + (answer.usage?.reasoningTokens ?? 0),
          });
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test("a stream that is cut anywhere gives the same", () => {
    const all = events(START, block(0, text("")), piece(0, { type: "text_delta", text: "ä€😀" }), stopped(0), ended("end_turn"), STOP);
    const whole = collected(codec, all);
    for (let step = 1; step < 40; step += 1) expect(collected(codec, all, step)).toEqual(whole);
  });

  test("what goes through another dialect keeps texts, tools and usage", () => {
    fc.assert(
      fc.property(answers(), (answer) => {
        const claudeStream = codec.encoder(answering()).push(eventsOf(answer));
        const openaiStream = openaiCodec.encoder(answering()).push(decoded(codec, claudeStream).flat());
        expect(collected(openaiCodec, openaiStream)?.choices).toEqual(answer.choices);
      }),
      { numRuns: 300 },
    );
  });
});
