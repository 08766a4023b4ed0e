// Calls that only count tokens.
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../../src/dialects/message.ts";
import { ANTHROPIC, gateway, OPENAI, provider, type Script } from "./wire-kit.ts";

const COUNT = "/v1/messages/count_tokens";
const body = { model: "claude-x", messages: [{ role: "user", content: "hi" }] };
const refusal = (status: number): Script => ({ status, json: { type: "error", error: { type: "some_error", message: "no" } } });
const outcome = async (response: Response): Promise<readonly [number, string | null, JsonObject]> => [
  response.status,
  response.headers.get("x-quotaguard-estimated"),
  (await response.json()) as JsonObject,
];

describe("a count of tokens", () => {
  test("is the provider's where one can count, and costs one request", async () => {
    const gpt = await provider("gpt", OPENAI, { json: {} });
    const claude = await provider("claude", ANTHROPIC, { json: { input_tokens: 42 } });
    const { post, ended, last } = await gateway([gpt, claude]);
    expect(await outcome(await post(COUNT, body))).toEqual([200, null, { input_tokens: 42 }]);
    expect(claude.arrived[0]).toMatchObject({ path: COUNT, body });
    expect(gpt.arrived).toHaveLength(0);
    expect(ended.at(-1)).toMatchObject({ name: "claude", outcome: { kind: "served", tokens: 0 } });
    expect(last().charged).toMatchObject({ kind: "usage", rawNanoUsd: 0, billedNanoUsd: 0, usage: { inputTokens: 0, outputTokens: 0 } });
  });

  test("is our estimate where nobody can", async () => {
    const gpt = await provider("gpt", OPENAI, { json: {} });
    const { post, last } = await gateway([gpt]);
    expect(await outcome(await post(COUNT, body))).toEqual([200, "true", { input_tokens: 5 }]);
    const { max_tokens: _none, ...contents } = { max_tokens: 1, contents: [{ parts: [{ text: "hi" }] }] };
    expect(await outcome(await post("/v1beta/models/gemini-x:countTokens", contents))).toEqual([200, "true", { totalTokens: 5 }]);
    expect(last().charged).toMatchObject({ kind: "usage", billedNanoUsd: 0 });
    expect(gpt.arrived).toHaveLength(0);
  });

  test.each([401, 404, 429, 500])("a provider that answers it with %i is not benched, and our estimate stands in", async (status) => {
    const claude = await provider("claude", ANTHROPIC, refusal(status));
    const { post, ended, last } = await gateway([claude]);
    expect(await outcome(await post(COUNT, body))).toEqual([200, "true", { input_tokens: 5 }]);
    expect(ended).toMatchObject([{ outcome: { kind: "refused", status, isAside: true } }]);
    expect([last().fault, last().failure]).toEqual([undefined, undefined]);
  });

  test("a request that is wrong is told so", async () => {
    const claude = await provider("claude", ANTHROPIC, refusal(400));
    const { post } = await gateway([claude]);
    expect(await outcome(await post(COUNT, body))).toMatchObject([400, null, { error: { message: "no" } }]);
  });
});
