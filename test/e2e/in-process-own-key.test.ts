// A guard without credentials for a provider: the SDK's own request goes out with its own key, and budgets around it.
import OpenAI from "openai";
import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, test } from "vitest";
import { createGuard, GuardError, type GuardOptions } from "quotaguard";
import { pacer, testClock } from "quotaguard/testing";
import { UPSTREAM_KEY } from "../helpers/app.ts";
import { asked, DAY, endHosts, endWith, host, MODEL, OWN_KEY, RPM, type Host } from "./in-process-kit.ts";

afterEach(endHosts);

const TWO = { text: ["a", " b"] };
const CALL = asked("one two three");

/** A guard that has no credentials, and a client with its own key and address. */
async function own(more: GuardOptions = {}): Promise<Host & { readonly mine: OpenAI }> {
  const at = await host({ credentials: [], limits: [DAY, RPM], ...more }, () => undefined);
  const mine = new OpenAI({ ...at.guard.sdk({ scopes: { user: "alice" } }), apiKey: OWN_KEY, baseURL: `${at.upstream.url}/v1` });
  return { ...at, mine };
}

/** A provider that does what it wants. */
async function provider(answer: RequestListener): Promise<string> {
  const server = createServer(answer).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  endWith(async () => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const refusal = async (promise: Promise<unknown>): Promise<GuardError | undefined> => GuardError.from(await promise.catch((error: unknown) => error));

describe("a call with the SDK's own key", () => {
  test("is sent as the SDK wrote it, and its answer comes back as the provider wrote it", async () => {
    const { mine, upstream, standing, conserved } = await own();
    upstream.script(TWO);
    const { data, response } = await mine.chat.completions.create(CALL, { headers: { "x-mine": "1" } }).withResponse();
    expect([data.choices[0]?.message.content, data.usage?.total_tokens]).toEqual(["a b", 5]);
    const [entry] = upstream.log;
    expect(entry?.headers).toMatchObject({ authorization: upstream.digest(OWN_KEY), "x-mine": "1", "x-stainless-lang": "js" });
    expect(JSON.parse(String(entry?.body))).toEqual(CALL);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "x-upstream-request-id": "req_fake1",
      "openai-organization": "org-fake",
      "x-ratelimit-limit-requests": "10",
      "x-quotaguard-cost-usd": "0.005000000",
    });
    await conserved();
    expect([await standing("user-day"), await standing("user-rpm")]).toEqual([
      [0.005, 0],
      [1, 0],
    ]);
  });

  test("speaks OpenAI's Responses, too: streamed as the provider wrote it, and charged as its last event says", async () => {
    const usage = { input_tokens: 4, input_tokens_details: { cached_tokens: 1 }, output_tokens: 6, output_tokens_details: { reasoning_tokens: 2 } };
    const told = [
      { type: "response.created", sequence_number: 0, response: { id: "resp_1", output: [] } },
      { type: "response.output_text.delta", sequence_number: 1, output_index: 0, item_id: "msg_1", content_index: 0, delta: "hé" },
      { type: "response.completed", sequence_number: 2, response: { id: "resp_1", output: [], usage } },
    ];
    const url = await provider((_req, res) => {
      res.setHeader("content-type", "text/event-stream");
      res.end(told.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(""));
    });
    const at = await own();
    const mine = new OpenAI({ ...at.guard.sdk({ scopes: { user: "alice" } }), apiKey: OWN_KEY, baseURL: `${url}/v1` });
    const seen: unknown[] = [];
    for await (const event of await mine.responses.create({ model: MODEL, input: "hi", max_output_tokens: 20, stream: true })) seen.push(event);
    expect(seen).toEqual(told);
    await at.quiet();
    expect([await at.standing("user-day"), await at.standing("user-rpm")]).toEqual([
      [0.01, 0],
      [1, 0],
    ]);
  });

  test("is held before it is sent", async () => {
    const held = Promise.withResolvers<void>();
    const { mine, upstream, standing, quiet } = await own();
    upstream.script({ ...TWO, hold: held.promise });
    const answer = mine.chat.completions.create(CALL);
    await upstream.received(1);
    expect((await standing("user-day"))[1]).toBeGreaterThan(0.02);
    held.resolve();
    await answer;
    await quiet();
    expect(await standing("user-day")).toEqual([0.005, 0]);
  });

  test("streams through: usage is asked for, counted and not shown to who did not ask", async () => {
    const { mine, upstream, standing, conserved } = await own();
    upstream.script(TWO);
    const chunks = [];
    for await (const chunk of await mine.chat.completions.create({ ...CALL, stream: true })) chunks.push(chunk);
    expect(chunks.map(({ choices }) => choices[0]?.delta.content ?? "").join("")).toBe("a b");
    expect(chunks.every(({ choices }) => choices.length === 1)).toBe(true);
    expect(JSON.parse(String(upstream.log[0]?.body))).toMatchObject({ stream_options: { include_usage: true } });
    await conserved();
    expect(await standing("user-day")).toEqual([0.005, 0]);
  });

  test("a stream without usage is counted", async () => {
    const { mine, upstream, standing, quiet } = await own();
    upstream.script({ ...TWO, usage: "missing" });
    for await (const chunk of await mine.chat.completions.create({ ...CALL, stream: true })) void chunk;
    await quiet();
    expect(await standing("user-day")).toEqual([0.016, 0]);
  });

  test("an output cap that was held is sent", async () => {
    const { mine, upstream } = await own({ estimate: { defaultMaxOutputTokens: 77 } });
    await mine.chat.completions.create({ model: MODEL, messages: CALL.messages });
    expect(JSON.parse(String(upstream.log[0]?.body))).toMatchObject({ max_tokens: 77 });
  });

  test("is refused without being sent when a limit is short, with x-should-retry: false", async () => {
    const { mine, upstream } = await own({ limits: [{ ...RPM, window: { limit: 1, per: "hour" } }] });
    await mine.chat.completions.create(CALL);
    const thrown: unknown = await mine.chat.completions.create(CALL).catch((error: unknown) => error);
    expect(thrown).toBeInstanceOf(OpenAI.RateLimitError);
    expect((thrown as InstanceType<typeof OpenAI.RateLimitError>).headers.get("x-should-retry")).toBe("false");
    expect(GuardError.from(thrown)).toMatchObject({ code: "budget_exhausted", limit: "user-rpm" });
    expect(upstream.log).toHaveLength(1);
  });

  test("an error of the provider passes through byte for byte, and nothing is charged", async () => {
    const { mine, upstream, standing, conserved } = await own();
    upstream.script({ status: 400, body: { error: { message: "no such thing", code: "strange", own: { field: 1 } } } });
    const thrown = (await mine.chat.completions.create(CALL).catch((error: unknown) => error)) as InstanceType<typeof OpenAI.BadRequestError>;
    expect([thrown.status, thrown.error]).toEqual([400, { message: "no such thing", code: "strange", own: { field: 1 } }]);
    expect(GuardError.from(thrown)).toBeUndefined();
    await conserved();
    expect(await standing("user-day")).toEqual([0, 0]);
  });

  test("a connection that breaks before the answer costs nothing", async () => {
    const { mine, upstream, standing, conserved } = await own();
    upstream.script({ fault: { at: "start", how: "reset" } });
    expect(await refusal(mine.chat.completions.create(CALL))).toMatchObject({ code: "upstream_unreachable" });
    await conserved();
    expect(await standing("user-day")).toEqual([0, 0]);
  });

  test("after a timeout the input stays charged", async () => {
    const clock = testClock();
    const { mine, upstream, standing } = await own({ clock, server: { requestTimeout: "5s" } });
    upstream.script({ fault: { at: "start", how: "hang" } });
    const answer = refusal(mine.chat.completions.create(CALL));
    await upstream.received(1);
    clock.advance(5_000);
    expect(await answer).toMatchObject({ code: "upstream_timeout" });
    const [used, held] = await standing("user-day");
    expect(used).toBeGreaterThan(0.01);
    // Without the 20 tokens of output.
    expect(used).toBeLessThan(0.03);
    expect(held).toBe(0);
  });

  test("an abort while the answer is awaited reaches the provider", async () => {
    const { mine, upstream, quiet } = await own();
    upstream.script({ fault: { at: "start", how: "hang" } });
    const controller = new AbortController();
    const answer = mine.chat.completions.create(CALL, { signal: controller.signal }).catch((error: unknown) => error);
    const entry = await upstream.received(1);
    controller.abort();
    expect(await answer).toBeInstanceOf(OpenAI.APIUserAbortError);
    await entry.ended;
    expect(entry.end).toBe("client");
    await quiet();
  });

  test("an abort in mid-stream: what was delivered is charged", async () => {
    const events = pacer();
    const { mine, upstream, standing, conserved } = await own();
    upstream.script({ ...TWO, pacer: events });
    events.step(2);
    const stream = await mine.chat.completions.create({ ...CALL, stream: true });
    for await (const chunk of stream) if (chunk.choices[0]?.delta.content) stream.controller.abort();
    const entry = await upstream.received(1);
    await entry.ended;
    expect(entry.end).toBe("client");
    await conserved();
    expect(await standing("user-day")).toEqual([0.015, 0]);
  });

  test("the row says that the key was not ours", async () => {
    const { mine, guard, quiet } = await own();
    await mine.chat.completions.create(CALL);
    await quiet();
    await guard.ledger.flush();
    expect(await guard.ledger.list({})).toMatchObject([
      { model: MODEL, credential: "(own key)", state: "settled", scopes: { user: "alice" }, attempts: 1 },
    ]);
  });

  test("a model without a price is refused under a limit of money", async () => {
    const { mine, upstream } = await own();
    expect(await refusal(mine.chat.completions.create({ ...CALL, model: "unheard-of" }))).toMatchObject({ code: "model_not_priced" });
    expect(upstream.log).toHaveLength(0);
  });

  test("without scopes a limit that needs one refuses", async () => {
    const { guard, upstream } = await own();
    const nobody = new OpenAI({ ...guard.sdk(), apiKey: OWN_KEY, baseURL: upstream.url });
    const refused = await refusal(nobody.chat.completions.create(CALL));
    expect(refused).toMatchObject({ code: "scope_invalid", status: 400, message: "limit user-day needs scope user; is your auth before it?" });
    expect(upstream.log).toHaveLength(0);
  });

  test("embeddings and the list of models pass", async () => {
    const { mine, upstream, guard, quiet } = await own({ limits: [RPM] });
    expect((await mine.embeddings.create({ model: "text-embedding-3-small", input: "one two" })).data).toHaveLength(1);
    const ids = [];
    for await (const { id } of mine.models.list()) ids.push(id);
    expect(ids).toContain(MODEL);
    await quiet();
    // Nobody's bill.
    expect((await guard.remaining({ user: "alice" }))[0]).toMatchObject({ used: 1 });
    expect(upstream.log.map(({ path }) => path)).toEqual(["/v1/embeddings", "/v1/models"]);
  });
});

describe("the placeholder", () => {
  test("is never sent to a provider", async () => {
    const { guard, upstream } = await own();
    const client = new OpenAI({ ...guard.sdk({ scopes: { user: "alice" } }), apiKey: "in-process", baseURL: upstream.url });
    const refused = await refusal(client.chat.completions.create(CALL));
    expect(refused).toMatchObject({ code: "no_credential" });
    expect(refused?.message).toContain("new OpenAI({ ...guard.sdk(), apiKey })");
    expect(await refusal(client.files.list().asResponse())).toMatchObject({ code: "no_credential" });
    expect(upstream.log).toHaveLength(0);
  });

  test("is what an SDK gets where there are credentials, and its key and address are dropped", async () => {
    const at = await host({ limits: [RPM] }, () => undefined);
    expect(at.guard.sdk()).toEqual({ apiKey: "in-process", fetch: expect.any(Function), maxRetries: 0 });
    const scopes = { user: "alice" };
    await new OpenAI(at.guard.sdk({ scopes })).chat.completions.create(CALL);
    await new OpenAI({ ...at.guard.sdk({ scopes }), apiKey: OWN_KEY }).chat.completions.create(CALL);
    await new OpenAI({ ...at.guard.sdk({ scopes }), baseURL: "https://anywhere.example/v1" }).chat.completions.create(CALL);
    await new OpenAI({ fetch: at.guard.fetch({ scopes }), apiKey: OWN_KEY, baseURL: "https://anywhere.example/v1" }).chat.completions.create(CALL);
    expect(at.upstream.log.map(({ headers }) => headers.authorization)).toEqual(Array(4).fill(at.upstream.digest(UPSTREAM_KEY)));
  });
});

describe("what is no model call", () => {
  test("goes through unread and is counted as a request, whatever its body", async () => {
    const bodies: string[] = [];
    const url = await provider((req, res) => {
      let text = "";
      req.setEncoding("latin1").on("data", (piece: string) => (text += piece));
      req.on("end", () => {
        bodies.push(text);
        res.setHeader("content-type", "audio/mpeg");
        res.end(Buffer.from([0, 1, 2, 255]));
      });
    });
    const at = await own({ limits: [RPM] });
    const mine = new OpenAI({ ...at.guard.sdk({ scopes: { user: "alice" } }), apiKey: OWN_KEY, baseURL: url });
    const speech = await mine.audio.speech.create({ model: "tts-1", voice: "alloy", input: "hello" });
    expect([...new Uint8Array(await speech.arrayBuffer())]).toEqual([0, 1, 2, 255]);
    const file = await mine.files.create({ purpose: "batch", file: new File(["line"], "a.jsonl") }).asResponse();
    await file.text();
    expect(bodies[1]).toContain("line");
    await at.quiet();
    expect(await at.standing("user-rpm")).toEqual([2, 0]);
  });

  test("is refused under a limit of money unless its cost was said", async () => {
    const at = await own();
    expect(await refusal(at.mine.audio.speech.create({ model: "tts-1", voice: "alloy", input: "hi" }))).toMatchObject({ code: "model_not_priced" });
    expect(at.upstream.log).toHaveLength(0);
    const said = await own({ passthrough: { cost: { "/v1/audio/*": { usd: 0.2 } } } });
    await said.mine.audio.speech.create({ model: "tts-1", voice: "alloy", input: "hi" }).catch(() => undefined);
    await said.quiet();
    // The fake does not know the path: a refusal of the provider's costs nothing.
    expect([said.upstream.log.length, await said.standing("user-day")]).toEqual([1, [0, 0]]);
  });

  test("what it used is charged where its answer says so", async () => {
    const url = await provider((_req, res) => {
      res.setHeader("content-type", "application/json");
      res.end('{"data":[{"b64_json":"AAAA"}],"usage":{"input_tokens":4,"output_tokens":6}}');
    });
    const at = await own({ limits: [DAY], passthrough: { cost: { "/v1/images/*": { usd: 0.5 } } }, models: [] });
    const send = at.guard.fetch({ scopes: { user: "alice" } });
    const init = { method: "POST", headers: { authorization: `Bearer ${OWN_KEY}` }, body: "{}" };
    await (await send(`${url}/v1/images/generations`, init)).json();
    await at.quiet();
    // No price is known for the model, which nobody named: what the operator said stands.
    expect(await at.standing("user-day")).toEqual([0.5, 0]);
    await at.guard.ledger.flush();
    expect(await at.guard.ledger.list({})).toMatchObject([{ state: "settled", usage: { inputTokens: 4, outputTokens: 6 }, attempts: 1 }]);
  });

  test("given up before it is answered, or broken off: what the operator said stays charged, unless nothing can have been billed", async () => {
    const url = await provider((req, res) => {
      if (req.url?.endsWith("/break")) req.socket.destroy();
      else if (req.url?.endsWith("/refuse")) res.writeHead(500).end("no");
    });
    const at = await own({ limits: [DAY], passthrough: { cost: { "/v1/images/*": { usd: 0.1 } } } });
    const send = at.guard.fetch({ scopes: { user: "alice" } });
    const init = { method: "POST", headers: { authorization: `Bearer ${OWN_KEY}` }, body: "{}" };
    const refused = await send(`${url}/v1/images/refuse`, init);
    expect([refused.status, await refused.text()]).toEqual([500, "no"]);
    expect((await send(`${url}/v1/images/break`, init)).status).toBe(502);
    await at.quiet();
    expect(await at.standing("user-day")).toEqual([0, 0]);
    const controller = new AbortController();
    const pending = send(`${url}/v1/images/hang`, { ...init, signal: controller.signal });
    await expect.poll(() => at.standing("user-day")).toEqual([0, 0.1]);
    await new Promise(setImmediate);
    controller.abort();
    await expect(pending).rejects.toThrow("aborted");
    await at.quiet();
    expect((await at.standing("user-day"))[1]).toBe(0);
  });
});

describe("an answer that nobody reads", () => {
  const BIG = { text: Array.from({ length: 300 }, () => "x".repeat(50_000)) };

  test.each([
    ["through the guard's credentials", {}],
    ["with the SDK's own key", { credentials: [] }],
  ])("is charged and forgotten after the idle time, %s", async (_name, more) => {
    const clock = testClock();
    const at = await host({ limits: [DAY], resilience: { idleTimeout: "30s" }, clock, ...more }, () => undefined);
    const fetch = at.guard.fetch({ scopes: { user: "alice" } });
    at.upstream.script(BIG);
    const init = {
      method: "POST",
      headers: { authorization: `Bearer ${OWN_KEY}` },
      body: JSON.stringify({ ...CALL, max_tokens: 300, stream: true }),
    };
    const response = await fetch(`${at.upstream.url}/v1/chat/completions`, init);
    expect(response.status).toBe(200);
    const [entry] = at.upstream.log;
    await expect
      .poll(() => {
        clock.advance(30_000);
        return at.guard.admin.health().openRequests;
      })
      .toBe(0);
    await entry?.ended;
    expect(entry?.end).toBe("client");
    const [used, held] = await at.standing("user-day");
    expect([used > 0, held]).toEqual([true, 0]);
  });

  test("that is no model call, too", async () => {
    const url = await provider((_req, res) => {
      res.setHeader("content-type", "application/octet-stream");
      res.write(Buffer.alloc(8 * 1024 * 1024));
    });
    const clock = testClock();
    const at = await own({ limits: [RPM], clock, resilience: { idleTimeout: "30s" } });
    const response = await at.guard.fetch({ scopes: { user: "alice" } })(`${url}/v1/files/f/content`, {
      headers: { authorization: `Bearer ${OWN_KEY}` },
    });
    expect([response.status, at.guard.admin.health().openRequests]).toEqual([200, 1]);
    await expect
      .poll(() => {
        clock.advance(30_000);
        return at.guard.admin.health().openRequests;
      })
      .toBe(0);
  });
});

describe("options", () => {
  const guard = createGuard({ scopes: { names: ["feature"] } });
  afterEach(() => guard.close());

  test.each<[string, object, RegExp]>([
    ["an unknown one", { scope: {} }, /fetch\(\) scope: there is no such option.*scopes/],
    ["a scope that nobody declares", { scopes: { featur: "x" } }, /fetch\(\) scopes\.featur: nobody declares this scope.*feature/],
    ["a value that no scope can have", { scopes: { user: "a b" } }, /fetch\(\) scopes: the value of scope user/],
    ["scopes that are none", { scopes: "alice" }, /fetch\(\) scopes: expected values such as/],
    ["an empty tag", { tag: "" }, /fetch\(\) tag: expected 1 to 128 characters/],
    ["a fetch that is none", { fetch: "https://x" }, /fetch\(\) fetch: expected a function/],
  ])("%s is told at once", (_name, options, message) => {
    expect(() => guard.fetch(options as never)).toThrow(message);
    expect(() => guard.sdk(options as never)).toThrow(message);
  });

  test("a tag is in the request's event", async () => {
    const at = await own();
    const tags: unknown[] = [];
    at.guard.events.on("request", ({ tag }) => void tags.push(tag));
    await new OpenAI({
      ...at.guard.sdk({ scopes: { user: "alice" }, tag: "nightly" }),
      apiKey: OWN_KEY,
      baseURL: at.upstream.url,
    }).chat.completions.create(CALL);
    await at.mine.chat.completions.create(CALL);
    await at.quiet();
    expect(tags).toEqual(["nightly", undefined]);
  });

  test("another fetch may send", async () => {
    const at = await own();
    const seen: string[] = [];
    const mine = at.guard.fetch({
      scopes: { user: "alice" },
      fetch: (url) => {
        seen.push(String(url));
        return Promise.resolve(Response.json({ choices: [], usage: { prompt_tokens: 1, completion_tokens: 1 } }));
      },
    });
    const response = await mine("https://api.openai.com/v1/chat/completions", {
      method: "POST",
      headers: { "x-api-key": OWN_KEY },
      body: JSON.stringify(CALL),
    });
    expect([response.status, seen]).toEqual([200, ["https://api.openai.com/v1/chat/completions"]]);
    await at.quiet();
    expect(await at.standing("user-day")).toEqual([0.002, 0]);
  });
});
