import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { anthropicCodec } from "../../../src/dialects/anthropic/index.ts";
import type { ChatRequest, Reasoning } from "../../../src/dialects/message.ts";
import { openaiCodec } from "../../../src/dialects/openai/codec.ts";
import { levelsOf } from "../../../src/dialects/responses/effort.ts";
import { responsesCodec as codec } from "../../../src/dialects/responses/index.ts";
import { refusalOf } from "../../core/context-kit.ts";
import { answering, encoding, read, REQUEST, same } from "../codec-kit.ts";

const ask = (input: string | readonly object[], more: object = {}) => ({ model: "gpt-5", input, ...more });
const said = (role: string, content: string | readonly object[]) => ({ type: "message", role, content });
const USER = said("user", "hi");
const LOOK = { type: "function", name: "look", parameters: { type: "object", properties: {} } };
const calls = (id: string, args = "{}", name = "look") => ({ type: "function_call", call_id: id, name, arguments: args });
const output = (id: string, told: unknown) => ({ type: "function_call_output", call_id: id, output: told });

const turnsOf = (body: object) => read(codec, body as never).request.turns;
/** As an OpenAI model gets it from a client of chat completions. */
const fromChat = (body: object, model = "gpt-4o") =>
  codec.encodeRequest(read(openaiCodec, { messages: [{ role: "user", content: "hi" }], ...body }, { model }).request, encoding("openai"))
    .body as Record<string, unknown>;
const sent = (request: Partial<ChatRequest>, more: object = {}) =>
  codec.encodeRequest({ ...REQUEST, ...request }, encoding("openai", more)).body as Record<string, unknown>;
/** As another provider gets it from a client of this dialect. */
const toChat = (body: object) => openaiCodec.encodeRequest(read(codec, body as never).request, encoding("openai")).body as Record<string, unknown>;
const toClaude = (body: object, model = "claude-sonnet-4-5") =>
  anthropicCodec.encodeRequest(read(codec, body as never, { model }).request, encoding("anthropic")).body as Record<string, unknown>;

describe("a Responses client's request", () => {
  test("developer-role-becomes-system, several-system-messages-merge-in-order, codex-system-role-to-developer-in-input", () => {
    const body = ask([said("developer", "b"), USER, said("system", [{ type: "input_text", text: "c" }])], { instructions: "a" });
    expect(toClaude(body)).toMatchObject({ system: "a\n\nb\n\nc", messages: [{ role: "user", content: [{ type: "text", text: "hi" }] }] });
    const chat = {
      messages: [
        { role: "system", content: "a" },
        { role: "user", content: "hi" },
        { role: "developer", content: "b" },
      ],
    };
    // No role `system` in the input, which Codex refuses.
    expect(fromChat(chat)).toMatchObject({ instructions: "a\n\nb", input: [said("user", [{ type: "input_text", text: "hi" }])] });
    expect(JSON.stringify(fromChat(chat))).not.toContain('"role":"system"');
  });

  test("system-only-input-keeps-a-user-turn", () => {
    expect(fromChat({ messages: [{ role: "system", content: "a" }] })).toMatchObject({ instructions: "a", input: [said("user", "")] });
    expect(toClaude(ask([said("developer", "a")])).messages).toHaveLength(1);
  });

  test("a text is the user's; messages need no type", () => {
    expect(turnsOf(ask("hi"))).toEqual([{ role: "user", blocks: [{ type: "text", text: "hi" }] }]);
    expect(turnsOf(ask([{ role: "user", content: "hi" }]))).toEqual(turnsOf(ask("hi")));
  });

  test("orphan-and-ambiguous-tool-outputs-dropped, duplicate-tool-results-last-wins", () => {
    const [, , results] = turnsOf(ask([USER, calls("1"), output("1", "a"), output("9", "nobody's"), output("1", "again")]));
    expect(results?.blocks).toMatchObject([{ type: "tool_result", id: "1", name: "look", content: [{ text: "again" }] }]);
  });

  test("missing-tool-call-id-synthesised, and the same one for the same conversation", () => {
    const body = ask([USER, { type: "function_call", name: "look", arguments: "{}" }, { type: "function_call_output", output: "done" }]);
    const ids = [1, 2].map(() =>
      turnsOf(body)
        .slice(1)
        .map(({ blocks }) => (blocks[0] as { id: string }).id),
    );
    expect(ids[0]?.[0]).toMatch(/^call_[0-9a-f]{24}$/);
    expect(new Set(ids.flat()).size).toBe(1);
  });

  test("invalid-tool-arguments-become-empty-object: in both directions", () => {
    const { messages } = toChat(ask([USER, calls("1", '{"a":'), output("1", "x")])) as { messages: { tool_calls?: unknown[] }[] };
    expect(messages[1]?.tool_calls).toMatchObject([{ function: { arguments: "{}" } }]);
    const tool = { id: "1", type: "function", function: { name: "look", arguments: "nonsense" } };
    expect(
      fromChat({
        messages: [
          { role: "assistant", tool_calls: [tool] },
          { role: "tool", tool_call_id: "1", content: "x" },
        ],
      }).input,
    ).toEqual([calls("1"), output("1", "x")]);
  });

  test("tool-result-with-text-and-image, tool-result-url-image-only, stringified-image-array-in-tool-output", () => {
    const image = { type: "input_image", image_url: "data:image/png;base64,AAAA" };
    const url = { type: "input_image", image_url: "https://example.test/a.png", detail: "low" };
    const shown = (told: unknown) => {
      const block = turnsOf(ask([USER, calls("1"), output("1", told)])).at(-1)?.blocks[0];
      return block?.type === "tool_result" ? block.content : null;
    };
    const neutral = { type: "image", source: { kind: "base64", mediaType: "image/png", data: "AAAA" } };
    expect(shown([{ type: "input_text", text: "seen" }, image])).toEqual([{ type: "text", text: "seen" }, neutral]);
    expect(shown([url])).toEqual([{ type: "image", source: { kind: "url", url: url.image_url, mediaType: null }, detail: "low" }]);
    expect(shown(JSON.stringify([{ type: "input_text", text: "seen" }, image]))).toEqual([{ type: "text", text: "seen" }, neutral]);
    // What only looks like parts stays text.
    for (const text of ['[{"type":"input_text","text":"a"}]', '[{"type":"input_image"', '[{"input_image":1}]', "[null]"])
      expect(shown(text)).toEqual([{ type: "text", text }]);
    expect(sent({ turns: turnsOf(ask([USER, calls("1"), output("1", [image, url])])) }).input).toMatchObject([{}, {}, output("1", [image, url])]);
  });

  test.each([[null], [undefined], [""], [[]]])("tool-result-null-or-missing-content: %s is an empty answer", (told) => {
    const turns = turnsOf(ask([USER, calls("1"), output("1", told)]));
    expect(turns.at(-1)?.blocks).toMatchObject([{ type: "tool_result", id: "1", content: [] }]);
    expect(sent({ turns }).input).toMatchObject([{}, {}, output("1", "")]);
  });

  test("an answer that is any other JSON is told as text", () =>
    expect(turnsOf(ask([USER, calls("1"), output("1", { ok: true })])).at(-1)?.blocks).toMatchObject([{ content: [{ text: '{"ok":true}' }] }]));

  test("image-data-url-and-http-url, pdf-document-round-trip, audio-and-video-parts-kept: sound", () => {
    const parts = [
      { type: "input_image", image_url: "data:image/png;base64,AAAA", detail: "high" },
      { type: "input_image", image_url: "https://example.test/a.png" },
      { type: "input_file", filename: "a.pdf", file_data: "data:application/pdf;base64,AAAA" },
      { type: "input_file", file_url: "https://example.test/a.pdf" },
      { type: "input_audio", input_audio: { data: "AAAA", format: "mp3" } },
    ];
    const turns = turnsOf(ask([said("user", parts)]));
    expect(sent({ turns }).input).toEqual([said("user", parts)]);
    expect(toClaude(ask([said("user", parts.slice(0, 4))])).messages).toMatchObject([
      {
        content: [
          { type: "image", source: { type: "base64", media_type: "image/png", data: "AAAA" } },
          { type: "image", source: { type: "url", url: "https://example.test/a.png" } },
          { type: "document", title: "a.pdf", source: { type: "base64", media_type: "application/pdf" } },
          { type: "document", source: { type: "url", url: "https://example.test/a.pdf" } },
        ],
      },
    ]);
    // Bytes without a word on what they are.
    expect(turnsOf(ask([said("user", [{ type: "input_file", file_data: "AAAA" }])]))[0]?.blocks).toMatchObject([
      { source: { kind: "base64", mediaType: "application/pdf", data: "AAAA" } },
    ]);
    const video = { type: "media" as const, source: { kind: "url" as const, url: "https://example.test/a.mp4", mediaType: null } };
    expect(refusalOf(() => sent({ turns: [{ role: "user", blocks: [video] }] }))).toMatchObject({ code: "untranslatable" });
  });

  test("consecutive-function-calls-merge-into-one-assistant, openai-tool-message-adjacency", () => {
    const { messages } = toChat(ask([USER, said("assistant", "so"), calls("1"), calls("2"), output("1", "a"), output("2", "b"), USER])) as {
      messages: { role: string; tool_calls?: object[] }[];
    };
    expect(messages.map(({ role }) => role)).toEqual(["user", "assistant", "tool", "tool", "user"]);
    expect(messages[1]?.tool_calls).toHaveLength(2);
  });

  test("empty-assistant-message-not-emitted-with-tool-calls, empty-text-parts-skipped-without-null", () => {
    const turns = turnsOf(
      ask([
        said("user", [
          { type: "input_text", text: "" },
          { type: "input_text", text: "a" },
        ]),
        said("assistant", ""),
        calls("1"),
        output("1", "x"),
      ]),
    );
    expect(sent({ turns }).input).toEqual([said("user", [{ type: "input_text", text: "a" }]), calls("1"), output("1", "x")]);
  });

  test("tool-name-too-long-shortened-and-restored, two-names-collide-after-shortening", () => {
    const long = ["a", "b"].map((end) => `${"x".repeat(70)}${end}`);
    const tools = long.map((name) => ({ kind: "function" as const, name, description: null, schema: null, strict: null }));
    const { body, toolName } = codec.encodeRequest({ ...REQUEST, tools, toolChoice: { kind: "tool", name: long[1] as string } }, encoding());
    const names = (body.tools as { name: string }[]).map(({ name }) => name);
    expect(names.every((name) => name.length <= 64)).toBe(true);
    expect(names.map(toolName)).toEqual(long);
    expect(body.tool_choice).toEqual({ type: "function", name: names[1] });
  });

  test("ids of calls that are too long are shortened alike in the call and its answer", () => {
    const id = "c".repeat(100);
    const [, call, result] = sent({ turns: turnsOf(ask([USER, calls(id), output(id, "x")])) }).input as { call_id: string }[];
    expect(call?.call_id.length).toBeLessThanOrEqual(64);
    expect(result?.call_id).toBe(call?.call_id);
  });

  test("builtin-web-search-mapping", () => {
    for (const type of ["web_search", "web_search_preview", "web_search_preview_2025_03_11"])
      expect(toClaude(ask("hi", { tools: [{ type }] })).tools).toEqual([{ type: "web_search_20250305", name: "web_search" }]);
    expect(fromChat({ web_search_options: {} }).tools).toEqual([{ type: "web_search" }]);
    expect(read(codec, ask([USER, { type: "web_search_call", id: "ws", status: "completed" }])).dropped).toEqual(["input[1]"]);
    expect(read(codec, ask("hi", { tools: [{ type: "web_search", filters: {} }] })).dropped).toEqual(["tools[0].filters"]);
  });

  test.each(["none", "auto", "required"])("specific-tool-choice-each-way: %s", (choice) => {
    expect(toChat(ask("hi", { tools: [LOOK], tool_choice: choice })).tool_choice).toBe(choice);
    expect(fromChat({ tools: [{ type: "function", function: { name: "look" } }], tool_choice: choice }).tool_choice).toBe(choice);
  });

  test("specific-tool-choice-each-way: a tool by its name, and a choice of several", () => {
    expect(toChat(ask("hi", { tools: [LOOK], tool_choice: { type: "function", name: "look" } })).tool_choice).toMatchObject({
      function: { name: "look" },
    });
    const named = { type: "function", function: { name: "look" } };
    expect(fromChat({ tools: [named], tool_choice: named }).tool_choice).toEqual({ type: "function", name: "look" });
    const allowed = { type: "allowed_tools", mode: "required", tools: [{ type: "function", name: "look" }] };
    const chat = toChat(ask("hi", { tools: [LOOK, { ...LOOK, name: "other" }], tool_choice: allowed }));
    expect(chat).toMatchObject({ tool_choice: "required", tools: [{ function: { name: "look" } }] });
    expect(chat.tools).toHaveLength(1);
    expect(refusalOf(() => read(codec, ask("hi", { tools: [LOOK], tool_choice: { type: "mcp" } })))).toMatchObject({ param: "tool_choice.type" });
  });

  test("tool_choice-dropped-when-no-tools, parallel_tool_calls-dropped-when-no-tools", () => {
    const alone = { tool_choice: "auto", parallel_tool_calls: false };
    expect(Object.keys(fromChat(alone)).filter((name) => name in alone)).toEqual([]);
    expect(fromChat({ ...alone, tools: [{ type: "function", function: { name: "look" } }] })).toMatchObject(alone);
    expect(Object.keys(toChat(ask("hi", alone))).filter((name) => name in alone)).toEqual([]);
  });

  test("json_schema-response-format-each-way", () => {
    const schema = { name: "a", schema: { type: "object" }, strict: true };
    expect(toChat(ask("hi", { text: { format: { type: "json_schema", ...schema } } })).response_format).toEqual({
      type: "json_schema",
      json_schema: schema,
    });
    expect(fromChat({ response_format: { type: "json_schema", json_schema: schema } }).text).toEqual({ format: { type: "json_schema", ...schema } });
    expect(fromChat({ response_format: { type: "json_object" } }).text).toEqual({ format: { type: "json_object" } });
    expect(Object.keys(fromChat({ response_format: { type: "text" } }))).not.toContain("text");
  });

  test("missing-object-properties-added; strict only where the caller was", () => {
    const fn = { name: "look", parameters: { type: "object" } };
    expect(fromChat({ tools: [{ type: "function", function: fn }] }).tools).toEqual([
      { type: "function", name: "look", parameters: { type: "object", properties: {} }, strict: false },
    ]);
    expect(fromChat({ tools: [{ type: "function", function: { ...fn, strict: true } }] }).tools).toMatchObject([{ strict: true }]);
  });
});

describe("namespaced-and-custom-tools flattened-and-restored", () => {
  const CRM = { type: "namespace", name: "crm", description: "customers", tools: [LOOK, { type: "custom", name: "run" }] };

  test("tools of groups have names of their own, and are called by them", () => {
    const body = ask([USER, { ...calls("1"), namespace: "crm" }, output("1", "x")], { tools: [CRM, { ...LOOK, name: "crm__look" }] });
    const { tools, messages } = toChat(body) as { tools: { function: { name: string } }[]; messages: { tool_calls?: unknown }[] };
    expect(tools.map((tool) => tool.function.name)).toEqual(["crm__look_2", "crm__run", "crm__look"]);
    expect(messages[1]?.tool_calls).toMatchObject([{ function: { name: "crm__look_2" } }]);
  });

  test("calls come back as the caller declared the tools", () => {
    const { request } = read(codec, ask("hi", { tools: [CRM, { type: "custom", name: "shell" }] }));
    const call = (name: string, args: string) => ({ id: name, type: "function", function: { name, arguments: args } });
    const tool_calls = [call("crm__look", '{"a":1}'), call("crm__run", '{"input":"now"}'), call("shell", '{"input":"ls"}')];
    const answer = openaiCodec.decodeAnswer({ choices: [{ message: { tool_calls }, finish_reason: "tool_calls" }] }, same);
    const told = codec.encodeAnswer(answer as never, answering({ request }));
    expect(told.output).toMatchObject([
      { type: "function_call", namespace: "crm", name: "look", call_id: "crm__look", arguments: '{"a":1}' },
      { type: "custom_tool_call", namespace: "crm", name: "run", input: "now" },
      { type: "custom_tool_call", name: "shell", input: "ls" },
    ]);
    expect(told.tools).toMatchObject([
      { type: "namespace", name: "crm", tools: [{ name: "look" }, { type: "custom", name: "run" }] },
      { name: "shell" },
    ]);
  });

  test("a custom tool of a chat client stays one, its calls and their answers too; its grammar is told flat", () => {
    const grammar = { syntax: "lark", definition: "start: x" };
    const custom = { type: "custom", custom: { name: "shell", format: { type: "grammar", grammar } } };
    const body = fromChat({
      tools: [custom],
      tool_choice: { type: "custom", custom: { name: "shell" } },
      messages: [
        { role: "assistant", tool_calls: [{ id: "1", type: "custom", custom: { name: "shell", input: "ls" } }] },
        { role: "tool", tool_call_id: "1", content: "a.txt" },
      ],
    });
    expect(body).toMatchObject({
      tools: [{ type: "custom", name: "shell", format: { type: "grammar", ...grammar } }],
      tool_choice: { type: "custom", name: "shell" },
      input: [
        { type: "custom_tool_call", call_id: "1", name: "shell", input: "ls" },
        { type: "custom_tool_call_output", call_id: "1", output: "a.txt" },
      ],
    });
  });
});

describe("thoughts", () => {
  const reasoning = (encrypted: string | null, ...summary: string[]) => ({
    type: "reasoning",
    summary: summary.map((text) => ({ type: "summary_text", text })),
    ...(encrypted === null ? {} : { encrypted_content: encrypted }),
  });
  const thought = (family: "openai" | "anthropic" | "gemini", value: string) => ({
    type: "thinking" as const,
    text: "hm",
    signature: { family, value },
  });
  const assistant = (...blocks: readonly object[]) => ({ role: "assistant" as const, blocks: blocks as never });

  test("signed-thinking-replayed-byte-exact, reasoning-item-without-text-keeps-signature", () => {
    const value = "gAAAA+/=\u{1F600}";
    expect(turnsOf(ask([USER, reasoning(value, "a", "b"), reasoning("only")])).at(-1)?.blocks).toEqual([
      { type: "thinking", text: "a\n\nb", signature: { family: "openai", value } },
      { type: "thinking", text: "", signature: { family: "openai", value: "only" } },
    ]);
    expect(sent({ turns: [assistant(thought("openai", value))] }).input).toEqual([reasoning(value, "hm")]);
    expect(sent({ turns: [assistant({ ...thought("openai", value), text: "" })] }).input).toEqual([reasoning(value)]);
  });

  test("foreign-signature-dropped-not-forged: only what OpenAI encrypted goes to OpenAI's models, and to no others", () => {
    const blocks = [thought("anthropic", "a"), thought("gemini", "g"), { type: "thinking", text: "unsigned", signature: null }];
    const turns = [...REQUEST.turns, assistant(...blocks, { type: "text", text: "so" })];
    expect(sent({ turns }).input).toMatchObject([USER_ITEM, { role: "assistant", content: [{ type: "output_text", text: "so" }] }]);
    const { body } = codec.encodeRequest(
      { ...REQUEST, turns: [assistant(thought("openai", "o"), { type: "text", text: "so" })] },
      encoding("gemini"),
    );
    expect(JSON.stringify(body)).not.toContain("encrypted");
    expect(JSON.stringify(toClaude(ask([USER, reasoning("gAAAA", "secret thought"), said("assistant", "so"), USER])))).not.toMatch(/gAAAA|secret/);
  });

  test("redacted-thinking-never-becomes-text, and Claude's own thoughts find their way back to it", () => {
    const blocks = [thought("anthropic", "sig"), { type: "redacted_thinking", signature: { family: "anthropic", value: "hidden" } }];
    const told = codec.encodeAnswer(
      { id: "a", model: "m", usage: null, choices: [{ index: 0, blocks: blocks as never, stop: "stop", stopSequence: null }] },
      answering(),
    );
    const items = told.output as { summary: object[] }[];
    expect(items[1]?.summary).toEqual([]);
    const { messages } = toClaude(ask([USER, ...items, said("assistant", "so"), USER])) as { messages: { content: object[] }[] };
    expect(messages[1]?.content).toEqual([
      { type: "thinking", thinking: "hm", signature: "sig" },
      { type: "redacted_thinking", data: "hidden" },
      { type: "text", text: "so" },
    ]);
    // Another family gets neither the thoughts nor what signs them.
    const openai = codec.encodeRequest(read(codec, ask([USER, ...items, USER])).request, encoding("openai")).body;
    expect(JSON.stringify(openai)).not.toMatch(/sig|hidden|hm/);
  });

  test("a mark that nobody makes is none: it is taken for what OpenAI encrypted", () => {
    const value = "quotaguard:openai:thinking:x";
    expect(turnsOf(ask([USER, reasoning(value)])).at(-1)?.blocks).toMatchObject([{ signature: { family: "openai", value } }]);
  });

  test("what signs a call comes back with it, and only with the first after it", () => {
    const call = { type: "tool_call" as const, id: "1", name: "look", input: "{}", signature: { family: "gemini" as const, value: "sig" } };
    const told = codec.encodeAnswer(
      { id: "a", model: "m", usage: null, choices: [{ index: 0, blocks: [call], stop: "tool_calls", stopSequence: null }] },
      answering(),
    );
    const [, answered] = turnsOf(ask([USER, ...(told.output as object[]), calls("2"), output("1", "x"), output("2", "y")]));
    expect(answered?.blocks).toEqual([call, { type: "tool_call", id: "2", name: "look", input: "{}" }]);
  });

  const level = (name: Reasoning["level"]): Reasoning => ({ level: name, budgetTokens: null, wantsThoughts: null });

  test.each<[string, Reasoning["level"], string | undefined]>([
    ["o3", "none", "low"],
    ["o3", "xhigh", "high"],
    ["o3", "minimal", "low"],
    ["gpt-5", "none", "minimal"],
    ["gpt-5-mini", "max", "high"],
    ["gpt-5.1", "none", "none"],
    ["gpt-5-codex", "minimal", "low"],
    ["gpt-5.1-codex-max", "max", "xhigh"],
    ["openai/gpt-5.2", "xhigh", "xhigh"],
    ["some-model", "max", "xhigh"],
    ["gpt-5", "auto", undefined],
  ])("unsupported-level-clamped-across-families, cannot-disable-model-falls-to-lowest, auto: %s %s is %s", (model, asked, effort) => {
    const given = sent({ model, reasoning: level(asked) }).reasoning as { effort?: string } | undefined;
    expect(given?.effort).toBe(effort);
    if (effort) expect(levelsOf(model)).toContain(effort);
  });

  test("suffix-beats-body: a budget is the nearest level; thoughts are asked for only by those who want them", () => {
    const reasoned = { ...level("medium"), budgetTokens: 8_000, wantsThoughts: true };
    expect(sent({ model: "gpt-5", reasoning: reasoned }).reasoning).toEqual({ effort: "medium", summary: "auto" });
    expect(sent({ model: "gpt-5", reasoning: { ...reasoned, wantsThoughts: false } }).reasoning).toEqual({ effort: "medium" });
    expect(sent({ model: "gpt-4o", reasoning: reasoned }).reasoning).toBeUndefined();
  });

  test("auto-to-mid-range: a summary without an effort is as much as the model likes", () => {
    expect(read(codec, ask("hi", { reasoning: { summary: "auto" } })).request.reasoning).toEqual({ ...level("auto"), wantsThoughts: true });
    expect(read(codec, ask("hi", { reasoning: { effort: "high", summary: null } })).request.reasoning).toEqual(level("high"));
    expect(toClaude(ask("hi", { reasoning: { summary: "auto" }, max_output_tokens: 20_000 })).thinking).toMatchObject({ budget_tokens: 8_192 });
    expect(read(codec, ask("hi", { reasoning: {} })).request.reasoning).toBeNull();
  });

  test("they are asked for sealed, where a model has some; nothing is stored", () => {
    expect(sent({ model: "gpt-5" })).toMatchObject({ store: false, include: ["reasoning.encrypted_content"] });
    expect(sent({ model: "some-model", reasoning: level("low") }).include).toBeDefined();
    expect(sent({ model: "gpt-4o" })).toMatchObject({ store: false });
    expect(sent({ model: "gpt-4o", reasoning: level("low") }).include).toBeUndefined();
  });
});

const USER_ITEM = said("user", [{ type: "input_text", text: "hi" }]);

describe("what cannot be expressed", () => {
  test.each([
    ["previous_response_id", { previous_response_id: "resp_1" }],
    ["conversation", { conversation: "conv_1" }],
    ["prompt", { prompt: { id: "p" } }],
    ["background", { background: true }],
    ["n", { n: 2 }],
    ["logit_bias", { logit_bias: { 5: 1 } }],
    ["top_logprobs", { top_logprobs: 3 }],
    ["include[0]", { include: ["message.output_text.logprobs"] }],
    ["tools[0].type", { tools: [{ type: "file_search" }] }],
    ["tools[1].tools[0].type", { tools: [LOOK, { type: "namespace", name: "a", tools: [{ type: "computer" }] }] }],
    ["input[0]", { input: [{ type: "item_reference", id: "msg_1" }] }],
    ["input[0].type", { input: [{ type: "computer_call" }] }],
    ["input[0].content[0].type", { input: [said("user", [{ type: "hologram" }])] }],
    ["input[0].content[0].file_id", { input: [said("user", [{ type: "input_image", file_id: "file_1" }])] }],
    ["input[0].content[0].file_id", { input: [said("user", [{ type: "input_file", file_id: "file_1" }])] }],
    ["input[0].content", { input: [said("developer", [{ type: "input_image", image_url: "https://example.test/a.png" }])] }],
  ])("%s: refused, or dropped and named", (field, more) => {
    expect(refusalOf(() => read(codec, ask("hi", more)))).toMatchObject({ code: "untranslatable", param: field });
    expect(read(codec, ask("hi", more), { lossy: true }).dropped).toContain(field);
  });

  test("what only tunes is dropped and named; what changes nothing is not", () => {
    const tunes = {
      truncation: "auto",
      service_tier: "auto",
      metadata: { a: "b" },
      text: { verbosity: "low" },
      store: true,
      reasoning: { context: "x" },
    };
    expect(new Set(read(codec, ask("hi", tunes)).dropped)).toEqual(
      new Set(["truncation", "service_tier", "metadata", "text.verbosity", "store", "reasoning.context"]),
    );
    const nothing = { store: false, background: false, include: ["reasoning.encrypted_content"], previous_response_id: null, stream: true, n: 1 };
    expect(read(codec, ask("hi", { ...nothing, prompt_cache_key: "k", stream_options: { include_obfuscation: false } })).dropped).toEqual([]);
  });

  test.each([
    ["top_k", { topK: 3 }],
    ["stop", { stop: ["x"] }],
  ])("of others, to this dialect: %s", (field, request) => {
    expect(refusalOf(() => sent(request))).toMatchObject({ code: "untranslatable", param: field });
  });

  test("the cap that is held is sent, and never a larger one; a reasoning model takes no sampling", () => {
    expect(sent({ maxOutputTokens: 90 }, { outputCap: 50 }).max_output_tokens).toBe(50);
    expect(sent({ maxOutputTokens: 30 }, { outputCap: 50 }).max_output_tokens).toBe(30);
    expect(sent({}, { outputCap: 50 }).max_output_tokens).toBe(50);
    expect(sent({ model: "gpt-4o", temperature: 1, topP: 0.5 })).toMatchObject({ temperature: 1, top_p: 0.5 });
    expect(Object.keys(sent({ model: "o3", temperature: 1, topP: 0.5 })).filter((name) => /temp|top/.test(name))).toEqual([]);
  });
});

describe("whatever JSON comes", () => {
  const anything = (names: readonly string[]) =>
    fc.dictionary(fc.constantFrom(...names), fc.oneof(fc.jsonValue(), fc.constantFrom("user", "assistant")));
  const types = ["message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning", "web_search_call"];
  const partTypes = ["input_text", "output_text", "input_image", "input_file", "input_audio", "refusal"];
  const typed = (names: readonly string[], kinds: readonly string[]) =>
    fc.tuple(anything(names), fc.constantFrom(...kinds)).map(([fields, type]) => ({ ...fields, type }));
  const part = typed(["text", "image_url", "file_data", "file_url", "input_audio", "detail", "filename"], partTypes);
  const item = fc.oneof(
    typed(["role", "content", "name", "call_id", "arguments", "input", "output", "summary", "encrypted_content", "namespace"], types),
    fc.tuple(fc.constantFrom("user", "assistant", "developer"), fc.array(part)).map(([role, content]) => ({ type: "message", role, content })),
    part.map((one) => ({ type: "function_call_output", call_id: "1", output: [one] })),
  );
  const tool = typed(["name", "description", "parameters", "strict", "tools", "format"], ["function", "custom", "namespace", "web_search"]);
  const fields = [
    ..."input instructions tools tool_choice text reasoning include stop n logit_bias top_logprobs background store user parallel_tool_calls".split(
      " ",
    ),
    ..."temperature top_p top_k seed max_output_tokens prompt_cache_key".split(" "),
  ];

  test("a request, or a refusal that names a field", () => {
    const bodies = fc.oneof(
      fc.dictionary(fc.constantFrom(...fields), fc.jsonValue()),
      fc.array(item).map((input) => ({ input })),
      fc.array(tool).map((tools) => ({ input: "hi", tools })),
      anything(["type", "name", "mode", "tools", "namespace"]).map((tool_choice) => ({ input: "hi", tool_choice })),
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
      { numRuns: 2_000 },
    );
  });
});
