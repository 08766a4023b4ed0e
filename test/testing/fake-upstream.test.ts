import { connect, type Socket } from "node:net";
import OpenAI from "openai";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fakeInputTokens, fakeUpstream, pacer, testClock, type FakeReply, type FakeUpstream } from "../../src/testing/index.ts";

let upstream: FakeUpstream;

beforeEach(async () => {
  upstream = await fakeUpstream();
});

afterEach(() => upstream.close());

type Json = Record<string, unknown>;

const hello: Json = { model: "gpt-4o", messages: [{ role: "user", content: "one two three" }] };

function post(body: unknown, path = "/v1/chat/completions"): Promise<Response> {
  return fetch(upstream.url + path, { method: "POST", headers: { authorization: "Bearer sk-canary" }, body: JSON.stringify(body) });
}

/** The events of a stream, parsed; `[DONE]` stays a text. */
async function events(body: Json, path?: string): Promise<(Json | string)[]> {
  const text = await (await post({ ...body, stream: true }, path)).text();
  return text
    .split("\n\n")
    .filter((part) => part !== "")
    .map((part) => {
      const data = part.replace(/^data: /, "");
      return data === "[DONE]" ? data : (JSON.parse(data) as Json);
    });
}

/** Reads a connection to its end: the bytes that came, and whether it was reset. */
function raw(request: string): Promise<{ readonly text: string; readonly reset: boolean; readonly reads: number }> {
  return new Promise((resolve) => {
    let text = "";
    let reset = false;
    let reads = 0;
    const socket: Socket = connect(upstream.port, "127.0.0.1", () => socket.write(request));
    socket.setEncoding("latin1");
    socket.on("data", (part: string) => {
      text += part;
      reads += 1;
    });
    socket.on("error", () => void (reset = true));
    socket.on("close", () => resolve({ text, reset, reads }));
  });
}

function rawPost(body: Json): string {
  const text = JSON.stringify(body);
  return `POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
}

describe("the default answers", () => {
  it("chat: an echo with correct usage", async () => {
    const response = await post(hello);
    expect(await response.json()).toMatchObject({
      id: "chatcmpl-fake1",
      model: "gpt-4o",
      choices: [{ index: 0, message: { role: "assistant", content: "You said: one two three" }, finish_reason: "stop" }],
      usage: { prompt_tokens: 3, completion_tokens: 5, total_tokens: 8 },
    });
    expect(response.headers.get("x-request-id")).toBe("req_fake1");
    expect(upstream.log[0]).toMatchObject({ billed: { inputTokens: 3, outputTokens: 5 }, chunks: 1, status: 200 });
  });

  it("honours max_tokens, max_completion_tokens and n", async () => {
    expect(await (await post({ ...hello, max_tokens: 2, n: 3 })).json()).toMatchObject({
      choices: [0, 1, 2].map((index) => ({ index, message: { content: "You said:" }, finish_reason: "length" })),
      usage: { prompt_tokens: 3, completion_tokens: 6 },
    });
    expect(await (await post({ ...hello, max_completion_tokens: 1, max_tokens: 4 })).json()).toMatchObject({ usage: { completion_tokens: 1 } });
  });

  it("streams one token per event, and the usage only when it is asked for", async () => {
    const plain = await events(hello);
    expect(plain.at(-1)).toBe("[DONE]");
    expect(plain.filter((event) => typeof event === "object" && "usage" in event)).toEqual([]);
    const counted = await events({ ...hello, stream_options: { include_usage: true } });
    expect(counted.length).toBe(plain.length + 1);
    expect(counted.at(-2)).toMatchObject({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 5 } });
    expect(counted.slice(0, -2).every((event) => typeof event === "object" && event.usage === null)).toBe(true);
    expect(upstream.log.map((entry) => entry.billed)).toEqual(Array.from({ length: 2 }, () => ({ inputTokens: 3, outputTokens: 5 })));
  });

  it("calls an offered tool, whole and streamed, and answers with text after the tool's result", async () => {
    const tools = [{ type: "function", function: { name: "weather", parameters: {} } }];
    expect(await (await post({ ...hello, tools })).json()).toMatchObject({
      choices: [
        {
          message: { content: null, tool_calls: [{ type: "function", function: { name: "weather", arguments: '{"city": "Oslo"}' } }] },
          finish_reason: "tool_calls",
        },
      ],
    });
    const pieces = (await events({ ...hello, tools })).flatMap((event) => {
      if (typeof event === "string") return [];
      const [choice] = event.choices as { delta: { tool_calls?: { function: { arguments: string } }[] } }[];
      return (choice?.delta.tool_calls ?? []).map((call) => call.function.arguments);
    });
    expect(pieces.join("")).toBe('{"city": "Oslo"}');
    const after = { ...hello, tools, messages: [...(hello.messages as Json[]), { role: "tool", content: "sunny" }] };
    expect(await (await post(after)).json()).toMatchObject({ choices: [{ finish_reason: "stop" }] });
    expect(await (await post({ ...hello, tools, tool_choice: "none" })).json()).toMatchObject({ choices: [{ finish_reason: "stop" }] });
  });

  it("completions, embeddings (float and base64), models", async () => {
    expect(await (await post({ model: "i", prompt: "a b" }, "/v1/completions")).json()).toMatchObject({
      object: "text_completion",
      choices: [{ text: "You said: a b" }],
    });
    expect((await events({ model: "i", prompt: "a b" }, "/v1/completions")).at(0)).toMatchObject({
      object: "text_completion",
      choices: [{ text: "You" }],
    });
    const floats = (await (await post({ model: "e", input: ["a b", "c"], dimensions: 3 }, "/openai/v1/embeddings")).json()) as {
      data: { embedding: number[] }[];
      usage: Json;
    };
    expect([floats.data.length, floats.data[0]?.embedding.length, floats.usage]).toEqual([2, 3, { prompt_tokens: 3, total_tokens: 3 }]);
    const coded = (await (await post({ model: "e", input: "a", dimensions: 3, encoding_format: "base64" }, "/v1/embeddings")).json()) as {
      data: { embedding: string }[];
    };
    expect(Buffer.from(coded.data[0]?.embedding ?? "", "base64").length).toBe(12);
    const list = (await (await fetch(`${upstream.url}/v1/models`)).json()) as { data: { id: string }[] };
    expect(list.data.map((model) => model.id)).toContain("gpt-4o");
    expect(await (await fetch(`${upstream.url}/v1/models/gpt-4o`)).json()).toMatchObject({ id: "gpt-4o" });
    expect((await fetch(`${upstream.url}/v1/models/none`)).status).toBe(404);
  });

  it("is understood by OpenAI's own client", async () => {
    const client = new OpenAI({ apiKey: "sk-canary", baseURL: `${upstream.url}/v1`, maxRetries: 0 });
    const whole = await client.chat.completions.create({ model: "gpt-4o", messages: [{ role: "user", content: "hi" }] });
    expect(whole.choices[0]?.message.content).toBe("You said: hi");
    let text = "";
    let total = 0;
    const stream = await client.chat.completions.create({
      model: "gpt-4o",
      messages: [{ role: "user", content: "hi" }],
      stream: true,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta.content ?? "";
      total = chunk.usage?.total_tokens ?? total;
    }
    expect([text, total]).toEqual(["You said: hi", 4]);
    expect((await client.embeddings.create({ model: "e", input: "x" })).data[0]?.embedding.length).toBe(8);
    upstream.script({ status: 429, headers: { "retry-after": "1" } });
    await expect(client.chat.completions.create({ model: "m", messages: [] })).rejects.toBeInstanceOf(OpenAI.RateLimitError);
  });

  it("counts input in words, in every shape that a request may have", () => {
    expect(
      fakeInputTokens({ messages: [{ content: "a b" }, { content: [{ type: "text", text: "c" }, { type: "image_url" }] }, { content: null }] }),
    ).toBe(3);
    expect(fakeInputTokens({ input: [[1, 2], [3]] })).toBe(3);
    expect(fakeInputTokens({ prompt: ["a", "b c"] })).toBe(3);
    expect(fakeInputTokens({})).toBe(1);
  });

  it("refuses what OpenAI would refuse", async () => {
    expect((await post({}, "/v1/nothing")).status).toBe(404);
    expect((await fetch(`${upstream.url}/v1/chat/completions`)).status).toBe(405);
    expect((await fetch(`${upstream.url}/v1/chat/completions`, { method: "POST", body: "[" })).status).toBe(400);
    const locked = await fakeUpstream({ keys: ["sk-good"] });
    const ask = async (key: string, path: string) => (await fetch(locked.url + path, { headers: { authorization: `Bearer ${key}` } })).status;
    expect([await ask("sk-good", "/v1/models"), await ask("sk-bad", "/v1/models"), await ask("sk-bad", "/v1/chat/completions")]).toEqual([
      200, 401, 401,
    ]);
    await locked.close();
  });
});

describe("scripts", () => {
  it("one for all, a list in turn, a function of the request, and back to the default", async () => {
    const statuses = async (count: number) => {
      const list: number[] = [];
      for (let i = 0; i < count; i += 1) list.push((await post(hello)).status);
      return list;
    };
    upstream.script({ status: 500 });
    expect(await statuses(2)).toEqual([500, 500]);
    upstream.script([{ status: 429 }, { status: 503 }]);
    expect(await statuses(3)).toEqual([429, 503, 200]);
    upstream.script(async ({ id, body, headers }) =>
      headers.authorization === upstream.digest("sk-canary") && body.model === "gpt-4o" && id === 6 ? { status: 418 } : undefined,
    );
    expect(await statuses(2)).toEqual([418, 200]);
    upstream.script({ status: 500 });
    upstream.reset();
    expect(await statuses(1)).toEqual([200]);
    expect(upstream.log.length).toBe(1);
  });

  it.each<[string, FakeReply, unknown, unknown]>([
    ["missing", { usage: "missing" }, undefined, []],
    ["zero", { usage: "zero" }, 0, [0]],
    ["null", { usage: "null" }, undefined, []],
    ["in-finish", { usage: "in-finish" }, 5, [5]],
    ["cumulative", { usage: "cumulative" }, 5, [0, 1, 2, 3, 4, 5, 5]],
    ["object", { usage: { completion_tokens: -7 } }, -7, [-7]],
  ])("usage %s", async (_name, reply, whole, streamed) => {
    upstream.script(reply);
    const body = (await (await post(hello)).json()) as { usage?: { completion_tokens: number } | null };
    expect(body.usage?.completion_tokens).toBe(whole);
    const list = await events({ ...hello, stream_options: { include_usage: true } });
    const figures = list.flatMap((event) => (typeof event === "object" && event.usage ? [(event.usage as Json).completion_tokens] : []));
    expect(figures).toEqual(streamed);
  });

  it("leaves out the finish reason and [DONE], changes line ends, adds comments", async () => {
    upstream.script({ finishReason: null, done: false, newline: "\r\n", comments: true, text: ["a"] });
    const text = await (await post({ ...hello, stream: true })).text();
    expect(text).not.toContain("[DONE]");
    expect(text).not.toMatch(/finish_reason":"/);
    expect(text.split("\r\n\r\n").length).toBe(3);
    expect(text.startsWith(": keep-alive\r\ndata: {")).toBe(true);
  });

  it("sends events and bodies as they stand", async () => {
    upstream.script({ events: ["data: {bad\n\n", ": x\n\n"] });
    expect(await (await post({ ...hello, stream: true })).text()).toBe("data: {bad\n\n: x\n\n");
    upstream.script({ status: 200, body: "<html>", headers: { "content-type": "text/html" } });
    const response = await post({ ...hello, stream: true });
    expect([await response.text(), response.headers.get("content-type")]).toEqual(["<html>", "text/html"]);
  });

  it("splits the body at byte positions, each its own write", async () => {
    upstream.script({ splitAt: [1, 2, 100], text: ["é"] });
    const { text, reads } = await raw(rawPost({ ...hello, stream: true }));
    expect(reads).toBeGreaterThanOrEqual(4);
    expect(text).toContain("[DONE]");
    expect(upstream.log[0]).toMatchObject({ chunks: 4, billed: { outputTokens: 1 } });
  });

  it("a pacer lets events out one by one, and only delivered tokens are billed", async () => {
    const pace = pacer();
    upstream.script({ pacer: pace });
    const leave = new AbortController();
    const response = await fetch(`${upstream.url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify({ ...hello, stream: true }),
      signal: leave.signal,
    });
    const reader = response.body?.getReader();
    for (let i = 0; i < 3; i += 1) {
      await pace.waiting();
      pace.step();
      await reader?.read();
    }
    await pace.waiting();
    const entry = await upstream.received(1);
    expect(entry).toMatchObject({ chunks: 3, billed: { inputTokens: 3, outputTokens: 2 }, end: null });
    leave.abort();
    await entry.ended;
    expect(entry.end).toBe("client");
    pace.open();
    expect(entry.billed.outputTokens).toBe(2);
    expect(upstream.totals()).toEqual({ requests: 1, inputTokens: 3, outputTokens: 2 });
  });

  it("a stream whose client has left takes no step from the others", async () => {
    const pace = pacer();
    upstream.script({ pacer: pace });
    const leave = new AbortController();
    const ask = (signal: AbortSignal | null) =>
      fetch(`${upstream.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ ...hello, stream: true }), signal });
    await ask(leave.signal);
    await pace.waiting();
    leave.abort();
    await (
      await upstream.received(1)
    ).ended;
    const reader = (await ask(null)).body?.getReader();
    pace.step();
    expect((await reader?.read())?.done).toBe(false);
    pace.open();
    while (!(await reader?.read())?.done);
  });

  it("delayMs follows the clock", async () => {
    const clock = testClock();
    const slow = await fakeUpstream({ clock, delayMs: 50 });
    const response = await fetch(`${slow.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify({ ...hello, stream: true }) });
    const reader = response.body?.getReader();
    await reader?.read();
    const reading = { done: false };
    const rest = (async () => {
      while (!(await reader?.read())?.done);
      reading.done = true;
    })();
    let ticks = 0;
    while (!reading.done) {
      if (clock.pending() > 0) {
        ticks += 1;
        clock.advance(50);
      }
      await new Promise((resolve) => void setImmediate(resolve));
    }
    await rest;
    expect(ticks).toBe(7);
    await slow.close();
  });
});

describe("faults", () => {
  it.each<[string, FakeReply["fault"], boolean, RegExp]>([
    ["reset at the start", { at: "start", how: "reset" }, true, /^$/],
    ["close at the start", { at: "start", how: "close" }, false, /^$/],
    ["reset after the head", { at: "headers", how: "reset" }, true, /^(HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n)?$/],
    ["close after two events", { at: 2, how: "close" }, false, /data: [^]*data: (?![^]*data: )/],
    ["close instead of the end", { at: "end", how: "close" }, false, /\[DONE\]\n\n\r\n$/],
  ])("%s", async (_name, fault, reset, bytes) => {
    upstream.script(fault ? { fault } : {});
    const result = await raw(rawPost({ ...hello, stream: true }));
    expect(result.reset).toBe(reset);
    expect(result.text).toMatch(bytes);
    const entry = await upstream.received(1);
    await entry.ended;
    expect(entry.end).toBe("upstream");
  });

  it("a whole answer is cut at a byte, and its output is then not billed", async () => {
    upstream.script({ fault: { at: 20, how: "close" }, headers: { "content-length": "1000" } });
    const { text } = await raw(rawPost(hello));
    expect(text.split("\r\n\r\n")[1]?.length).toBe(20);
    expect(upstream.log[0]?.billed).toEqual({ inputTokens: 3, outputTokens: 0 });
  });

  it("hangs until the client leaves", async () => {
    for (const at of ["start", "headers", 2, "end"] as const) {
      upstream.reset();
      upstream.script({ fault: { at, how: "hang" } });
      const leave = new AbortController();
      const asked = fetch(`${upstream.url}/v1/chat/completions`, {
        method: "POST",
        body: JSON.stringify({ ...hello, stream: true }),
        signal: leave.signal,
      }).catch(() => null);
      const entry = await upstream.received(1);
      if (at !== "start") await asked;
      expect(entry.end).toBeNull();
      leave.abort();
      await entry.ended;
      expect(entry.end).toBe("client");
    }
  });

  it("holds an answer until the test lets it go", async () => {
    const gate = Promise.withResolvers<void>();
    upstream.script({ hold: gate.promise });
    const asked = post(hello);
    const entry = await upstream.received(1);
    expect(entry.status).toBeNull();
    gate.resolve();
    expect((await asked).status).toBe(200);
  });
});

describe("the truth log", () => {
  it("knows keys by digest only", async () => {
    await fetch(`${upstream.url}/v1/models`, { headers: { authorization: "Bearer sk-canary", "x-api-key": "sk-canary", cookie: "sk-canary" } });
    expect(upstream.log[0]?.headers.authorization).toBe(upstream.digest("sk-canary"));
    expect(JSON.stringify(upstream.log)).not.toContain("canary");
  });

  it("says in the answer what is wrong with its script", async () => {
    for (const script of [
      () => {
        throw new Error("not like this");
      },
      { text: "no list" } as never,
    ]) {
      upstream.script(script);
      const response = await post(hello);
      expect([response.status, await response.text()]).toEqual([500, expect.stringContaining("the script of fakeUpstream() failed: ")]);
    }
  });

  it("is bounded, and its totals are not", async () => {
    const small = await fakeUpstream({ logLimit: 2, logBodyBytes: 10 });
    for (let i = 0; i < 4; i += 1) await (await fetch(`${small.url}/v1/chat/completions`, { method: "POST", body: JSON.stringify(hello) })).text();
    await small.log.at(-1)?.ended;
    expect(small.log.map((entry) => [entry.id, entry.body.length, entry.bodyBytes > 10])).toEqual([
      [3, 10, true],
      [4, 10, true],
    ]);
    expect(small.totals()).toEqual({ requests: 4, inputTokens: 12, outputTokens: 20 });
    await small.close();
  });

  it("stands 500 streams at one time", async () => {
    const pace = pacer();
    upstream.script({ pacer: pace });
    const all = Promise.all(Array.from({ length: 500 }, async () => (await post({ ...hello, stream: true })).text()));
    await upstream.received(500);
    expect(upstream.openSockets()).toBe(500);
    pace.open();
    const texts = await all;
    expect(texts.every((text) => text.endsWith("data: [DONE]\n\n"))).toBe(true);
    await Promise.all(upstream.log.map((entry) => entry.ended));
    expect(upstream.totals()).toEqual({ requests: 500, inputTokens: 1_500, outputTokens: 2_500 });
  });
});
