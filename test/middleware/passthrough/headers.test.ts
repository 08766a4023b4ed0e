import compression from "compression";
import express from "express";
import { describe, expect, test } from "vitest";
import { Secret } from "../../../src/core/secret.ts";
import { VERSION } from "../../../src/core/version.ts";
import { presentedKey, returnedHeaders, sentHeaders, switchedHeaders, upgradeHeaders } from "../../../src/middleware/passthrough/headers.ts";
import { rawClient } from "../../http/server-kit.ts";
import { credential } from "../../pool/pool-kit.ts";
import { ALICE, laneKit, MASTER, PROVIDER_KEY } from "./lane-kit.ts";

const main = credential("main", { apiKey: new Secret("sk-1") });
const OURS = { "user-agent": `quotaguard/${VERSION}`, authorization: "Bearer sk-1", "accept-encoding": "identity" };
const pairs = (list: readonly string[]): Record<string, string> =>
  Object.fromEntries(list.flatMap((name, i) => (i % 2 === 0 ? [[name, list[i + 1] as string]] : [])));

describe("to the provider", () => {
  test("goes what the operation needs, and what is ours", () => {
    const client = {
      "content-type": 'multipart/form-data; boundary="a b"',
      accept: "audio/mpeg",
      range: "bytes=0-1",
      "if-range": '"a"',
      "if-none-match": '"b"',
      "if-match": '"c"',
      "if-modified-since": "x",
      "openai-beta": "assistants=v2",
    };
    expect(sentHeaders(client, main, 12)).toEqual({ ...OURS, ...client, "content-length": "12" });
  });

  test.each([
    "authorization",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
    "cookie",
    "cookie2",
    "host",
    "connection",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
    "content-length",
    "content-encoding",
    "accept-encoding",
    "user-agent",
    "origin",
    "referer",
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-real-ip",
    "cf-connecting-ip",
    "openai-organization",
    "openai-project",
    "x-stainless-os",
    "x-request-id",
    "x-team-id",
    "x-quotaguard-tag",
    "idempotency-key",
    "x-http-method-override",
    "x-original-url",
  ])("never goes the client's %s", (name) => {
    expect(sentHeaders({ [name]: "canary" }, main, null)).toEqual(OURS);
    expect(Object.values(upgradeHeaders({ [name]: "canary" }, main, []))).not.toContain("canary");
  });

  test("goes nothing that the client's Connection makes its own", () => {
    expect(sentHeaders({ connection: "close, Range , x", range: "bytes=0-1", accept: "*/*" }, main, null)).toEqual({ ...OURS, accept: "*/*" });
  });

  test("what the operator set for a credential wins", () => {
    const extra = credential("extra", { headers: { "OpenAI-Organization": "org-1", "openai-beta": "realtime=v1" } });
    expect(sentHeaders({ "openai-beta": "other", "openai-organization": "mine" }, extra, null)).toMatchObject({
      "openai-organization": "org-1",
      "openai-beta": "realtime=v1",
    });
  });

  test("goes no length that is not known", () => {
    expect(sentHeaders({ "content-length": "5" }, main, null)["content-length"]).toBeUndefined();
    expect(sentHeaders({}, main, 0)["content-length"]).toBe("0");
  });

  test("a WebSocket's handshake has its own", () => {
    const client = { "sec-websocket-key": "k", "sec-websocket-version": "13", "sec-websocket-extensions": "permessage-deflate", range: "bytes=0-1" };
    expect(upgradeHeaders({ ...client, "sec-websocket-protocol": "secret" }, main, ["realtime", "b"])).toEqual({
      ...OURS,
      "sec-websocket-key": "k",
      "sec-websocket-version": "13",
      "sec-websocket-extensions": "permessage-deflate",
      "sec-websocket-protocol": "realtime, b",
      connection: "Upgrade",
      upgrade: "websocket",
    });
  });
});

describe("to the client", () => {
  const SAFE = { "x-content-type-options": "nosniff", "content-security-policy": "sandbox" };

  test("comes what a download needs, and the provider's request id under a name of its own", () => {
    const provider = {
      "content-type": "application/octet-stream",
      "content-length": "3",
      "content-disposition": 'attachment; filename="a"',
      "content-range": "bytes 0-2/9",
      "accept-ranges": "bytes",
      etag: '"a"',
      "last-modified": "x",
      "cache-control": "private",
      "x-request-id": "theirs",
      "openai-processing-ms": "5",
      "openai-version": "2020-10-01",
    };
    const { "x-request-id": id, ...rest } = provider;
    expect(pairs(returnedHeaders(provider))).toEqual({ ...rest, "cache-control": "private, no-transform", "x-upstream-request-id": id, ...SAFE });
  });

  test.each([
    "set-cookie",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "trailer",
    "upgrade",
    "proxy-authenticate",
    "www-authenticate",
    "location",
    "server",
    "via",
    "alt-svc",
    "strict-transport-security",
    "access-control-allow-origin",
    "openai-organization",
    "openai-project",
    "x-ratelimit-remaining-requests",
    "cf-ray",
    "content-encoding",
  ])("never comes the provider's %s", (name) => {
    expect(pairs(returnedHeaders({ [name]: name === "set-cookie" ? ["canary"] : "canary", "content-type": "application/json" }))).toEqual({
      "content-type": "application/json",
      ...SAFE,
    });
    expect(switchedHeaders({ [name]: "canary" }).filter((_each, i) => i % 2 === 1)).not.toContain("canary");
  });

  test("comes nothing that the provider's Connection makes its own", () => {
    expect(pairs(returnedHeaders({ connection: "etag", etag: "canary", "content-type": "application/json" }))).toEqual({
      "content-type": "application/json",
      ...SAFE,
    });
  });

  test("events are kept from caches and from compression", () => {
    expect(pairs(returnedHeaders({ "content-type": "text/event-stream; charset=utf-8", "cache-control": "public, max-age=60" }))).toMatchObject({
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
    });
  });

  test("a part of JSON is not to be transformed either, all of it may be", () => {
    expect(pairs(returnedHeaders({ "content-type": "application/json", "content-range": "bytes 0-1/2" }))["cache-control"]).toBe("no-transform");
    expect(pairs(returnedHeaders({ "content-type": "application/json" }))["cache-control"]).toBeUndefined();
  });
});

test.each([
  [{ authorization: "Bearer  k " }, "k"],
  [{ "x-api-key": "k" }, "k"],
  [{ "x-goog-api-key": "k" }, "k"],
  [{}, null],
])("the key of %j is %j", (headers, key) => {
  expect(presentedKey(headers)).toBe(key);
});

test("what arrives at both ends is exactly that", async () => {
  const kit = await laneKit();
  kit.provider.on("*", (_req, res) => {
    res.writeHead(200, [
      ...["Content-Type", "audio/mpeg", "Set-Cookie", "a=b", "Set-Cookie", "c=d", "Connection", "keep-alive, X-Hop", "X-Hop", "1"],
      ...["OpenAI-Organization", "ours", "Server", "theirs", "X-RateLimit-Remaining-Requests", "9", "Content-Length", "2"],
    ]);
    res.end("ok");
  });
  const raw = await rawClient(
    kit.port,
    `POST /llm/v1/audio/speech HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer ${ALICE}\r\nCookie: session=1\r\nX-Forwarded-Host: evil\r\n` +
      `Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nContent-Type: application/json\r\nContent-Length: 13\r\nExpect: 100-continue\r\nTE: trailers\r\n\r\n{"model":"m"}`,
  );
  const text = await raw.until("\r\n\r\nok");
  expect(Object.keys(kit.provider.log[0]?.headers ?? {}).toSorted()).toEqual([
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "host",
    "user-agent",
  ]);
  expect(kit.provider.log[0]?.headers).toMatchObject({ authorization: `Bearer ${PROVIDER_KEY}`, host: new URL(kit.provider.url).host });
  const names = text
    .slice(text.lastIndexOf("HTTP/1.1 200"))
    .split("\r\n")
    .map((line) => line.split(":")[0]?.toLowerCase());
  for (const name of ["set-cookie", "x-hop", "openai-organization", "server", "x-ratelimit-remaining-requests"]) expect(names).not.toContain(name);
  expect(text).not.toContain(PROVIDER_KEY);
});

test("a host's compression leaves files and events as they are", async () => {
  const kit = await laneKit({
    host(handler) {
      const app = express();
      app.use(compression({ threshold: 0 }));
      app.use("/llm", handler);
      return app;
    },
  });
  kit.provider.on("GET /v1/files/file-1/content", (_req, res) => {
    res.writeHead(206, { "content-type": "text/plain", "content-range": "bytes 0-4/10", "content-length": 5 });
    res.end("hello");
  });
  const part = await kit.call("GET", "/v1/files/file-1/content", { key: MASTER, headers: { "accept-encoding": "gzip", range: "bytes=0-4" } });
  expect([part.headers.get("content-encoding"), part.headers.get("content-length"), await part.text()]).toEqual([null, "5", "hello"]);
});
