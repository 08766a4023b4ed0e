/** Providers with rules of their own, asked through a whole guard by callers of another dialect. */
import { generateKeyPairSync } from "node:crypto";
import { afterEach, expect, test } from "vitest";
import { createGuard, type QuotaGuard } from "../../src/index.ts";
import { scripted } from "../upstream/providers/kit.ts";

const upstream = scripted();
let guard: QuotaGuard | undefined;
afterEach(() => guard?.close());

function guarded(credential: Readonly<Record<string, unknown>>): QuotaGuard {
  const logger = { debug() {}, info() {}, warn() {}, error() {} };
  return (guard = createGuard({ logger, credentials: [{ name: "mine", provider: "openai", baseUrl: upstream.url, ...credential }] }));
}

const chat = (model: string) => ({
  method: "POST",
  headers: { "content-type": "application/json", authorization: "Bearer in-process" },
  body: JSON.stringify({ model, messages: [{ role: "user", content: "hi" }] }),
});

const GEMINI = {
  candidates: [{ content: { role: "model", parts: [{ text: "hello" }] }, finishReason: "STOP" }],
  usageMetadata: { promptTokenCount: 3, candidatesTokenCount: 2, totalTokenCount: 5 },
};

async function said(one: QuotaGuard, model: string): Promise<unknown> {
  await one.ready();
  const response = await one.fetch()("http://any.test/v1/chat/completions", chat(model));
  const body = (await response.json()) as { readonly choices?: readonly { readonly message: { readonly content: string } }[] };
  return response.status === 200 ? body.choices?.[0]?.message.content : [response.status, body];
}

test("vertex-ai by a service account: a chat of OpenAI's, the token first, and a refused token renewed", async () => {
  const privateKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" });
  const key = { project_id: "p", client_email: "c@p.test", private_key: privateKey, token_uri: `${upstream.url}/token` };
  let tokens = 0;
  let good = "t-1";
  upstream.answers(({ url, headers }, res) => {
    res.setHeader("content-type", "application/json");
    if (url === "/token") res.end(JSON.stringify({ access_token: `t-${(tokens += 1)}`, expires_in: 3_600 }));
    else if (headers.authorization !== `Bearer ${good}`) res.writeHead(401).end("{}");
    else res.end(JSON.stringify(GEMINI));
  });
  const one = guarded({ provider: "vertex-ai", serviceAccount: key, location: "global" });
  expect(await said(one, "gemini-2.5-pro")).toBe("hello");
  good = "t-2";
  expect(await said(one, "gemini-2.5-pro")).toBe("hello");
  const path = "/v1/projects/p/locations/global/publishers/google/models/gemini-2.5-pro:generateContent";
  expect(upstream.seen.map(({ url }) => url)).toEqual(["/token", path, path, "/token", path]);
  expect(one.admin.credentials()).toMatchObject([{ name: "mine", state: "ready" }]);
});

test("a service account that is not accepted is a fault of the credential, and nothing of the issuer's words is told", async () => {
  const privateKey = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" });
  const key = { project_id: "p", client_email: "c@p.test", private_key: privateKey, token_uri: `${upstream.url}/token` };
  upstream.answers((_seen, res) => res.writeHead(400, { "content-type": "application/json" }).end('{"error":"invalid_grant","x":"canary"}'));
  const refused = await said(guarded({ provider: "vertex-ai", serviceAccount: key }), "gemini-2.5-pro");
  expect(refused).toMatchObject([401, { error: { code: "upstream_refused" } }]);
  expect(JSON.stringify(refused)).not.toContain("canary");
});

test("gemini-cli: the envelope around request and answer, and a model that it does not have", async () => {
  upstream.answers((_seen, res) => res.setHeader("content-type", "application/json").end(JSON.stringify({ response: GEMINI })));
  const one = guarded({ provider: "gemini-cli", apiKey: "ya29.t", project: "proj-1" });
  expect(await said(one, "gemini-2.5-pro")).toBe("hello");
  expect(upstream.seen[0]).toMatchObject({ url: "/v1internal:generateContent", body: { model: "gemini-2.5-pro", project: "proj-1" } });
});

test("anthropic: what its headers say is left is known afterwards", async () => {
  const resetsAt = Math.floor(Date.now() / 1_000) + 3_600;
  upstream.answers(({ url }, res) => {
    res.setHeader("content-type", "application/json");
    res.setHeader("anthropic-ratelimit-unified-5h-utilization", "0.75");
    res.setHeader("anthropic-ratelimit-unified-5h-reset", String(resetsAt));
    if (url.startsWith("/v1/models")) return res.end('{"data":[{"id":"claude-x","type":"model"}]}');
    const usage = { input_tokens: 3, output_tokens: 2 };
    const content = [{ type: "text", text: "hello" }];
    return res.end(JSON.stringify({ id: "msg_1", type: "message", role: "assistant", model: "claude-x", content, stop_reason: "end_turn", usage }));
  });
  const one = guarded({ provider: "anthropic", apiKey: "sk-ant-k" });
  expect(await said(one, "claude-x")).toBe("hello");
  expect(one.admin.credentials()[0]?.quotas).toMatchObject([{ group: "5h", remainingRatio: 0.25, resetsAt: resetsAt * 1_000, source: "headers" }]);
});
