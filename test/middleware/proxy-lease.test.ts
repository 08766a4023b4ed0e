// The proxy step alone, over real connections: what it tells whoever lent it a credential, and how it goes about a retry.
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { fakeUpstream, pacer, testClock, type FakeReply, type FakeUpstream } from "quotaguard/testing";
import { isSource, type Answer, type Source } from "../../src/core/answer.ts";
import type { Call } from "../../src/core/call.ts";
import type { Charged, Context, Services } from "../../src/core/context.ts";
import type { AttemptOutcome, Credential } from "../../src/core/credential.ts";
import { GuardError } from "../../src/core/errors.ts";
import { Secret } from "../../src/core/secret.ts";
import { codecOf } from "../../src/dialects/index.ts";
import { openai } from "../../src/dialects/openai/index.ts";
import { proxyStep, type ProxyOptions } from "../../src/middleware/proxy/proxy.ts";
import { retryBudget } from "../../src/resilience/retry-budget.ts";
import { undiciTransport, type Transport } from "../../src/upstream/transport.ts";
import { callOf, contextWith, kit, rejectionOf, type Kit } from "../core/context-kit.ts";

const INPUT_TOKENS = 7;
const REQUEST_TIMEOUT_MS = 300_000;
const FIRST_BYTE_TIMEOUT_MS = 120_000;
const IDLE_TIMEOUT_MS = 60_000;

let upstream: FakeUpstream;
let transport: Transport;
beforeEach(async () => {
  upstream = await fakeUpstream();
  transport = undiciTransport({ connectTimeoutMs: 5_000 });
});
afterEach(async () => {
  await transport.close();
  await upstream.close();
});

interface Ended {
  readonly name: string;
  readonly outcome: AttemptOutcome;
  /** What the request was charged when the credential came back. */
  readonly charged: Charged | undefined;
}

interface Run extends Kit {
  readonly ctx: Context;
  readonly ended: readonly Ended[];
  /** Runs the step. */
  go(): Promise<Answer>;
}

const credential = (name: string): Credential => ({
  name,
  provider: "openai",
  apiKey: new Secret(`sk-${name}`),
  origin: upstream.url,
  basePath: "",
  models: null,
  isFallback: false,
  priority: 0,
  weight: 1,
  tier: null,
  rpm: -1,
  tpm: -1,
  maxConcurrent: -1,
  headers: {},
  allowPrivate: true,
  proxyUrl: null,
});

function streamed(): Partial<Call> {
  const body = { model: "gpt-4o", messages: [], stream: true };
  return { stream: true, body, bytes: Buffer.from(JSON.stringify(body)) };
}

/** A request that may be sent with each of `names` once. */
function run(names: string, call: Partial<Call> = {}, more: Partial<ProxyOptions> = {}, services: Partial<Services> = {}): Run {
  const parts = kit(services);
  const step = proxyStep({
    services: parts.services,
    transport,
    retryBudget: retryBudget(parts.clock, 0),
    maxRetries: names.length,
    random: () => 0,
    dialectOf: () => openai,
    codecOf,
    nextId: () => "1",
    lossy: false,
    maxOutputTokensOf: () => null,
    requestTimeoutMs: REQUEST_TIMEOUT_MS,
    firstByteTimeoutMs: FIRST_BYTE_TIMEOUT_MS,
    idleTimeoutMs: IDLE_TIMEOUT_MS,
    // The fake sends a token per chunk, and a chunk counts for one token at least.
    countTokens: () => 0,
    inputTokens: () => INPUT_TOKENS,
    ...more,
  });
  const ctx = contextWith(parts.services, { reader: { call: () => callOf("gpt-4o", call) } });
  const ended: Ended[] = [];
  const left = names.split("");
  ctx.choice = {
    next() {
      const name = left.shift();
      if (name === undefined) return null;
      const release = (outcome: AttemptOutcome): void => void ended.push({ name, outcome, charged: ctx.charged });
      return { credential: credential(name), model: "gpt-4o", name: "gpt-4o", release };
    },
  };
  return { ...parts, ctx, ended, go: async () => (await step(ctx)) as Answer };
}

/** Reads a streamed answer; `text()` is what has come so far. */
function read({ body }: Answer): { readonly text: () => string; readonly over: Promise<GuardError | null>; readonly source: Source } {
  if (!isSource(body)) throw new Error("the answer is no stream");
  let text = "";
  const over = new Promise<GuardError | null>((resolve) => {
    body.start({
      chunk(bytes) {
        text += bytes.toString();
        return true;
      },
      end: () => resolve(null),
      error: resolve,
    });
  });
  return { text: () => text, over, source: body };
}

const asked = (): number => upstream.log.length;
const billed = (): number => upstream.totals().inputTokens + upstream.totals().outputTokens;

describe("a credential comes back", () => {
  test("after a whole answer with what it used, and when that was charged", async () => {
    const { ended, go } = run("a");
    const { status } = await go();
    expect(status).toBe(200);
    await upstream.log[0]?.ended;
    expect(ended).toMatchObject([{ outcome: { kind: "served", status: 200, tokens: billed() }, charged: { kind: "usage", provenance: "exact" } }]);
    expect(billed()).toBeGreaterThan(0);
  });

  test("after a stream only when that is over", async () => {
    const events = pacer();
    upstream.script({ pacer: events, text: ["one", " two", " three"] });
    const { ended, go } = run("a", streamed());
    events.step(2);
    const { over } = read(await go());
    expect(ended).toEqual([]);
    events.open();
    expect(await over).toBeNull();
    await upstream.log[0]?.ended;
    expect(upstream.totals().outputTokens).toBe(3);
    expect(ended).toMatchObject([{ outcome: { kind: "served", status: 200, tokens: billed() }, charged: { kind: "usage" } }]);
  });

  const told = (code: string): string => JSON.stringify({ error: { message: "m", type: "t", param: null, code } });
  test.each<[string, FakeReply, object]>([
    ["a mistake of the client's", { status: 400 }, { status: 400, fault: "request", isAccountWide: false, waitMs: null }],
    ["a wrong key", { status: 401, body: told("invalid_api_key") }, { status: 401, fault: "credential", isAccountWide: true, waitMs: null }],
    ["a model it may not use", { status: 403, body: told("x") }, { status: 403, fault: "credential", isAccountWide: false, waitMs: null }],
    ["an empty account", { status: 429, body: told("insufficient_quota") }, { status: 429, fault: "credential", isAccountWide: true, waitMs: null }],
    [
      "a rate limit with the time of its reset",
      { status: 429, headers: { "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s" } },
      { status: 429, fault: "capacity", isAccountWide: false, waitMs: 360_000 },
    ],
    [
      "a rate limit with its time",
      { status: 429, headers: { "retry-after": "30" } },
      { status: 429, fault: "capacity", isAccountWide: false, waitMs: 30_000 },
    ],
    ["a failing server", { status: 500 }, { status: 500, fault: "capacity", isAccountWide: false, waitMs: null }],
    [
      "a challenge without a time",
      { status: 403, body: "<html>", headers: { "cf-mitigated": "challenge", "content-type": "text/html" } },
      { status: 403, fault: "capacity", waitMs: 10_000 },
    ],
    [
      "a challenge with a time",
      { status: 503, body: "<html>", headers: { server: "cloudflare", "content-type": "text/html", "retry-after": "3" } },
      { status: 503, fault: "capacity", waitMs: 3_000 },
    ],
  ])("after %s with the verdict, and nothing used", async (_what, reply, outcome) => {
    upstream.script(reply);
    const { ended, go } = run("a");
    await go().catch(() => {});
    expect(ended).toMatchObject([{ outcome: { kind: "refused", ...outcome }, charged: { kind: "nothing" } }]);
  });

  test.each<[string, FakeReply]>([
    ["a reset", { fault: { at: "start", how: "reset" } }],
    ["half an answer", { fault: { at: 20, how: "close" } }],
    ["an answer that is no JSON", { body: "no" }],
  ])("after %s with nothing used", async (_what, reply) => {
    upstream.script(reply);
    const { ended, go } = run("a");
    const error = await rejectionOf(go());
    expect(ended).toMatchObject([{ outcome: { kind: "failed", error, tokens: null }, charged: { kind: "nothing" } }]);
  });

  test.each([false, true])("after a timeout with the input, which the provider may have counted (stream: %s)", async (stream) => {
    upstream.script({ fault: { at: "start", how: "hang" } });
    const { ended, go, clock } = run("a", stream ? streamed() : {});
    const refusal = rejectionOf(go());
    await upstream.received(1);
    clock.advance(stream ? FIRST_BYTE_TIMEOUT_MS : REQUEST_TIMEOUT_MS);
    const error = await refusal;
    expect(error).toMatchObject({ code: "upstream_timeout", status: 504 });
    expect(ended).toMatchObject([{ outcome: { kind: "failed", error, tokens: INPUT_TOKENS }, charged: { kind: "input" } }]);
    expect(clock.pending()).toBe(0);
  });

  test("after half a stream with the input and what was delivered", async () => {
    upstream.script({ text: ["one", " two", " three"], fault: { at: 3, how: "close" } });
    const { ended, go } = run("a", streamed());
    const error = await read(await go()).over;
    expect(error).toMatchObject({ code: "upstream_protocol" });
    expect(ended).toMatchObject([
      { outcome: { kind: "failed", error, tokens: INPUT_TOKENS + 2 }, charged: { kind: "usage", provenance: "counted" } },
    ]);
  });

  test("after a client that left in mid-stream with the input and what was delivered", async () => {
    const events = pacer();
    upstream.script({ pacer: events, text: ["one", " two", " three"] });
    events.step(3);
    const { ended, go, ctx, clock } = run("a", streamed());
    const reading = read(await go());
    await expect.poll(reading.text).toContain("two");
    ctx.leave();
    expect(ended).toMatchObject([{ outcome: { kind: "abandoned", tokens: INPUT_TOKENS + 2 }, charged: { kind: "usage", provenance: "counted" } }]);
    expect(clock.pending()).toBe(0);
    await upstream.log[0]?.ended;
    expect(upstream.log[0]?.end).toBe("client");
  });

  test("after a client that left before the answer with the input", async () => {
    upstream.script({ fault: { at: "start", how: "hang" } });
    const { ended, go, ctx, clock } = run("a");
    const refusal = rejectionOf(go());
    await upstream.received(1);
    ctx.leave();
    await refusal;
    expect(ended).toMatchObject([{ outcome: { kind: "abandoned", tokens: INPUT_TOKENS }, charged: { kind: "input" } }]);
    expect(clock.pending()).toBe(0);
  });

  test.each<[string, () => Promise<void> | undefined]>([
    ["refuses", () => Promise.reject(new GuardError("store_unavailable", "away"))],
    [
      "throws",
      () => {
        throw new GuardError("store_unavailable", "away");
      },
    ],
  ])("unused when the ledger %s the intent", async (_how, intent) => {
    const recorder = { intent, attempt: () => undefined, close: () => undefined };
    const { ended, go } = run("ab", {}, {}, { recorder });
    expect(await rejectionOf(go())).toMatchObject({ code: "store_unavailable" });
    expect(ended).toMatchObject([{ name: "a", outcome: { kind: "abandoned", tokens: null } }]);
    expect(asked()).toBe(0);
  });

  test("unused when the client left while the intent was written", async () => {
    const written = Promise.withResolvers<void>();
    const recorder = { intent: () => written.promise, attempt: () => undefined, close: () => undefined };
    const { ended, go, ctx } = run("ab", {}, {}, { recorder });
    const refusal = rejectionOf(go());
    ctx.leave();
    written.resolve();
    await refusal;
    expect(ended).toMatchObject([{ name: "a", outcome: { kind: "abandoned", tokens: null } }]);
    expect(asked()).toBe(0);
  });
});

describe("a retry", () => {
  /** Fails with `a`, and is then in the pause before `b`. */
  async function paused(random: () => number, more: Partial<ProxyOptions> = {}): Promise<Run & { readonly answer: Promise<Answer> }> {
    upstream.script([{ status: 500 }]);
    const ready = run("ab", {}, { random, ...more });
    const answer = ready.go();
    answer.catch(() => {});
    await expect.poll(() => ready.ended.length).toBe(1);
    await expect.poll(() => ready.clock.pending()).toBe(1);
    return { ...ready, answer };
  }

  test("waits up to 50 ms, as chance has it", async () => {
    const { clock, answer, ctx } = await paused(() => 0.9);
    clock.advance(44.9);
    expect(asked()).toBe(1);
    expect(ctx.attempts).toBe(1);
    clock.advance(0.2);
    expect((await answer).status).toBe(200);
    expect(asked()).toBe(2);
    expect(ctx.attempts).toBe(2);
  });

  test("does not happen when the client leaves in the pause: nothing goes out, nothing stays behind", async () => {
    const { clock, answer, ctx, ended } = await paused(() => 0.9);
    ctx.leave();
    expect(clock.pending()).toBe(0);
    await rejectionOf(answer);
    expect(ended).toMatchObject([{ name: "a" }, { name: "b", outcome: { kind: "abandoned", tokens: null } }]);
    expect(asked()).toBe(1);
    expect(ctx.attempts).toBe(1);
  });

  test("does not happen when the request must go in the pause, and the client is told why", async () => {
    const { answer, ctx } = await paused(() => 0.9);
    const reason = new GuardError("overloaded", "shutting down");
    ctx.leave(reason);
    expect(await rejectionOf(answer)).toBe(reason);
  });

  test("is not waited for when there is no other credential", async () => {
    upstream.script({ status: 500 });
    const { go, clock } = run("a", {}, { random: () => 0.9 });
    expect((await go()).status).toBe(500);
    expect(clock.pending()).toBe(0);
  });

  test("has ten in ten seconds for a quiet gateway, plus its share of the traffic", async () => {
    upstream.script({ status: 500 });
    const clock = testClock();
    const send = async (count: number, budget: ReturnType<typeof retryBudget>): Promise<readonly Ended[]> => {
      upstream.reset();
      upstream.script({ status: 500 });
      const all: Ended[] = [];
      for (let i = 0; i < count; i += 1) {
        const { go, ended } = run("ab", {}, { retryBudget: budget });
        expect((await go()).status).toBe(500);
        all.push(...ended);
      }
      return all;
    };
    const quiet = retryBudget(clock, 0);
    const ended = await send(15, quiet);
    expect(asked()).toBe(15 + 10);
    // What was lent for a retry that the budget does not allow goes back unused.
    expect(ended.filter(({ outcome }) => outcome.kind === "abandoned" && outcome.tokens === null)).toHaveLength(5);
    clock.advance(10_000);
    await send(1, quiet);
    expect(asked()).toBe(2);
    // Ten and half of the forty requests.
    await send(40, retryBudget(clock, 0.5));
    expect(asked()).toBe(40 + 30);
  });
});

describe("how long a provider may take", () => {
  const whole = '{"object":"chat.completion","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}';

  test("a whole answer has all of the request's time, however late it begins and however slowly it comes", async () => {
    const head = Promise.withResolvers<void>();
    upstream.script({ body: whole, hold: head.promise });
    const { go, clock } = run("a");
    const answer = go();
    await upstream.received(1);
    clock.advance(REQUEST_TIMEOUT_MS - 1);
    head.resolve();
    expect(await answer).toMatchObject({ status: 200, body: Buffer.from(whole) });
    expect(clock.pending()).toBe(0);
  });

  test("a whole answer that hangs in its middle is cut when that time is over", async () => {
    upstream.script({ body: whole, fault: { at: 30, how: "hang" } });
    const { go, clock } = run("ab");
    const refusal = rejectionOf(go());
    await expect.poll(() => upstream.log[0]?.chunks).toBe(1);
    clock.advance(REQUEST_TIMEOUT_MS - 1);
    expect(upstream.log[0]?.end).toBeNull();
    clock.advance(1);
    expect(await refusal).toMatchObject({ code: "upstream_timeout", status: 504 });
    await upstream.log[0]?.ended;
    expect(upstream.log[0]?.end).toBe("client");
    // It may be billed, and the client has waited long enough.
    expect(asked()).toBe(1);
  });

  test("a stream may go on for as long as something comes", async () => {
    const events = pacer();
    const text = Array.from({ length: 5 }, (_, i) => ` ${i}`);
    upstream.script({ pacer: events, text });
    events.step(2);
    const { go, clock } = run("a", streamed());
    const reading = read(await go());
    for (const piece of text) {
      await expect.poll(reading.text).toContain(`"${piece}"`);
      clock.advance(IDLE_TIMEOUT_MS - 1);
      events.step();
    }
    events.open();
    expect(await reading.over).toBeNull();
    expect(reading.text()).toContain("[DONE]");
  });
});
