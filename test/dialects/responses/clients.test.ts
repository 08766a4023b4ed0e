// The official clients, given what we write for them.
import { createOpenAI } from "@ai-sdk/openai";
import { jsonSchema, streamText, tool } from "ai";
import fc from "fast-check";
import OpenAI, { APIError } from "openai";
import { describe, expect, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { NO_USAGE } from "../../../src/core/usage.ts";
import type { ChatAnswer } from "../../../src/dialects/message.ts";
import { responses, responsesCodec as codec } from "../../../src/dialects/responses/index.ts";
import { answering, eventsOf, REQUEST } from "../codec-kit.ts";
import { answers, thinkingBlock } from "../generators.ts";

const SSE = { "content-type": "text/event-stream" };
const LOOK = { kind: "function" as const, name: "look", description: null, schema: null, strict: null };

/** A client whose provider always says the same. */
const settings = (body: string, headers: Record<string, string> = SSE, status = 200) => ({
  apiKey: "none",
  baseURL: "http://127.0.0.1/v1",
  maxRetries: 0,
  fetch: async () => new Response(body, { status, headers }),
});

const ANSWER: ChatAnswer = {
  id: "resp_1",
  model: "gpt-5",
  usage: { ...NO_USAGE, inputTokens: 60, cacheReadTokens: 40, outputTokens: 4, reasoningTokens: 3 },
  choices: [
    {
      index: 0,
      stop: "tool_calls",
      stopSequence: null,
      blocks: [
        { type: "thinking", text: "hm, let me see", signature: { family: "openai", value: "sealed" } },
        { type: "text", text: "hello there" },
        { type: "tool_call", id: "call_1", name: "look", input: '{"a":1}' },
      ],
    },
  ],
};
const streamed = (answer = ANSWER): string => codec.encoder(answering({ request: { ...REQUEST, tools: [LOOK] } })).push(eventsOf(answer));

describe("the client of OpenAI", () => {
  test("puts a stream together into the answer that the last event tells", async () => {
    const stream = new OpenAI(settings(streamed())).responses.stream({ model: "gpt-5", input: "hi" });
    const deltas: string[] = [];
    stream.on("response.output_text.delta", (event) => deltas.push(event.delta));
    const last = await stream.finalResponse();
    expect(deltas.join("")).toBe("hello there");
    expect(last).toMatchObject({ id: "resp_1", status: "completed", output_text: "hello there", usage: { total_tokens: 107 } });
    expect(last.output.map(({ type }) => type)).toEqual(["reasoning", "message", "function_call"]);
  });

  test("does so with whatever is answered: what it put together is what the whole answer says", async () => {
    await fc.assert(
      fc.asyncProperty(answers([thinkingBlock("openai")]), async (answer) => {
        const told = codec.encodeAnswer(answer, answering());
        let built: unknown;
        const stream = new OpenAI(settings(streamed(answer))).responses.stream({ model: "gpt-5", input: "hi" });
        stream.on("event", (event) => {
          if (event.type === "response.output_item.done") built = event.item;
        });
        const last = await stream.finalResponse();
        expect(last.output.map(({ type }) => type)).toEqual((told.output as { type: string }[]).map(({ type }) => type));
        if (last.output.length > 0) expect(last.output.at(-1)).toMatchObject(built as object);
      }),
      { numRuns: 50 },
    );
  });

  test("reads a whole answer", async () => {
    const body = JSON.stringify(codec.encodeAnswer(ANSWER, answering()));
    const told = await new OpenAI(settings(body, { "content-type": "application/json" })).responses.create({ model: "gpt-5", input: "hi" });
    expect(told).toMatchObject({ output_text: "hello there", status: "completed" });
  });

  test("error-before-first-payload-keeps-status, and one in mid-stream is an error with its code", async () => {
    const error = new GuardError("budget_exhausted", "no money is left");
    const json = settings(JSON.stringify(responses.errorBody(error)), { "content-type": "application/json" }, error.status);
    const refused = new OpenAI(json).responses.create({ model: "gpt-5", input: "hi" });
    await expect(refused).rejects.toMatchObject({ status: 429, code: "budget_exhausted" });
    const cut = streamed().slice(0, streamed().indexOf("event: response.output_text.done")) + responses.errorEvent(error).toString();
    const read = async (): Promise<void> => {
      for await (const event of await new OpenAI(settings(cut)).responses.create({ model: "gpt-5", input: "hi", stream: true })) void event;
    };
    const thrown = await read().catch((reason: unknown) => reason);
    expect(thrown).toBeInstanceOf(APIError);
    expect(thrown).toMatchObject({ code: "budget_exhausted" });
  });
});

describe("the client of the AI SDK", () => {
  async function partsOf(body: string) {
    const parts: { readonly type: string; readonly [name: string]: unknown }[] = [];
    const stream = streamText({
      model: createOpenAI(settings(body)).responses("gpt-5"),
      prompt: "hi",
      maxRetries: 0,
      onError: () => undefined,
      tools: { look: tool({ inputSchema: jsonSchema<{ a: number }>({ type: "object", properties: { a: { type: "number" } } }) }) },
    });
    for await (const part of stream.fullStream) parts.push(part);
    return parts;
  }

  test("reads text, thoughts, calls, usage and the finish of a stream", async () => {
    const parts = await partsOf(streamed());
    const joined = (type: string): string => parts.flatMap((part) => (part.type === type ? [part.text] : [])).join("");
    expect(joined("text-delta")).toBe("hello there");
    expect(joined("reasoning-delta")).toBe("hm, let me see");
    expect(parts.find(({ type }) => type === "tool-call")).toMatchObject({ toolCallId: "call_1", toolName: "look", input: { a: 1 } });
    expect(parts.find(({ type }) => type === "finish")).toMatchObject({
      finishReason: "tool-calls",
      totalUsage: { inputTokens: 100, outputTokens: 7 },
    });
    expect(parts.filter(({ type }) => type === "error")).toEqual([]);
  });

  test("tells an error in mid-stream", async () => {
    const cut = streamed().slice(0, streamed().indexOf("event: response.output_text.done"));
    const error = responses.errorEvent(new GuardError("upstream_timeout", "it took too long")).toString();
    expect(JSON.stringify((await partsOf(cut + error)).find(({ type }) => type === "error"))).toContain("it took too long");
  });
});
