// Request bodies that a host's parsers touch before the gateway, or must not touch at all.
import compression from "compression";
import express, { type RequestHandler } from "express";
import { describe, expect, onTestFinished, test } from "vitest";
import { quotaGuard } from "quotaguard";
import { keptLogger } from "../core/context-kit.ts";
import { KEY, listen, UPSTREAM_KEY } from "../helpers/app.ts";
import { bodyOf, scriptedProvider } from "../middleware/passthrough/provider-kit.ts";
import { hostApp, type ListeningHost } from "./host-kit.ts";

/** As no serialiser writes it. */
const CALL = '{ "messages":[ {"role":"user","content":"h\\u00e9llo"} ],\n  "model":"gpt-4o-mini", "temperature":1.0 }';
const SAME = '{"messages":[{"role":"user","content":"héllo"}],"model":"gpt-4o-mini","temperature":1}';

const post = ({ url }: Pick<ListeningHost, "url">, body: string = CALL, headers: Record<string, string> = {}): Promise<Response> =>
  fetch(`${url}/llm/v1/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${KEY}`, ...headers },
    body,
  });

const gateway = (...before: readonly RequestHandler[]): Promise<ListeningHost> =>
  hostApp((app, host) => {
    for (const each of before) app.use(each);
    app.use("/llm", host.gateway);
    for (const parser of [express.json(), express.text()]) app.post("/own", parser, (req, res) => void res.json({ got: req.body as unknown }));
  });

const sentBy = ({ upstream }: ListeningHost): string => String(upstream.log.at(-1)?.body);

/** Reads everything and keeps nothing, as a logger of bodies may. */
const swallowed: RequestHandler = (req, _res, next) => {
  req.resume().once("end", next);
};

describe("a call that", () => {
  test.each<[string, readonly RequestHandler[], string, readonly string[]]>([
    ["nobody has read goes on byte for byte", [], CALL, []],
    ["express.json() has parsed is the same call, written anew, and the host is told once", [express.json()], SAME, ["QG_BODY_PARSED"]],
    ["express.raw() has read goes on byte for byte, and the host is told once", [express.raw({ type: "*/*" })], CALL, ["QG_BODY_PARSED"]],
    ["express.text() has read goes on as the same text, and the host is told once", [express.text({ type: "*/*" })], CALL, ["QG_BODY_PARSED"]],
    [
      "a parser has kept in rawBody goes on byte for byte, with nothing to tell",
      [express.json({ verify: (req, _res, bytes) => void Object.assign(req, { rawBody: bytes }) })],
      CALL,
      [],
    ],
    [
      "parsers for other types leave alone goes on byte for byte",
      [express.urlencoded({ extended: true }), express.json({ type: "application/vnd.api+json" })],
      CALL,
      [],
    ],
  ])("%s", async (_name, before, sent, codes) => {
    const host = await gateway(...before);
    for (let i = 0; i < 2; i += 1) expect((await post(host)).status).toBe(200);
    expect(sentBy(host)).toBe(sent);
    expect(host.codes()).toEqual(codes);
    expect(await host.settled()).toEqual(["settled", "settled"]);
  });

  test("is larger than the parser before the gateway allows is refused by that parser, and not charged", async () => {
    const host = await gateway(express.json({ limit: 100 }));
    expect((await post(host, JSON.stringify({ model: "gpt-4o-mini", messages: [{ role: "user", content: "x".repeat(200) }] }))).status).toBe(413);
    expect([host.upstream.log.length, await host.settled()]).toEqual([0, []]);
  });

  test.each<[string, RequestHandler]>([
    ["read to its end", swallowed],
    [
      "read in part",
      (req, _res, next) => {
        req.once("data", () => {
          req.pause();
          next();
        });
      },
    ],
  ])("something before the gateway has %s is refused and says what to mount where; the host is told once", async (_name, thief) => {
    const host = await gateway(thief);
    for (let i = 0; i < 2; i += 1) {
      const response = await post(host);
      expect(response.status).toBe(400);
      expect(await response.json()).toMatchObject({
        error: { code: "body_invalid", message: expect.stringContaining("before its body parsers") as string },
      });
    }
    expect([host.upstream.log.length, host.codes(), await host.settled()]).toEqual([0, ["QG_BODY_LOST"], ["refused", "refused"]]);
  });

  test("has no body is refused as empty, whoever looked at it", async () => {
    for (const before of [[], [swallowed]]) {
      const host = await gateway(...before);
      const response = await post(host, "");
      expect([response.status, await response.json()]).toMatchObject([400, { error: { message: expect.stringContaining("empty") as string } }]);
      expect(host.codes()).toEqual([]);
    }
  });

  test("goes to a route of the host's is parsed there, behind the gateway", async () => {
    const host = await gateway();
    const own = (type: string, body: string) => fetch(`${host.url}/own`, { method: "POST", headers: { "content-type": type }, body });
    expect(await (await own("application/json", '{"a":1}')).json()).toEqual({ got: { a: 1 } });
    expect(host.codes()).toEqual([]);
  });
});

describe("what is passed through unread", () => {
  const PARSERS: readonly RequestHandler[] = [express.json(), express.text(), express.urlencoded({ extended: true })];

  async function lane(...before: readonly RequestHandler[]) {
    const provider = await scriptedProvider();
    const logger = keptLogger();
    const handler = quotaGuard({
      logger,
      auth: { keys: [{ name: "alice", key: KEY, scopes: { user: "alice" } }] },
      credentials: [{ name: "main", provider: "openai", apiKey: UPSTREAM_KEY, baseUrl: provider.url }],
    });
    await handler.ready();
    const app = express();
    for (const each of before) app.use(each);
    app.use("/llm", handler);
    const { url, close } = await listen(app);
    onTestFinished(async () => {
      await close();
      await handler.close();
    });
    const codes = () => logger.lines.flatMap(({ fields }) => (String(fields["code"]).startsWith("QG_") ? [fields["code"]] : []));
    return { provider, url, codes, headers: { authorization: `Bearer ${KEY}` } };
  }

  test("a multipart upload comes through parsers byte for byte", async () => {
    const { provider, url, codes, headers } = await lane(...PARSERS);
    provider.on("POST /v1/files", async (req, res) => {
      await bodyOf(req);
      res.writeHead(200, { "content-type": "application/json" }).end('{"id":"file-1","object":"file"}');
    });
    const body = ["--edge", 'content-disposition: form-data; name="file"; filename="a.bin"', "", "\u0000\u0001 { not json }", "--edge--", ""].join(
      "\r\n",
    );
    const response = await fetch(`${url}/llm/v1/files`, {
      method: "POST",
      headers: { ...headers, "content-type": "multipart/form-data; boundary=edge" },
      body,
    });
    expect([response.status, await response.json()]).toMatchObject([200, { id: "file-1" }]);
    expect([provider.log[0]?.body, provider.log[0]?.headers["content-type"]]).toEqual([body, "multipart/form-data; boundary=edge"]);
    expect(codes()).toEqual([]);
  });

  test("JSON that was parsed is written anew, and an upload that was read is refused; the host is told of both", async () => {
    const { provider, url, codes, headers } = await lane(express.json(), (req, res, next) =>
      req.is("multipart/form-data") ? swallowed(req, res, next) : next(),
    );
    provider.on("POST /v1/images/generations", async (req, res) => {
      await bodyOf(req);
      res.writeHead(200, { "content-type": "application/json" }).end('{"data":[]}');
    });
    const image = await fetch(`${url}/llm/v1/images/generations`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body: '{ "model": "gpt-image-1", "prompt": "a cat" }',
    });
    expect(image.status).toBe(200);
    expect(provider.log[0]?.body).toBe('{"model":"gpt-image-1","prompt":"a cat"}');
    const upload = await fetch(`${url}/llm/v1/files`, {
      method: "POST",
      headers: { ...headers, "content-type": "multipart/form-data; boundary=edge" },
      body: "--edge--",
    });
    expect([upload.status, await upload.json()]).toMatchObject([
      400,
      { error: { message: expect.stringContaining("before its body parsers") as string } },
    ]);
    expect(codes()).toEqual(["QG_BODY_PARSED", "QG_BODY_LOST"]);
  });

  test("its events come through compression() one by one", async () => {
    const { provider, url, headers } = await lane(compression({ threshold: 0 }));
    const next = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    provider.on("POST /v1/images/generations", async (req, res) => {
      await bodyOf(req);
      res.writeHead(200, { "content-type": "text/event-stream" });
      for (const [i, { promise }] of next.entries()) {
        res.write(`data: {"n":${i}}\n\n`);
        await promise;
      }
      res.end("data: [DONE]\n\n");
    });
    const response = await fetch(`${url}/llm/v1/images/generations`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json", "accept-encoding": "gzip" },
      body: '{"model":"gpt-image-1","prompt":"a cat","stream":true}',
    });
    const reader = (response.body as ReadableStream<Uint8Array>).getReader();
    let text = "";
    for (const [i, { resolve }] of next.entries()) {
      while (!text.includes(`{"n":${i}}`)) text += Buffer.from((await reader.read()).value ?? []).toString();
      resolve();
    }
    for (let read = await reader.read(); !read.done; read = await reader.read()) text += Buffer.from(read.value).toString();
    expect(text).toContain("[DONE]");
  });
});
