import { describe, expect, test } from "vitest";
import type { Call, Operation as AnyOperation } from "../../../src/core/call.ts";
import type { RequestChanges } from "../../../src/dialects/dialect.ts";
import { openai } from "../../../src/dialects/openai/index.ts";
import { refusalOf } from "../../core/context-kit.ts";

type Operation = Exclude<AnyOperation, "count_tokens">;

const CHAT = { model: "gpt-4o", messages: [{ role: "user", content: "hi" }] };

function read(operation: Operation, text: string | object): Call {
  const bytes = Buffer.from(typeof text === "string" ? text : JSON.stringify(text));
  return openai.read({ operation, model: null, stream: null }, bytes, JSON.parse(bytes.toString()) as Record<string, unknown>);
}

const rewritten = (text: string | object, changes: RequestChanges, operation: Operation = "chat"): string =>
  openai.rewrite(read(operation, text), changes).toString();

describe("reading a request", () => {
  test("a chat in full", () => {
    const call = read("chat", { ...CHAT, stream: true, max_completion_tokens: 100, n: 3, stream_options: { include_usage: true } });
    expect(call).toMatchObject({
      dialect: "openai",
      operation: "chat",
      model: "gpt-4o",
      stream: true,
      maxOutputTokens: 100,
      choices: 3,
      wantsUsage: true,
    });
  });

  test("what is absent or null takes its default", () => {
    const nothing = { stream: null, max_tokens: null, max_completion_tokens: null, n: null, stream_options: null };
    for (const body of [CHAT, { ...CHAT, ...nothing }]) {
      expect(read("chat", body)).toMatchObject({ stream: false, maxOutputTokens: null, choices: 1, wantsUsage: false });
    }
  });

  test.each<[Operation, object, Partial<Call>]>([
    ["chat", { ...CHAT, max_tokens: 10, max_completion_tokens: 20 }, { maxOutputTokens: 20 }],
    ["chat", { ...CHAT, max_tokens: 30, max_completion_tokens: 20 }, { maxOutputTokens: 30 }],
    ["completions", { model: "m", prompt: "a", max_tokens: 5, best_of: 4, n: 2 }, { maxOutputTokens: 5, choices: 4 }],
    ["completions", { model: "m", prompt: ["a", "b", "c"], n: 2 }, { choices: 6 }],
    ["completions", { model: "m", prompt: [1, 2, 3] }, { choices: 1 }],
    ["completions", { model: "m", prompt: [[1, 2], [3]] }, { choices: 2 }],
    ["completions", { model: "m", prompt: ["a"] }, { choices: 1 }],
    ["embeddings", { model: "m", input: ["a", "b"], stream: true }, { stream: false, maxOutputTokens: 0, choices: 1 }],
  ])("%s %j", (operation, body, expected) => {
    expect(read(operation, body)).toMatchObject(expected);
  });

  const wrong = { text: "x", object: {}, list: [], true: true };
  const cases: [Operation, string, unknown][] = [
    ...Object.entries({ ...wrong, zero: 0 })
      .filter(([name]) => name !== "text")
      .map(([, value]): [Operation, string, unknown] => ["chat", "model", value]),
    ["chat", "model", undefined],
    ["chat", "model", null],
    ["chat", "model", ""],
    ["chat", "model", "x".repeat(257)],
    ...[undefined, null, "hi", {}, 1].map((value): [Operation, string, unknown] => ["chat", "messages", value]),
    ...["true", 1, 0, {}, []].map((value): [Operation, string, unknown] => ["chat", "stream", value]),
    ...["10", -1, 0, 1.5, true, {}, [], 10_000_001, 1e300].flatMap((value): [Operation, string, unknown][] => [
      ["chat", "max_tokens", value],
      ["chat", "max_completion_tokens", value],
    ]),
    ...["2", 0, -1, 1.5, 129, {}, []].map((value): [Operation, string, unknown] => ["chat", "n", value]),
    ...["2", 0, 129, {}].map((value): [Operation, string, unknown] => ["completions", "best_of", value]),
    ...["x", 1, true, []].map((value): [Operation, string, unknown] => ["chat", "stream_options", value]),
    ...[undefined, null].map((value): [Operation, string, unknown] => ["embeddings", "input", value]),
  ];
  test.each(cases)("%s: %s = %j is refused by its name", (operation, field, value) => {
    const base = { chat: CHAT, completions: { model: "m", prompt: "a" }, embeddings: { model: "m", input: "a" } }[operation];
    const error = refusalOf(() => read(operation, { ...base, [field]: value }));
    expect(error).toMatchObject({ code: "body_invalid", status: 400, param: field });
    expect(error.message).toContain(field);
  });
});

describe("rewriting a request", () => {
  const changes: readonly RequestChanges[] = [
    {},
    { model: "gpt-4o" },
    { model: "gpt-4o", includeUsage: false },
    { outputCap: 100 },
    { outputCap: 5_000, capField: "max_completion_tokens" },
  ];
  test.each(changes)("nothing to change gives the very same buffer: %j", (change) => {
    const call = read("chat", '{ "model":"gpt-4o" ,"max_tokens":100, "messages":[] }');
    expect(openai.rewrite(call, change)).toBe(call.bytes);
  });

  test("usage that the client asked for is not asked for again", () => {
    const call = read("chat", { ...CHAT, stream: true, stream_options: { include_usage: true } });
    expect(openai.rewrite(call, { includeUsage: true })).toBe(call.bytes);
  });

  test.each<[string, string, RequestChanges, string]>([
    ["the model", '{"model":"a","messages":[]}', { model: "b" }, '{"model":"b","messages":[]}'],
    [
      "only the real model, whatever looks like one",
      '{"messages":[{"role":"user","content":"\\"model\\":\\"a\\"","model":"a"}],"metadata":{"model":"a"},"model":"a","tools":[{"model":"a"}]}',
      { model: "b" },
      '{"messages":[{"role":"user","content":"\\"model\\":\\"a\\"","model":"a"}],"metadata":{"model":"a"},"model":"b","tools":[{"model":"a"}]}',
    ],
    [
      "the model, however its line is spaced, behind a nested one of the same name",
      '{"metadata" : {"model":"a"},\n\t"model"\t:\n "a" ,"messages":[]}',
      { model: "b" },
      '{"metadata" : {"model":"a"},\n\t"model"\t:\n "b" ,"messages":[]}',
    ],
    ["every duplicate of it", '{"model":"x","messages":[],"mod\\u0065l":"a"}', { model: "b" }, '{"model":"b","messages":[],"mod\\u0065l":"b"}'],
    [
      "usage",
      '{"model":"a","messages":[],"stream":true}',
      { includeUsage: true },
      '{"stream_options":{"include_usage":true},"model":"a","messages":[],"stream":true}',
    ],
    [
      "usage beside other options",
      '{"model":"a","messages":[],"stream_options":{"include_obfuscation":false,"include_usage":false}}',
      { includeUsage: true },
      '{"model":"a","messages":[],"stream_options":{"include_obfuscation":false,"include_usage":true}}',
    ],
    [
      "usage in place of null",
      '{"model":"a","messages":[],"stream_options":null}',
      { includeUsage: true },
      '{"model":"a","messages":[],"stream_options":{"include_usage":true}}',
    ],
    ["a cap that the client did not send", '{"model":"a","messages":[]}', { outputCap: 50 }, '{"max_tokens":50,"model":"a","messages":[]}'],
    [
      "a cap by the provider's name",
      '{"model":"a","messages":[]}',
      { outputCap: 50, capField: "max_completion_tokens" },
      '{"max_completion_tokens":50,"model":"a","messages":[]}',
    ],
    ["a cap in place of null", '{"model":"a","messages":[],"max_tokens":null}', { outputCap: 50 }, '{"model":"a","messages":[],"max_tokens":50}'],
    [
      "a cap below the client's",
      '{"model":"a","messages":[],"max_completion_tokens":99}',
      { outputCap: 50, capField: "max_tokens" },
      '{"model":"a","messages":[],"max_completion_tokens":50}',
    ],
    [
      "only the field above the cap",
      '{"model":"a","messages":[],"max_tokens":40,"max_completion_tokens":99}',
      { outputCap: 50 },
      '{"model":"a","messages":[],"max_tokens":40,"max_completion_tokens":50}',
    ],
    [
      "all at once",
      '{"model":"a","messages":[],"max_tokens":99}',
      { model: "b", includeUsage: true, outputCap: 50 },
      '{"stream_options":{"include_usage":true},"model":"b","messages":[],"max_tokens":50}',
    ],
  ])("%s", (_name, text, change, expected) => {
    expect(rewritten(text, change)).toBe(expected);
  });
});
