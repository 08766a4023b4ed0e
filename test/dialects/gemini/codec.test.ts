import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { NO_USAGE } from "../../../src/core/usage.ts";
import { anthropicCodec } from "../../../src/dialects/anthropic/index.ts";
import { geminiCodec as codec } from "../../../src/dialects/gemini/index.ts";
import type { ChatRequest } from "../../../src/dialects/message.ts";
import { openaiCodec } from "../../../src/dialects/openai/codec.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { answering, collected, decoded, encoding, eventsOf, read, REQUEST, same, sse } from "../codec-kit.ts";
import { answers, requests, thinkingBlock, turns } from "../generators.ts";

type Body = { readonly contents: { readonly role: string; readonly parts: Record<string, unknown>[] }[] } & Record<string, unknown>;
const sent = (request: Partial<ChatRequest>, more: object = {}) =>
  codec.encodeRequest({ ...REQUEST, ...request }, encoding("gemini", more)).body as Body;
const fromOpenai = (body: object, model = "gemini-2.5-flash") =>
  codec.encodeRequest(read(openaiCodec, body as never, { model }).request, encoding("gemini")).body as Body;
const text = (value: string) => ({ type: "text" as const, text: value });
const call = (id: string, name = "look", input = "{}", more: object = {}) => ({ type: "tool_call" as const, id, name, input, ...more });
const result = (id: string, value: string, name: string | null = "look") => ({
  type: "tool_result" as const,
  id,
  name,
  isError: false,
  content: [text(value)],
});
const user = (...blocks: readonly object[]) => ({ role: "user" as const, blocks: blocks as never });
const assistant = (...blocks: readonly object[]) => ({ role: "assistant" as const, blocks: blocks as never });
const USER = { role: "user", content: "hi" };
const contents = (...all: readonly object[]) => ({ contents: [{ role: "user", parts: [{ text: "hi" }] }, ...all] });

describe("a request for Gemini", () => {
  test("developer-role-becomes-system, several-system-messages-merge-in-order, max_tokens-and-max_completion_tokens-both-accepted, stop-string-and-array", () => {
    const messages = [{ role: "system", content: "a" }, { role: "developer", content: "b" }, USER];
    expect(fromOpenai({ messages, max_tokens: 7, stop: "x", temperature: 2, seed: 5, top_k: 3 })).toEqual({
      contents: [{ role: "user", parts: [{ text: "hi" }] }],
      systemInstruction: { parts: [{ text: "a" }, { text: "b" }] },
      generationConfig: { maxOutputTokens: 7, stopSequences: ["x"], temperature: 2, seed: 5, topK: 3 },
    });
  });

  test("system-only-input-keeps-a-user-turn, gemini-first-turn-must-be-user", () => {
    expect(sent({ turns: [], system: [text("a")] }).contents).toEqual([{ role: "user", parts: [{ text: "." }] }]);
    expect(sent({ turns: [assistant(text("a")), user(text("b"))] }).contents.map(({ role }) => role)).toEqual(["user", "model", "user"]);
  });

  test("trailing-assistant-prefill-removed-for-gemini, trailing-unanswered-function-call-removed-for-gemini", () => {
    const options = encoding("gemini");
    const { body } = codec.encodeRequest({ ...REQUEST, turns: [user(text("a")), assistant(text("Sure:"))] }, options);
    expect(body.contents).toEqual([{ role: "user", parts: [{ text: "a" }] }]);
    expect(options.losses.dropped).toEqual(["messages"]);
    expect(sent({ turns: [user(text("a")), assistant(text("b"), call("1")), user(text("c"))] }).contents[1]).toEqual({
      role: "model",
      parts: [{ text: "b" }],
    });
  });

  test("non-object-tool-input-preserved-toward-gemini, invalid-tool-arguments-become-empty-object", () => {
    const args = (input: string) =>
      sent({ turns: [user(text("a")), assistant(call("1", "look", input)), user(result("1", "x"))] }).contents[1]?.parts[0]?.functionCall;
    expect(args("[1,2]")).toEqual({ name: "look", args: { value: [1, 2] } });
    expect(args("{broken")).toEqual({ name: "look", args: {} });
    expect(args("")).toEqual({ name: "look", args: {} });
  });

  test("out-of-order-explicit-ids-not-duplicated: answers stand in the order of their calls", () => {
    const tool = (id: string) => ({ role: "tool", tool_call_id: id, content: `of ${id}` });
    const calls = ["1", "2"].map((id) => ({ id, type: "function", function: { name: "look", arguments: "{}" } }));
    const { contents: all } = fromOpenai({ messages: [USER, { role: "assistant", tool_calls: calls }, tool("2"), tool("1")] });
    const answer = (value: string) => ({ functionResponse: { name: "look", response: { result: value } } });
    expect(all[2]?.parts).toEqual([answer("of 1"), answer("of 2")]);
  });

  test("tool-result-with-text-and-image: the image stands beside the answer", () => {
    const image = { type: "image", source: { kind: "base64", mediaType: "image/png", data: "AAAA" } };
    const { contents: all } = sent({
      turns: [user(text("a")), assistant(call("1")), user({ ...result("1", "x"), content: [text("seen"), image] }, text("and?"))],
    });
    expect(all[2]?.parts).toEqual([
      { functionResponse: { name: "look", response: { result: "seen" } } },
      { inlineData: { mimeType: "image/png", data: "AAAA" } },
      { text: "and?" },
    ]);
  });

  test("image-data-url-and-http-url, pdf-document-round-trip, audio-and-video-parts-kept", () => {
    const parts = [
      { type: "image_url", image_url: { url: "data:image/png;base64,AAAA" } },
      { type: "image_url", image_url: { url: "https://example.test/a.png" } },
      { type: "file", file: { filename: "a.pdf", file_data: "data:application/pdf;base64,BBBB" } },
      { type: "input_audio", input_audio: { data: "CCCC", format: "wav" } },
    ];
    expect(fromOpenai({ messages: [{ role: "user", content: parts }] }).contents[0]?.parts).toEqual([
      { inlineData: { mimeType: "image/png", data: "AAAA" } },
      { fileData: { mimeType: "image/*", fileUri: "https://example.test/a.png" } },
      { inlineData: { mimeType: "application/pdf", data: "BBBB" } },
      { inlineData: { mimeType: "audio/wav", data: "CCCC" } },
    ]);
  });

  test("tool-name-too-long-shortened-and-restored, strict-flag-removed-for-gemini", () => {
    const name = `1${"n".repeat(80)}`;
    const { body, toolName } = codec.encodeRequest(
      { ...REQUEST, tools: [{ kind: "function", name, description: null, schema: null, strict: true }] },
      encoding("gemini"),
    );
    const declared = (body.tools as { functionDeclarations: { name: string }[] }[])[0]?.functionDeclarations[0];
    expect(Object.keys(declared ?? {})).toEqual(["name", "parametersJsonSchema"]);
    expect(declared?.name).toMatch(/^_1n{62}$/);
    expect(toolName(declared?.name ?? "")).toBe(name);
  });

  test.each([
    ["auto", { mode: "AUTO" }],
    ["none", { mode: "NONE" }],
    ["required", { mode: "ANY" }],
    [
      { type: "function", function: { name: "look" } },
      { mode: "ANY", allowedFunctionNames: ["look"] },
    ],
  ])("specific-tool-choice-each-way, tool_choice-dropped-when-no-tools: %j", (choice, told) => {
    const tools = [{ type: "function", function: { name: "look" } }];
    expect(fromOpenai({ messages: [USER], tools, tool_choice: choice }).toolConfig).toEqual({ functionCallingConfig: told });
    expect(fromOpenai({ messages: [USER], tool_choice: choice })).not.toHaveProperty("toolConfig");
    const back = read(codec, {
      ...contents(),
      tools: [{ functionDeclarations: [{ name: "look" }] }],
      toolConfig: { functionCallingConfig: told },
    }).request;
    expect(openaiCodec.encodeRequest(back, encoding()).body.tool_choice).toEqual(choice);
  });

  test("builtin-web-search-mapping, each way", () => {
    expect(sent({ tools: [{ kind: "web_search" }] }).tools).toEqual([{ googleSearch: {} }]);
    expect(read(codec, { ...contents(), tools: [{ google_search: {} }] }).request.tools).toEqual([{ kind: "web_search" }]);
  });

  test("json_schema-response-format-each-way", () => {
    const schema = { type: "object", properties: { a: { type: "string" } } };
    const config = sent({ format: { kind: "json_schema", name: "a", schema, strict: true, description: null } }).generationConfig;
    expect(config).toEqual({ responseMimeType: "application/json", responseJsonSchema: schema });
    expect(read(codec, { ...contents(), generationConfig: config }).request.format).toMatchObject({ kind: "json_schema", schema });
    expect(sent({ format: { kind: "json" } }).generationConfig).toEqual({ responseMimeType: "application/json" });
    const upper = { type: "OBJECT", properties: { type: { type: "STRING" } } };
    expect(read(codec, { ...contents(), generationConfig: { responseSchema: upper } }).request.format).toMatchObject({
      schema: { type: "object", properties: { type: { type: "string" } } },
    });
  });

  test("more than five stops cannot be expressed", () => {
    expect(refusalOf(() => sent({ stop: ["1", "2", "3", "4", "5", "6"] }))).toMatchObject({ code: "untranslatable", param: "stop" });
  });
});

describe("thoughts", () => {
  const signed = { type: "thinking" as const, text: "hm", signature: { family: "gemini" as const, value: "c2ln" } };

  test("signed-thinking-replayed-byte-exact, foreign-signature-dropped-not-forged, hidden-thought-parts-not-forwarded", () => {
    const parts = (block: object) => sent({ turns: [user(text("a")), assistant(block, text("b")), user(text("c"))] }).contents[1]?.parts;
    expect(parts(signed)).toEqual([{ text: "hm", thought: true, thoughtSignature: "c2ln" }, { text: "b" }]);
    expect(parts({ ...signed, signature: { family: "anthropic", value: "x" } })).toEqual([{ text: "b" }]);
    expect(parts({ ...signed, signature: null })).toEqual([{ text: "b" }]);
    expect(read(codec, contents({ role: "user", parts: [{ text: "x", thought: true }, { text: "a" }] })).request.turns).toEqual([
      user(text("hi"), text("a")),
    ]);
  });

  test("only-first-parallel-gemini-call-carries-signature", () => {
    const more = { signature: { family: "gemini", value: "c2ln" } };
    const { contents: all } = sent({
      turns: [user(text("a")), assistant(call("1", "x", "{}", more), call("2", "y", "{}", more)), user(result("1", "", "x"), result("2", "", "y"))],
    });
    expect(all[1]?.parts.map(({ thoughtSignature }) => thoughtSignature)).toEqual(["c2ln", undefined]);
  });

  test("reasoning-item-without-text-keeps-signature: a signed text", () => {
    const { request } = read(
      codec,
      contents({ role: "model", parts: [{ text: "a", thoughtSignature: "c2ln" }] }, { role: "user", parts: [{ text: "b" }] }),
    );
    expect(request.turns[1]?.blocks).toEqual([{ ...signed, text: "" }, text("a")]);
  });

  test.each([
    ["gemini-2.5-flash", "none", { thinkingBudget: 0, includeThoughts: false }],
    ["gemini-2.5-pro", "none", { thinkingBudget: 128, includeThoughts: false }],
    ["gemini-2.5-flash", "auto", { thinkingBudget: -1, includeThoughts: true }],
    ["gemini-2.5-flash", "max", { thinkingBudget: 24_576, includeThoughts: true }],
    ["gemini-2.5-flash-lite", "minimal", { thinkingBudget: 512, includeThoughts: true }],
    ["gemini-3-pro-preview", "medium", { thinkingLevel: "high", includeThoughts: true }],
    ["gemini-3-pro-preview", "none", { thinkingLevel: "low", includeThoughts: false }],
    ["gemini-3-flash", "medium", { thinkingLevel: "medium", includeThoughts: true }],
  ] as const)("cannot-disable-model-falls-to-lowest, auto-to-mid-range, clamped: %s %s", (model, level, config) => {
    expect(sent({ model, reasoning: { level, budgetTokens: null, wantsThoughts: null } }).generationConfig).toEqual({ thinkingConfig: config });
  });

  test("a model that cannot think is not asked to", () => {
    const options = encoding("gemini");
    const reasoning = { level: "high" as const, budgetTokens: null, wantsThoughts: null };
    expect(codec.encodeRequest({ ...REQUEST, model: "gemini-2.0-flash", reasoning }, options).body).not.toHaveProperty("generationConfig");
    expect(options.losses.dropped).toEqual(["reasoning"]);
  });

  test.each([
    [
      { thinkingBudget: 8_192, includeThoughts: true },
      { level: "medium", budgetTokens: 8_192, wantsThoughts: true },
    ],
    [{ thinking_budget: -1 }, { level: "auto", budgetTokens: -1, wantsThoughts: null }],
    [{ thinkingLevel: "LOW" }, { level: "low", budgetTokens: null, wantsThoughts: null }],
  ])("thinkingConfig %j", (config, reasoning) => {
    expect(read(codec, { ...contents(), generationConfig: { thinkingConfig: config } }).request.reasoning).toEqual(reasoning);
  });
});

describe("a request of a Gemini client", () => {
  test("snake_case-and-camelCase-gemini-fields", () => {
    const snake = {
      contents: [{ parts: [{ inline_data: { mime_type: "image/png", data: "AAAA" } }] }],
      system_instruction: { parts: [{ text: "s" }] },
      generation_config: { max_output_tokens: 5, stop_sequences: ["x"] },
    };
    const camel = {
      contents: [{ role: "user", parts: [{ inlineData: { mimeType: "image/png", data: "AAAA" } }] }],
      systemInstruction: { parts: [{ text: "s" }] },
      generationConfig: { maxOutputTokens: 5, stopSequences: ["x"] },
    };
    expect(read(codec, snake)).toEqual(read(codec, camel));
    expect(read(codec, snake)).toMatchObject({ dropped: [], request: { maxOutputTokens: 5, stop: ["x"], system: [text("s")] } });
  });

  test("function-response-fifo-same-name, empty-functionResponse-name-backfilled", () => {
    const called = { role: "model", parts: [1, 2].map((n) => ({ functionCall: { name: "look", args: { n } } })) };
    const answer = (name: string | undefined, value: string) => ({ functionResponse: { name, response: { result: value } } });
    const { request } = read(codec, contents(called, { role: "user", parts: [answer("look", "first"), answer("", "second")] }));
    const ids = request.turns[1]?.blocks.map((block) => (block as { id: string }).id);
    expect(new Set(ids).size).toBe(2);
    expect(request.turns[2]?.blocks).toMatchObject([
      { id: ids?.[0], name: "look", content: [text("first")] },
      { id: ids?.[1], name: "look", content: [text("second")] },
    ]);
  });

  test("non-image-inline-data-split-by-mime", () => {
    const part = (mimeType: string) => ({ inlineData: { mimeType, data: "AAAA" } });
    const { request } = read(codec, { contents: [{ parts: [part("image/png"), part("application/pdf"), part("audio/wav"), part("video/mp4")] }] });
    expect(request.turns[0]?.blocks.map(({ type }) => type)).toEqual(["image", "file", "media", "media"]);
  });

  test.each([
    ["cachedContent", { cachedContent: "cachedContents/1" }],
    ["generationConfig.candidateCount", { generationConfig: { candidateCount: 2 } }],
    ["generationConfig.responseLogprobs", { generationConfig: { responseLogprobs: true } }],
    ["generationConfig.responseModalities", { generationConfig: { responseModalities: ["TEXT", "IMAGE"] } }],
    ["tools[0].codeExecution", { tools: [{ codeExecution: {} }] }],
    ["contents[0].parts[0]", { contents: [{ parts: [{ hologram: {} }] }] }],
  ])("%s cannot be expressed elsewhere", (field, more) => {
    expect(refusalOf(() => read(codec, { ...contents(), ...more }))).toMatchObject({ code: "untranslatable", param: field });
    expect(read(codec, { ...contents(), ...more }, { lossy: true }).dropped).toContain(field);
  });

  test("what only tunes is dropped and named", () => {
    const body = { ...contents(), safetySettings: [], generationConfig: { presencePenalty: 1 } };
    expect(read(codec, body).dropped).toEqual(["safetySettings", "generationConfig.presencePenalty"]);
  });

  test("whatever JSON comes: a request, or a refusal that names a field", () => {
    const field = fc.constantFrom("contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "cachedContent");
    const few = { maxKeys: 3, size: "small" } as const;
    const inner = fc.dictionary(fc.constantFrom("name", "args", "response", "data", "mimeType", "fileUri", "id"), fc.jsonValue({ maxDepth: 1 }), few);
    const names = fc.constantFrom("text", "thought", "thoughtSignature", "inlineData", "fileData", "functionCall", "functionResponse");
    const part = fc.dictionary(names, fc.oneof(fc.jsonValue({ maxDepth: 1 }), inner), few);
    const all = fc.array(
      fc.record({ role: fc.constantFrom("user", "model"), parts: fc.oneof(fc.jsonValue({ maxDepth: 1 }), fc.array(part, { maxLength: 3 })) }),
      {
        maxLength: 4,
      },
    );
    fc.assert(
      fc.property(
        fc.oneof(
          fc.dictionary(field, fc.jsonValue()),
          all.map((list) => ({ contents: list })),
        ),
        (body) => {
          try {
            const { request } = read(codec, body, { lossy: true });
            const lenient = { cannot() {}, drops() {}, dropped: [] };
            for (const target of [codec, openaiCodec, anthropicCodec]) target.encodeRequest(request, encoding("gemini", { losses: lenient }));
          } catch (error) {
            expect(error).toBeInstanceOf(GuardError);
            expect((error as GuardError).param).toBeTruthy();
          }
        },
      ),
      { numRuns: 1_000 },
    );
  });
});

const fragment = (parts: readonly object[], more: object = {}, rest: object = {}) => ({
  candidates: [{ content: { role: "model", parts }, index: 0, ...more }],
  modelVersion: "gemini-2.5-flash",
  responseId: "r1",
  ...rest,
});
const USAGE = {
  usageMetadata: { promptTokenCount: 100, cachedContentTokenCount: 40, candidatesTokenCount: 5, thoughtsTokenCount: 2, totalTokenCount: 107 },
};

describe("a stream of Gemini's, read", () => {
  test("usage comes with the last fragment; zeros of early ones are none; finish-reason-only-on-final-chunk", () => {
    const zero = { usageMetadata: { promptTokenCount: 0, totalTokenCount: 0 } };
    const all = sse(fragment([{ text: "a" }], {}, zero), fragment([{ text: "b" }], { finishReason: "STOP" }, USAGE));
    expect(
      decoded(codec, all)
        .flat()
        .filter(({ type }) => type === "usage"),
    ).toHaveLength(1);
    expect(collected(codec, all)).toMatchObject({
      id: "r1",
      model: "gemini-2.5-flash",
      usage: { inputTokens: 60, cacheReadTokens: 40, outputTokens: 5, reasoningTokens: 2 },
      choices: [{ blocks: [text("ab")], stop: "stop" }],
    });
  });

  test("thoughts, their signature, calls and their ids", () => {
    const all = sse(
      fragment([{ text: "h", thought: true }]),
      fragment([{ text: "m", thought: true }]),
      fragment([{ text: "", thought: true, thoughtSignature: "c2ln" }]),
      fragment([
        { text: "a" },
        { functionCall: { name: "look", args: { a: 1 } }, thoughtSignature: "c2ln" },
        { functionCall: { name: "look", args: { a: 2 } } },
      ]),
      fragment([], { finishReason: "STOP" }),
    );
    const blocks = collected(codec, all)?.choices[0]?.blocks;
    expect(blocks).toMatchObject([
      { type: "thinking", text: "hm", signature: { family: "gemini", value: "c2ln" } },
      text("a"),
      { type: "tool_call", name: "look", input: '{"a":1}', signature: { value: "c2ln" } },
      { type: "tool_call", name: "look", input: '{"a":2}' },
    ]);
    expect(collected(codec, all)?.choices[0]?.stop).toBe("tool_calls");
    expect(new Set(blocks?.flatMap((block) => (block.type === "tool_call" ? [block.id] : []))).size).toBe(2);
  });

  test("signature-only-chunk-opens-no-text-block", () => {
    const all = sse(fragment([{ text: "a" }]), fragment([{ text: "", thoughtSignature: "c2ln" }], { finishReason: "STOP" }));
    expect(collected(codec, all)?.choices[0]?.blocks).toEqual([
      text("a"),
      { type: "thinking", text: "", signature: { family: "gemini", value: "c2ln" } },
    ]);
  });

  test("tool-calls-beat-max_tokens, refusal-becomes-content_filter, a blocked prompt", () => {
    expect(collected(codec, sse(fragment([{ functionCall: { name: "look" } }], { finishReason: "MAX_TOKENS" })))?.choices[0]?.stop).toBe(
      "tool_calls",
    );
    expect(collected(codec, sse(fragment([], { finishReason: "SAFETY" })))?.choices[0]?.stop).toBe("content_filter");
    const blocked = { promptFeedback: { blockReason: "SAFETY" } };
    expect(collected(codec, sse(blocked))?.choices).toEqual([{ index: 0, blocks: [], stop: "content_filter", stopSequence: null }]);
    expect(codec.decodeAnswer(blocked, same)?.choices[0]?.stop).toBe("content_filter");
  });

  test("upstream-closes-without-terminal-event has no end; error-event-inside-200-stream", () => {
    expect(collected(codec, sse(fragment([{ text: "a" }])))).toBeNull();
    const told = decoded(codec, sse(fragment([{ text: "a" }]), { error: { code: 503, message: "busy", status: "UNAVAILABLE" } })).flat();
    expect(told.at(-1)).toEqual({ type: "error", message: "busy", kind: "UNAVAILABLE" });
  });

  test("images-in-answer, multiple-candidates-kept-by-index", () => {
    const image = { inlineData: { mimeType: "image/png", data: "AAAA" } };
    const all = sse(
      {
        candidates: [
          { index: 1, content: { parts: [{ text: "b" }] } },
          { index: 0, content: { parts: [image] } },
        ],
      },
      {
        candidates: [
          { index: 0, finishReason: "STOP" },
          { index: 1, finishReason: "MAX_TOKENS" },
        ],
      },
    );
    expect(collected(codec, all)?.choices).toMatchObject([
      { index: 0, stop: "stop", blocks: [{ type: "image" }] },
      { index: 1, stop: "length", blocks: [text("b")] },
    ]);
    const chunks = openaiCodec.encoder(answering()).push(decoded(codec, all).flat());
    expect(chunks).toContain('"images":[{"type":"image_url","image_url":{"url":"data:image/png;base64,AAAA"}}]');
  });

  test("whatever a provider sends: events, or a protocol error, never anything else", () => {
    const few = { maxKeys: 2, size: "small" } as const;
    const value = fc.jsonValue({ maxDepth: 1 });
    const part = fc.dictionary(fc.constantFrom("text", "functionCall", "inlineData", "thought"), value, few);
    const parts = fc.record({ parts: fc.array(part, { maxLength: 2 }) });
    const candidate = fc.dictionary(fc.constantFrom("index", "content", "finishReason"), fc.oneof(value, parts), few);
    const names = fc.constantFrom("candidates", "usageMetadata", "promptFeedback", "error", "responseId");
    const one = fc.dictionary(names, fc.oneof(value, fc.array(candidate, { maxLength: 3 })), few);
    fc.assert(
      fc.property(fc.array(one, { maxLength: 3 }), (all) => {
        for (const body of all) codec.decodeAnswer(body, same);
        try {
          decoded(codec, sse(...all));
        } catch (error) {
          expect(error).toMatchObject({ code: "upstream_protocol" });
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

describe("laws", () => {
  test("a request that is written and read again is the same, but for its ids", () => {
    const conversation = turns([thinkingBlock("gemini")]);
    const shape = ({ turns: all }: ChatRequest) =>
      JSON.parse(JSON.stringify(all, (name, value: unknown) => (name === "id" ? undefined : value))) as object;
    fc.assert(
      fc.property(requests({ model: "gemini-2.5-flash", turns: conversation }), (request) => {
        const { body } = codec.encodeRequest(request, encoding("gemini"));
        const again = read(codec, body, { model: request.model, stream: request.stream }).request;
        // An image's address has a media type here.
        const told = JSON.stringify(shape(again)).replaceAll('"mediaType":"image/*"', '"mediaType":null');
        expect(JSON.parse(told)).toEqual(shape(request));
        expect({ ...again, turns: [] }).toEqual({ ...request, turns: [] });
      }),
      { numRuns: 1_000 },
    );
  });

  test("an answer that is written and read again is the same, whole and as a stream: stream-and-non-stream-parity", () => {
    fc.assert(
      fc.property(answers([thinkingBlock("gemini")]), (answer) => {
        const whole = codec.decodeAnswer(codec.encodeAnswer(answer, answering()), same);
        const streamed = collected(codec, codec.encoder(answering()).push(eventsOf(answer)));
        for (const told of [whole, streamed]) {
          expect(told?.choices).toEqual(answer.choices);
          if (answer.usage && Object.values(answer.usage).some((count) => count > 0)) expect(told?.usage).toMatchObject(answer.usage);
        }
      }),
      { numRuns: 1_000 },
    );
  });

  test("a stream that is cut anywhere gives the same", () => {
    const all = sse(fragment([{ text: "ä€😀" }]), fragment([{ functionCall: { name: "look", args: { a: "é" } } }], { finishReason: "STOP" }, USAGE));
    const whole = collected(codec, all);
    for (let step = 1; step < 40; step += 1) expect(collected(codec, all, step)).toEqual(whole);
  });

  test("what goes through Gemini's and Anthropic's dialects keeps texts, tools and stops", () => {
    fc.assert(
      fc.property(answers(), (answer) => {
        const asGemini = codec.encoder(answering()).push(eventsOf(answer));
        const asClaude = anthropicCodec.encoder(answering()).push(decoded(codec, asGemini).flat());
        expect(collected(anthropicCodec, asClaude)?.choices).toEqual(answer.choices);
      }),
      { numRuns: 300 },
    );
  });

  test("usage: cached-tokens-add-and-subtract", () => {
    expect(codec.encodeUsage({ ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 5, reasoningTokens: 2 })).toEqual(
      USAGE.usageMetadata,
    );
  });
});
