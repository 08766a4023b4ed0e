import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Credential } from "../../src/core/credential.ts";
import { Secret } from "../../src/core/secret.ts";
import { VERSION } from "../../src/core/version.ts";
import { checkExtraHeaders, requestHeaders, responseHeaders } from "../../src/upstream/headers.ts";
import { providerRow } from "../../src/upstream/providers.ts";

function credential(more: Partial<Credential> = {}): Credential {
  return {
    name: "main",
    provider: "openai",
    apiKey: new Secret("sk-own"),
    origin: "https://api.openai.com",
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
    allowPrivate: false,
    proxyUrl: null,
    ...more,
  };
}

function record(flat: readonly string[]): Record<string, string> {
  const names = flat.filter((_, index) => index % 2 === 0);
  expect(new Set(names).size, "no duplicates").toBe(names.length);
  return Object.fromEntries(names.map((name, index) => [name, flat[index * 2 + 1] ?? ""]));
}

const openai = providerRow("openai");

describe("requestHeaders", () => {
  it("sends the credential's own proof, our name, and no more of the client than the allow-list", () => {
    const client = {
      authorization: "Bearer client-key",
      "x-api-key": "client-key",
      "x-goog-api-key": "client-key",
      cookie: "session=1",
      host: "gateway.local",
      "content-length": "10",
      "content-type": "application/json; charset=utf-8",
      accept: "text/event-stream",
      "openai-beta": "assistants=v2",
      "openai-organization": "org-client",
      "openai-project": "proj",
      "user-agent": "OpenAI/JS 7",
      "x-stainless-lang": "js",
      "x-request-id": "r1",
      "idempotency-key": "i1",
      "x-forwarded-for": "10.0.0.1",
      forwarded: "for=1",
      "x-user-id": "alice",
      "transfer-encoding": "chunked",
      te: "trailers",
      connection: "keep-alive",
      "keep-alive": "timeout=5",
      upgrade: "h2c",
      "proxy-authorization": "Basic x",
      "accept-encoding": "gzip, br",
      expect: "100-continue",
    };
    expect(record(requestHeaders(client, openai, credential(), 10))).toEqual({
      "user-agent": `quotaguard/${VERSION}`,
      authorization: "Bearer sk-own",
      "accept-encoding": "identity",
      "content-type": "application/json; charset=utf-8",
      accept: "text/event-stream",
      "openai-beta": "assistants=v2",
    });
  });

  it("drops an allowed header that Connection makes hop-by-hop", () => {
    const client = { connection: "close, OpenAI-Beta ,x", "openai-beta": "assistants=v2", accept: "*/*" };
    expect(record(requestHeaders(client, openai, credential(), null))).not.toHaveProperty("openai-beta");
    expect(record(requestHeaders(client, openai, credential(), null)).accept).toBe("*/*");
  });

  const PRIVATE = [
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "cookie",
    "cookie2",
    "forwarded",
    "x-forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-anything",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "cf-anything",
  ];
  const HOP_BY_HOP = ["connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"];

  it("forwards what the provider's row names, and nothing private or hop-by-hop even then", () => {
    const names = ["x-feature", ...PRIVATE, ...HOP_BY_HOP];
    const client = Object.fromEntries(names.map((name) => [name, "client"]));
    const sent = record(requestHeaders(client, { ...openai, forwardedHeaders: names }, credential(), null));
    expect(sent).toEqual({
      "user-agent": `quotaguard/${VERSION}`,
      authorization: "Bearer sk-own",
      "accept-encoding": "identity",
      "x-feature": "client",
    });
  });

  it("has a content type exactly when there is a body, and it is JSON whatever the client said", () => {
    expect(record(requestHeaders({ "content-type": "text/plain" }, openai, credential(), 3))["content-type"]).toBe("application/json");
    expect(record(requestHeaders({}, openai, credential(), null))).not.toHaveProperty("content-type");
  });

  it("lets the operator's extra headers win, over the client and over the row, without duplicates", () => {
    const own = credential({ headers: { Authorization: "Custom 1", "OpenAI-Beta": "own", "X-Tenant": "a" } });
    const sent = record(requestHeaders({ "openai-beta": "client" }, openai, own, 1));
    expect(sent).toMatchObject({ authorization: "Custom 1", "openai-beta": "own", "x-tenant": "a" });
  });

  it("sends no authorization without a key", () => {
    expect(record(requestHeaders({}, openai, credential({ apiKey: null }), 1))).not.toHaveProperty("authorization");
  });

  it("works out a credential's part once and never hands out the same array", () => {
    const one = credential();
    const first = requestHeaders({}, openai, one, 1);
    first.push("x-evil", "1");
    expect(record(requestHeaders({}, openai, one, 1))).not.toHaveProperty("x-evil");
  });

  it.each([
    ["host", "other"],
    ["Content-Length", "1"],
    ["transfer-encoding", "chunked"],
    ["Connection", "close"],
    ["expect", "x"],
    ["cookie", "a=b"],
    ["bad name", "x"],
    ["", "x"],
    ["x-line", "a\r\nx-evil: 1"],
    ["x-nul", "a\0b"],
  ])("refuses the extra header %j", (name, value) => {
    expect(() => checkExtraHeaders({ [name]: value })).toThrow(/^headers: /);
    expect(() => requestHeaders({}, openai, credential({ headers: { [name]: value } }), 1)).toThrow(/^headers: /);
  });

  it("never repeats a header's value in an error", () => {
    expect(() => checkExtraHeaders({ "x-key": "sk-secret\n" })).toThrow(
      expect.not.objectContaining({ message: expect.stringContaining("sk-secret") }),
    );
  });

  it("names the version of package.json", () => {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };
    expect(VERSION).toBe(version);
  });
});

describe("responseHeaders", () => {
  it("returns only what belongs to the caller", () => {
    const flat = responseHeaders({
      "content-type": "application/json",
      "content-length": "12",
      "set-cookie": ["a=1", "b=2"],
      "openai-organization": "org-1",
      "openai-project": "p",
      "x-request-id": "req_1",
      "openai-processing-ms": "12",
      "openai-version": "2020-10-01",
      "x-ratelimit-limit-requests": "1",
      "x-ratelimit-remaining-tokens": "1",
      "retry-after": "3",
      location: "http://x",
      connection: "keep-alive",
      "transfer-encoding": "chunked",
      "cf-ray": "x",
      "alt-svc": "h3",
      date: "now",
      server: "x",
      "strict-transport-security": "x",
      "content-encoding": "identity",
      __proto__: "x",
    });
    expect(flat).toEqual([
      "content-type",
      "application/json",
      "x-upstream-request-id",
      "req_1",
      "openai-processing-ms",
      "12",
      "openai-version",
      "2020-10-01",
    ]);
  });

  it("drops what the provider's Connection header lists, and doubled values", () => {
    expect(responseHeaders({ "x-request-id": "1", "openai-version": "2", connection: "X-Request-Id" })).toEqual(["openai-version", "2"]);
    expect(responseHeaders({ "content-type": ["a", "b"] })).toEqual([]);
  });
});
