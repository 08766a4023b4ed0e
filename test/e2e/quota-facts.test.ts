// What providers' answers say is left of their quotas: known afterwards, in each dialect; and a cooldown that ends when its quota is back.
import { afterEach, describe, expect, test } from "vitest";
import type { PluginHost } from "quotaguard";
import type { FakeReply } from "quotaguard/testing";
import { createGuard, type QuotaGuard } from "../../src/index.ts";
import { scripted } from "../upstream/providers/kit.ts";
import { atOnce, databasePath, endAccounts, MODEL, ordered, PATIENTLY, silent } from "./accounts-kit.ts";

afterEach(endAccounts);

const SECOND = 1_000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
const OTHER = "gpt-4o";

/** An answer of OpenAI's that says what is left of the model's minute. */
const left = (tokens: number, more: FakeReply = {}): FakeReply => ({
  ...more,
  headers: {
    "x-ratelimit-limit-requests": "",
    "x-ratelimit-limit-tokens": "30000",
    "x-ratelimit-remaining-tokens": String(tokens),
    "x-ratelimit-reset-tokens": "30s",
    ...more.headers,
  },
});

describe("an answer of OpenAI's", () => {
  test("says what is left of its model's minute: whole and streamed, over HTTP and to operators", async () => {
    const kit = await ordered(["a"]);
    kit.answer("a", ({ body }) => left(body["model"] === MODEL ? 3_000 : 29_000));
    expect((await kit.ask()).status).toBe(200);
    expect((await kit.ask({ model: OTHER, stream: true })).status).toBe(200);
    kit.clock.advance(15 * SECOND);
    const now = kit.clock.now();
    const quota = (model: string, remainingRatio: number, remaining: number) => ({
      group: `tokens/${model}`,
      models: [model],
      remainingRatio,
      // Half of what was used is back, but for what these requests themselves took.
      remaining: expect.closeTo(remaining, 2),
      refills: true,
      limit: 30_000,
      unit: "tokens",
      windowMs: MINUTE,
      source: "headers",
      resetsAt: new Date(now + 15 * SECOND).toISOString(),
      observedAt: new Date(now - 15 * SECOND).toISOString(),
      ageMs: 15 * SECOND,
      confidence: 0.5,
    });
    const { body } = await kit.manage("GET", "credentials/a");
    expect(body["quotas"]).toEqual([quota(MODEL, 0.1, 0.55), quota(OTHER, 29 / 30, 59 / 60)]);
    // Its minute is over: as far as anybody can say it is whole, and then nobody can.
    kit.clock.advance(15 * SECOND);
    expect(kit.credential("a").quotas.map(({ remainingRatio, source }) => [remainingRatio, source])).toEqual([
      [1, "estimate"],
      [1, "estimate"],
    ]);
    kit.clock.advance(MINUTE);
    expect(kit.credential("a").quotas).toEqual([]);
  });

  test("that is a refusal says what has run out", async () => {
    const kit = await ordered();
    const error = { message: "Rate limit reached for tokens per min", type: "tokens", param: null, code: "rate_limit_exceeded" };
    kit.answer("a", { ...silent(429, { "retry-after": "20", "x-ratelimit-limit-tokens": "", "x-ratelimit-limit-requests": "" }), body: { error } });
    kit.answer("b", silent(200, { "x-ratelimit-limit-tokens": "", "x-ratelimit-limit-requests": "" }));
    expect((await kit.ask()).status).toBe(200);
    expect(kit.credential("a").quotas).toMatchObject([
      { group: `tokens/${MODEL}`, remainingRatio: 0, source: "error", resetsAt: kit.clock.now() + 20 * SECOND },
    ]);
    expect(kit.credential("b").quotas).toEqual([]);
  });

  test("is known after a restart with a database", async () => {
    const kit = await ordered(["a"], { store: { url: `sqlite:${databasePath()}` } });
    kit.answer("a", left(3_000));
    await kit.ask();
    const [before] = kit.credential("a").quotas;
    await kit.restart();
    expect(kit.credential("a").quotas).toEqual([before]);
  });
});

describe("what other providers say", () => {
  const upstream = scripted();
  const RESET = Math.floor(Date.now() / SECOND) + 3_600;
  let guard: QuotaGuard | undefined;
  afterEach(() => guard?.close());

  async function quotasAfter(model: string, credential: Readonly<Record<string, unknown>>, status: number, headers: object, body: object | string) {
    upstream.answers((_seen, res) => {
      res.writeHead(status, { "content-type": typeof body === "string" ? "text/event-stream" : "application/json", ...headers });
      res.end(typeof body === "string" ? body : JSON.stringify(body));
    });
    const logger = { debug() {}, info() {}, warn() {}, error() {} };
    guard = createGuard({ logger, credentials: [{ name: "mine", provider: "openai", baseUrl: upstream.url, models: [model], ...credential }] });
    await guard.ready();
    const response = await guard.fetch()("http://any.test/v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json", authorization: "Bearer in-process" },
      body: JSON.stringify({ model, messages: [{ role: "user", content: "hi" }] }),
    });
    await response.text();
    expect(response.status).toBe(status);
    return guard.admin
      .credentials()[0]
      ?.quotas.map(({ credential: _name, observedAt: _at, ageMs: _age, confidence: _sure, remaining: _left, ...quota }) => quota);
  }

  test("Anthropic: the windows of a subscription, and each model's minute", async () => {
    const message = {
      id: "msg_1",
      type: "message",
      role: "assistant",
      model: "claude-opus-4-5",
      content: [{ type: "text", text: "hello" }],
      stop_reason: "end_turn",
      usage: { input_tokens: 3, output_tokens: 2 },
    };
    const headers = {
      "anthropic-ratelimit-unified-5h-utilization": "0.75",
      "anthropic-ratelimit-unified-5h-reset": String(RESET),
      "anthropic-ratelimit-unified-7d_opus-utilization": "0.2",
      "anthropic-ratelimit-unified-7d_opus-reset": new Date(RESET * SECOND).toISOString(),
      "anthropic-ratelimit-input-tokens-limit": "1000",
      "anthropic-ratelimit-input-tokens-remaining": "250",
      "anthropic-ratelimit-input-tokens-reset": new Date(RESET * SECOND).toISOString(),
    };
    const whole = { resetsAt: RESET * SECOND, source: "headers" };
    expect(await quotasAfter("claude-opus-4-5", { provider: "anthropic", apiKey: "sk-ant-k" }, 200, headers, message)).toEqual([
      { ...whole, group: "5h", remainingRatio: 0.25, windowMs: 5 * HOUR },
      { ...whole, group: "7d_opus", models: ["*opus*"], remainingRatio: 0.8, windowMs: 7 * DAY },
      {
        ...whole,
        group: "input-tokens/claude-opus-4-5",
        models: ["claude-opus-4-5"],
        remainingRatio: 0.25,
        windowMs: MINUTE,
        refills: true,
        limit: 1_000,
        unit: "input_tokens",
      },
    ]);
  });

  test("Codex: its windows by their length", async () => {
    const response = { id: "r", object: "response", status: "completed", output: [], usage: { input_tokens: 1, output_tokens: 1, total_tokens: 2 } };
    const stream = `event: response.completed\ndata: ${JSON.stringify({ type: "response.completed", response })}\n\n`;
    const headers = {
      "x-codex-primary-used-percent": "37.4",
      "x-codex-primary-window-minutes": "10080",
      "x-codex-primary-reset-at": String(RESET),
      "x-codex-secondary-used-percent": "80.5",
      "x-codex-secondary-window-minutes": "300",
    };
    expect(await quotasAfter("gpt-5", { provider: "codex", apiKey: "of-a-login" }, 200, headers, stream)).toEqual([
      { group: "weekly", remainingRatio: 0.626, resetsAt: RESET * SECOND, windowMs: 7 * DAY, source: "headers" },
      { group: "session", remainingRatio: 0.195, resetsAt: null, windowMs: 5 * HOUR, source: "headers" },
    ]);
  });

  test("Gemini: the quota that a refusal names", async () => {
    const details = [
      {
        "@type": "type.googleapis.com/google.rpc.QuotaFailure",
        violations: [{ quotaId: "GenerateRequestsPerMinutePerProjectPerModel", quotaDimensions: { model: "gemini-2.5-pro" }, quotaValue: "5" }],
      },
      { "@type": "type.googleapis.com/google.rpc.RetryInfo", retryDelay: "34s" },
    ];
    const error = { error: { code: 429, status: "RESOURCE_EXHAUSTED", message: "too much", details } };
    expect(await quotasAfter("gemini-2.5-pro", { provider: "gemini", apiKey: "AIza-key" }, 429, {}, error)).toMatchObject([
      {
        group: "GenerateRequestsPerMinutePerProjectPerModel/gemini-2.5-pro",
        models: ["gemini-2.5-pro"],
        remainingRatio: 0,
        limit: 5,
        unit: "requests",
        windowMs: MINUTE,
        source: "error",
      },
    ]);
  });

  test("Antigravity: a plan that is spent for a model", async () => {
    const metadata = { quotaResetTimeStamp: new Date(RESET * SECOND).toISOString() };
    const details = [{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "QUOTA_EXHAUSTED", metadata }];
    const error = { error: { code: 429, status: "RESOURCE_EXHAUSTED", message: "spent", details } };
    expect(await quotasAfter("claude-sonnet-4-5", { provider: "antigravity", apiKey: "ya29.of-a-login", project: "p" }, 429, {}, error)).toEqual([
      { group: "plan/claude-sonnet-4-5", models: ["claude-sonnet-4-5"], remainingRatio: 0, resetsAt: RESET * SECOND, source: "error" },
    ]);
  });
});

describe("a cooldown", () => {
  const quiet = { "x-ratelimit-limit-tokens": "", "x-ratelimit-limit-requests": "" };
  const forDays = (days: number): FakeReply => silent(429, { ...quiet, "retry-after": String(days * 86_400) });

  async function withHost(more: Parameters<typeof ordered>[1] = {}) {
    let host: PluginHost | undefined;
    const kit = await ordered(["a", "b"], { ...more, plugins: [{ name: "asker", setup: (mine: PluginHost) => void (host ??= mine) }] });
    kit.answer("b", silent(200, quiet));
    return { kit, credentials: (host as PluginHost).credentials };
  }

  test("of days is looked into by one request a day, which tells the others", async () => {
    const { kit } = await withHost();
    kit.answer("a", forDays(7));
    await kit.ask();
    expect(await kit.several(2)).toBe("bb");
    kit.clock.advance(DAY);
    const held = Promise.withResolvers<void>();
    kit.answer("a", { ...forDays(7), hold: held.promise });
    kit.forget();
    const open = atOnce(8, () => kit.ask());
    await kit.providers["b"]?.received((kit.counts()["b"] ?? 0) + 1);
    held.resolve();
    expect((await open).map(({ status }) => status)).toEqual(Array(8).fill(200));
    expect(kit.counts()).toEqual({ a: 1, b: 8 });
    // Refused: another day.
    kit.clock.advance(DAY - 1);
    expect(await kit.several(1)).toBe("b");
    kit.clock.advance(1);
    kit.answer("a", silent(200, quiet));
    expect(await kit.several(3)).toBe("aaa");
    expect((await kit.manage("GET", "cooldowns")).body["cooldowns"]).toEqual([]);
  });

  test("ends when somebody sees room in its quota, in another process too; not while another of its quotas has none", async () => {
    const { kit, credentials } = await withHost({ store: { url: `sqlite:${databasePath()}` } });
    const second = await kit.another({ plugins: [] });
    kit.answer("a", forDays(5));
    await kit.ask();
    await kit.ask({ model: OTHER });
    kit.answer("a", silent(200, quiet));
    const cooling = () => second.guard.admin.cooldowns().length;
    await expect.poll(() => (kit.clock.advance(100), cooling()), PATIENTLY).toBe(2);
    const report = (group: string, remainingRatio: number, models?: readonly string[]) => {
      kit.clock.advance(SECOND);
      const fact = { credential: "a", group, remainingRatio, resetsAt: kit.clock.now() + DAY, observedAt: kit.clock.now(), source: "poll" } as const;
      return credentials.report(models ? { ...fact, models } : fact);
    };
    kit.forget();
    await report("week", 0, [MODEL]);
    await report("day", 0.9);
    expect([await kit.several(1, { model: OTHER }), await kit.several(1)]).toEqual(["a", "b"]);
    await report("week", 0.3, [MODEL]);
    expect(await kit.several(1)).toBe("a");
    await expect.poll(() => (kit.clock.advance(100), cooling()), PATIENTLY).toBe(0);
  });

  test("does not end with what came with a refusal, nor with a guess", async () => {
    const { kit, credentials } = await withHost();
    kit.answer("a", forDays(1));
    await kit.ask();
    kit.clock.advance(SECOND);
    const fact = { credential: "a", group: "5h", remainingRatio: 1, resetsAt: null, observedAt: kit.clock.now() };
    await credentials.report({ ...fact, source: "estimate" });
    await credentials.report({ ...fact, group: "7d", source: "error" });
    expect(await kit.several(1)).toBe("b");
  });
});
