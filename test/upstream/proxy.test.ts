import { createServer, request as httpRequest, type Server } from "node:http";
import { connect, createServer as createTcpServer, type AddressInfo } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fakeUpstream, type FakeUpstream } from "../../src/testing/index.ts";
import { undiciTransport, type Transport } from "../../src/upstream/transport.ts";
import { chatRequest, collect } from "./collect.ts";

let upstream: FakeUpstream;
let transport: Transport;
let proxy: Server;
let port = 0;
/** What the proxy was asked for: `CONNECT host:port` or an absolute URL, and the password it was shown. */
const asked: { readonly target: string; readonly auth: string | undefined }[] = [];
let verdict: "serve" | 403 | 407 | "hang" = "serve";

beforeEach(async () => {
  upstream = await fakeUpstream();
  transport = undiciTransport({ connectTimeoutMs: 5_000 });
  asked.length = 0;
  verdict = "serve";
  proxy = createServer((request, response) => {
    asked.push({ target: request.url ?? "", auth: request.headers["proxy-authorization"] });
    if (typeof verdict === "number") return void response.writeHead(verdict).end("proxy says no");
    const { "proxy-authorization": _own, ...headers } = request.headers;
    const onward = httpRequest(request.url ?? "", { method: request.method ?? "GET", headers }, (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    onward.on("error", () => response.destroy());
    response.on("close", () => onward.destroy());
    request.pipe(onward);
  });
  proxy.on("connect", (request, socket) => {
    asked.push({ target: `CONNECT ${request.url}`, auth: request.headers["proxy-authorization"] });
    socket.on("error", () => {});
    if (verdict === "hang") return;
    if (typeof verdict === "number") return void socket.end(`HTTP/1.1 ${verdict} No\r\ncontent-length: 0\r\n\r\n`);
    const [host, at] = (request.url ?? "").split(":");
    const onward = connect(Number(at), host, () => {
      socket.write("HTTP/1.1 200 Connected\r\n\r\n");
      onward.pipe(socket).pipe(onward);
    });
    onward.on("error", () => socket.destroy());
  });
  await new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));
  ({ port } = proxy.address() as AddressInfo);
});

afterEach(async () => {
  await transport.close();
  await upstream.close();
  proxy.closeAllConnections();
  proxy.close();
});

const through = (more: Record<string, unknown> = {}, origin = upstream.url, proxyUrl = `http://user:p%40ss-canary@127.0.0.1:${port}`) =>
  collect(transport, chatRequest(origin, more, { proxyUrl }));

describe("through an HTTP proxy", () => {
  it("sends plain HTTP in absolute form, with the proxy's password and without showing it to the provider", async () => {
    const { status, text } = await through().done;
    expect([status, JSON.parse(text).object]).toEqual([200, "chat.completion"]);
    expect(asked).toEqual([{ target: `${upstream.url}/v1/chat/completions`, auth: `Basic ${Buffer.from("user:p@ss-canary").toString("base64")}` }]);
    expect(upstream.log[0]?.headers).not.toHaveProperty("proxy-authorization");
  });

  it("streams", async () => {
    const { text, error } = await through({ stream: true }).done;
    expect([error, text.endsWith("data: [DONE]\n\n")]).toEqual([null, true]);
  });

  it("closes the upstream when the client leaves", async () => {
    upstream.script({ fault: { at: 3, how: "hang" } });
    const stream = through({ stream: true });
    await stream.firstChunk;
    stream.exchange.abort();
    await upstream.log[0]?.ended;
    expect(upstream.log[0]?.end).toBe("client");
  });

  it("opens a tunnel for HTTPS; a provider that does not speak TLS is unreachable", async () => {
    const { error, sent } = await through({}, upstream.url.replace("http:", "https:")).done;
    expect([error?.code, sent]).toEqual(["upstream_unreachable", false]);
    expect(asked[0]?.target).toBe(`CONNECT 127.0.0.1:${upstream.port}`);
  });

  it.each([403, 407] as const)("a proxy that answers %i to the tunnel: unreachable, without its password in the error", async (status) => {
    verdict = status;
    const { error, sent } = await through({}, "https://provider.test").done;
    expect([error?.code, sent]).toEqual(["upstream_unreachable", false]);
    expect(`${error?.message} ${String(error?.cause)} ${JSON.stringify(error)}`).not.toContain("canary");
  });

  it("a proxy that wants another password for plain HTTP", async () => {
    verdict = 407;
    const { done, calls } = through();
    expect((await done).error).toMatchObject({ code: "upstream_unreachable", message: expect.stringContaining("proxy") });
    expect(calls).toEqual(["fail"]);
    verdict = "serve";
    expect((await through().done).status).toBe(200);
  });

  it("a refusal by the proxy is counted out once: the origin is idle afterwards and makes room", async () => {
    const one = undiciTransport({ connectTimeoutMs: 5_000, maxOrigins: 1 });
    verdict = 407;
    const proxyUrl = `http://127.0.0.1:${port}`;
    expect((await collect(one, chatRequest(upstream.url, {}, { proxyUrl })).done).error?.code).toBe("upstream_unreachable");
    expect((await collect(one, chatRequest(upstream.url)).done).status).toBe(200);
    await one.close();
  });

  it("a proxy that is not there, and a proxy URL that cannot be used", async () => {
    const closed = createTcpServer();
    await new Promise<void>((resolve) => closed.listen(0, "127.0.0.1", resolve));
    const dead = (closed.address() as AddressInfo).port;
    closed.close();
    for (const url of [
      `http://user:canary@127.0.0.1:${dead}`,
      `http://user:canary@169.254.169.254:${port}`,
      "http://user:canary@",
      "socks5://user:canary@127.0.0.1:1",
    ]) {
      for (const origin of [upstream.url, "https://provider.test"]) {
        const { error, sent } = await through({}, origin, url).done;
        expect(["upstream_unreachable", "internal"]).toContain(error?.code);
        expect(sent).toBe(false);
        expect(`${error?.message} ${String(error?.cause)} ${JSON.stringify(error?.cause)}`).not.toContain("canary");
      }
    }
    expect(upstream.log.length).toBe(0);
  });

  it("guards the proxy's own name", async () => {
    const guarded = undiciTransport({
      connectTimeoutMs: 5_000,
      lookup: (_host, _options, done) => done(null, [{ address: "127.0.0.1", family: 4 }]),
    });
    const request = (allowPrivate: boolean) =>
      collect(guarded, chatRequest(upstream.url, {}, { proxyUrl: `http://proxy.test:${port}`, allowPrivate })).done;
    expect(await request(false)).toMatchObject({ sent: false, error: { code: "upstream_unreachable", cause: { code: "EGRESS_REFUSED" } } });
    expect(asked).toEqual([]);
    expect((await request(true)).status).toBe(200);
    await guarded.close();
  });
});
