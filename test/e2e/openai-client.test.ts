import OpenAI from "openai";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createGuard, GuardError } from "quotaguard";
import { KEY, gatewayOptions, testGateway, type TestGateway } from "../helpers/app.ts";

let gateway: TestGateway;
beforeAll(async () => {
  gateway = await testGateway();
});
afterAll(() => gateway.close());
beforeEach(() => {
  gateway.upstream.reset();
  // A provider's 429 in one test is no reason to hold the next one back.
  gateway.guard.admin.clearCooldowns("main", null);
});

const clients = {
  "over HTTP": () => new OpenAI({ baseURL: `${gateway.url}/llm/v1`, apiKey: KEY, maxRetries: 0 }),
  "in process": () => new OpenAI(gateway.guard.sdk({ scopes: { user: "alice" } })),
};

const messages = [{ role: "user" as const, content: "hello" }];

for (const [name, client] of Object.entries(clients)) {
  describe(`the official openai client ${name}`, () => {
    test("chats", async () => {
      const answer = await client().chat.completions.create({ model: "gpt-4o-mini", messages });
      expect(answer.choices[0]?.message.content).toBeTruthy();
      expect(answer.usage?.total_tokens).toBeGreaterThan(0);
    });

    test("streams, with usage only when it asked", async () => {
      const plain = [];
      for await (const chunk of await client().chat.completions.create({ model: "gpt-4o-mini", messages, stream: true })) plain.push(chunk);
      expect(plain.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("")).toBeTruthy();
      expect(plain.every((chunk) => chunk.choices.length === 1)).toBe(true);

      const asked = [];
      const stream = await client().chat.completions.create({
        model: "gpt-4o-mini",
        messages,
        stream: true,
        stream_options: { include_usage: true },
      });
      for await (const chunk of stream) asked.push(chunk);
      expect(asked.at(-1)?.choices).toEqual([]);
      expect(asked.at(-1)?.usage?.completion_tokens).toBeGreaterThan(0);
    });

    test("calls tools", async () => {
      const tools = [
        { type: "function" as const, function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } },
      ];
      const answer = await client().chat.completions.create({ model: "gpt-4o", messages, tools, tool_choice: "required" });
      const call = answer.choices[0]?.message.tool_calls?.[0];
      expect(call?.type === "function" && JSON.parse(call.function.arguments)).toBeTypeOf("object");
      expect(answer.choices[0]?.finish_reason).toBe("tool_calls");
    });

    test("sends vision parts untouched", async () => {
      const image = { type: "image_url" as const, image_url: { url: "data:image/png;base64,iVBORw0KGgo=", detail: "low" as const } };
      await client().chat.completions.create({
        model: "gpt-4o",
        messages: [{ role: "user", content: [{ type: "text", text: "what is this?" }, image] }],
      });
      const sent = JSON.parse(String(gateway.upstream.log.at(-1)?.body)) as { messages: unknown[] };
      expect(sent.messages).toEqual([{ role: "user", content: [{ type: "text", text: "what is this?" }, image] }]);
    });

    test("embeds", async () => {
      const answer = await client().embeddings.create({ model: "text-embedding-3-small", input: ["a", "b"], encoding_format: "float" });
      expect(answer.data).toHaveLength(2);
      expect(answer.data[0]?.embedding.length).toBeGreaterThan(0);
    });

    test("completes (legacy)", async () => {
      const answer = await client().completions.create({ model: "gpt-3.5-turbo-instruct", prompt: "say" });
      expect(answer.choices[0]?.text).toBeTruthy();
    });

    test("lists and retrieves models", async () => {
      const ids = [];
      for await (const model of client().models.list()) ids.push(model.id);
      expect(ids).toContain("gpt-4o-mini");
      expect((await client().models.retrieve("gpt-4o-mini")).id).toBe("gpt-4o-mini");
      await expect(client().models.retrieve("no-such-model")).rejects.toMatchObject({ status: 404, code: "model_not_found" });
    });

    test("gets typed errors", async () => {
      const create = client().chat.completions.create({ model: "gpt-4o", messages, max_tokens: -1 });
      const error: unknown = await create.catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(OpenAI.BadRequestError);
      expect(error).toMatchObject({ status: 400, code: "body_invalid", param: "max_tokens" });
      expect(GuardError.from(error)).toMatchObject({ code: "body_invalid", param: "max_tokens" });

      gateway.upstream.script({ status: 429, headers: { "retry-after": "7" } });
      const limited: unknown = await client()
        .chat.completions.create({ model: "gpt-4o", messages })
        .catch((thrown: unknown) => thrown);
      expect(limited).toBeInstanceOf(OpenAI.RateLimitError);
      expect(GuardError.from(limited)).toBeUndefined();
    });

    test("aborts, and the upstream hears of it", async () => {
      gateway.upstream.script({ fault: { at: 2, how: "hang" } });
      const stream = await client().chat.completions.create({ model: "gpt-4o-mini", messages, stream: true });
      for await (const _chunk of stream) {
        stream.controller.abort();
        break;
      }
      const entry = gateway.upstream.log.at(-1);
      await entry?.ended;
      expect(entry?.end).toBe("client");
    });
  });
}

test("a wrong key is the client's own typed error", async () => {
  const client = new OpenAI({ baseURL: `${gateway.url}/llm/v1`, apiKey: "qg-not-a-key", maxRetries: 0 });
  await expect(client.chat.completions.create({ model: "gpt-4o", messages })).rejects.toBeInstanceOf(OpenAI.AuthenticationError);
  expect(gateway.upstream.log).toHaveLength(0);
});

test("in process and over HTTP share one budget", async () => {
  const limits = [{ name: "user-requests", scope: "user", unit: "requests" as const, window: { limit: 2, per: "hour" } }];
  const guard = createGuard(gatewayOptions(gateway.upstream, { limits }));
  const client = new OpenAI(guard.sdk({ scopes: { user: "alice" } }));
  await client.chat.completions.create({ model: "gpt-4o", messages });
  await client.chat.completions.create({ model: "gpt-4o", messages });
  const refused: unknown = await client.chat.completions.create({ model: "gpt-4o", messages }).catch((thrown: unknown) => thrown);
  expect(GuardError.from(refused)).toMatchObject({ code: "budget_exhausted", limit: "user-requests", scope: "user" });
  await guard.close();
});
