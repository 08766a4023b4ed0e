// The official clients, through a guard in their own process: with its credentials, and with a key of their own.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import type { Socket } from "node:net";
import OpenAI from "openai";
import { afterEach, describe, expect, test } from "vitest";
import { GuardError, type GuardOptions } from "quotaguard";
import { asked, DAY, endHosts, host, MODEL, OWN_KEY, RPM, type Host } from "./in-process-kit.ts";

afterEach(endHosts);

const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false } as const;
const LIMITS = [{ ...DAY, window: { limit: 10, per: "day" } }, RPM] as const;

interface Clients extends Host {
  readonly alice: OpenAI;
  /** Of the Vercel AI SDK. */
  readonly model: ReturnType<ReturnType<typeof createOpenAI>["chat"]>;
}

describe.each<[string, GuardOptions]>([
  ["with the guard's credentials", {}],
  ["with its own key", { credentials: [] }],
])("%s", (_name, more) => {
  async function clients(extra: GuardOptions = {}): Promise<Clients> {
    const at = await host({ limits: LIMITS, ...more, ...extra }, () => undefined);
    const settings = { apiKey: OWN_KEY, baseURL: `${at.upstream.url}/v1`, ...at.guard.sdk({ scopes: { user: "alice" } }) };
    return { ...at, alice: new OpenAI(settings), model: createOpenAI(settings).chat(MODEL) };
  }

  /** Everything was charged, once: what the upstream bills is what is used up. */
  async function isCharged({ standing, conserved, upstream }: Clients): Promise<void> {
    await conserved();
    const { inputTokens, outputTokens } = upstream.totals();
    expect(await standing("user-day")).toEqual([(inputTokens + outputTokens) / 1_000, 0]);
    expect(await standing("user-rpm")).toEqual([upstream.log.length, 0]);
  }

  test("openai: a round trip of tools, whole and streamed, opens no socket but the provider's", async () => {
    const at = await clients();
    const ports: unknown[] = [];
    const opened = (message: unknown): void => {
      const { socket } = message as { socket: Socket };
      socket.once("connect", () => ports.push(socket.remotePort));
    };
    subscribe("net.client.socket", opened);
    const tools = [{ type: "function" as const, function: { name: "weather", parameters } }];
    const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "how is the weather in Oslo" }];
    const first = await at.alice.chat.completions.create({ model: MODEL, messages, tools, max_tokens: 50 });
    const call = first.choices[0]?.message.tool_calls?.[0];
    if (call?.type !== "function") throw new Error("no tool was called");
    expect(JSON.parse(call.function.arguments)).toEqual({ city: "Oslo" });
    messages.push(first.choices[0]?.message as OpenAI.ChatCompletionMessage, { role: "tool", tool_call_id: call.id, content: "rain" });
    let text = "";
    for await (const chunk of await at.alice.chat.completions.create({ model: MODEL, messages, tools, max_tokens: 50, stream: true })) {
      text += chunk.choices[0]?.delta.content ?? "";
    }
    unsubscribe("net.client.socket", opened);
    expect(text).toContain("rain");
    expect(ports.length).toBeGreaterThan(0);
    expect(new Set(ports)).toEqual(new Set([at.upstream.port]));
    await isCharged(at);
  });

  test("openai: an abort reaches the provider", async () => {
    const at = await clients();
    at.upstream.script({ fault: { at: 2, how: "hang" } });
    const stream = await at.alice.chat.completions.create({ ...asked("one two"), stream: true });
    for await (const _chunk of stream) stream.controller.abort();
    const entry = await at.upstream.received(1);
    await entry.ended;
    expect(entry.end).toBe("client");
    await at.quiet();
    expect((await at.standing("user-day"))[1]).toBe(0);
  });

  test("openai: embeddings and models", async () => {
    const at = await clients({ limits: [RPM] });
    expect((await at.alice.embeddings.create({ model: "text-embedding-3-small", input: ["one two", "three"] })).data).toHaveLength(2);
    expect((await at.alice.models.retrieve(MODEL)).id).toBe(MODEL);
  });

  test("Vercel's AI SDK: text, whole and streamed", async () => {
    const at = await clients();
    const { text, usage } = await generateText({ model: at.model, prompt: "say hello", maxOutputTokens: 50 });
    expect(text).toContain("hello");
    expect(usage.outputTokens).toBeGreaterThan(0);
    let streamed = "";
    for await (const piece of streamText({ model: at.model, prompt: "say hello", maxOutputTokens: 50 }).textStream) streamed += piece;
    expect(streamed).toBe(text);
    await isCharged(at);
  });

  test.each(["whole", "streamed"])("Vercel's AI SDK: tools, %s", async (how) => {
    const at = await clients();
    const cities: string[] = [];
    const weather = tool({
      inputSchema: jsonSchema<{ city: string }>(parameters),
      execute: ({ city }) => {
        cities.push(city);
        return "rain";
      },
    });
    const options = { model: at.model, prompt: "how is the weather", tools: { weather }, stopWhen: isStepCount(3), maxOutputTokens: 50 };
    const text = how === "whole" ? (await generateText(options)).text : await streamText(options).text;
    expect([cities, text.includes("rain"), at.upstream.log.length]).toEqual([["Oslo"], true, 2]);
    await isCharged(at);
  });

  test("Vercel's AI SDK: a refusal says why", async () => {
    const at = await clients({ limits: [{ ...RPM, window: { limit: 1, per: "hour" } }] });
    await generateText({ model: at.model, prompt: "say hello" });
    const refused: unknown = await generateText({ model: at.model, prompt: "say hello", maxRetries: 0 }).catch((error: unknown) => error);
    expect(refused).toMatchObject({ statusCode: 429 });
    expect(GuardError.from(refused)).toMatchObject({ code: "budget_exhausted", limit: "user-rpm" });
    expect(at.upstream.log).toHaveLength(1);
  });
});
