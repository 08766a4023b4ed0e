import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fakeUpstream, pacer, testClock, type FakeUpstream } from "../../src/testing/index.ts";
import { undiciTransport, type Transport } from "../../src/upstream/transport.ts";
import { chatRequest, collect } from "./collect.ts";
import { ownTime } from "../helpers/own-time.ts";

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

describe("answers", () => {
  it("delivers a whole answer: head, data, end, once each", async () => {
    const { done, calls } = collect(transport, chatRequest(upstream.url));
    const { status, text, headers, error } = await done;
    expect([status, error]).toEqual([200, null]);
    expect(JSON.parse(text)).toMatchObject({ object: "chat.completion", usage: { prompt_tokens: 2 } });
    expect(headers["content-type"]).toBe("application/json");
    expect(calls).toEqual(["head", "data", "end"]);
    expect(upstream.log[0]).toMatchObject({ method: "POST", path: "/v1/chat/completions", end: "done" });
  });

  it("delivers a stream piece by piece, as it arrives", async () => {
    const pace = pacer();
    upstream.script({ pacer: pace });
    const stream = collect(transport, chatRequest(upstream.url, { stream: true }));
    await pace.waiting();
    pace.step();
    await stream.firstChunk;
    expect(stream.calls).toEqual(["head", "data"]);
    pace.open();
    expect((await stream.done).text).toMatch(/data: \[DONE\]\n\n$/);
  });

  it("delivers the same bytes however the upstream splits them", async () => {
    // The clock stands still, so that only the ids differ between two answers.
    const still = await fakeUpstream({ clock: testClock() });
    const answer = async (splitAt: readonly number[]): Promise<string> => {
      still.script({ splitAt });
      return (await collect(transport, chatRequest(still.url, { stream: true })).done).text.replaceAll(/fake\d+/g, "fake");
    };
    const whole = await answer([]);
    expect(whole).toMatch(/data: \[DONE\]\n\n$/);
    for (const splitAt of [[1], [5, 6, 7], [40, 80, 120, 121, 122], Array.from({ length: 60 }, (_, i) => i * 7 + 3)]) {
      expect(await answer(splitAt)).toBe(whole);
    }
    await still.close();
  });

  it("keeps connections: requests in turn share them", async () => {
    for (let i = 0; i < 20; i += 1) await collect(transport, chatRequest(upstream.url)).done;
    // Two, because undici rests a socket for one turn of the event loop and the next request here comes sooner.
    expect(upstream.openSockets()).toBeLessThanOrEqual(2);
  });

  it("passes error statuses on as answers", async () => {
    upstream.script({ status: 429, headers: { "retry-after": "2" } });
    const { status, headers, text } = await collect(transport, chatRequest(upstream.url)).done;
    expect([status, headers["retry-after"], JSON.parse(text).error.code]).toEqual([429, "2", "rate_limit_exceeded"]);
  });

  it("sends what it was given and nothing that disguises it", async () => {
    await collect(transport, chatRequest(upstream.url)).done;
    expect(Object.keys(upstream.log[0]?.headers ?? {}).toSorted()).toEqual(["authorization", "connection", "content-length", "content-type", "host"]);
  });

  it("ignores interim answers, and gives up on a flood of them", async () => {
    const ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    const hint = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    upstream.script({ raw: [hint, hint, ok] });
    const { done, calls } = collect(transport, chatRequest(upstream.url));
    expect((await done).text).toBe("ok");
    expect(calls).toEqual(["head", "data", "end"]);
    upstream.script({ raw: [hint.repeat(200), ok] });
    expect((await collect(transport, chatRequest(upstream.url)).done).error?.code).toBe("upstream_protocol");
  });
});

describe("back-pressure", () => {
  const big = "x".repeat(64 * 1024);

  it("pauses the upstream until resume, loses and repeats nothing", async () => {
    upstream.script({ text: Array.from({ length: 400 }, () => big) });
    const stream = collect(transport, chatRequest(upstream.url, { stream: true }), () => false);
    await stream.firstChunk;
    const entry = await upstream.received(1);
    // The fake stops writing once the socket's buffers are full: far below the 26 MB of the answer.
    let written = -1;
    while (written !== entry.chunks) {
      written = entry.chunks;
      await new Promise((resolve) => void setImmediate(() => setImmediate(resolve)));
    }
    expect(written).toBeLessThan(300);
    const early = stream.bytes();
    expect(early).toBeLessThan(200_000);
    const pump = (): void => {
      if (entry.end === null || stream.calls.at(-1) !== "end") {
        stream.exchange.resume();
        setImmediate(pump);
      }
    };
    pump();
    const { text } = await stream.done;
    expect(text.split("\n\n").length).toBe(404);
    expect(text.length).toBeGreaterThan(400 * big.length);
  });

  it("resume inside data, from another exchange, twice, after the end: harmless", async () => {
    upstream.script({ text: Array.from({ length: 20 }, () => big) });
    const streams = Array.from({ length: 5 }, () => {
      const stream = collect(transport, chatRequest(upstream.url, { stream: true }), () => {
        for (const other of streams) {
          other.exchange.resume();
          other.exchange.resume();
        }
        return false;
      });
      return stream;
    });
    const results = await Promise.all(streams.map((stream) => stream.done));
    for (const { text, error } of results) expect([error, text.split("\n\n").length]).toEqual([null, 24]);
    for (const stream of streams) {
      stream.exchange.resume();
      stream.exchange.abort();
    }
    expect((await collect(transport, chatRequest(upstream.url)).done).status).toBe(200);
  });
});

describe("abort", () => {
  it.each([
    ["before the head", { fault: { at: "start", how: "hang" } }, false],
    ["after the head", { fault: { at: "headers", how: "hang" } }, false],
    ["in the middle of a stream", { fault: { at: 3, how: "hang" } }, true],
  ] as const)("%s: the upstream's socket closes within 100 ms and nothing is called any more", async (_when, reply, streaming) => {
    upstream.script(reply);
    const stream = collect(transport, chatRequest(upstream.url, { stream: true }));
    const entry = await upstream.received(1);
    if (streaming) await stream.firstChunk;
    const sinceAbort = ownTime();
    stream.exchange.abort();
    stream.exchange.abort();
    const calls = [...stream.calls];
    await entry.ended;
    expect(entry.end).toBe("client");
    expect(sinceAbort()).toBeLessThan(100);
    expect(upstream.openSockets()).toBe(0);
    stream.exchange.resume();
    expect(stream.calls).toEqual(calls);
  });

  it("inside head and inside data", async () => {
    for (const at of ["head", "data"] as const) {
      const calls: string[] = [];
      upstream.reset();
      const exchange = transport.send(chatRequest(upstream.url, { stream: true }), {
        head() {
          calls.push("head");
          if (at === "head") exchange.abort();
        },
        data() {
          calls.push("data");
          exchange.abort();
          return false;
        },
        end: () => void calls.push("end"),
        fail: () => void calls.push("fail"),
      });
      await (
        await upstream.received(1)
      ).ended;
      expect((await collect(transport, chatRequest(upstream.url)).done).status).toBe(200);
      expect(calls).toEqual(at === "head" ? ["head"] : ["head", "data"]);
    }
  });

  it("of a body that ends with its connection", async () => {
    const server = await tcp((socket) => socket.once("data", () => socket.write("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\npart")));
    const stream = collect(transport, chatRequest(server.origin), () => false);
    await stream.firstChunk;
    const closed = new Promise((resolve) => server.sockets[0]?.once("close", resolve));
    stream.exchange.abort();
    await closed;
    expect(stream.calls).toEqual(["head", "data"]);
    const ends = await tcp((socket) => socket.once("data", () => socket.end("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall")));
    expect((await collect(transport, chatRequest(ends.origin)).done).text).toBe("all");
  });

  it("while the connection is being made: nothing is sent on it, and it serves the next request", async () => {
    const { exchange, calls } = collect(transport, chatRequest(upstream.url, { user: "left" }));
    exchange.abort();
    expect((await collect(transport, chatRequest(upstream.url, { user: "stayed" })).done).status).toBe(200);
    expect(calls).toEqual([]);
    expect(upstream.log.map((entry) => (JSON.parse(entry.body.toString()) as { user: string }).user)).toEqual(["stayed"]);
  });

  it("500 clients that leave paused streams hold nothing: every connection is free again", async () => {
    const few = undiciTransport({ connectTimeoutMs: 5_000, connections: 64 });
    // Enough to fill the reader's buffers, so that a connection that is not closed would stay paused for ever.
    const event = Buffer.from(`data: ${"x".repeat(64 * 1024)}\n\n`);
    upstream.script({ events: [event, event, event, event], fault: { at: "end", how: "hang" } });
    let left = 0;
    while (left < 500) {
      const round = Array.from({ length: 100 }, () => collect(few, chatRequest(upstream.url, { stream: true }), () => false));
      // 64 get a connection and are paused in mid-stream; 36 wait for one. All leave at once.
      await Promise.all(round.slice(0, 64).map((stream) => stream.firstChunk));
      for (const stream of round) stream.exchange.abort();
      left += round.length;
      for (const stream of round) expect(stream.calls.includes("end") || stream.calls.includes("fail")).toBe(false);
    }
    await Promise.all(upstream.log.map((entry) => entry.ended));
    expect(new Set(upstream.log.map((entry) => entry.end))).toEqual(new Set(["client"]));
    upstream.script({});
    const next = await Promise.all(Array.from({ length: 64 }, () => collect(few, chatRequest(upstream.url)).done));
    expect(next.filter((result) => result.status !== 200)).toEqual([]);
    expect(upstream.openSockets()).toBeLessThanOrEqual(64);
    await few.close();
  });
});

describe("bounds", () => {
  it("exchanges beyond the connections wait in order, and beyond the waiting room are refused", async () => {
    const narrow = undiciTransport({ connectTimeoutMs: 5_000, connections: 2, maxWaiting: 3 });
    const held = Promise.withResolvers<void>();
    upstream.script({ hold: held.promise });
    const all = Array.from({ length: 7 }, (_, i) => collect(narrow, chatRequest(upstream.url, { user: `u${i}` })));
    for (const late of all.slice(5)) expect(await late.done).toMatchObject({ sent: false, error: { code: "overloaded", retryAfterMs: 1_000 } });
    await upstream.received(2);
    expect(upstream.openSockets()).toBe(2);
    all[3]?.exchange.abort();
    // Its place in the waiting room is free at once.
    all.push(collect(narrow, chatRequest(upstream.url, { user: "u7" })));
    held.resolve();
    for (const i of [0, 1, 2, 4, 7]) expect((await all[i]?.done)?.status).toBe(200);
    expect(all[3]?.calls).toEqual([]);
    expect(upstream.log.map((entry) => (JSON.parse(entry.body.toString()) as { user: string }).user)).toEqual(["u0", "u1", "u2", "u4", "u7"]);
    await narrow.close();
  });

  it("idle origins make room for new ones; busy ones do not", async () => {
    const few = undiciTransport({ connectTimeoutMs: 5_000, maxOrigins: 2 });
    const others = await Promise.all([fakeUpstream(), fakeUpstream()]);
    for (const one of [upstream, ...others, upstream]) expect((await collect(few, chatRequest(one.url)).done).status).toBe(200);
    const busy = [upstream, others[0]].map((one) => {
      one?.script({ fault: { at: "start", how: "hang" } });
      return collect(few, chatRequest(one?.url ?? ""));
    });
    expect(await collect(few, chatRequest(others[1]?.url ?? "")).done).toMatchObject({ error: { code: "overloaded" } });
    for (const one of busy) one.exchange.abort();
    await few.close();
    await Promise.all(others.map((one) => one.close()));
  });

  it("close gives up connections that are still being made", async () => {
    const clock = testClock();
    const asked = Promise.withResolvers<void>();
    const closing = undiciTransport({ connectTimeoutMs: 5_000, clock, lookup: () => asked.resolve() });
    const { done } = collect(closing, chatRequest("http://stalled.test"));
    await asked.promise;
    await closing.close();
    expect(await done).toMatchObject({ sent: false, error: { code: "overloaded" } });
    expect(clock.pending(), "the socket is gone, so its timer is too").toBe(0);
  });

  it("close fails what is open or waiting, refuses what comes later, and leaves no socket", async () => {
    const closing = undiciTransport({ connectTimeoutMs: 5_000, connections: 1 });
    upstream.script({ fault: { at: 2, how: "hang" } });
    const running = collect(closing, chatRequest(upstream.url, { stream: true }));
    const waiting = collect(closing, chatRequest(upstream.url));
    await running.firstChunk;
    await closing.close();
    expect(await running.done).toMatchObject({ error: { code: "overloaded" } });
    expect(await waiting.done).toMatchObject({ error: { code: "overloaded" }, sent: false });
    expect(await collect(closing, chatRequest(upstream.url)).done).toMatchObject({ error: { code: "overloaded" } });
    await (
      await upstream.received(1)
    ).ended;
    expect(upstream.openSockets()).toBe(0);
  });
});
