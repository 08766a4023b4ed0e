// What a user's own tests make a provider say.
import OpenAI from "openai";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, testClock, type FakeUpstream } from "quotaguard/testing";

let upstream: FakeUpstream;
let openai: OpenAI;
beforeEach(async () => {
  upstream = await fakeUpstream();
  openai = new OpenAI({ apiKey: "sk-test", baseURL: `${upstream.url}/v1`, maxRetries: 0 });
});
afterEach(() => upstream.close());

const messages = [{ role: "user" as const, content: "one two three" }];

describe("several tool calls in one answer", () => {
  const calls = [
    { name: "weather", arguments: ['{"city":', '"Oslo"}'] },
    { name: "time", arguments: ['{"zone":"CET"}'] },
  ];
  const expected = [
    { name: "weather", arguments: '{"city":"Oslo"}' },
    { name: "time", arguments: '{"zone":"CET"}' },
  ];

  test("whole", async () => {
    upstream.script({ toolCall: calls });
    const { choices, usage } = await openai.chat.completions.create({ model: "gpt-4o", messages, n: 2 });
    expect(choices.map(({ finish_reason }) => finish_reason)).toEqual(["tool_calls", "tool_calls"]);
    for (const { message } of choices) {
      expect(message.content).toBeNull();
      expect(message.tool_calls?.map((call) => (call.type === "function" ? call.function : null))).toEqual(expected);
    }
    const ids = choices.flatMap(({ message }) => message.tool_calls?.map(({ id }) => id));
    expect(new Set(ids).size).toBe(4);
    expect(usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 6 });
  });

  test("streamed, as the SDK puts them together again", async () => {
    upstream.script({ toolCall: calls });
    const tools = [{ type: "function" as const, function: { name: "weather", parameters: {} } }];
    const final = await openai.chat.completions.stream({ model: "gpt-4o", messages, tools }).finalChatCompletion();
    expect(
      final.choices[0]?.message.tool_calls?.map((call) =>
        call.type === "function" ? { name: call.function.name, arguments: call.function.arguments } : null,
      ),
    ).toEqual(expected);
    expect(final.choices[0]?.finish_reason).toBe("tool_calls");
  });
});

test("a provider that counts as it likes bills and tells what it counts, thoughts included", async () => {
  const answer = { reasoning: ["aa", "b"], text: ["cccc", "d"], countTokens: (text: string) => text.length };
  upstream.script(answer);
  const asked = { model: "gpt-4o", messages: [{ role: "user" as const, content: "abc" }] };
  // "user", "abc", three for the message and three for the answer's beginning.
  const usage = { prompt_tokens: 13, completion_tokens: 8, completion_tokens_details: { reasoning_tokens: 3 } };
  const whole = await openai.chat.completions.create(asked);
  expect(whole.usage).toMatchObject(usage);
  expect(whole.choices[0]?.message).toMatchObject({ content: "ccccd", reasoning_content: "aab" });
  const stream = await openai.chat.completions.create({ ...asked, stream: true, stream_options: { include_usage: true }, max_tokens: 7 });
  const said: string[] = [];
  let told: unknown;
  for await (const { choices, usage: last } of stream) {
    const delta = choices[0]?.delta as { content?: string; reasoning_content?: string } | undefined;
    if (delta?.content || delta?.reasoning_content) said.push(delta.reasoning_content ?? delta.content ?? "");
    told = last ?? told;
  }
  expect(said).toEqual(["aa", "b", "cccc"]);
  expect(told).toMatchObject({ completion_tokens: 7 });
  expect(upstream.totals()).toEqual({ requests: 2, inputTokens: 26, outputTokens: 15 });
});

describe("an error where nobody looks for one", () => {
  test("in the middle of a stream that ends as if all were well", async () => {
    upstream.script({ fault: { at: 3, how: "error" }, text: ["a", "b", "c", "d"] });
    const stream = await openai.chat.completions.create({ model: "gpt-4o", messages, stream: true });
    let text = "";
    const reading = (async () => {
      for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
    })();
    await expect(reading).rejects.toThrow("scripted answer 500");
    expect(text).toBe("ab");
    await upstream.log[0]?.ended;
    expect(upstream.log[0]).toMatchObject({ status: 200, end: "upstream", told: null });
  });

  test.each(["start", "headers", "end"] as const)("a stream's: %s", async (at) => {
    upstream.script({ fault: { at, how: "error" }, text: ["a", "b"] });
    const response = await fetch(`${upstream.url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ model: "m", messages, stream: true }),
    });
    const events = (await response.text()).trim().split("\n\n");
    expect([response.status, events.at(-1)]).toEqual([200, expect.stringContaining('data: {"error":{"message":"scripted answer 500')]);
    expect(events.length > 1).toBe(at === "end");
  });

  test("as a whole answer with status 200, which costs nothing", async () => {
    upstream.script({ fault: { at: "start", how: "error" } });
    const response = await fetch(`${upstream.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ model: "m", messages }) });
    expect([response.status, await response.json()]).toEqual([200, { error: expect.objectContaining({ type: "server_error" }) }]);
    expect(upstream.log[0]).toMatchObject({ billed: { inputTokens: 0, outputTokens: 0 }, told: null });
  });
});

describe("the truth log knows", () => {
  const ask = async (body: object): Promise<void> =>
    void (await (await openai.chat.completions.create({ model: "gpt-4o", messages, ...body }).asResponse()).text());

  test("what was asked for, and the usage that was told: the script's, where it lies", async () => {
    await ask({});
    await ask({ stream: true });
    await ask({ stream: true, stream_options: { include_usage: true } });
    upstream.script({ usage: "cumulative", splitAt: [50, 300, 301] });
    await ask({ stream: true });
    upstream.script({ usage: { prompt_tokens: 900, completion_tokens: 40 } });
    await ask({});
    upstream.script({ usage: { prompt_tokens: -1, completion_tokens: 40 } });
    await ask({});
    upstream.script({ body: { usage: { prompt_tokens: 7, completion_tokens: 1 } } });
    await ask({});
    upstream.script({ events: ['data: {"usage":{"prompt_tokens":8,"completion_tokens":2}}\n\n', "data: [DONE]\n\n"] });
    await ask({ stream: true });
    await fetch(`${upstream.url}/v1/models`);
    const billed = { inputTokens: 3, outputTokens: 5 };
    expect(upstream.log.map(({ call, told }) => [call?.stream ?? "no call", told])).toEqual([
      [false, billed],
      [true, null],
      [true, billed],
      [true, billed],
      [false, { inputTokens: 900, outputTokens: 40 }],
      [false, null],
      [false, { inputTokens: 7, outputTokens: 1 }],
      [true, { inputTokens: 8, outputTokens: 2 }],
      ["no call", null],
    ]);
    expect(upstream.log[0]?.call?.model).toBe("gpt-4o");
  });

  test("how many requests it has forgotten", async () => {
    const small = await fakeUpstream({ logLimit: 2 });
    for (let i = 0; i < 3; i += 1) await fetch(`${small.url}/v1/models`);
    expect([small.log.length, small.forgotten]).toEqual([2, 1]);
    small.reset();
    expect([small.log.length, small.forgotten]).toEqual([0, 3]);
    await small.close();
  });
});

test("slow chunks: one event per tick of the test's clock", async () => {
  const clock = testClock();
  const slow = await fakeUpstream({ clock, delayMs: 100 });
  const response = await fetch(`${slow.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ model: "m", messages, stream: true }) });
  const reading = response.text();
  const entry = slow.log[0];
  for (let chunks = 1; chunks < 8; chunks += 1) {
    await expect.poll(() => [entry?.chunks, clock.pending()]).toEqual([chunks, 1]);
    clock.advance(99);
    expect(entry?.chunks).toBe(chunks);
    clock.advance(1);
  }
  expect(await reading).toContain("[DONE]");
  await slow.close();
});
