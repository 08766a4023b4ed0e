// The gateway as a plain request handler: on servers that are not Express, on HTTP/2, and where there is no socket at all.
import express from "express";
import { createServer, request as httpRequest, type RequestListener } from "node:http";
import { connect as connectHttp2, createServer as createHttp2Server, type IncomingHttpHeaders } from "node:http2";
import type { AddressInfo } from "node:net";
import supertest from "supertest";
import { describe, expect, onTestFinished, test } from "vitest";
import { chat, KEY } from "../helpers/app.ts";
import { rawClient } from "../http/server-kit.ts";
import { hostApp, hostGuard, listening, pacedStream, type Host } from "./host-kit.ts";

const CALL = { model: "gpt-4o-mini", messages: [{ role: "user", content: "hello" }] };
const STREAM = { ...CALL, stream: true, stream_options: { include_usage: true } };
const HEADERS = { "content-type": "application/json", authorization: `Bearer ${KEY}` };
const PATH = "/llm/v1/chat/completions";

const expressApp = ({ gateway }: Host): express.Express => express().use("/llm", gateway);

/** A server without a framework: it takes its own prefix off, or does not. */
const bare =
  ({ gateway }: Host): RequestListener =>
  (req, res) => {
    req.url = (req.url ?? "").replace(/^\/llm/, "");
    gateway(req, res, () => void res.writeHead(404).end("the host's 404"));
  };

/** As Connect mounts: what is matched goes off `url`, and only `originalUrl` remembers it. */
const connectStyle =
  ({ gateway }: Host): RequestListener =>
  (req, res) => {
    Object.assign(req, { originalUrl: req.url });
    req.url = (req.url ?? "").replace(/^\/llm/, "") || "/";
    gateway(req, res, () => void res.writeHead(404).end("the host's 404"));
  };

describe.each<[string, (host: Host) => RequestListener, string]>([
  ["Express", expressApp, "/llm/chat/completions"],
  ["a bare server", bare, PATH],
  ["a server in the way of Connect", connectStyle, "/llm/chat/completions"],
])("on %s", (_name, make, short) => {
  test("calls are answered, streamed and settled once; the rest is the host's", async () => {
    const host = await hostGuard();
    const url = await listening(createServer(make(host)));
    expect(await (await chat(url)).json()).toMatchObject({ object: "chat.completion" });
    expect((await fetch(url + short, { method: "POST", headers: HEADERS, body: JSON.stringify(CALL) })).status).toBe(200);
    expect(await pacedStream({ ...host, url })).toContain("[DONE]");
    expect((await fetch(`${url}/other`)).status).toBe(404);
    expect(await host.settled()).toEqual(["settled", "settled", "settled"]);
  });

  test("a client that leaves in mid-stream is noticed, and charged what was delivered", async () => {
    const host = await hostGuard();
    const url = await listening(createServer(make(host)));
    host.upstream.script({ fault: { at: 3, how: "hang" } });
    const controller = new AbortController();
    const response = await chat(url, { stream: true }, { signal: controller.signal });
    await response.body?.getReader().read();
    controller.abort();
    expect((await host.upstream.received(1)).method).toBe("POST");
    await host.upstream.log[0]?.ended;
    await expect.poll(() => host.guard.admin.health().openRequests).toBe(0);
    expect(await host.guard.ledger.list({ limit: 10 })).toMatchObject([{ state: "settled", code: "client_closed" }]);
  });
});

describe("without a listening server", () => {
  test("supertest(app) gets whole and streamed answers", async () => {
    const host = await hostGuard();
    const app = expressApp(host);
    const whole = await supertest(app).post(PATH).set(HEADERS).send(CALL);
    expect([whole.status, whole.body]).toMatchObject([200, { object: "chat.completion" }]);
    const streamed = await supertest(app)
      .post(PATH)
      .set(HEADERS)
      .send(STREAM)
      .buffer(true)
      .parse((response, done) => {
        let text = "";
        response.on("data", (chunk: Buffer) => (text += chunk.toString()));
        response.on("end", () => done(null, text));
      });
    expect(streamed.body).toContain("[DONE]");
    expect((await supertest(app).post(PATH).send(CALL)).status).toBe(401);
    expect(await host.settled()).toEqual(["settled", "settled"]);
  });
});

describe("on one connection", () => {
  const head = (more = ""): string => `POST ${PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer ${KEY}\r\n${more}`;
  const whole = (body: string): string => `${head()}content-length: ${body.length}\r\n\r\n${body}`;

  test("pipelined calls are answered in their order, each settled once", async () => {
    const host = await hostApp((app, { gateway }) => app.use("/llm", gateway));
    const models = ["gpt-4o-mini", "gpt-4o", "gpt-4o-mini"];
    const client = await rawClient(Number(new URL(host.url).port), models.map((model) => whole(JSON.stringify({ ...CALL, model }))).join(""));
    let text = "";
    await expect.poll(() => (text = client.received()).split("HTTP/1.1 200").length - 1, { timeout: 5_000 }).toBe(3);
    await expect.poll(() => (text = client.received()).split('"usage"').length - 1, { timeout: 5_000 }).toBe(3);
    expect([...text.matchAll(/"model":"([^"]+)"/g)].map(([, model]) => model)).toEqual(models);
    expect(await host.settled()).toEqual(models.map(() => "settled"));
  });

  test("a refusal that leaves a body unread ends the connection; the next call is not taken for its rest", async () => {
    const host = await hostApp((app, { gateway }) => app.use("/llm", gateway));
    const body = JSON.stringify(CALL);
    const bad = `POST ${PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: Bearer wrong-key-000\r\ncontent-length: 100000\r\n\r\n`;
    const client = await rawClient(Number(new URL(host.url).port), bad + body);
    expect(await client.until("connection: close")).toContain("HTTP/1.1 401");
    await client.closed;
    expect(await host.settled()).toEqual([]);
  });

  test("Expect: 100-continue is answered before the body is sent", async () => {
    const host = await hostApp((app, { gateway }) => app.use("/llm", gateway));
    const body = JSON.stringify(CALL);
    const answer = await new Promise<{ readonly status: number | undefined; readonly continued: boolean }>((resolve, reject) => {
      let continued = false;
      const request = httpRequest(host.url + PATH, {
        method: "POST",
        headers: { ...HEADERS, expect: "100-continue", "content-length": body.length },
      });
      request.on("continue", () => {
        continued = true;
        request.end(body);
      });
      request.on("response", (response) => void response.resume().on("end", () => resolve({ status: response.statusCode, continued })));
      request.on("error", reject);
      request.flushHeaders();
    });
    expect(answer).toEqual({ status: 200, continued: true });
    expect(await host.settled()).toEqual(["settled"]);
  });
});

describe("on HTTP/2, through Node's compatibility API", () => {
  interface Answer {
    readonly headers: IncomingHttpHeaders;
    readonly text: string;
  }

  async function served(host: Host): Promise<(body: object, headers?: Record<string, string>) => Promise<Answer>> {
    const server = createHttp2Server((req, res) => {
      (host.gateway as unknown as (...args: unknown[]) => void)(req, res, () => void res.writeHead(404).end());
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const session = connectHttp2(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
    onTestFinished(async () => {
      session.destroy();
      await new Promise((resolve) => {
        server.close(resolve);
      });
    });
    return (body, headers = HEADERS) =>
      new Promise((resolve, reject) => {
        const stream = session.request({ ":method": "POST", ":path": "/v1/chat/completions", ...headers });
        let text = "";
        let head: IncomingHttpHeaders = {};
        stream.on("response", (received) => (head = received));
        stream.setEncoding("utf8").on("data", (chunk: string) => (text += chunk));
        stream.on("end", () => resolve({ headers: head, text }));
        stream.on("error", reject);
        stream.end(JSON.stringify(body));
      });
  }

  test("whole, streamed and refused calls; each is settled once", async () => {
    const host = await hostGuard();
    const post = await served(host);
    const whole = await post(CALL);
    expect([whole.headers[":status"], JSON.parse(whole.text)]).toMatchObject([200, { object: "chat.completion" }]);
    const streamed = await post(STREAM);
    expect([streamed.headers["content-type"], streamed.text.endsWith("data: [DONE]\n\n")]).toEqual([
      expect.stringContaining("text/event-stream"),
      true,
    ]);
    const refused = await post(CALL, { "content-type": "application/json" });
    expect([refused.headers[":status"], JSON.parse(refused.text)]).toMatchObject([401, { error: { code: "unauthenticated" } }]);
    expect(await host.settled()).toEqual(["settled", "settled"]);
    const rows = await host.guard.ledger.list({ limit: 10 });
    expect(rows.map(({ status, code }) => [status, code])).toEqual([
      [200, null],
      [200, null],
    ]);
  });
});
