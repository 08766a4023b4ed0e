import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { openaiCodec as codec } from "../../../src/dialects/openai/codec.ts";
import { withProperties } from "../../../src/dialects/openai/encode-request.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { answering, collected, decoded, encoding, eventsOf, read, REQUEST, same, sse } from "../codec-kit.ts";
import { answers, requests } from "../generators.ts";

const chat = (messages: readonly object[], more: object = {}) => ({ model: "gpt-4o", messages, ...more });
const USER = { role: "user", content: "hi" };
const TOOLS = { tools: [{ type: "function", function: { name: "look", parameters: { type: "object" } } }] };
const call = (id: string, name = "look", args = "{}") => ({ id, type: "function", function: { name, arguments: args } });
const written = (body: object, more: object = {}) =>
  codec.encodeRequest(read(codec, body as never).request, encoding("openai", more)).body as Record<string, unknown>;

describe("a request, read", () => {
  test("developer-role-becomes-system, several-system-messages-merge-in-order", () => {
    const { request } = read(
      codec,
      chat([{ role: "system", content: "a" }, { role: "developer", content: "b" }, USER, { role: "system", content: "c" }]),
    );
    expect(request.system.map(({ text }) => text)).toEqual(["a", "b", "c"]);
    expect(request.turns).toEqual([{ role: "user", blocks: [{ type: "text", text: "hi" }] }]);
  });

  test("system-only-input-keeps-a-user-turn", () => {
    expect(written(chat([{ role: "system", content: "a" }])).messages).toEqual([
      { role: "system", content: "a" },
      { role: "user", content: "" },
    ]);
  });

  test("max_tokens-and-max_completion_tokens-both-accepted", () => {
    expect(read(codec, chat([USER], { max_tokens: 5 })).request.maxOutputTokens).toBe(5);
    expect(read(codec, chat([USER], { max_tokens: 5, max_completion_tokens: 7 })).request.maxOutputTokens).toBe(7);
  });

  test("stop-string-and-array", () => {
    expect(read(codec, chat([USER], { stop: "x" })).request.stop).toEqual(["x"]);
    expect(read(codec, chat([USER], { stop: ["x", "y"] })).request.stop).toEqual(["x", "y"]);
    expect(written(chat([USER], { stop: ["x"] })).stop).toBe("x");
  });

  test("tool-result-first-when-mixed-with-user-text, openai-tool-message-adjacency", () => {
    const { request } = read(
      codec,
      chat([
        USER,
        { role: "assistant", tool_calls: [call("1")] },
        { role: "user", content: "wait" },
        { role: "tool", tool_call_id: "1", content: "done" },
      ]),
    );
    expect(request.turns.at(-1)?.blocks.map(({ type }) => type)).toEqual(["tool_result", "text"]);
    const { messages } = codec.encodeRequest(request, encoding()).body as { messages: { role: string }[] };
    expect(messages.map(({ role }) => role)).toEqual(["user", "assistant", "tool", "user"]);
  });

  test("parallel-tool-results-grouped-in-one-user-turn, duplicate-tool-results-last-wins, orphan-and-ambiguous-tool-outputs-dropped", () => {
    const tool = (id: string, content: string) => ({ role: "tool", tool_call_id: id, content });
    const { request } = read(
      codec,
      chat([
        USER,
        { role: "assistant", tool_calls: [call("1"), call("2")] },
        tool("1", "a"),
        tool("2", "b"),
        tool("1", "again"),
        tool("9", "nobody's"),
      ]),
    );
    expect(request.turns.at(-1)).toMatchObject({
      role: "user",
      blocks: [
        { type: "tool_result", id: "1", name: "look", content: [{ text: "again" }] },
        { type: "tool_result", id: "2", content: [{ text: "b" }] },
      ],
    });
    expect(request.turns.at(-1)?.blocks).toHaveLength(2);
  });

  test("missing-tool-call-id-synthesised, and the same one for the same conversation", () => {
    const body = chat([
      USER,
      { role: "assistant", content: null, function_call: { name: "look", arguments: "{}" } },
      { role: "function", name: "look", content: "done" },
    ]);
    const ids = [1, 2].map(() => {
      const [, asked, answered] = read(codec, body).request.turns;
      const [one, other] = [asked?.blocks[0], answered?.blocks[0]] as { id: string }[];
      expect(one?.id).toBe(other?.id);
      return one?.id;
    });
    expect(ids[0]).toMatch(/^call_[0-9a-f]{24}$/);
    expect(ids[1]).toBe(ids[0]);
  });

  test("invalid-tool-arguments-become-empty-object", () => {
    const { messages } = written(
      chat([USER, { role: "assistant", tool_calls: [call("1", "look", '{"a":')] }, { role: "tool", tool_call_id: "1", content: "x" }]),
    ) as {
      messages: { tool_calls?: { function: { arguments: string } }[] }[];
    };
    expect(messages[1]?.tool_calls?.[0]?.function.arguments).toBe("{}");
  });

  test("image-data-url-and-http-url; a data URL that is none is refused by its name", () => {
    const image = (url: string) => chat([{ role: "user", content: [{ type: "image_url", image_url: { url, detail: "low" } }] }]);
    expect(read(codec, image("data:image/png;base64,AAAA")).request.turns[0]?.blocks[0]).toEqual({
      type: "image",
      source: { kind: "base64", mediaType: "image/png", data: "AAAA" },
      detail: "low",
    });
    expect(read(codec, image("https://example.test/a.png")).request.turns[0]?.blocks[0]).toMatchObject({
      source: { kind: "url", url: "https://example.test/a.png" },
    });
    expect(refusalOf(() => read(codec, image("data:text,hello")))).toMatchObject({
      code: "body_invalid",
      param: "messages[0].content[0].image_url.url",
    });
  });

  test("pdf-document-round-trip, audio-and-video-parts-kept", () => {
    const parts = [
      { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,AAAA" } },
      { type: "input_audio", input_audio: { data: "AAAA", format: "mp3" } },
      { type: "video_url", video_url: { url: "https://example.test/a.mp4" } },
    ];
    expect(written(chat([{ role: "user", content: parts }])).messages).toEqual([{ role: "user", content: parts }]);
  });

  test("empty-assistant-message-not-emitted-with-tool-calls, empty-text-parts-skipped-without-null", () => {
    const body = chat([
      {
        role: "user",
        content: [
          { type: "text", text: "" },
          { type: "text", text: "a" },
        ],
      },
      { role: "assistant", content: "", tool_calls: [call("1")] },
      { role: "tool", tool_call_id: "1", content: [] },
      { role: "assistant", content: "" },
    ]);
    expect(written(body).messages).toEqual([
      { role: "user", content: "a" },
      { role: "assistant", content: null, tool_calls: [call("1")] },
      { role: "tool", tool_call_id: "1", content: "" },
    ]);
  });

  test("tool-result-with-text-and-image: the text is the answer, the image comes behind the answers", () => {
    const image = { type: "image" as const, source: { kind: "url" as const, url: "https://example.test/a.png", mediaType: null } };
    const { body } = codec.encodeRequest(
      {
        ...REQUEST,
        turns: [
          ...REQUEST.turns,
          { role: "assistant", blocks: [{ type: "tool_call", id: "1", name: "look", input: "{}" }] },
          {
            role: "user",
            blocks: [{ type: "tool_result", id: "1", name: "look", isError: false, content: [{ type: "text", text: "seen" }, image] }],
          },
        ],
      },
      encoding(),
    );
    expect((body.messages as object[]).slice(2)).toEqual([
      { role: "tool", tool_call_id: "1", content: "seen" },
      { role: "user", content: [{ type: "image_url", image_url: { url: "https://example.test/a.png" } }] },
    ]);
  });

  test("stringified-image-array-in-tool-output is read as what it is; any other text stays one", () => {
    const shown = (content: string) =>
      read(codec, chat([USER, { role: "assistant", tool_calls: [call("1")] }, { role: "tool", tool_call_id: "1", content }])).request.turns.at(-1)
        ?.blocks[0];
    const parts = [
      { type: "text", text: "seen" },
      { type: "image_url", image_url: { url: "https://example.test/a.png" } },
    ];
    expect(shown(JSON.stringify(parts))).toMatchObject({ content: [{ type: "text", text: "seen" }, { type: "image" }] });
    for (const text of ['[{"a":1}]', "[{broken", '[{"type":"text","text":"no image"}]'])
      expect(shown(text)).toMatchObject({ content: [{ type: "text", text }] });
  });

  test("cache_control-part-beats-message-level", () => {
    const mark = (ttl: string) => ({ cache_control: { type: "ephemeral", ttl } });
    const parts = (...all: object[]) => read(codec, chat([{ role: "user", content: all, ...mark("5m") }])).request.turns[0]?.blocks;
    const text = (value: string, more: object = {}) => ({ type: "text", text: value, ...more });
    expect(parts(text("a"), text("b"))).toEqual([text("a"), text("b", { cache: { ttl: "5m" } })]);
    expect(parts(text("a", mark("1h")), text("b"))).toEqual([text("a", { cache: { ttl: "1h" } }), text("b")]);
  });

  test("reasoning-content-kept-for-openai-compatible-when-opted-in", () => {
    const body = chat([USER, { role: "assistant", reasoning_content: "hm", content: "a" }, USER]);
    expect(written(body, { keepsThoughts: true }).messages).toContainEqual({ role: "assistant", content: "a", reasoning_content: "hm" });
    expect(written(body).messages).toContainEqual({ role: "assistant", content: "a" });
  });

  test("consecutive-function-calls-merge-into-one-assistant", () => {
    const { request } = read(codec, chat([USER, { role: "assistant", tool_calls: [call("1")] }, { role: "assistant", tool_calls: [call("2")] }]));
    expect(request.turns[1]?.blocks.map((block) => (block as { id: string }).id)).toEqual(["1", "2"]);
  });

  test("tool_choice-dropped-when-no-tools, parallel_tool_calls-dropped-when-no-tools", () => {
    const said = { tool_choice: "auto", parallel_tool_calls: false };
    expect(Object.keys(written(chat([USER], said)))).not.toContain("tool_choice");
    expect(Object.keys(written(chat([USER], said)))).not.toContain("parallel_tool_calls");
    expect(written(chat([USER], { ...said, ...TOOLS }))).toMatchObject({ tool_choice: "auto", parallel_tool_calls: false });
  });

  test.each(["none", "auto", "required"])("specific-tool-choice-each-way: %s", (choice) => {
    expect(written(chat([USER], { ...TOOLS, tool_choice: choice })).tool_choice).toBe(choice);
  });

  test("specific-tool-choice-each-way: a tool by its name", () => {
    const choice = { type: "function", function: { name: "look" } };
    expect(written(chat([USER], { ...TOOLS, tool_choice: choice })).tool_choice).toEqual(choice);
  });

  test("json_schema-response-format-each-way", () => {
    const format = { type: "json_schema", json_schema: { name: "a", schema: { type: "object" }, strict: true } };
    expect(written(chat([USER], { response_format: format })).response_format).toEqual(format);
    expect(written(chat([USER], { response_format: { type: "json_object" } })).response_format).toEqual({ type: "json_object" });
  });

  test("missing-object-properties-added, in every depth, but never to a value", () => {
    const schema = {
      type: "object",
      properties: { type: { type: "object" }, list: { type: "array", items: { type: "object" } } },
      default: { type: "object" },
    };
    expect(withProperties({ type: "object" })).toEqual({ type: "object", properties: {} });
    expect(withProperties(schema)).toEqual({
      type: "object",
      properties: { type: { type: "object", properties: {} }, list: { type: "array", items: { type: "object", properties: {} } } },
      default: { type: "object" },
    });
  });

  test("custom-tools-flattened-and-restored", () => {
    const body = chat([USER], { tools: [{ type: "custom", custom: { name: "shell", description: "runs" } }] });
    const { request } = read(codec, body);
    const sent = codec.encodeRequest(request, encoding()).body.tools as { function: { name: string; parameters: object } }[];
    expect(sent[0]?.function).toMatchObject({ name: "shell", parameters: { required: ["input"] } });
    const answer = codec.decodeAnswer(
      { choices: [{ message: { tool_calls: [call("1", "shell", '{"input":"ls"}')] }, finish_reason: "tool_calls" }] },
      same,
    );
    const told = codec.encodeAnswer(answer as never, answering({ request })) as { choices: { message: { tool_calls: object[] } }[] };
    expect(told.choices[0]?.message.tool_calls[0]).toEqual({ id: "1", type: "custom", custom: { name: "shell", input: "ls" } });
  });

  test.each([
    ["n", { n: 2 }],
    ["logit_bias", { logit_bias: { 5: 1 } }],
    ["logprobs", { logprobs: true }],
    ["modalities", { modalities: ["text", "audio"] }],
    ["tools[0].type", { tools: [{ type: "computer" }] }],
    ["messages[0].content[0].type", { messages: [{ role: "user", content: [{ type: "hologram" }] }] }],
  ])("%s cannot be expressed elsewhere: refused, or dropped and named", (field, more) => {
    expect(refusalOf(() => read(codec, chat([USER], more)))).toMatchObject({ code: "untranslatable", param: field });
    expect(read(codec, chat([USER], more), { lossy: true }).dropped).toEqual([field]);
  });

  test("what only tunes is dropped and named", () => {
    expect(read(codec, chat([USER], { frequency_penalty: 1, service_tier: "auto", n: 1 })).dropped).toEqual(["frequency_penalty", "service_tier"]);
  });

  test("whatever JSON comes: a request, or a refusal that names a field", () => {
    const field = fc.constantFrom(
      "messages",
      "tools",
      "tool_choice",
      "stop",
      "response_format",
      "reasoning_effort",
      "functions",
      "n",
      "logit_bias",
      "modalities",
    );
    const message = fc.dictionary(
      fc.constantFrom("role", "content", "tool_calls", "function_call", "tool_call_id", "name"),
      fc.oneof(fc.jsonValue(), fc.constantFrom("user", "assistant", "tool")),
    );
    const bodies = fc.oneof(
      fc.dictionary(field, fc.jsonValue()),
      fc.array(message).map((messages) => ({ messages })),
    );
    fc.assert(
      fc.property(bodies, (body) => {
        try {
          codec.encodeRequest(read(codec, body, { lossy: true }).request, encoding());
        } catch (error) {
          expect(error).toBeInstanceOf(GuardError);
          expect((error as GuardError).param).toBeTruthy();
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

describe("a reasoning model", () => {
  test("takes its cap under its own name, and not what it would refuse", () => {
    const { request } = read(codec, chat([USER], { max_tokens: 9, temperature: 1, reasoning_effort: "max" }), { model: "o3" });
    expect(codec.encodeRequest(request, encoding()).body).toMatchObject({ max_completion_tokens: 9, reasoning_effort: "xhigh" });
    expect(Object.keys(codec.encodeRequest(request, encoding()).body)).not.toContain("temperature");
  });

  test("the cap that is held is sent, and never a larger one", () => {
    expect(written(chat([USER], { max_tokens: 9 }), { outputCap: 5 }).max_tokens).toBe(5);
    expect(written(chat([USER], { max_tokens: 3 }), { outputCap: 5 }).max_tokens).toBe(3);
    expect(written(chat([USER]), { outputCap: 5, capField: "max_completion_tokens" }).max_completion_tokens).toBe(5);
  });
});

const chunk = (delta: object, more: object = {}) => ({ id: "c1", model: "m", choices: [{ index: 0, delta, ...more }] });
const USAGE = { prompt_tokens: 100, completion_tokens: 7, total_tokens: 107, prompt_tokens_details: { cached_tokens: 40 } };

describe("a stream, read", () => {
  test("finish-reason-only-on-final-chunk, usage behind it, chunks-after-DONE-dropped", () => {
    const text = sse(
      chunk({ role: "assistant", content: "a" }),
      chunk({}, { finish_reason: "stop" }),
      { choices: [], usage: USAGE },
      "[DONE]",
      chunk({ content: "late" }),
    );
    expect(collected(codec, text)).toMatchObject({
      id: "c1",
      model: "m",
      usage: { ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 7 },
      choices: [{ index: 0, blocks: [{ type: "text", text: "a" }], stop: "stop", stopSequence: null }],
    });
    const events = decoded(codec, text).flat();
    expect(events.at(-1)).toEqual({ type: "end" });
    expect(events.filter(({ type }) => type === "end" || type === "stop")).toHaveLength(2);
  });

  test("tool-calls-beat-max_tokens, finish-tool_calls-without-tool-becomes-stop", () => {
    const one = { tool_calls: [{ index: 0, id: "1", function: { name: "look", arguments: "{}" } }] };
    expect(collected(codec, sse(chunk(one), chunk({}, { finish_reason: "length" })))?.choices[0]?.stop).toBe("tool_calls");
    expect(collected(codec, sse(chunk({ content: "a" }), chunk({}, { finish_reason: "tool_calls" })))?.choices[0]?.stop).toBe("stop");
  });

  test("refusal-becomes-content_filter", () => {
    expect(collected(codec, sse(chunk({ refusal: "no" }), chunk({}, { finish_reason: "stop" })))?.choices[0]).toMatchObject({
      stop: "content_filter",
      blocks: [{ type: "text", text: "no" }],
    });
  });

  test("tool-name-empty-null-nonstring-repeated, tool-id-arrives-late, tool-calls-in-first-chunk-without-role", () => {
    const piece = (more: object, fn: object) => chunk({ tool_calls: [{ index: 0, ...more, function: fn }] });
    const text = sse(
      piece({}, { name: "", arguments: '{"a"' }),
      piece({ id: null }, { name: null }),
      piece({}, { name: 5 }),
      piece({}, { name: "look" }),
      piece({ id: "late" }, { arguments: ":1" }),
      piece({ id: "late" }, { name: "look", arguments: "}" }),
      chunk({}, { finish_reason: "tool_calls" }),
    );
    expect(collected(codec, text)?.choices[0]?.blocks).toEqual([{ type: "tool_call", id: "late", name: "look", input: '{"a":1}' }]);
  });

  test("tool-name-never-arrives-gets-placeholder", () => {
    const text = sse(chunk({ tool_calls: [{ index: 0, id: "1", function: { arguments: "{}" } }] }), chunk({}, { finish_reason: "tool_calls" }));
    expect(collected(codec, text)?.choices[0]?.blocks).toEqual([{ type: "tool_call", id: "1", name: "unnamed_tool", input: "{}" }]);
  });

  test("stream-without-finish_reason-still-terminates when it ends in [DONE]; upstream-closes-without-terminal-event has no end", () => {
    expect(collected(codec, sse(chunk({ content: "a" }), "[DONE]"))?.choices[0]?.stop).toBe("stop");
    expect(collected(codec, sse(chunk({ content: "a" })))).toBeNull();
  });

  test("DONE-before-anything-emits-nothing", () => expect(decoded(codec, sse("[DONE]")).flat()).toEqual([]));

  test("bare-usage-chunk and null usage", () => {
    expect(
      collected(codec, sse(chunk({ content: "a" }, { finish_reason: "stop" }), { usage: USAGE }, { choices: [], usage: null }, "[DONE]"))?.usage,
    ).toMatchObject({
      inputTokens: 60,
      cacheReadTokens: 40,
    });
  });

  test("interleaved calls are told apart by their index", () => {
    const piece = (index: number, args: string, id?: string) => ({
      index,
      ...(id ? { id } : {}),
      function: { ...(id ? { name: `t${index}` } : {}), arguments: args },
    });
    const text = sse(
      chunk({ tool_calls: [piece(0, '{"a"', "x"), piece(1, '{"b"', "y")] }),
      chunk({ tool_calls: [piece(1, ":2}"), piece(0, ":1}")] }),
      chunk({}, { finish_reason: "tool_calls" }),
    );
    expect(collected(codec, text)?.choices[0]?.blocks).toMatchObject([
      { id: "x", input: '{"a":1}' },
      { id: "y", input: '{"b":2}' },
    ]);
  });

  test("images-in-answer, multiple-candidates-kept-by-index, reasoning_content becomes thoughts", () => {
    const image = { image_url: { url: "data:image/png;base64,AAAA" } };
    const text = sse(
      {
        choices: [
          { index: 1, delta: { content: "b" } },
          { index: 0, delta: { reasoning_content: "hm" } },
        ],
      },
      {
        choices: [
          { index: 0, delta: { content: "a", images: [image] }, finish_reason: "stop" },
          { index: 1, delta: {}, finish_reason: "length" },
        ],
      },
    );
    expect(collected(codec, text)?.choices).toMatchObject([
      { index: 0, stop: "stop", blocks: [{ type: "thinking", text: "hm" }, { type: "text", text: "a" }, { type: "image" }] },
      { index: 1, stop: "length", blocks: [{ text: "b" }] },
    ]);
  });

  test("error-event-inside-200-stream", () => {
    const events = decoded(
      codec,
      sse(chunk({ content: "a" }), { error: { message: "broken", code: "server_error" } }, chunk({ content: "b" }), "[DONE]"),
    ).flat();
    expect(events.at(-1)).toEqual({ type: "error", message: "broken", kind: "server_error" });
  });

  test("multi-line-data-frame, data-only-frame-without-event, CRLF-and-comment-lines, two-events-glued-in-one-chunk, incomplete-trailing-frame-dropped", () => {
    const text = `: hello\r\n\r\ndata: {"choices":[{"index":0,\r\ndata: "delta":{"content":"a"}}]}\r\n\r\n${sse(chunk({}, { finish_reason: "stop" }))}data: {"choices":[{"ind`;
    expect(collected(codec, text)?.choices[0]).toMatchObject({ blocks: [{ text: "a" }], stop: "stop" });
  });

  test("whatever a provider sends: events, or a protocol error, never anything else", () => {
    fc.assert(
      fc.property(
        fc.array(fc.oneof(fc.jsonValue(), fc.dictionary(fc.constantFrom("choices", "usage", "error", "id"), fc.jsonValue())), { maxLength: 5 }),
        (events) => {
          try {
            decoded(codec, sse(...events));
          } catch (error) {
            expect(error).toMatchObject({ code: "upstream_protocol" });
          }
        },
      ),
      { numRuns: 1_000 },
    );
  });
});

describe("an error body", () => {
  test("error-body-in-other-dialect-unwrapped: also one inside another's message", () => {
    expect(codec.decodeError({ error: { message: '{"error":{"message":"inner"}}', type: "t", code: null } })).toEqual({
      message: "inner",
      kind: "t",
    });
    expect(codec.decodeError({ error: "plain" })).toEqual({ message: "plain", kind: null });
    expect(codec.decodeError({ choices: [] })).toBeNull();
  });
});

describe("laws", () => {
  test("a request that is written and read again is the same", () => {
    fc.assert(
      fc.property(requests(), (request) => {
        const { body } = codec.encodeRequest(request, encoding());
        expect(read(codec, body, { stream: request.stream }).request).toEqual(request);
      }),
      { numRuns: 1_000 },
    );
  });

  test("an answer that is written and read again is the same, whole and as a stream", () => {
    fc.assert(
      fc.property(answers(), (answer) => {
        const whole = codec.decodeAnswer(codec.encodeAnswer(answer, answering()), same);
        const text = codec.encoder(answering()).push(eventsOf(answer));
        const streamed = collected(codec, text);
        for (const told of [whole, streamed]) {
          expect(told?.choices).toEqual(answer.choices);
          expect(told?.usage).toMatchObject(answer.usage as object);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test("a stream that is cut anywhere gives the same: SSE frame split across network chunks, UTF-8 split across chunks", () => {
    const [sample] = fc.sample(answers(), { numRuns: 1, seed: 7 });
    const text = codec
      .encoder(answering())
      .push(eventsOf(sample as never))
      .replace('"content":"', '"content":"ä€😀');
    const whole = collected(codec, text);
    expect(whole).not.toBeNull();
    for (const step of [1, 2, 3, 5, 7, 64]) expect(collected(codec, text, step)).toEqual(whole);
  });

  test("cached-tokens-add-and-subtract, zero-and-missing-completion-tokens", () => {
    const usage = codec.encodeUsage({ ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 3, reasoningTokens: 4 });
    expect(usage).toMatchObject({ prompt_tokens: 100, completion_tokens: 7, total_tokens: 107, prompt_tokens_details: { cached_tokens: 40 } });
    const told = (value: object) => codec.decodeAnswer({ choices: [], usage: value }, same)?.usage;
    expect(told({ prompt_tokens: 5, completion_tokens: 0 })).toMatchObject({ inputTokens: 5, outputTokens: 0 });
    expect(told({ prompt_tokens: 5 })).toMatchObject({ inputTokens: 5, outputTokens: 0 });
  });
});
