import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { codecOf, dialect } from "../../../src/dialects/index.ts";
import { losses } from "../../../src/dialects/losses.ts";
import { modelId } from "../../../src/dialects/kiro/encode-request.ts";
import type { AssistantBlock, ChatRequest, JsonObject, Turn, UserBlock } from "../../../src/dialects/message.ts";
import { encoding, read, REQUEST } from "../codec-kit.ts";
import { requests, thinkingBlock, turns } from "../generators.ts";
import { messagesOf, said, saidTo, type KiroBody } from "./kit.ts";

const kiro = codecOf("kiro");
const anthropic = dialect("anthropic").codec;

function sent(
  more: Partial<ChatRequest>,
  lossy = false,
): { readonly body: KiroBody; readonly dropped: readonly string[]; readonly toolName: (name: string) => string } {
  const lost = losses(lossy);
  const { body, toolName } = kiro.encodeRequest({ ...REQUEST, model: "claude-sonnet-4.5", ...more }, encoding("anthropic", { losses: lost }));
  return { body: body as unknown as KiroBody, dropped: lost.dropped, toolName };
}

const refusal = (param: string) => expect.objectContaining({ code: "untranslatable", param }) as Error;
const says = (text: string) => ({ type: "text" as const, text });
const user = (...blocks: readonly UserBlock[]): Turn => ({ role: "user", blocks });
const assistant = (...blocks: readonly AssistantBlock[]): Turn => ({ role: "assistant", blocks });
const call = (id: string, name = "weather") => ({ type: "tool_call" as const, id, name, input: '{"city":"Oslo"}' });
const result = (id: string, text = "rain") => ({ type: "tool_result" as const, id, name: null, content: [says(text)], isError: false });
const WEATHER = {
  kind: "function",
  name: "weather",
  description: "tells it",
  schema: { type: "object", properties: { city: { type: "string" } } },
  strict: null,
} as const;
const specs = ({ conversationState: { currentMessage } }: KiroBody) =>
  (currentMessage.userInputMessage.userInputMessageContext?.tools ?? []).map(({ toolSpecification }) => toolSpecification);

test("a conversation with everything", () => {
  const { body, dropped } = sent({
    system: [says("be kind"), says("be brief")],
    turns: [
      user(says("hi")),
      assistant({ type: "thinking", text: "hm", signature: { family: "anthropic", value: "s" } }, says("let me see"), call("t1")),
      user({ ...result("t1"), isError: true }, says("and?"), { type: "image", source: { kind: "base64", mediaType: "image/jpg", data: "AAAA" } }),
    ],
    tools: [WEATHER],
    maxOutputTokens: 50,
    temperature: 0.5,
    topP: 0.9,
  });
  const about = { modelId: "claude-sonnet-4.5", origin: "AI_EDITOR" };
  expect(body).toEqual({
    conversationState: {
      chatTriggerType: "MANUAL",
      history: [
        { userInputMessage: { content: "be kind\n\nbe brief\n\nhi", ...about } },
        { assistantResponseMessage: { content: "let me see", toolUses: [{ toolUseId: "t1", name: "weather", input: { city: "Oslo" } }] } },
      ],
      currentMessage: {
        userInputMessage: {
          content: "and?",
          ...about,
          images: [{ format: "jpeg", source: { bytes: "AAAA" } }],
          userInputMessageContext: {
            toolResults: [{ toolUseId: "t1", content: [{ text: "rain" }], status: "error" }],
            tools: [{ toolSpecification: { name: "weather", description: "tells it", inputSchema: { json: WEATHER.schema } } }],
          },
        },
      },
    },
    inferenceConfig: { maxTokens: 50, temperature: 0.5, topP: 0.9 },
  });
  expect(dropped).toEqual([]);
});

test("the law: what was said, called, answered and shown arrives, and in no other order", () => {
  fc.assert(
    fc.property(requests({ turns: fc.oneof(turns(), turns([thinkingBlock("anthropic")])) }), (request) => {
      const { body } = sent({ ...request, model: "kiro-auto" }, true);
      expect(saidTo(body)).toEqual(said(request));
      const called = request.turns.flatMap(({ blocks }) => blocks.flatMap((block) => (block.type === "tool_call" ? [block.name] : [])));
      const offered = request.tools.flatMap((tool) => (tool.kind === "web_search" ? [] : [tool.name]));
      expect(specs(body).map(({ name }) => name)).toEqual([...new Set([...offered, ...called])]);
      const { maxOutputTokens: maxTokens, temperature, topP } = request;
      const config = Object.fromEntries(Object.entries({ maxTokens, temperature, topP }).filter(([, value]) => value !== null));
      expect(body.inferenceConfig ?? {}).toEqual(config);
    }),
    { numRuns: 300 },
  );
});

test("whatever a caller writes, Kiro gets a conversation that it takes: in turns, with words, each call answered once and each tool known", () => {
  const block = fc.oneof(
    fc.record({ type: fc.constant("text"), text: fc.string() }),
    fc.record({ type: fc.constant("tool_use"), id: fc.constantFrom("a", "b", "ü"), name: fc.constantFrom("f", "g h", "2"), input: fc.object() }),
    fc.record({ type: fc.constant("tool_result"), tool_use_id: fc.constantFrom("a", "b", "c"), content: fc.constantFrom("", "x", null) }),
  );
  const message = fc.record({ role: fc.constantFrom("user", "assistant"), content: fc.array(block, { maxLength: 4 }) });
  fc.assert(
    fc.property(fc.array(message, { maxLength: 6 }), fc.constantFrom([], [{ name: "f", input_schema: {} }]), (messages, tools) => {
      const usable = messages.map(({ role, content }) => ({
        role,
        content: content.filter(({ type }) => (role === "user" ? type !== "tool_use" : type !== "tool_result")),
      }));
      const { request } = read(anthropic, { messages: usable, tools }, { lossy: true });
      const { body } = sent(request, true);
      let asked: readonly string[] = [];
      const names = new Set(specs(body).map(({ name }) => name));
      messagesOf(body).forEach((one, i) => {
        expect("userInputMessage" in one).toBe(i % 2 === 0);
        if ("userInputMessage" in one) {
          const results = one.userInputMessage.userInputMessageContext?.toolResults ?? [];
          expect(results.map(({ toolUseId }) => toolUseId).toSorted()).toEqual(asked.toSorted());
          expect(one.userInputMessage.content).not.toBe("");
        } else {
          const { content, toolUses = [] } = one.assistantResponseMessage;
          expect(content).not.toBe("");
          for (const { name } of toolUses) expect(names).toContain(name);
          asked = toolUses.map(({ toolUseId }) => toolUseId);
        }
      });
      expect(messagesOf(body).length % 2).toBe(1);
    }),
    { numRuns: 500 },
  );
});

describe("what has no place", () => {
  const image = (source: Extract<UserBlock, { type: "image" }>["source"]) => ({ turns: [user({ type: "image", source })] });
  test.each<[string, Partial<ChatRequest>, string]>([
    ["stop sequences", { stop: ["x"] }, "stop"],
    ["top_k", { topK: 5 }, "top_k"],
    ["JSON on demand", { format: { kind: "json" } }, "response_format"],
    ["a schema", { format: { kind: "json_schema", name: "x", schema: {}, strict: null, description: null } }, "response_format"],
    ["a search", { tools: [{ kind: "web_search" }] }, "tools"],
    ["a call on demand", { tools: [WEATHER], toolChoice: { kind: "required" } }, "tool_choice"],
    ["a certain call", { tools: [WEATHER], toolChoice: { kind: "tool", name: "weather" } }, "tool_choice"],
    ["no calls after calls", { turns: [user(says("x")), assistant(call("t")), user(result("t"))], toolChoice: { kind: "none" } }, "tool_choice"],
    ["an image's address", image({ kind: "url", url: "https://x.test/a.png", mediaType: null }), "messages"],
    ["an image of another kind", image({ kind: "base64", mediaType: "image/tiff", data: "AAAA" }), "messages"],
    [
      "a file",
      { turns: [user({ type: "file", source: { kind: "base64", mediaType: "application/pdf", data: "AAAA" }, filename: null })] },
      "messages",
    ],
    ["sound", { turns: [user({ type: "media", source: { kind: "base64", mediaType: "audio/wav", data: "AAAA" } })] }, "messages"],
  ])("%s: refused by its name, or dropped where that is preferred", (_name, more, field) => {
    expect(() => sent(more)).toThrow(refusal(field));
    expect(sent(more, true).dropped).toEqual([field]);
  });

  test("what only tunes is dropped and named", () => {
    const reasoning = { level: "high", budgetTokens: null, wantsThoughts: null } as const;
    expect(sent({ seed: 5, parallelToolCalls: false, reasoning }).dropped).toEqual(["parallel_tool_calls", "seed", "reasoning"]);
    expect(sent({ reasoning: { ...reasoning, level: "none" }, user: "u", promptCacheKey: "k", toolChoice: { kind: "auto" } }).dropped).toEqual([]);
  });
});

describe("tools", () => {
  test("without a call before, none may be called where they are not offered", () => {
    expect(specs(sent({ tools: [WEATHER], toolChoice: { kind: "none" } }).body)).toEqual([]);
  });

  test("one that was called and is no longer offered is declared", () => {
    const { body } = sent({ turns: [user(says("x")), assistant(call("t", "gone")), user(result("t"))], tools: [WEATHER] });
    expect(specs(body).map(({ name }) => name)).toEqual(["weather", "gone"]);
    expect(specs(body)[1]).toEqual({ name: "gone", description: "gone", inputSchema: { json: { type: "object", properties: {} } } });
  });

  test("names are made to fit and come back as they were, also those of text", () => {
    const long = `mcp__server__${"x".repeat(70)}`;
    const { body, toolName } = sent({
      tools: [
        { ...WEATHER, name: long },
        { kind: "custom", name: "a b", description: null, format: null },
      ],
    });
    const names = specs(body).map(({ name }) => name);
    for (const name of names) expect(name).toMatch(/^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$/);
    expect(names.map(toolName)).toEqual([long, "a b"]);
    expect(specs(body)[1]?.inputSchema).toMatchObject({ json: { required: ["input"] } });
  });
});

test("the end is the user's, and so is the beginning", () => {
  expect(saidTo(sent({ turns: [user(says("hi")), assistant(says("I am"))] }).body)).toEqual([["user", "hi", [], []]]);
  expect(sent({ turns: [user(says("hi")), assistant(says("I am"))] }).dropped).toEqual(["messages"]);
  expect(saidTo(sent({ turns: [], system: [says("be kind")] }).body)).toEqual([["user", "be kind", [], []]]);
  expect(saidTo(sent({ turns: [assistant(says("hello")), user(says("hi"))] }).body).map((one) => (one as string[])[1])).toEqual([".", "hello", "hi"]);
});

test("the cap is the lower one, also where the caller named none", () => {
  const cap = (maxOutputTokens: number | null, outputCap?: number) =>
    (
      kiro.encodeRequest({ ...REQUEST, maxOutputTokens }, encoding("anthropic", outputCap === undefined ? {} : { outputCap })).body
        .inferenceConfig as JsonObject | undefined
    )?.maxTokens;
  expect([cap(50, 20), cap(10, 20), cap(null, 20), cap(30), cap(null)]).toEqual([20, 10, 20, 30, undefined]);
});

test.each([
  ["kiro-claude-sonnet-4-5", "claude-sonnet-4.5"],
  ["kiro-claude-sonnet-4", "claude-sonnet-4"],
  ["kiro-auto", "auto"],
  ["claude-sonnet-4.5", "claude-sonnet-4.5"],
  ["claude-opus-4-5-20251101", "claude-opus-4.5"],
  ["claude-sonnet-4-20250514", "claude-sonnet-4"],
  ["claude-3-7-sonnet-20250219", "claude-3.7-sonnet"],
  ["kiro-claude-opus-4-10", "claude-opus-4.10"],
  ["qwen3-coder-480b", "qwen3-coder-480b"],
  ["deepseek-3.2", "deepseek-3.2"],
])("the model %s is Kiro's %s", (name, id) => {
  expect(modelId(name)).toBe(id);
  expect(modelId(id)).toBe(id);
});
