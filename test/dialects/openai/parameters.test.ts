import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { openai } from "../../../src/dialects/openai/index.ts";
import { parameterRule } from "../../../src/dialects/openai/parameters.ts";
import type { RequestChanges } from "../../../src/dialects/dialect.ts";

const O1 = ["temperature", "top_p", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs"];
const LATER = ["temperature", "top_p"];

describe("which models refuse parameters", () => {
  test.each<[string, readonly string[]]>([
    ["o1", O1],
    ["o1-mini", O1],
    ["o1-preview-2024-09-12", O1],
    ["O1-Pro", O1],
    ["o3", LATER],
    ["o3-mini", LATER],
    ["o3.5", LATER],
    ["o4-mini-2025-04-16", LATER],
    ["gpt-5", LATER],
    ["GPT-5-Nano", LATER],
    ["gpt-5.1", LATER],
    ["gpt-5_chat", LATER],
    ["gpt-5-chat", LATER],
    ["o3_CHAT", LATER],
    ["openai/o1-mini", O1],
    ["models/openai/gpt-5", LATER],
    ["azure:o1", O1],
    ["openrouter/openai:o3", LATER],
    ["o3-mini:free", LATER],
    ["o3:free", LATER],
    ["o1_chat:free", O1],
    ["ft:o4-mini-2025-04-16:acme::AbC", LATER],
  ])("%s", (model, drop) => {
    expect(parameterRule(model)?.drop).toEqual(drop);
  });

  test.each([
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-50",
    "gpt-5o",
    "gpt-4.5",
    "o10",
    "o1x",
    "o1_mini",
    "o1_chatter",
    "o2",
    "go1",
    "foo-o1",
    "o1-labs/llama-3",
    "o3/qwen",
    "ft:gpt-4o:o1::x",
    "chatgpt-5",
    "",
    "/",
    ":",
    "__proto__",
  ])("not %s", (model) => {
    expect(parameterRule(model)).toBeNull();
  });

  test("however many names clients make up, the answer stays right", () => {
    for (let i = 0; i < 3_000; i += 1) {
      expect(parameterRule(`made-up-${i}`)).toBeNull();
      expect(parameterRule(`o1-${i % 1_500}`)?.drop).toEqual(O1);
    }
  });
});

const rewritten = (text: string, changes: RequestChanges = {}, operation: "chat" | "completions" = "chat"): string => {
  const bytes = Buffer.from(text);
  return openai
    .rewrite(openai.read({ operation, model: null, stream: null }, bytes, JSON.parse(text) as Record<string, unknown>), changes)
    .toString();
};

describe("a request to a reasoning model", () => {
  test.each<[string, string, string]>([
    ["without anything it refuses", '{ "model":"o1","messages":[] }', '{ "model":"o1","messages":[] }'],
    ["max_tokens", '{"model":"o3","max_tokens" : 1e2,"messages":[]}', '{"model":"o3","max_completion_tokens" : 1e2,"messages":[]}'],
    [
      "its own cap wins",
      '{"model":"o3","max_tokens":5,"messages":[],"max_completion_tokens":7}',
      '{"model":"o3","messages":[],"max_completion_tokens":7}',
    ],
    [
      "a cap of null is none",
      '{"max_completion_tokens":null,"model":"o3","max_tokens":5,"messages":[]}',
      '{"model":"o3","max_completion_tokens":5,"messages":[]}',
    ],
    ["max_tokens of null", '{"model":"o3","messages":[],"max_tokens":null}', '{"model":"o3","messages":[]}'],
    [
      "all that o1 refuses",
      '{"temperature":0.7,"model":"o1","top_p":1,"frequency_penalty":0,"messages":[],"presence_penalty":null,"logprobs":true,"top_logprobs":2}',
      '{"model":"o1","messages":[]}',
    ],
    [
      "what only o1 refuses stays for the others",
      '{"model":"o4-mini","logprobs":true,"presence_penalty":0.5,"temperature":1,"messages":[]}',
      '{"model":"o4-mini","logprobs":true,"presence_penalty":0.5,"messages":[]}',
    ],
    [
      "not what a tool calls the same",
      '{"model":"gpt-5","messages":[{"role":"user","content":"\\"temperature\\":1","temperature":1}],"tools":[{"function":{"parameters":{"top_p":{}}}}]}',
      '{"model":"gpt-5","messages":[{"role":"user","content":"\\"temperature\\":1","temperature":1}],"tools":[{"function":{"parameters":{"top_p":{}}}}]}',
    ],
  ])("%s", (_name, text, expected) => {
    expect(rewritten(text)).toBe(expected);
  });

  test("is one by the provider's name, whatever the client calls it", () => {
    const text = '{"model":"smart","max_tokens":5,"messages":[],"temperature":1}';
    expect(rewritten(text, { model: "o1" })).toBe('{"model":"o1","max_completion_tokens":5,"messages":[]}');
    expect(rewritten('{"model":"o1","max_tokens":5,"messages":[]}', { model: "gpt-4o" })).toBe('{"model":"gpt-4o","max_tokens":5,"messages":[]}');
  });

  test("keeps the fields when it is a legacy completion, which knows no other", () => {
    const text = '{"model":"o1","prompt":"a","max_tokens":5,"temperature":1}';
    expect(rewritten(text, {}, "completions")).toBe(text);
  });

  test.each<[string, string, RequestChanges, string]>([
    [
      "sent by nobody",
      '{"model":"o1","messages":[]}',
      { outputCap: 9, capField: "max_tokens" },
      '{"max_completion_tokens":9,"model":"o1","messages":[]}',
    ],
    ["below max_tokens", '{"model":"o1","max_tokens":99,"messages":[]}', { outputCap: 9 }, '{"model":"o1","max_completion_tokens":9,"messages":[]}'],
    ["above max_tokens", '{"model":"o1","max_tokens":5,"messages":[]}', { outputCap: 9 }, '{"model":"o1","max_completion_tokens":5,"messages":[]}'],
    [
      "below its own, with the other dropped",
      '{"model":"o1","max_tokens":5,"max_completion_tokens":99,"messages":[]}',
      { outputCap: 9 },
      '{"model":"o1","max_completion_tokens":9,"messages":[]}',
    ],
    [
      "in place of two nulls",
      '{"model":"o1","max_tokens":null,"messages":[],"max_completion_tokens":null}',
      { outputCap: 9 },
      '{"model":"o1","messages":[],"max_completion_tokens":9}',
    ],
    [
      "in place of max_tokens null",
      '{"model":"o1","max_tokens":null,"messages":[]}',
      { outputCap: 9, capField: "max_tokens" },
      '{"max_completion_tokens":9,"model":"o1","messages":[]}',
    ],
    [
      "below max_tokens, its own being null",
      '{"model":"o1","max_tokens":99,"messages":[],"max_completion_tokens":null}',
      { outputCap: 9 },
      '{"model":"o1","max_completion_tokens":9,"messages":[]}',
    ],
  ])("carries the cap in the field that it knows: %s", (_name, text, changes, expected) => {
    expect(rewritten(text, changes)).toBe(expected);
  });

  test("never has a field it refuses, and never a higher cap than the client or the budget allows", () => {
    const cap = fc.option(fc.integer({ min: 1, max: 1_000 }), { nil: null });
    const body = fc.record(
      {
        max_tokens: cap,
        max_completion_tokens: cap,
        temperature: fc.constant(1),
        top_p: fc.constant(null),
        logprobs: fc.constant(true),
        seed: fc.integer(),
      },
      { requiredKeys: [] },
    );
    const changes = fc.record(
      { outputCap: fc.integer({ min: 1, max: 1_000 }), capField: fc.constantFrom("max_tokens", "max_completion_tokens"), includeUsage: fc.boolean() },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(
        fc.constantFrom("o1", "gpt-5"),
        body,
        fc.shuffledSubarray(["model", "messages"], { minLength: 2 }),
        changes,
        (model, more, order, change) => {
          const client: Record<string, unknown> = { ...more };
          for (const key of order) client[key] = key === "model" ? model : [];
          const sent = JSON.parse(rewritten(JSON.stringify(client), change)) as Record<string, unknown>;
          const { max_tokens: legacy, max_completion_tokens: own } = more;
          const wanted = typeof own === "number" ? own : legacy;
          const most = Math.min(...[wanted, change.outputCap].filter((value) => typeof value === "number"));
          expect(sent.max_completion_tokens ?? Infinity).toBe(most);
          for (const field of ["max_tokens", ...(parameterRule(model)?.drop ?? [])]) expect(sent).not.toHaveProperty(field);
          expect(sent).toMatchObject({ model, messages: [], ...("seed" in more ? { seed: more.seed } : {}) });
        },
      ),
      { numRuns: 500 },
    );
  });
});
