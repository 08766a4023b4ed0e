import express from "express";
import type { IncomingMessage } from "node:http";
import { describe, expect, test } from "vitest";
import { Secret } from "../../../src/core/secret.ts";
import { rawClient } from "../../http/server-kit.ts";
import { credential } from "../../pool/pool-kit.ts";
import { ALICE, CAROL, laneKit, MASTER, PROVIDER_KEY, type LaneKit } from "./lane-kit.ts";
import { bodyOf, json, type Script } from "./provider-kit.ts";

const IMAGE = { created: 1, data: [{ b64_json: "aGVsbG8=" }] };
const errorOf = async (response: Response) => ((await response.json()) as { error: Record<string, unknown> }).error;

/** Answers with what it got. */
const echo: Script = async (req, res, seen) => {
  await bodyOf(req);
  json({ got: seen.body, type: req.headers["content-type"] })(req, res);
};

function form(): FormData {
  const data = new FormData();
  data.set("model", "whisper-1");
  data.set("file", new Blob(["riff"]), "a.wav");
  return data;
}

describe("what is passed on", () => {
  test("an answer comes back as it is, with our id and its own", async () => {
    const kit = await laneKit();
    kit.provider.on("POST /v1/images/generations", json(IMAGE, 200, { "x-request-id": "theirs-1" }));
    const response = await kit.call("POST", "/v1/images/generations?a=1&b=%20", { json: { model: "gpt-image-1", prompt: "x" } });
    expect([response.status, await response.json()]).toEqual([200, IMAGE]);
    expect([response.headers.get("x-request-id"), response.headers.get("x-upstream-request-id")]).toEqual(["id-1", "theirs-1"]);
    expect(kit.provider.log).toMatchObject([
      { method: "POST", url: "/v1/images/generations?a=1&b=%20", body: '{"model":"gpt-image-1","prompt":"x"}' },
    ]);
  });

  test("a form reaches the provider with its boundary and its length", async () => {
    const kit = await laneKit();
    kit.provider.on("*", echo);
    const response = await kit.call("POST", "/v1/audio/transcriptions", { body: form() });
    const { got, type } = (await response.json()) as { got: string; type: string };
    expect(type).toMatch(/^multipart\/form-data; boundary=/);
    expect(got).toContain('name="file"; filename="a.wav"');
    expect(Number(kit.provider.log[0]?.headers["content-length"])).toBe(got.length);
  });

  test("one connection serves many requests, whatever they carry", async () => {
    const kit = await laneKit();
    kit.provider.on("*", echo);
    for (let i = 0; i < 5; i += 1) {
      await (await kit.call("POST", "/v1/images/generations", { json: { model: "m" } })).text();
      await (await kit.call("POST", "/v1/audio/transcriptions", { body: form() })).text();
    }
    expect([kit.provider.log.length, kit.provider.connections()]).toEqual([10, 1]);
  });

  test("a JSON body is sent with the provider's name for its model, and nothing else in it changes", async () => {
    const kit = await laneKit({ models: [{ name: "gpt-image-1", model: "gpt-image-1-2026" }], aliases: { fast: "gpt-image-1" } });
    kit.provider.on("*", json(IMAGE));
    const body = '{ "prompt": "a \\u0041", "model":"fast", "n": 1.0 }';
    const response = await kit.call("POST", "/v1/images/generations", { body, headers: { "content-type": "application/json; charset=utf-8" } });
    expect([response.status, response.headers.get("x-quotaguard-model")]).toEqual([200, "gpt-image-1-2026"]);
    expect(kit.provider.log).toMatchObject([
      { body: body.replace("fast", "gpt-image-1-2026"), headers: { "content-type": "application/json; charset=utf-8" } },
    ]);
  });

  test("a HEAD and a 304 have no body", async () => {
    const kit = await laneKit();
    kit.provider.on("GET /v1/files/file-1", (_req, res) => void res.writeHead(304, { etag: '"a"' }).end());
    kit.provider.on("HEAD /v1/files/file-1", (_req, res) => void res.writeHead(200, { "content-length": "12" }).end());
    const fresh = await kit.call("GET", "/v1/files/file-1", { key: MASTER, headers: { "if-none-match": '"a"' } });
    const head = await kit.call("HEAD", "/v1/files/file-1", { key: MASTER });
    expect([fresh.status, fresh.headers.get("etag"), await fresh.text()]).toEqual([304, '"a"', ""]);
    expect([head.status, head.headers.get("content-length"), await head.text()]).toEqual([200, "12", ""]);
    expect(kit.provider.log[0]?.headers["if-none-match"]).toBe('"a"');
  });

  test("a preflight and everything else below the mount is the host's", async () => {
    const kit = await laneKit();
    for (const [method, path] of [
      ["OPTIONS", "/v1/files"],
      ["POST", "/v1/chat/completions"],
      ["GET", "/v1/vector_stores"],
      ["GET", "/"],
    ] as const) {
      expect([path, (await kit.call(method, path)).status]).toEqual([path, 418]);
    }
    expect(kit.provider.log).toEqual([]);
  });

  test("below a mount the /v1 may be missing", async () => {
    const kit = await laneKit();
    kit.provider.on("*", json(IMAGE));
    const response = await kit.call("POST", "/images/generations", { json: { model: "m" } });
    expect([response.status, kit.provider.log[0]?.url]).toEqual([200, "/v1/images/generations"]);
  });

  test("the provider's base path comes first", async () => {
    const kit = await laneKit({ credentials: ({ url }) => [credential("main", { origin: url, basePath: "/openai" })] });
    kit.provider.on("*", json(IMAGE));
    await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect(kit.provider.log[0]?.url).toBe("/openai/v1/images/generations");
  });

  test("as a part of the host's own route, whatever stands before /v1 is the host's", async () => {
    const kit = await laneKit({
      isPart: true,
      host(handler) {
        const app = express();
        app.post("/llm/ai/v1/audio/speech", handler);
        app.use("/llm/team/v1/images", handler);
        return app;
      },
    });
    kit.provider.on("*", json(IMAGE));
    expect((await kit.call("POST", "/ai/v1/audio/speech", { json: { model: "m" } })).status).toBe(200);
    expect((await kit.call("POST", "/team/v1/images/edits", { body: form() })).status).toBe(200);
    expect(kit.provider.log.map(({ url }) => url)).toEqual(["/v1/audio/speech", "/v1/images/edits"]);
  });

  test("the row tells what happened, under the path's pattern", async () => {
    const kit = await laneKit();
    kit.provider.on("*", json(IMAGE));
    await (await kit.call("POST", "/v1/images/generations", { json: { model: "m" } })).text();
    expect(await kit.rows()).toMatchObject([
      { route: "/v1/images/*", key: "alice", credential: "main", status: 200, attempts: 1, state: "estimated", code: null },
    ]);
    expect(kit.pool.health.left).toMatchObject([{ key: "main/m", outcome: { kind: "served", status: 200, tokens: 0 } }]);
    expect(kit.pool.pool.inFlight("main")).toBe(0);
  });
});

describe("who may", () => {
  test("nobody without a key, and nothing is sent", async () => {
    const kit = await laneKit();
    const response = await kit.call("POST", "/v1/audio/speech", { key: null, json: { model: "m" } });
    expect([response.status, await errorOf(response)]).toMatchObject([
      401,
      { code: "unauthenticated", type: "authentication_error", request_id: "id-1" },
    ]);
    expect(kit.provider.log).toEqual([]);
  });

  describe("a key that may use some models only", () => {
    const ask = async (kit: LaneKit, path: string, init: object) => {
      const response = await kit.call("POST", path, { key: CAROL, ...init });
      return response.status === 200 ? 200 : (await errorOf(response)).code;
    };

    test("may use those, also by an alias", async () => {
      const kit = await laneKit({ aliases: { fast: "dall-e-3" } });
      kit.provider.on("*", json(IMAGE));
      expect(await ask(kit, "/v1/images/generations", { json: { model: "gpt-image-1" } })).toBe(200);
      expect(await ask(kit, "/v1/images/generations", { json: { model: "fast" } })).toBe(200);
      expect(await ask(kit, "/v1/images/generations", { json: { model: "dall-e-3" } })).toBe("model_not_allowed");
    });

    test("may not use one that cannot be seen", async () => {
      const kit = await laneKit();
      expect(await ask(kit, "/v1/images/generations", { json: { prompt: "x" } })).toBe("model_not_allowed");
      expect(await ask(kit, "/v1/audio/transcriptions", { body: form() })).toBe("model_not_allowed");
      expect(await ask(kit, "/v1/batches", { json: { model: "gpt-image-1", endpoint: "/v1/chat/completions" } })).toBe("model_not_allowed");
      expect(kit.provider.log).toEqual([]);
    });

    test("may keep files, which are no model", async () => {
      const kit = await laneKit();
      kit.provider.on("POST /v1/files", json({ id: "file-1", object: "file" }));
      expect(await ask(kit, "/v1/files", { body: form() })).toBe(200);
    });
  });

  test("what the table does not know is for the master key alone, unless the operator lists it", async () => {
    const closed = await laneKit({ others: true });
    closed.provider.on("*", json({ id: "vs_1" }));
    const refused = await closed.call("GET", "/v1/vector_stores");
    expect([refused.status, (await errorOf(refused)).message]).toEqual([403, expect.stringContaining("passthrough.paths")]);
    expect((await closed.call("GET", "/v1/vector_stores", { key: MASTER })).status).toBe(200);
    expect((await closed.call("GET", "/v1/audio/voices")).status).toBe(403);

    const open = await laneKit({ others: true, paths: ["/v1/vector_stores*", "/v1/files*"] });
    open.provider.on("*", json({ id: "vs_1" }));
    expect((await open.call("GET", "/v1/vector_stores/vs_1")).status).toBe(200);
    // A list names paths, it does not lift what keeps tenants apart.
    expect((await open.call("POST", "/v1/files/file-1", { json: {} })).status).toBe(403);
    expect((await open.call("GET", "/v1/files/file-1")).status).toBe(404);
    expect(open.provider.log.map(({ url }) => url)).toEqual(["/v1/vector_stores/vs_1"]);
  });

  test("a WebSocket's path is no request of its own", async () => {
    const kit = await laneKit();
    const response = await kit.call("GET", "/v1/realtime?model=m");
    expect([response.status, (await errorOf(response)).code]).toEqual([405, "method_not_allowed"]);
  });
});

describe("bodies", () => {
  const behind = (parser: express.RequestHandler) => (handler: express.RequestHandler) => {
    const app = express();
    app.use(parser);
    app.use("/llm", handler);
    return app;
  };

  test("JSON that a host's parser has read is put together again", async () => {
    const kit = await laneKit({ host: behind(express.json()) as never });
    kit.provider.on("*", echo);
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m", prompt: "ä" } });
    expect([response.status, await response.json()]).toEqual([200, { got: '{"model":"m","prompt":"ä"}', type: "application/json" }]);
  });

  test("a form passes a host's JSON parser", async () => {
    const kit = await laneKit({ host: behind(express.json()) as never });
    kit.provider.on("*", echo);
    expect((await kit.call("POST", "/v1/audio/transcriptions", { body: form() })).status).toBe(200);
  });

  test("bytes that a host kept are sent as they were", async () => {
    const kit = await laneKit({ host: behind(express.raw({ type: () => true })) as never });
    kit.provider.on("*", echo);
    const response = await kit.call("POST", "/v1/audio/transcriptions", { body: "a=1&b=2", headers: { "content-type": "text/plain" } });
    expect([response.status, await response.json()]).toEqual([200, { got: "a=1&b=2", type: "text/plain" }]);
  });

  test("anything else that was read is refused with what to do, and does not hang", async () => {
    const kit = await laneKit({ host: behind(express.text({ type: () => true })) as never });
    const response = await kit.call("POST", "/v1/audio/transcriptions", { body: form() });
    expect([response.status, (await errorOf(response)).message]).toEqual([400, expect.stringContaining("before its body parsers")]);
    expect(kit.provider.log).toEqual([]);
  });

  test.each<[string, string, RequestInit["body"], Record<string, string>, number, string]>([
    ["is no object", "POST", "[]", { "content-type": "application/json" }, 400, "body_invalid"],
    ["names two models", "POST", '{"model":"a","model":"b"}', { "content-type": "application/json" }, 400, "body_invalid"],
    ["names a model that is no name", "POST", '{"model":1}', { "content-type": "application/json" }, 400, "body_invalid"],
    ["is JSON above the limit", "POST", `{"a":"${"x".repeat(2_000)}"}`, { "content-type": "application/json" }, 413, "body_too_large"],
    ["is compressed", "POST", "xx", { "content-type": "audio/wav", "content-encoding": "gzip" }, 415, "unsupported_encoding"],
    ["belongs to a DELETE", "DELETE", "GET /admin HTTP/1.1\r\n\r\n", {}, 400, "body_invalid"],
  ])("a body that %s is refused", async (_what, method, body, headers, status, code) => {
    const kit = await laneKit({ bodyLimit: 1_000 });
    const path = method === "DELETE" ? "/v1/files/file-1" : "/v1/images/edits";
    const response = await kit.call(method, path, { key: MASTER, body, headers });
    expect([response.status, (await errorOf(response)).code]).toEqual([status, code]);
    expect(kit.provider.log).toEqual([]);
  });
});

describe("the provider's refusals", () => {
  test("pass as they are, and tell the pool whose fault they were", async () => {
    const kit = await laneKit();
    kit.provider.on("*", json({ error: { message: "slow down", code: "rate_limit_exceeded" } }, 429, { "retry-after": "7", "set-cookie": "a=b" }));
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await errorOf(response), response.headers.get("retry-after")]).toEqual([
      429,
      { message: "slow down", code: "rate_limit_exceeded" },
      "7",
    ]);
    expect(response.headers.get("set-cookie")).toBeNull();
    expect(kit.pool.health.left).toMatchObject([
      { outcome: { kind: "refused", status: 429, fault: "capacity", waitMs: 7_000, isAccountWide: false } },
    ]);
    expect(await kit.rows()).toMatchObject([{ state: "released", status: 429 }]);
  });

  test("never repeat our key", async () => {
    const kit = await laneKit();
    kit.provider.on("*", json({ error: { message: `Incorrect API key provided: ${PROVIDER_KEY}` } }, 401));
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    const text = await response.text();
    expect([response.status, text.includes(PROVIDER_KEY), text]).toEqual([401, false, expect.stringContaining("[redacted]")]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { fault: "credential" } }]);
  });

  test("that no client could read are re-dressed", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (_req, res) => void res.writeHead(503, { "content-type": "text/html" }).end("<h1>down</h1>"));
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await errorOf(response)]).toMatchObject([503, { code: "upstream_refused" }]);
  });

  test.each([301, 302, 307, 308])("a redirect (%i) is never followed and never passed on", async (status) => {
    const kit = await laneKit();
    kit.provider.on("*", (_req, res) => void res.writeHead(status, { location: `${kit.provider.url}/v1/elsewhere` }).end());
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, (await errorOf(response)).code, response.headers.get("location")]).toEqual([502, "upstream_protocol", null]);
    expect(kit.provider.log.length).toBe(1);
  });

  test("a compressed answer is refused, because nobody asked for one", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (_req, res) => void res.writeHead(200, { "content-type": "application/json", "content-encoding": "gzip" }).end("xx"));
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, (await errorOf(response)).code]).toEqual([502, "upstream_protocol"]);
  });

  test("an answer before the end of the request is passed on, and neither connection is used again", async () => {
    const kit = await laneKit();
    let upload: IncomingMessage | undefined;
    kit.provider.on("*", (req, res) => {
      upload = req.pause();
      json({ error: { message: "too large" } }, 413)(req, res);
    });
    const body = "x".repeat(8_000_000);
    const response = await kit.call("POST", "/v1/audio/transcriptions", { body, headers: { "content-type": "audio/wav" } });
    expect([response.status, await errorOf(response), response.headers.get("connection")]).toEqual([413, { message: "too large" }, "close"]);
    upload?.resume();
    await expect.poll(() => kit.provider.open()).toBe(0);
    expect(upload?.complete).toBe(false);
  });
});

describe("credentials", () => {
  const two = (more: object) => (provider: { url: string }) => [
    credential("proxied", { origin: provider.url, proxyUrl: "http://proxy.example:8080", ...more }),
    credential("direct", { origin: provider.url, apiKey: new Secret("sk-direct") }),
  ];

  test("that need a proxy are passed over", async () => {
    const kit = await laneKit({ credentials: two({ priority: 1 }) });
    kit.provider.on("*", json(IMAGE));
    await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    await kit.call("POST", "/v1/audio/transcriptions", { body: form() });
    expect(kit.provider.log.map(({ headers }) => headers.authorization)).toEqual(["Bearer sk-direct", "Bearer sk-direct"]);
    expect(kit.pool.pool.inFlight("proxied")).toBe(0);
  });

  test("when all of them need one, the refusal says so", async () => {
    const kit = await laneKit({ credentials: (provider) => two({})(provider).slice(0, 1) });
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await errorOf(response)]).toMatchObject([503, { code: "no_credential", message: expect.stringContaining("proxy_url") }]);
  });

  test("that nobody may use now are told like anywhere else", async () => {
    const kit = await laneKit();
    kit.pool.slots.short.set("main/m", { waitMs: 3_000 });
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, (await errorOf(response)).code, response.headers.get("retry-after")]).toEqual([429, "all_credentials_limited", "3"]);
  });

  test("an intent that cannot be written stops the request, and the credential goes back", async () => {
    const kit = await laneKit({
      services: { recorder: { intent: () => Promise.reject(new Error("disk full")), attempt: () => undefined, close: () => undefined } },
    });
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, kit.provider.log.length, kit.pool.health.left]).toMatchObject([
      500,
      0,
      [{ outcome: { kind: "abandoned", tokens: null } }],
    ]);
  });

  test("whose own headers cannot be sent go back, and so does the connection", async () => {
    const kit = await laneKit({ credentials: ({ url }) => [credential("main", { origin: url, headers: { "x-bad": "a\nb" } })] });
    for (let i = 0; i < 3; i += 1) expect((await kit.call("POST", "/v1/images/generations", { json: { model: "m" } })).status).toBe(500);
    const raw = await rawClient(
      kit.port,
      `GET /v1/realtime?model=m HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ALICE}\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n`,
    );
    await raw.closed;
    expect(raw.received()).toMatch(/^HTTP\/1.1 500 /);
    expect([kit.pool.pool.inFlight("main"), kit.pool.health.left.map(({ outcome }) => outcome.kind)]).toEqual([0, Array(4).fill("abandoned")]);
    expect(await kit.rows()).toMatchObject(Array.from({ length: 4 }, () => ({ state: "released", status: 500 })));
  });

  test("the intent is written before anything is sent", async () => {
    const gate = Promise.withResolvers<void>();
    const kit = await laneKit({ services: { recorder: { intent: () => gate.promise, attempt: () => undefined, close: () => undefined } } });
    kit.provider.on("*", json(IMAGE));
    const pending = kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    while (kit.opened[0]?.attempts !== 1) await new Promise(setImmediate);
    for (let i = 0; i < 20; i += 1) await new Promise(setImmediate);
    expect(kit.provider.connections()).toBe(0);
    gate.resolve();
    expect((await pending).status).toBe(200);
  });
});

test("a client's key is not forwarded in any place", async () => {
  const kit = await laneKit();
  kit.provider.on("*", json(IMAGE));
  await kit.call("POST", `/v1/images/generations?x=${ALICE}&key=other-key&y=Bearer%20${ALICE}&ok=1`, {
    json: { model: "m" },
    headers: { "x-api-key": ALICE },
  });
  const [seen] = kit.provider.log;
  expect(seen?.url).toBe("/v1/images/generations?ok=1");
  expect(JSON.stringify(seen)).not.toContain(ALICE);
  expect(seen?.headers.authorization).toBe(`Bearer ${PROVIDER_KEY}`);
});
