// What must be the same on the other side.
import { expect, test } from "vitest";
import { openaiCodec } from "../../src/dialects/openai/codec.ts";
import { gemini, geminiCodec } from "../../src/dialects/gemini/index.ts";
import { refusalOf } from "../core/context-kit.ts";
import { answering, encoding, read } from "./codec-kit.ts";

test("a call without input is an empty object in a stream of OpenAI's, as it is in a whole answer", () => {
  const out = openaiCodec
    .encoder(answering())
    .push([
      { type: "start", id: "c", model: "m" },
      { type: "open", choice: 0, key: 1, block: { type: "tool_call", id: "t1", name: "now" } },
      { type: "close", key: 1 },
      { type: "open", choice: 0, key: 2, block: { type: "tool_call", id: "t2", name: "at" } },
      { type: "delta", key: 2, text: '{"x":1}' },
      { type: "close", key: 2 },
      { type: "stop", choice: 0, reason: "tool_calls", stopSequence: null },
      { type: "end" },
    ]);
  const inputs = ["", ""];
  for (const [, index, piece] of out.matchAll(/"tool_calls":\[\{"index":(\d),.*?"arguments":("(?:[^"\\]|\\.)*")/g))
    inputs[Number(index)] += JSON.parse(piece as string) as string;
  expect(inputs).toEqual(["{}", '{"x":1}']);
});

test("of Gemini's tools only those that may be called are told", () => {
  const tools = [{ functionDeclarations: ["a", "b", "c"].map((name) => ({ name })) }];
  const toolConfig = { functionCallingConfig: { mode: "ANY", allowedFunctionNames: ["a", "b"] } };
  const { request } = read(geminiCodec, { contents: [], tools, toolConfig });
  const { body } = openaiCodec.encodeRequest(request, encoding());
  expect(body).toMatchObject({ tool_choice: "required", tools: [{ function: { name: "a" } }, { function: { name: "b" } }] });
  expect(body.tools).toHaveLength(2);
});

test("text that a tool takes has a bound where it is written whole", () => {
  const request = { ...answering().request, tools: [{ kind: "custom" as const, name: "patch", description: null, format: null }] };
  const encoder = openaiCodec.encoder(answering({ request }));
  encoder.push([{ type: "open", choice: 0, key: 1, block: { type: "tool_call", id: "t", name: "patch" } }]);
  expect(() => {
    for (let i = 0; i < 100; i += 1) encoder.push([{ type: "delta", key: 1, text: "x".repeat(100_000) }]);
  }).toThrow(/without end/);
});

test.each([
  [{ generationConfig: { maxOutputTokens: 1, max_output_tokens: 1_000_000 } }, "generationConfig.maxOutputTokens"],
  [{ generationConfig: { candidateCount: 1, candidate_count: 100 } }, "generationConfig.candidateCount"],
  [{ generationConfig: {}, generation_config: { maxOutputTokens: 1_000_000 } }, "generationConfig"],
])("what is held is what is sent: %j names a cap twice", (more, param) => {
  const body = { contents: [], ...more };
  const path = { operation: "chat", model: "gemini-x", stream: false } as const;
  expect(refusalOf(() => gemini.read(path, Buffer.from(JSON.stringify(body)), body))).toMatchObject({ code: "body_invalid", param });
});
