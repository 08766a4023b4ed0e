// `name(level)`: what is left of it, and where the level goes.
import { describe, expect, test } from "vitest";
import type { JsonObject } from "../../../src/dialects/message.ts";
import { ANTHROPIC, anthropicAnswer, gateway, OPENAI, openaiAnswer, provider } from "./wire-kit.ts";

const turns = { messages: [{ role: "user", content: "hi" }] };

async function sent(
  path: string,
  body: JsonObject,
  row = path.includes("messages") ? ANTHROPIC : OPENAI,
): Promise<{ readonly text: string; readonly body: JsonObject }> {
  const it = await provider("it", row, { json: row === ANTHROPIC ? anthropicAnswer("x") : openaiAnswer("x") });
  const { post, last } = await gateway([it]);
  expect((await post(path, body)).status).toBe(200);
  expect(last().knownCall?.model).not.toContain("(");
  return it.arrived[0] as { readonly text: string; readonly body: JsonObject };
}

describe("suffix-beats-body", () => {
  test("in the caller's own dialect the body is edited, and nothing else in it", async () => {
    const { text } = await sent("/v1/chat/completions", { model: "gpt-5(high)", reasoning_effort: "low", seed: 1, ...turns });
    expect(text).toBe('{"model":"gpt-5","reasoning_effort":"high","seed":1,"messages":[{"role":"user","content":"hi"}]}');
    const { body } = await sent("/v1/chat/completions", { model: "gpt-5(none)", ...turns });
    expect(body).toMatchObject({ model: "gpt-5", reasoning_effort: "none" });
  });

  test("a level that the model does not have becomes the nearest", async () => {
    expect((await sent("/v1/chat/completions", { model: "gpt-5(max)", ...turns })).body.reasoning_effort).toBe("xhigh");
    expect((await sent("/v1/chat/completions", { model: "gpt-5(30000)", ...turns })).body.reasoning_effort).toBe("xhigh");
  });

  test("Anthropic's thinking takes the place of the body's, and of what does not go with it", async () => {
    const { body } = await sent("/v1/messages", {
      model: "claude-sonnet-4-5(low)",
      max_tokens: 9_000,
      odd: { kept: 1 },
      thinking: { type: "enabled", budget_tokens: 5_000 },
      ...turns,
    });
    expect(body).toEqual({
      model: "claude-sonnet-4-5",
      max_tokens: 9_000,
      odd: { kept: 1 },
      thinking: { type: "enabled", budget_tokens: 1_024 },
      ...turns,
    });
    const warm = await sent("/v1/messages", { model: "claude-sonnet-4-5(low)", max_tokens: 9_000, temperature: 0.3, ...turns });
    expect(warm.body).toEqual({ model: "claude-sonnet-4-5", max_tokens: 9_000, thinking: { type: "enabled", budget_tokens: 1_024 }, ...turns });
    const off = await sent("/v1/messages", {
      model: "claude-opus-4-6(none)",
      max_tokens: 9_000,
      thinking: { type: "adaptive" },
      output_config: { effort: "high", format: null },
      ...turns,
    });
    expect(off.body).toMatchObject({ thinking: { type: "disabled" } });
    expect((off.body.output_config as JsonObject | undefined)?.effort).toBeUndefined();
  });

  test("Anthropic's thinking of one type leaves nothing of it to another", async () => {
    const own = { type: "enabled", budget_tokens: 5_000 };
    const asks = (model: string) => sent("/v1/messages", { model, max_tokens: 9_000, odd: { type: "kept" }, thinking: own, ...turns });
    expect((await asks("claude-opus-4-6(none)")).body.thinking).toEqual({ type: "disabled" });
    const { body } = await asks("claude-opus-4-6(max)");
    expect(body).toMatchObject({ thinking: { type: "adaptive" }, output_config: { effort: "max" }, odd: { type: "kept" } });
    expect(body.thinking).toEqual({ type: "adaptive" });
  });

  test("translated", async () => {
    const { body } = await sent(
      "/v1/messages",
      { model: "gpt-5(low)", max_tokens: 9, thinking: { type: "enabled", budget_tokens: 30_000 }, ...turns },
      OPENAI,
    );
    expect(body).toMatchObject({ model: "gpt-5", reasoning_effort: "low" });
    const claude = await sent("/v1/chat/completions", { model: "claude-opus-4-6(high)", reasoning_effort: "low", ...turns }, ANTHROPIC);
    expect(claude.body).toMatchObject({ thinking: { type: "adaptive" }, output_config: { effort: "high" } });
  });
});

test("a name that only looks like it stays as it is", async () => {
  const it = await provider("it", OPENAI, { json: openaiAnswer("x") });
  const { post } = await gateway([it]);
  for (const model of ["llama(tiny)", "(high)", "llama(high", "llama(12345678)"]) {
    await post("/v1/chat/completions", { model, ...turns });
    expect(it.arrived.at(-1)?.body).toEqual({ model, ...turns });
  }
});
