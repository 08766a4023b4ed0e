import { createServer as createHttpServer } from "node:http";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { gzipSync } from "node:zlib";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { GuardError } from "../../src/core/errors.ts";
import { fakeUpstream, testClock, type FakeReply, type FakeUpstream } from "../../src/testing/index.ts";
import { undiciTransport, type ResponseHandler, type Transport } from "../../src/upstream/transport.ts";
import { chatRequest, collect } from "./collect.ts";

let upstream: FakeUpstream;
let transport: Transport;
const open: Server[] = [];

beforeEach(async () => {
  upstream = await fakeUpstream();
  transport = undiciTransport({ connectTimeoutMs: 5_000 });
});

afterEach(async () => {
  await transport.close();
  await upstream.close();
  for (const server of open.splice(0)) server.close();
});

/** A bare TCP server; `onSocket` decides everything. */
async function tcp(onSocket: (socket: Socket) => void): Promise<{ readonly origin: string; readonly port: number; readonly sockets: Socket[] }> {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    onSocket(socket);
  });
  open.push(server);
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return { origin: `http://127.0.0.1:${port}`, port, sockets };
}

describe("failures", () => {
  const big = (bytes: number): string => "a".repeat(bytes);

  it.each<[string, FakeReply, string, boolean?]>([
    ["reset before the head (it may have been billed)", { fault: { at: "start", how: "reset" } }, "upstream_unreachable"],
    ["closed before the head", { fault: { at: "start", how: "close" } }, "upstream_unreachable"],
    ["reset after the head", { fault: { at: "headers", how: "reset" } }, "upstream_protocol"],
    ["reset in the middle of a stream", { fault: { at: 3, how: "reset" } }, "upstream_protocol", true],
    ["closed in the middle of a stream", { fault: { at: 3, how: "close" } }, "upstream_protocol", true],
    ["closed after the last event, without the final chunk", { fault: { at: "end", how: "close" } }, "upstream_protocol", true],
    [
      "a body shorter than its content-length",
      { headers: { "content-length": "500" }, body: "short", fault: { at: "end", how: "close" } },
      "upstream_protocol",
    ],
    ["no HTTP at all", { raw: ["SSH-2.0-OpenSSH_9.2\r\n"] }, "upstream_protocol"],
    ["a space before the colon", { raw: ["HTTP/1.1 200 OK\r\ncontent-length : 2\r\n\r\nok"] }, "upstream_protocol"],
    ["a bare CR", { raw: ["HTTP/1.1 200 OK\r\nx: a\rb\r\ncontent-length: 2\r\n\r\nok"] }, "upstream_protocol"],
    ["a wrong chunk size", { raw: ["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nok"] }, "upstream_protocol"],
    [
      "an upgrade nobody asked for",
      { raw: ["HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"] },
      "upstream_protocol",
    ],
    ["more than 32 KiB of headers", { raw: [`HTTP/1.1 200 OK\r\nx-big: ${big(40_000)}\r\n\r\n`] }, "upstream_protocol"],
    ["more than 64 headers", { headers: Object.fromEntries(Array.from({ length: 70 }, (_, i) => [`x-h${i}`, "1"])) }, "upstream_protocol"],
    ["a compressed answer", { headers: { "content-encoding": "gzip" }, body: gzipSync("{}") }, "upstream_protocol"],
    ["an answer that only says that it is compressed", { headers: { "content-encoding": "gzip" } }, "upstream_protocol"],
    ["a redirect to the metadata service", { status: 307, headers: { location: "http://169.254.169.254/" }, body: "" }, "upstream_protocol"],
    ["a redirect to another path", { status: 302, headers: { location: "/v1/models" }, body: "" }, "upstream_protocol"],
  ])("%s", async (_what, reply, code, stream = false) => {
    upstream.script(reply);
    const { done, calls } = collect(transport, chatRequest(upstream.url, { stream }));
    const { error, sent } = await done;
    expect([error?.code, sent]).toEqual([code, true]);
    expect(error?.message).not.toContain("127.0.0.1");
    upstream.script({});
    expect((await collect(transport, chatRequest(upstream.url)).done).status, "the next request works").toBe(200);
    expect(calls.filter((call) => call === "end" || call === "fail")).toEqual(["fail"]);
    expect(
      upstream.log.map((entry) => entry.method),
      "nothing was followed or repeated",
    ).toEqual(["POST", "POST"]);
  });

  it("a refused connection, an unknown name: not sent", async () => {
    const { origin } = await tcp(() => {});
    open.pop()?.close();
    const refused = await collect(transport, chatRequest(origin)).done;
    expect(refused).toMatchObject({ sent: false, error: { code: "upstream_unreachable", message: expect.stringContaining("ECONNREFUSED") } });
    const nameless = undiciTransport({
      connectTimeoutMs: 5_000,
      lookup: (_host, _options, done) => done(Object.assign(new Error("no such name"), { code: "ENOTFOUND" }), []),
    });
    expect(await collect(nameless, chatRequest("http://nowhere.test")).done).toMatchObject({ sent: false, error: { code: "upstream_unreachable" } });
    await nameless.close();
  });

  it("a connection that is never made ends after connectTimeoutMs, name lookup included", async () => {
    const clock = testClock();
    const asked = Promise.withResolvers<void>();
    const slow = undiciTransport({ connectTimeoutMs: 5_000, clock, lookup: () => asked.resolve() });
    const { done } = collect(slow, chatRequest("http://stalled.test"));
    await asked.promise;
    clock.advance(4_999);
    expect(clock.pending()).toBe(1);
    clock.advance(1);
    expect(await done).toMatchObject({ sent: false, error: { code: "upstream_unreachable", message: expect.stringContaining("took too long") } });
    expect(clock.pending()).toBe(0);
    await slow.close();
  });

  it("a TLS handshake that stalls, that is reset, or that is not TLS", async () => {
    const clock = testClock();
    const slow = undiciTransport({ connectTimeoutMs: 5_000, clock });
    const heard = Promise.withResolvers<void>();
    const silent = await tcp((socket) => socket.once("data", () => heard.resolve()));
    const stalled = collect(slow, chatRequest(silent.origin.replace("http:", "https:"))).done;
    await heard.promise;
    clock.advance(5_000);
    expect(await stalled).toMatchObject({ sent: false, error: { code: "upstream_unreachable" } });
    for (const answer of [
      (socket: Socket) => void socket.resetAndDestroy(),
      (socket: Socket) => void socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"),
    ]) {
      const server = await tcp((socket) => socket.once("data", () => answer(socket)));
      const { error, sent } = await collect(slow, chatRequest(server.origin.replace("http:", "https:"))).done;
      expect([error?.code, sent]).toEqual(["upstream_unreachable", false]);
    }
    await slow.close();
  });

  it("headers and paths that HTTP does not allow are an internal error, and the key stays out of it", async () => {
    const bad = chatRequest(upstream.url, {}, { headers: ["authorization", "Bearer sk-canary-1234567890\r\nx-evil: 1"] });
    const { error, sent } = await collect(transport, bad).done;
    expect([error?.code, sent]).toEqual(["internal", false]);
    expect(`${error?.message} ${String(error?.cause)}`).not.toContain("canary");
    expect((await collect(transport, chatRequest(upstream.url, {}, { path: "/v1/a b" })).done).error?.code).toBe("internal");
    expect((await collect(transport, chatRequest("no url")).done).error?.code).toBe("internal");
    expect(upstream.log.length).toBe(0);
  });

  it("never fails before send has returned", async () => {
    for (const request of [chatRequest("no url"), chatRequest(upstream.url, {}, { path: "no slash" }), chatRequest("http://169.254.169.254")]) {
      let returned = false;
      const failed = Promise.withResolvers<boolean>();
      const handler: ResponseHandler = { head() {}, data: () => true, end() {}, fail: () => failed.resolve(returned) };
      transport.send(request, handler);
      returned = true;
      expect(await failed.promise).toBe(true);
    }
  });

  it("a handler that throws is an internal error, not the provider's", async () => {
    const failed = Promise.withResolvers<GuardError>();
    transport.send(chatRequest(upstream.url), {
      head() {
        throw new TypeError("bug");
      },
      data: () => true,
      end() {},
      fail: (error) => failed.resolve(error),
    });
    expect(await failed.promise).toMatchObject({ code: "internal", cause: { message: "bug" } });
  });

  it("a kept-alive connection that the upstream closes on reuse fails as sent, and the request is not repeated", async () => {
    let requests = 0;
    const server = createHttpServer((request, response) => {
      requests += 1;
      if (requests === 1) response.end("one");
      else request.socket.destroy();
    });
    open.push(server);
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    expect((await collect(transport, chatRequest(origin)).done).text).toBe("one");
    expect(await collect(transport, chatRequest(origin)).done).toMatchObject({ sent: true, error: { code: "upstream_unreachable" } });
    expect(requests).toBe(2);
  });

  it("a kept-alive connection that was closed while idle is replaced unnoticed", async () => {
    const server = await tcp((socket) => socket.once("data", () => socket.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")));
    expect((await collect(transport, chatRequest(server.origin)).done).text).toBe("ok");
    const closed = new Promise((resolve) => server.sockets[0]?.once("close", resolve));
    server.sockets[0]?.end();
    await closed;
    expect((await collect(transport, chatRequest(server.origin)).done).text).toBe("ok");
    expect(server.sockets.length).toBe(2);
  });
});
