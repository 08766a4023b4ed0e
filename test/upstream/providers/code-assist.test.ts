import { expect, test } from "vitest";
import type { ProviderRow } from "../../../src/core/provider.ts";
import { rowOf } from "../../../src/upstream/providers.ts";
import { senderOf } from "../../../src/upstream/sender.ts";
import type { Transport } from "../../../src/upstream/transport.ts";
import { collect } from "../collect.ts";
import { asked, configured, judged, scripted } from "./kit.ts";

const upstream = scripted();
const of = (provider: string) => configured({ provider, apiKey: "ya29.t", project: "proj-1", baseUrl: upstream.url });
const chat = { contents: [{ role: "user", parts: [{ text: "hi" }] }] };

test.each(["gemini-cli", "antigravity"])("%s needs a token and a project", (provider) => {
  expect(() => configured({ provider, apiKey: "t" })).toThrow(`credentials[0].project: is required for the provider ${provider}`);
  expect(() => configured({ provider, project: "p" })).toThrow(`credentials[0].apiKey: is required for the provider ${provider}`);
});

test("gemini-cli: Gemini's request stands in an envelope, and its answer is taken out of one", async () => {
  upstream.answers((_seen, res) => res.end("{}"));
  const credential = of("gemini-cli");
  await asked(upstream, credential, { model: "gemini-2.5-pro", body: chat });
  await asked(upstream, credential, { model: "gemini-2.5-pro", body: chat, stream: true });
  await asked(upstream, credential, { model: "gemini-2.5-pro", body: chat, operation: "count_tokens" });
  const envelope = { model: "gemini-2.5-pro", project: "proj-1", request: chat };
  expect(upstream.seen.map(({ url, body }) => [url, body])).toEqual([
    ["/v1internal:generateContent", envelope],
    ["/v1internal:streamGenerateContent?alt=sse", envelope],
    ["/v1internal:countTokens", { request: { ...chat, model: "models/gemini-2.5-pro" } }],
  ]);
  expect(upstream.seen[0]?.headers.authorization).toBe("Bearer ya29.t");
  const { unwrap } = rowOf(credential);
  expect(unwrap?.({ response: { candidates: [] }, traceId: "x" })).toEqual({ candidates: [] });
  expect(unwrap?.({ totalTokens: 5 })).toEqual({ totalTokens: 5 });
});

async function antigravitySends(body: Readonly<Record<string, unknown>>, model: string) {
  upstream.answers((_seen, res) => res.end("{}"));
  await asked(upstream, of("antigravity"), { model, body });
  return upstream.seen[0]?.body as { readonly request: Readonly<Record<string, unknown>> } & Readonly<Record<string, unknown>>;
}

test("antigravity: what it asks of models of its makers", async () => {
  const tools = [{ functionDeclarations: [{ name: "f" }] }];
  const full = { ...chat, tools, safetySettings: [], generationConfig: { maxOutputTokens: 5, temperature: 0 } };
  const sent = await antigravitySends(full, "gemini-3-pro-high");
  expect(sent).toEqual({
    model: "gemini-3-pro-high",
    project: "proj-1",
    requestId: "req_1",
    requestType: "agent",
    request: { ...chat, tools, generationConfig: { temperature: 0 }, sessionId: expect.stringMatching(/^-\d+$/) as string },
  });
  const claude = await antigravitySends(
    { ...full, toolConfig: { functionCallingConfig: { mode: "ANY", allowedFunctionNames: ["f"] } } },
    "claude-sonnet-4-5",
  );
  expect(claude.request).toMatchObject({
    generationConfig: { maxOutputTokens: 5, temperature: 0 },
    toolConfig: { functionCallingConfig: { mode: "VALIDATED", allowedFunctionNames: ["f"] } },
  });
  expect(claude.request.sessionId).toBe(sent.request.sessionId);
  expect((await antigravitySends({ contents: [] }, "gemini-3-flash")).request.sessionId).not.toBe(sent.request.sessionId);
});

test("antigravity: the kind of a request, and whose models they are", async () => {
  expect((await antigravitySends({ ...chat, tools: [{ googleSearch: {} }] }, "gemini-3-flash")).requestType).toBe("web_search");
  expect((await antigravitySends(chat, "gemini-3-pro-image")).requestType).toBe("image_gen");
  expect((await antigravitySends({ tools: 5, contents: "x", generationConfig: null, toolConfig: [] }, "claude-x")).requestType).toBe("agent");
  const { family } = rowOf(of("antigravity"));
  expect(["claude-x", "gpt-oss-120b", "gemini-3"].map((model) => (typeof family === "function" ? family(model) : null))).toEqual([
    "anthropic",
    "openai",
    "gemini",
  ]);
});

test("errors say when to come back, and an account that must prove itself is out as a whole", () => {
  const credential = of("antigravity");
  const info = { "@type": "type.googleapis.com/google.rpc.ErrorInfo" };
  const error = (status: string, details: readonly unknown[]) => ({ error: { status, message: "m", details } });
  const spent = error("RESOURCE_EXHAUSTED", [{ ...info, reason: "QUOTA_EXHAUSTED", metadata: { quotaResetDelay: "2h0m1s" } }]);
  expect(judged(credential, 429, spent)).toEqual({ fault: "capacity", isAccountWide: false, waitMs: 7_201_000 });
  const verify = error("PERMISSION_DENIED", [{ ...info, reason: "VALIDATION_REQUIRED", metadata: { validation_url: "https://x" } }]);
  expect(judged(credential, 403, verify)).toEqual({ fault: "credential", isAccountWide: true, waitMs: null });
  expect(judged(credential, 400, { error: "invalid_grant" })).toEqual({ fault: "credential", isAccountWide: true, waitMs: null });
});

/** Two hosts of one provider, both here. */
async function inOrder(first: number, second: number, first503 = upstream.url) {
  const other = upstream.url.replace("127.0.0.1", "localhost");
  const row: ProviderRow = { ...rowOf(of("antigravity")), baseUrl: first503, otherOrigins: [other] };
  const credential = { ...of("antigravity"), origin: first503, row };
  upstream.answers(({ headers }, res) => void res.writeHead(String(headers.host).startsWith("localhost") ? second : first).end("body"));
  const send: Transport["send"] = (request, handler) =>
    senderOf(upstream.transport, upstream.clock).send(credential, ({ origin }) => ({ ...request, origin }), handler);
  const request = { origin: "", path: "/x", method: "POST", headers: [], body: Buffer.from("{}"), allowPrivate: true, proxyUrl: null };
  const { status, text, error, calls } = await collect({ send, close: async () => {} }, request).done.then((done) => ({
    ...done,
    calls: upstream.seen.length,
  }));
  return [status, text, error?.code ?? null, calls];
}

test("antigravity: the next host is asked where the first has no room or is not there, and only then", async () => {
  expect(await inOrder(200, 200)).toEqual([200, "body", null, 1]);
  expect(await inOrder(503, 200)).toEqual([200, "body", null, 2]);
  expect(await inOrder(503, 503)).toEqual([503, "body", null, 2]);
  expect(await inOrder(429, 200)).toEqual([429, "body", null, 1]);
  expect(await inOrder(200, 200, "http://127.0.0.1:1")).toEqual([200, "body", null, 1]);
});

test("antigravity: nobody is asked twice where the operator's own address has no room", async () => {
  upstream.answers((_seen, res) => void res.writeHead(503).end());
  expect((await asked(upstream, of("antigravity"))).status).toBe(503);
  expect(upstream.seen).toHaveLength(1);
});

test("a plan that is spent for a model is back when the refusal says", () => {
  const now = Date.parse("2026-11-20T10:00:00Z");
  const spent = (metadata: object, details: readonly unknown[] = []) =>
    rowOf(of("antigravity")).faultQuotas?.(
      429,
      {},
      JSON.stringify({
        error: {
          status: "RESOURCE_EXHAUSTED",
          details: [{ "@type": "type.googleapis.com/google.rpc.ErrorInfo", reason: "QUOTA_EXHAUSTED", metadata }, ...details],
        },
      }),
      now,
      "claude-sonnet-4-5",
    );
  const whole = { group: "plan/claude-sonnet-4-5", models: ["claude-sonnet-4-5"], remainingRatio: 0 };
  expect(spent({ quotaResetTimeStamp: "2026-11-24T10:00:00Z", quotaResetDelay: "96h0m0s" })).toEqual([{ ...whole, resetsAt: now + 345_600_000 }]);
  expect(spent({ quotaResetDelay: "2h0m1s" })).toEqual([{ ...whole, resetsAt: now + 7_201_000 }]);
  expect(spent({ model: "gemini-3-flash", quotaResetDelay: "1s" })).toMatchObject([{ group: "plan/gemini-3-flash", models: ["gemini-3-flash"] }]);
  // Nobody says when.
  expect(spent({})).toEqual([]);
});
