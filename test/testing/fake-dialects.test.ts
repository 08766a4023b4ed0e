// The official clients, straight at the fake: what they understand is what a provider says.
import Anthropic from "@anthropic-ai/sdk";
import { ApiError, FinishReason, FunctionCallingConfigMode, GoogleGenAI } from "@google/genai";
import OpenAI from "openai";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, type FakeReply, type FakeUpstream } from "quotaguard/testing";
import { readFrames } from "../dialects/kiro/kit.ts";

let upstream: FakeUpstream;
let openai: OpenAI;
let anthropic: Anthropic;
let google: GoogleGenAI;
beforeEach(async () => {
  upstream = await fakeUpstream();
  openai = new OpenAI({ apiKey: "sk-canary", baseURL: `${upstream.url}/v1`, maxRetries: 0 });
  anthropic = new Anthropic({ apiKey: "sk-canary", baseURL: upstream.url, maxRetries: 0 });
  google = new GoogleGenAI({ apiKey: "sk-canary", httpOptions: { baseUrl: upstream.url } });
});
afterEach(() => upstream.close());

const IMAGE = { mediaType: "image/png", data: "iVBORw0KGgo=" };
const SCHEMA = { type: "object" as const, properties: { city: { type: "string" } } };
const rich: FakeReply = {
  reasoning: ["I ", "think"],
  signature: "c2lnbmVk",
  text: ["Hel", "lo"],
  toolCall: { name: "weather", arguments: ['{"city"', ':"Oslo"}'] },
  cacheReadTokens: 2,
};

describe("Responses", () => {
  const ask = { model: "gpt-5", input: "one two three" };

  test("an echo, whole and streamed, with the same figures", async () => {
    const whole = await openai.responses.create({ ...ask, instructions: "be kind" });
    expect([whole.output_text, whole.status, whole.usage?.input_tokens, whole.usage?.output_tokens]).toEqual([
      "You said: one two three",
      "completed",
      5,
      5,
    ]);
    const streamed = await openai.responses.stream(ask).finalResponse();
    expect([streamed.output_text, streamed.usage?.total_tokens]).toEqual(["You said: one two three", 8]);
    expect(upstream.log.map(({ call, billed, told }) => [call, billed, told])).toEqual([
      [
        { model: "gpt-5", stream: false },
        { inputTokens: 5, outputTokens: 5 },
        { inputTokens: 5, outputTokens: 5 },
      ],
      [
        { model: "gpt-5", stream: true },
        { inputTokens: 3, outputTokens: 5 },
        { inputTokens: 3, outputTokens: 5 },
      ],
    ]);
  });

  test.each([false, true])("thoughts, text, a call, cached tokens; streamed: %s", async (isStream) => {
    upstream.script(rich);
    const final = isStream ? await openai.responses.stream(ask).finalResponse() : await openai.responses.create(ask);
    expect(final.output).toEqual([
      expect.objectContaining({ type: "reasoning", summary: [{ type: "summary_text", text: "I think" }], encrypted_content: "c2lnbmVk" }),
      expect.objectContaining({ type: "message", status: "completed", content: [expect.objectContaining({ type: "output_text", text: "Hello" })] }),
      expect.objectContaining({ type: "function_call", name: "weather", arguments: '{"city":"Oslo"}', call_id: "call_fake1_0" }),
    ]);
    expect(final.usage).toEqual({
      input_tokens: 3,
      input_tokens_details: { cached_tokens: 2 },
      output_tokens: 6,
      output_tokens_details: { reasoning_tokens: 2 },
      total_tokens: 9,
    });
  });

  test("events are numbered, and each part is told again where it ends", async () => {
    upstream.script({ ...rich, refusal: "never", fault: { at: "end", how: "error" } });
    const { body } = await openai.responses.create({ ...ask, stream: true }).asResponse();
    const text = await new Response(body).text();
    const events = [...text.matchAll(/^event: (.+)\ndata: (.+)$/gm)].map(
      ([, name, data = ""]) => [name, JSON.parse(data) as Record<string, unknown>] as const,
    );
    expect(events.map(([, { sequence_number: at }]) => at)).toEqual([...events.keys()]);
    expect(events.every(([name, { type }]) => name === type)).toBe(true);
    expect(
      events.filter(([name]) => name?.endsWith(".done")).map(([, { text: said, arguments: given, refusal }]) => said ?? given ?? refusal),
    ).toEqual([...["I think", undefined, undefined, "Hello", undefined, "never", undefined, undefined], ...['{"city":"Oslo"}', undefined]]);
    expect(events.at(-1)?.[1]).toMatchObject({ type: "error", code: "server_error" });
  });

  test("a round trip of tools, and a result that belongs to no call", async () => {
    const tools = [{ type: "function" as const, name: "weather", parameters: SCHEMA, strict: false }];
    const first = await openai.responses.create({ ...ask, tools });
    const [call] = first.output;
    if (call?.type !== "function_call") throw new Error("no tool was called");
    expect(JSON.parse(call.arguments)).toEqual({ city: "Oslo" });
    const result = { type: "function_call_output" as const, call_id: call.call_id, output: "rain today" };
    const second = await openai.responses.create({ ...ask, tools, input: [{ role: "user", content: "hi" }, call, result] });
    expect(second.output_text).toBe("You said: rain today");
    await expect(openai.responses.create({ ...ask, input: [result] })).rejects.toThrow("No tool call found");
  });

  test("images, refusals, caps, custom tools", async () => {
    upstream.script([
      { images: [IMAGE] },
      { refusal: "never" },
      { text: ["a", "b"] },
      { toolCall: { name: "run", arguments: ["ls", " -l"], isCustom: true } },
      { finishReason: "failed" },
    ]);
    expect((await openai.responses.stream(ask).finalResponse()).output).toMatchObject([{ type: "image_generation_call", result: IMAGE.data }]);
    expect((await openai.responses.stream(ask).finalResponse()).output).toMatchObject([{ content: [{ type: "refusal", refusal: "never" }] }]);
    const cut = await openai.responses.stream({ ...ask, max_output_tokens: 1 }).finalResponse();
    expect(cut).toMatchObject({ status: "incomplete", incomplete_details: { reason: "max_output_tokens" }, output: [{ status: "incomplete" }] });
    expect((await openai.responses.stream(ask).finalResponse()).output).toMatchObject([{ type: "custom_tool_call", name: "run", input: "ls -l" }]);
    expect(await openai.responses.create(ask)).toMatchObject({ status: "failed", error: { code: "server_error" } });
  });
});

describe("Anthropic's Messages", () => {
  const ask = { model: "claude-sonnet-5", max_tokens: 100, messages: [{ role: "user" as const, content: "one two three" }] };

  test("an echo, whole and streamed, with the same figures", async () => {
    const whole = await anthropic.messages.create({ ...ask, system: "be kind" });
    expect(whole).toMatchObject({
      content: [{ type: "text", text: "You said: one two three" }],
      stop_reason: "end_turn",
      usage: { input_tokens: 5, output_tokens: 5 },
    });
    const streamed = await anthropic.messages.stream(ask).finalMessage();
    expect(streamed).toMatchObject({ content: [{ text: "You said: one two three" }], usage: { input_tokens: 3, output_tokens: 5 } });
    expect(upstream.log.map(({ call, billed, told }) => [call, billed, told])).toEqual([
      [
        { model: ask.model, stream: false },
        { inputTokens: 5, outputTokens: 5 },
        { inputTokens: 5, outputTokens: 5 },
      ],
      [
        { model: ask.model, stream: true },
        { inputTokens: 3, outputTokens: 5 },
        { inputTokens: 3, outputTokens: 5 },
      ],
    ]);
  });

  test.each([false, true])("thoughts, text, a call, cached tokens; streamed: %s", async (isStream) => {
    upstream.script({ ...rich, cacheWriteTokens: 1, redactedReasoning: "aGlkZGVu" });
    const final = isStream ? await anthropic.messages.stream(ask).finalMessage() : await anthropic.messages.create(ask);
    expect(final.content).toEqual([
      { type: "redacted_thinking", data: "aGlkZGVu" },
      { type: "thinking", thinking: "I think", signature: "c2lnbmVk" },
      { type: "text", text: "Hello" },
      { type: "tool_use", id: "toolu_fake1_0", name: "weather", input: { city: "Oslo" } },
    ]);
    expect(final).toMatchObject({
      stop_reason: "tool_use",
      usage: { input_tokens: 0, cache_read_input_tokens: 2, cache_creation_input_tokens: 1, output_tokens: 6 },
    });
    expect(upstream.log[0]?.told).toEqual({ inputTokens: 3, outputTokens: 6 });
  });

  test("a round trip of tools, and what a provider refuses", async () => {
    const tools = [{ name: "weather", input_schema: SCHEMA }];
    const first = await anthropic.messages.create({ ...ask, tools });
    const call = first.content.find((block) => block.type === "tool_use");
    expect(call?.input).toEqual({ city: "Oslo" });
    const answered = (id: string): Anthropic.MessageParam[] => [
      ...ask.messages,
      { role: "assistant", content: first.content },
      { role: "user", content: [{ type: "tool_result", tool_use_id: id, content: "rain today" }] },
    ];
    const second = await anthropic.messages.create({ ...ask, tools, messages: answered(call?.id ?? "") });
    expect(second.content).toMatchObject([{ text: "You said: rain today" }]);
    await expect(anthropic.messages.create({ ...ask, messages: answered("toolu_other") })).rejects.toThrow("unexpected tool_use_id");
    await expect(anthropic.messages.create({ ...ask, messages: answered("x").slice(0, 2).concat(ask.messages) })).rejects.toThrow(
      "without tool_result",
    );
    await expect(anthropic.messages.create({ ...ask, messages: [] })).rejects.toBeInstanceOf(Anthropic.BadRequestError);
    await expect(anthropic.messages.create({ ...ask, thinking: { type: "enabled", budget_tokens: 1_024 } })).rejects.toThrow("budget_tokens");
    const bare = await fetch(`${upstream.url}/v1/messages`, { method: "POST", body: JSON.stringify(ask) });
    expect([bare.status, await bare.json()]).toEqual([400, expect.objectContaining({ type: "error" })]);
  });

  test("counts tokens without a bill, refuses, stops at the cap, shows no images", async () => {
    expect(await anthropic.messages.countTokens({ model: ask.model, messages: ask.messages })).toEqual({ input_tokens: 3 });
    expect(upstream.log[0]).toMatchObject({ call: { model: ask.model, stream: false }, told: { inputTokens: 0, outputTokens: 0 } });
    upstream.script([{ refusal: "never" }, { text: ["a", "b"] }, { images: [IMAGE] }]);
    expect(await anthropic.messages.stream(ask).finalMessage()).toMatchObject({ stop_reason: "refusal", content: [{ text: "never" }] });
    expect(await anthropic.messages.stream({ ...ask, max_tokens: 1 }).finalMessage()).toMatchObject({
      stop_reason: "max_tokens",
      content: [{ text: "a" }],
    });
    await expect(anthropic.messages.create(ask)).rejects.toThrow("holds no images");
    expect(upstream.totals()).toEqual({ requests: 4, inputTokens: 6, outputTokens: 2 });
  });
});

describe("Google's generateContent", () => {
  const ask = { model: "gemini-2.5-flash", contents: "one two three" };

  async function streamed(params: Parameters<GoogleGenAI["models"]["generateContentStream"]>[0]) {
    const chunks = [];
    for await (const chunk of await google.models.generateContentStream(params)) chunks.push(chunk);
    const parts = chunks.flatMap(({ candidates }) => candidates?.[0]?.content?.parts ?? []);
    const last = chunks.at(-1);
    return {
      parts,
      text: parts.map((part) => (part.thought ? "" : (part.text ?? ""))).join(""),
      finish: last?.candidates?.[0]?.finishReason,
      usage: last?.usageMetadata,
      chunks,
    };
  }

  test("an echo, whole and streamed, with the same figures", async () => {
    const whole = await google.models.generateContent({ ...ask, config: { systemInstruction: "be kind" } });
    expect([whole.text, whole.candidates?.[0]?.finishReason]).toEqual(["You said: one two three", FinishReason.STOP]);
    expect(whole.usageMetadata).toMatchObject({ promptTokenCount: 5, candidatesTokenCount: 5, totalTokenCount: 10 });
    const { text, finish, usage, chunks } = await streamed(ask);
    expect([text, finish, usage?.totalTokenCount]).toEqual(["You said: one two three", FinishReason.STOP, 8]);
    expect(chunks.filter(({ usageMetadata }) => usageMetadata)).toHaveLength(1);
    expect(upstream.log.map(({ call, billed, told }) => [call, billed, told])).toEqual([
      [
        { model: ask.model, stream: false },
        { inputTokens: 5, outputTokens: 5 },
        { inputTokens: 5, outputTokens: 5 },
      ],
      [
        { model: ask.model, stream: true },
        { inputTokens: 3, outputTokens: 5 },
        { inputTokens: 3, outputTokens: 5 },
      ],
    ]);
  });

  test("thoughts, text, a signed call, cached tokens", async () => {
    upstream.script(rich);
    const seen = [
      { text: "I think", thought: true },
      { text: "Hello" },
      { functionCall: { name: "weather", args: { city: "Oslo" } }, thoughtSignature: "c2lnbmVk" },
    ];
    const usage = { promptTokenCount: 3, cachedContentTokenCount: 2, candidatesTokenCount: 4, thoughtsTokenCount: 2, totalTokenCount: 9 };
    const whole = await google.models.generateContent(ask);
    expect(whole.candidates?.[0]?.content?.parts).toEqual(seen);
    expect(whole.usageMetadata).toMatchObject(usage);
    const stream = await streamed(ask);
    expect(stream.parts.map((part) => part.text ?? part.functionCall?.name)).toEqual(["I ", "think", "Hel", "lo", "weather", ""]);
    expect(stream.usage).toMatchObject(usage);
    expect(upstream.log.map(({ told }) => told)).toEqual(Array.from({ length: 2 }, () => ({ inputTokens: 3, outputTokens: 6 })));
  });

  test("a round trip of tools, and what a provider refuses", async () => {
    const config = { tools: [{ functionDeclarations: [{ name: "weather", parametersJsonSchema: SCHEMA }] }] };
    const first = await google.models.generateContent({ ...ask, config });
    expect(first.functionCalls).toEqual([{ name: "weather", args: { city: "Oslo" } }]);
    const turns = [
      { role: "user", parts: [{ text: "hi" }] },
      { role: "model", parts: first.candidates?.[0]?.content?.parts ?? [] },
    ];
    const result = { role: "user", parts: [{ functionResponse: { name: "weather", response: { result: "rain today" } } }] };
    expect((await google.models.generateContent({ ...ask, config, contents: [...turns, result] })).text).toBe("You said: rain today");
    await expect(google.models.generateContent({ ...ask, contents: [...turns, { role: "user", parts: [{ text: "no" }] }] })).rejects.toThrow(
      "function response parts",
    );
    const none = { functionCallingConfig: { mode: FunctionCallingConfigMode.NONE } };
    expect((await google.models.generateContent({ ...ask, config: { ...config, toolConfig: none } })).functionCalls).toBeUndefined();
  });

  test("images, refusals, caps, candidates, counts", async () => {
    upstream.script([{ images: [IMAGE], signature: "c2ln" }, { refusal: "never" }, { text: ["a", "b"] }, { text: ["x"] }]);
    expect((await streamed(ask)).parts).toEqual([
      { inlineData: { mimeType: IMAGE.mediaType, data: IMAGE.data } },
      { text: "", thoughtSignature: "c2ln" },
      { text: "" },
    ]);
    const refused = await google.models.generateContent(ask);
    expect([refused.text, refused.candidates?.[0]?.finishReason, refused.usageMetadata?.candidatesTokenCount]).toEqual([
      undefined,
      FinishReason.SAFETY,
      0,
    ]);
    expect(await streamed({ ...ask, config: { maxOutputTokens: 1 } })).toMatchObject({ text: "a", finish: FinishReason.MAX_TOKENS });
    const several = await google.models.generateContent({ ...ask, config: { candidateCount: 2 } });
    expect([several.candidates?.map(({ index }) => index), several.usageMetadata?.candidatesTokenCount]).toEqual([[0, 1], 2]);
    expect((await google.models.countTokens(ask)).totalTokens).toBe(3);
  });

  test("without alt=sse a stream is one JSON array, also where it fails", async () => {
    const body = JSON.stringify({ contents: [{ parts: [{ text: "hi" }] }] });
    const asArray = async () => {
      const response = await fetch(`${upstream.url}/v1beta/models/g:streamGenerateContent?key=sk-canary`, { method: "POST", body });
      return { type: response.headers.get("content-type"), list: (await response.json()) as { error?: unknown }[] };
    };
    const { type, list } = await asArray();
    expect([type, list.length]).toEqual(["application/json", 4]);
    upstream.script({ fault: { at: 1, how: "error" } });
    expect((await asArray()).list.at(-1)?.error).toMatchObject({ status: "INTERNAL" });
    upstream.script({ fault: { at: "start", how: "error" } });
    expect((await asArray()).list).toHaveLength(1);
    expect(JSON.stringify(upstream.log)).not.toContain("canary");
  });
});

describe("Kiro's event streams", () => {
  const user = (content: string, context?: object) => ({
    userInputMessage: { content, modelId: "claude-sonnet-4.5", origin: "AI_EDITOR", ...(context ? { userInputMessageContext: context } : {}) },
  });
  const assistant = (toolUses: readonly object[]) => ({ assistantResponseMessage: { content: ".", toolUses } });
  const tools = [{ toolSpecification: { name: "weather", description: "tells it", inputSchema: { json: SCHEMA } } }];
  const use = { toolUseId: "t1", name: "weather", input: { city: "Oslo" } };
  const toolResults = [{ toolUseId: "t1", content: [{ text: "rain" }], status: "success" }];

  async function ask(currentMessage: object, history: readonly object[] = [], more: object = {}) {
    const conversationState = { chatTriggerType: "MANUAL", conversationId: "c", currentMessage, history };
    const body = JSON.stringify({ conversationState, ...more });
    const response = await fetch(`${upstream.url}/generateAssistantResponse`, { method: "POST", body });
    const bytes = Buffer.from(await response.arrayBuffer());
    const frames = response.ok ? readFrames(bytes) : [];
    const said = frames.flatMap(({ headers, payload }) => (headers[":event-type"] === "assistantResponseEvent" ? [payload.content] : [])).join("");
    return { status: response.status, type: response.headers.get("content-type"), bytes, frames, said };
  }

  test("an echo, with the same figures", async () => {
    const { type, said, frames } = await ask(user("be kind\n\none two three"));
    expect([type, said]).toEqual(["application/vnd.amazon.eventstream", "You said: one two three"]);
    const usage = { uncachedInputTokens: 5, cacheReadInputTokens: 0, cacheWriteInputTokens: 0, outputTokens: 5, totalTokens: 10 };
    expect(frames.slice(-4).map(({ headers, payload }) => [headers[":event-type"], payload])).toEqual([
      ["messageStopEvent", { stopReason: "END_TURN" }],
      ["metadataEvent", { tokenUsage: usage }],
      ["contextUsageEvent", expect.anything()],
      ["meteringEvent", expect.anything()],
    ]);
    const [entry] = upstream.log;
    expect([entry?.call, entry?.billed, entry?.told]).toEqual([
      { model: "claude-sonnet-4.5", stream: true },
      { inputTokens: 5, outputTokens: 5 },
      { inputTokens: 5, outputTokens: 5 },
    ]);
  });

  test("a round trip of tools, and what a provider refuses", async () => {
    const called = await ask(user("hi", { tools }));
    const events = called.frames.flatMap(({ headers, payload }) => (headers[":event-type"] === "toolUseEvent" ? [payload] : []));
    expect([events.map(({ input = "" }) => input as string).join(""), events.at(-1)?.stop]).toEqual(['{"city": "Oslo"}', true]);
    expect((await ask(user(".", { tools, toolResults }), [user("hi"), assistant([use])])).said).toBe("You said: rain");
    const refused = [
      await ask(user("")),
      await ask(user("x"), [user("y")]),
      await ask(user(".", { toolResults }), [user("hi"), assistant([use])]),
      await ask(user(".", { tools }), [user("hi"), assistant([use])]),
      await ask(user(".", { tools, toolResults }), [user("hi"), assistant([])]),
    ];
    for (const { status, bytes } of refused) expect([status, bytes.toString()]).toEqual([400, expect.stringContaining("Improperly formed")]);
  });

  test("thoughts, the cap, a failure in mid-stream, an answer without an end", async () => {
    upstream.script([
      { reasoning: ["hm"], signature: "s", text: ["a", "b"] },
      { text: ["a", "b"], fault: { at: 1, how: "error" } },
      { text: ["a"], done: false },
    ]);
    const names = ({ frames }: Awaited<ReturnType<typeof ask>>) => frames.map(({ headers }) => headers[":event-type"] ?? headers[":exception-type"]);
    const thought = await ask(user("x"), [], { inferenceConfig: { maxTokens: 2 } });
    expect(names(thought).slice(0, 4)).toEqual(["reasoningContentEvent", "reasoningContentEvent", "assistantResponseEvent", "messageStopEvent"]);
    expect(thought.frames[3]?.payload).toEqual({ stopReason: "MAX_TOKENS" });
    expect(names(await ask(user("x")))).toEqual(["assistantResponseEvent", "InternalServerException"]);
    expect(names(await ask(user("x")))).toEqual(["assistantResponseEvent"]);
    upstream.script({ status: 429 });
    expect(JSON.parse((await ask(user("x"))).bytes.toString())).toMatchObject({ __type: "ThrottlingException" });
  });
});

describe("errors", () => {
  const params = { model: "m", max_tokens: 50, messages: [{ role: "user" as const, content: "hi" }] };
  const calls: Record<string, { readonly whole: () => Promise<unknown>; readonly stream: () => Promise<unknown>; readonly type: unknown }> = {
    chat: {
      whole: () => openai.chat.completions.create(params),
      stream: async () => drained(await openai.chat.completions.create({ ...params, stream: true })),
      type: OpenAI.APIError,
    },
    responses: {
      whole: () => openai.responses.create({ model: "m", input: "hi" }),
      stream: async () => drained(await openai.responses.create({ model: "m", input: "hi", stream: true })),
      type: OpenAI.APIError,
    },
    messages: {
      whole: () => anthropic.messages.create(params),
      stream: async () => drained(await anthropic.messages.create({ ...params, stream: true })),
      type: Anthropic.APIError,
    },
    generateContent: {
      whole: () => google.models.generateContent({ model: "m", contents: "hi" }),
      stream: async () => drained(await google.models.generateContentStream({ model: "m", contents: "hi" })),
      type: ApiError,
    },
  };

  async function drained(stream: AsyncIterable<unknown>): Promise<number> {
    let events = 0;
    for await (const _event of stream) events += 1;
    return events;
  }

  describe.each(Object.entries(calls))("%s", (_name, { whole, stream, type }) => {
    test.each([400, 401, 403, 404, 429, 500, 529])("%i before the first byte", async (status) => {
      upstream.script({ status });
      for (const call of [whole, stream]) {
        const error: unknown = await call().catch((caught: unknown) => caught);
        expect(error).toBeInstanceOf(type);
        expect(error).toMatchObject({ status, message: expect.stringContaining(`scripted answer ${status}`) });
      }
      expect(upstream.totals()).toEqual({ requests: 2, inputTokens: 0, outputTokens: 0 });
    });

    test("in mid-stream", async () => {
      upstream.script({ fault: { at: 3, how: "error" } });
      await expect(stream()).rejects.toThrow("scripted answer 500");
    });

    test("a connection that breaks", async () => {
      upstream.script({ fault: { at: 3, how: "reset" } });
      await expect(stream()).rejects.toThrow();
    });
  });
});

describe("hostile bodies", () => {
  const ask = (stream: boolean, signal: AbortSignal | null = null) =>
    fetch(`${upstream.url}/v1/messages`, {
      method: "POST",
      headers: { "anthropic-version": "2023-06-01" },
      body: JSON.stringify({ model: "m", max_tokens: 9, stream, messages: [{ role: "user", content: "hi" }] }),
      signal,
    });

  test("gzip, said and unsaid, whole and streamed", async () => {
    upstream.script({ gzip: "said" });
    expect(await (await ask(false)).json()).toMatchObject({ type: "message" });
    expect(await (await ask(true)).text()).toMatch(/event: message_stop\ndata: \{"type":"message_stop"\}\n\n$/);
    upstream.script({ gzip: "unsaid" });
    for (const stream of [false, true]) {
      const response = await ask(stream);
      expect([response.headers.get("content-encoding"), Buffer.from(await response.arrayBuffer()).readUInt16BE()]).toEqual([null, 0x1f8b]);
    }
    expect(upstream.log.map(({ told }) => told?.outputTokens)).toEqual([3, 3, 3, 3]);
  });

  test.each([true, false])("without an end, until the client leaves; streamed: %s", async (stream) => {
    upstream.script({ isEndless: true, text: ["again "] });
    const leave = new AbortController();
    const reader = (await ask(stream, leave.signal)).body?.getReader();
    let bytes = 0;
    while (bytes < 500_000) bytes += (await reader?.read())?.value?.length ?? 0;
    leave.abort();
    const entry = await upstream.received(1);
    await entry.ended;
    expect([entry.end, entry.billed.outputTokens > 100]).toEqual(["client", true]);
  });
});

describe("lists of models", () => {
  test("in the shape that the client knows", async () => {
    await upstream.close();
    upstream = await fakeUpstream({ models: ["a", "b/c", "d"], keys: ["sk-canary"] });
    const ids: (string | undefined)[][] = [[], [], []];
    const settings = { apiKey: "sk-canary", maxRetries: 0 };
    for await (const { id } of new OpenAI({ ...settings, baseURL: `${upstream.url}/v1` }).models.list()) ids[0]?.push(id);
    const claude = new Anthropic({ ...settings, baseURL: upstream.url });
    for await (const { id } of claude.models.list({ limit: 2 })) ids[1]?.push(id);
    const gemini = new GoogleGenAI({ apiKey: "sk-canary", httpOptions: { baseUrl: upstream.url } });
    for await (const { name } of await gemini.models.list({ config: { pageSize: 2 } })) ids[2]?.push(name);
    expect(ids).toEqual([
      ["a", "b/c", "d"],
      ["a", "b/c", "d"],
      ["models/a", "models/b/c", "models/d"],
    ]);
    expect([(await claude.models.retrieve("b/c")).id, (await gemini.models.get({ model: "d" })).name]).toEqual(["b/c", "models/d"]);
    await expect(gemini.models.get({ model: "none" })).rejects.toMatchObject({ status: 404 });
    await expect(claude.models.retrieve("none")).rejects.toBeInstanceOf(Anthropic.NotFoundError);
    const wrong = new Anthropic({ apiKey: "sk-wrong", baseURL: upstream.url, maxRetries: 0 });
    await expect(wrong.models.list()).rejects.toBeInstanceOf(Anthropic.AuthenticationError);
    // Two pages of Anthropic's, two of Google's.
    expect(upstream.log.filter(({ status, path }) => status === 200 && path.includes("models?")).length).toBeGreaterThanOrEqual(4);
  });
});
