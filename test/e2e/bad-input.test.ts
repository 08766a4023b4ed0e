import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connect } from "node:net";
import { gzipSync } from "node:zlib";
import { KEY, OTHER_KEY, testGateway, UPSTREAM_KEY, type TestGateway } from "../helpers/app.ts";

let gateway: TestGateway;
beforeAll(async () => {
  gateway = await testGateway({
    limits: [{ name: "user-requests", scope: "user", unit: "requests", window: { limit: 1_000, per: "hour" } }],
    server: { bodyLimit: "64kb" },
    scopes: { headers: {} },
  });
});
afterAll(() => gateway.close());

const good = { model: "gpt-4o", messages: [{ role: "user", content: "hi" }] };

async function post(body: string | Uint8Array, headers: Record<string, string> = {}, path = "/llm/v1/chat/completions", key: string | null = KEY) {
  const response = await fetch(`${gateway.url}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...(key === null ? {} : { authorization: `Bearer ${key}` }), ...headers },
    body: body as string,
  });
  const text = await response.text();
  return { response, text, error: (text.startsWith("{") ? (JSON.parse(text) as { error?: Record<string, unknown> }).error : undefined) ?? {} };
}

const deep = (levels: number) => `{"model":"gpt-4o","messages":${"[".repeat(levels)}${"]".repeat(levels)}}`;
const json = (fields: Record<string, unknown>) => JSON.stringify({ ...good, ...fields });

describe("bad input is refused in the caller's dialect and changes nothing", () => {
  test.each([
    ["an empty body", "", 400, "body_invalid", null],
    ["broken JSON", '{"model":', 400, "body_invalid", null],
    ["an array", "[]", 400, "body_invalid", null],
    ["a string", '"x"', 400, "body_invalid", null],
    ["deep nesting", deep(80), 400, "body_invalid", null],
    ["no model", JSON.stringify({ messages: [] }), 400, "body_invalid", "model"],
    ["a model that is a number", json({ model: 4 }), 400, "body_invalid", "model"],
    ["an endless model name", json({ model: "x".repeat(300) }), 400, "body_invalid", "model"],
    ["stream as text", json({ stream: "yes" }), 400, "body_invalid", "stream"],
    ["max_tokens negative", json({ max_tokens: -1 }), 400, "body_invalid", "max_tokens"],
    ["max_tokens as text", json({ max_tokens: "10" }), 400, "body_invalid", "max_tokens"],
    ["max_tokens infinite", '{"model":"gpt-4o","messages":[],"max_tokens":1e999}', 400, "body_invalid", "max_tokens"],
    ["n = 1000", json({ n: 1_000 }), 400, "body_invalid", "n"],
    ["stream_options as text", json({ stream: true, stream_options: "x" }), 400, "body_invalid", "stream_options"],
    ["messages missing", JSON.stringify({ model: "gpt-4o" }), 400, "body_invalid", "messages"],
    ["a body over the limit", json({ messages: [{ role: "user", content: "x".repeat(70_000) }] }), 413, "body_too_large", null],
  ])("%s", async (_name, body, status, code, param) => {
    const before = gateway.upstream.log.length;
    const { response, error } = await post(body);
    expect(response.status).toBe(status);
    expect(error).toMatchObject({ code, param, request_id: response.headers.get("x-request-id") });
    expect(gateway.upstream.log).toHaveLength(before);
  });

  test("a compressed body", async () => {
    const { response, error } = await post(gzipSync(JSON.stringify(good)), { "content-encoding": "gzip" });
    expect(response.status).toBe(415);
    expect(error).toMatchObject({ code: "unsupported_encoding" });
  });

  test("120,001 members", async () => {
    const limits = { bodyLimit: "10mb" };
    const big = await testGateway({ server: limits });
    const body = `{"model":"gpt-4o","messages":[],"x":[${"0,".repeat(120_000)}0]}`;
    const response = await fetch(`${big.url}/llm/v1/chat/completions`, { method: "POST", headers: { authorization: `Bearer ${KEY}` }, body });
    expect(response.status).toBe(400);
    await big.close();
  });

  test.each([
    ["no key", {}, null, 401, "unauthenticated"],
    ["an unknown key", {}, "qg-unknown", 401, "unauthenticated"],
    ["Basic auth", { authorization: "Basic eDp5" }, null, 401, "unauthenticated"],
    ["two different keys", { "x-api-key": OTHER_KEY }, KEY, 400, "auth_conflict"],
  ])("%s", async (_name, headers, key, status, code) => {
    const { response, error } = await post(JSON.stringify(good), headers, undefined, key);
    expect(response.status).toBe(status);
    expect(error).toMatchObject({ code });
  });

  test("a key in the query is no key", async () => {
    expect((await post(JSON.stringify(good), {}, `/llm/v1/chat/completions?key=${KEY}&api_key=${KEY}`, null)).response.status).toBe(401);
  });

  test("auth comes before the body: a stranger's body is not read", async () => {
    const { hostname, port } = new URL(gateway.url);
    const socket = connect(Number(port), hostname);
    socket.write("POST /llm/v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 50000\r\n\r\n{");
    const answer = await new Promise<string>((resolve) => socket.once("data", (bytes) => resolve(String(bytes))));
    expect(answer).toContain("401");
    socket.destroy();
  });

  test("identity headers of an ordinary key are ignored", async () => {
    const { response } = await post(JSON.stringify(good), { "x-user-id": "mallory" });
    expect(response.status).toBe(200);
    const row = await gateway.guard.ledger.get(response.headers.get("x-request-id") as string);
    expect(row?.scopes).toMatchObject({ user: "alice" });
  });

  test("an unknown path is the host's; a wrong method is 405 with allow", async () => {
    expect((await fetch(`${gateway.url}/llm/v1/unknown`)).status).toBe(404);
    const response = await fetch(`${gateway.url}/llm/v1/chat/completions`);
    expect(response.status).toBe(405);
    expect(response.headers.get("allow")).toBe("POST");
  });

  test("a model that no credential offers", async () => {
    const strict = await testGateway((upstream) => ({
      credentials: [{ name: "main", apiKey: UPSTREAM_KEY, baseUrl: upstream.url, models: ["gpt-4o*"] }],
    }));
    const response = await fetch(`${strict.url}/llm/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${KEY}` },
      body: json({ model: "claude" }),
    });
    expect(response.status).toBe(400);
    expect(await response.json()).toMatchObject({ error: { code: "model_not_found", param: "model" } });
    await strict.close();
  });
});

describe("secrets appear nowhere", () => {
  test("a provider that repeats our key in its error is redacted", async () => {
    gateway.upstream.script({
      status: 401,
      body: { error: { message: `Incorrect API key provided: ${UPSTREAM_KEY}.`, type: "invalid_request_error", code: "invalid_api_key" } },
    });
    const { response, text } = await post(JSON.stringify(good));
    expect(response.status).toBe(401);
    expect(text).toContain("[redacted]");
    expect(text).not.toContain(UPSTREAM_KEY);
    gateway.upstream.reset();
  });

  test("client auth and cookies never go upstream, nor the provider's cookies to the client", async () => {
    gateway.upstream.script({ headers: { "set-cookie": "account=1", "openai-organization": "org-secret" } });
    const { response } = await post(JSON.stringify(good), { cookie: "session=1", "x-api-key": KEY, "x-forwarded-for": "1.2.3.4" });
    const sent = gateway.upstream.log.at(-1)?.headers ?? {};
    expect(sent.cookie).toBeUndefined();
    expect(sent["x-api-key"]).toBeUndefined();
    expect(sent["x-forwarded-for"]).toBeUndefined();
    expect(sent.authorization).toBe(gateway.upstream.digest(UPSTREAM_KEY));
    expect(response.headers.get("set-cookie")).toBeNull();
    expect(response.headers.get("openai-organization")).toBeNull();
    gateway.upstream.reset();
  });
});
