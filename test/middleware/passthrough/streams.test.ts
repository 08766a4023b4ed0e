// Large bodies, slow peers, and connections that break: on real sockets, in both directions.
import express, { type ErrorRequestHandler } from "express";
import { createHash, type Hash } from "node:crypto";
import { request, type ClientRequest, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer, type AddressInfo, type Socket } from "node:net";
import { once } from "node:events";
import { describe, expect, onTestFinished, test } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import type { PassthroughHandler } from "../../../src/middleware/passthrough/passthrough.ts";
import { credential } from "../../pool/pool-kit.ts";
import { rawClient } from "../../http/server-kit.ts";
import { advanceUntil, ALICE, laneKit, MASTER, type LaneKit } from "./lane-kit.ts";
import { bodyOf, json } from "./provider-kit.ts";
import { ownTime } from "../../helpers/own-time.ts";

const MB = 1024 * 1024;
const LARGE = 200 * MB;
/** Client, gateway and provider are one process here: what garbage they leave between two collections, far below what is sent on top of it. */
const FLAT = 180 * MB;
const CHUNK = Buffer.alloc(256 * 1024, "quotaguard ");
/** What sockets may hold on their way: two connections, each with the system's buffers at both ends. */
const ON_THE_WAY = 40 * MB;

interface Upload {
  readonly out: ClientRequest;
  readonly answer: Promise<IncomingMessage>;
}

function upload(kit: LaneKit, headers: Record<string, string | number> = {}, path = "/v1/audio/transcriptions"): Upload {
  const out = request(`${kit.url}/llm${path}`, {
    method: "POST",
    headers: { authorization: `Bearer ${ALICE}`, "content-type": "multipart/form-data; boundary=x", ...headers },
  });
  const answer = once(out, "response").then(([response]) => response as IncomingMessage);
  answer.catch(() => undefined);
  out.on("error", () => undefined);
  onTestFinished(() => void out.destroy());
  return { out, answer };
}

async function download(kit: LaneKit, headers: Record<string, string> = {}): Promise<IncomingMessage> {
  const get = request(`${kit.url}/llm/v1/files/file-1/content`, { headers: { authorization: `Bearer ${MASTER}`, ...headers } });
  get.on("error", () => undefined);
  onTestFinished(() => void get.destroy());
  get.end();
  const [response] = (await once(get, "response")) as [IncomingMessage];
  return response;
}

/** Writes without end, as fast as it is read; counts what was taken. */
function pour(into: ClientRequest | ServerResponse, most: number, hash?: Hash): { taken: number; readonly done: Promise<void> } {
  let finish = (): void => undefined;
  const state = { taken: 0, done: new Promise<void>((resolve) => (finish = resolve)) };
  const more = (): void => {
    while (state.taken < most) {
      state.taken += CHUNK.length;
      hash?.update(CHUNK);
      if (!into.write(CHUNK)) {
        into.once("drain", more);
        return;
      }
    }
    into.end();
    finish();
  };
  more();
  return state;
}

/** Also when it ends in an error. */
const closed = (stream: IncomingMessage): Promise<void> =>
  new Promise((resolve) => {
    stream.on("error", () => undefined);
    stream.once("close", resolve);
  });

const turns = async (count = 50): Promise<void> => {
  for (let i = 0; i < count; i += 1) await new Promise(setImmediate);
};

/** Until a figure has stopped growing. */
async function settled(read: () => number): Promise<number> {
  for (let last = -1, still = 0; still < 1_000;) {
    await new Promise(setImmediate);
    const now = read();
    still = now === last ? still + 1 : 0;
    last = now;
  }
  return read();
}

/** How far the process grew above where it was. */
function growth(): () => number {
  const before = process.memoryUsage.rss();
  let most = before;
  const look = setInterval(() => (most = Math.max(most, process.memoryUsage.rss())), 10);
  return () => {
    clearInterval(look);
    return most - before;
  };
}

const reset = (socket: Socket): void => void socket.resetAndDestroy();

describe("large bodies", () => {
  test("an upload of 200 MB arrives byte for byte, in flat memory", async () => {
    const kit = await laneKit();
    kit.provider.on("*", async (req, res) => {
      await bodyOf(req);
      json({ text: "heard" })(req, res);
    });
    const grown = growth();
    const hash = createHash("sha256");
    const { out, answer } = upload(kit);
    pour(out, LARGE, hash);
    const response = await answer;
    expect([response.statusCode, kit.provider.log[0]?.bytes, kit.provider.log[0]?.digest]).toEqual([200, LARGE, hash.digest("hex")]);
    expect(grown()).toBeLessThan(FLAT);
  });

  test("eight uploads at one time stay flat as well", async () => {
    const kit = await laneKit();
    kit.provider.on("*", async (req, res) => {
      await bodyOf(req);
      json({ text: "heard" })(req, res);
    });
    const grown = growth();
    const answers = Array.from({ length: 8 }, () => {
      const { out, answer } = upload(kit);
      pour(out, 32 * MB);
      return answer;
    });
    expect((await Promise.all(answers)).map(({ statusCode }) => statusCode)).toEqual(Array(8).fill(200));
    expect(kit.provider.log.map(({ bytes }) => bytes)).toEqual(Array(8).fill(32 * MB));
    expect(grown()).toBeLessThan(FLAT);
  });

  test("a provider that does not read stops the client", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (req) => void req.pause());
    const { out } = upload(kit);
    const poured = pour(out, LARGE);
    expect(await settled(() => poured.taken)).toBeLessThan(ON_THE_WAY);
  });

  test("a download of 200 MB waits for a slow reader, and is whole", async () => {
    const kit = await laneKit();
    const sent = createHash("sha256");
    let poured = { taken: 0 };
    kit.provider.on("*", (_req, res) => {
      res.writeHead(200, { "content-type": "application/octet-stream", "content-length": LARGE });
      poured = pour(res, LARGE, sent);
    });
    const grown = growth();
    const response = await download(kit);
    expect(await settled(() => poured.taken)).toBeLessThan(ON_THE_WAY);
    const received = createHash("sha256");
    let bytes = 0;
    for await (const chunk of response as AsyncIterable<Buffer>) {
      received.update(chunk);
      bytes += chunk.length;
    }
    expect([bytes, received.digest("hex")]).toEqual([LARGE, sent.digest("hex")]);
    expect(grown()).toBeLessThan(FLAT);
  });

  test("a part of a file is asked for and comes as such", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (req, res) => {
      const [from = 0, to = 0] =
        /bytes=(\d+)-(\d+)/
          .exec(req.headers.range ?? "")
          ?.slice(1)
          .map(Number) ?? [];
      res.writeHead(206, { "content-range": `bytes ${from}-${to}/1000`, "accept-ranges": "bytes", etag: '"v1"' });
      res.end("x".repeat(to - from + 1));
    });
    const response = await kit.call("GET", "/v1/files/file-1/content", { key: MASTER, headers: { range: "bytes=10-19" } });
    expect([response.status, await response.text()]).toEqual([206, "x".repeat(10)]);
    expect([response.headers.get("content-range"), response.headers.get("accept-ranges"), response.headers.get("etag")]).toEqual([
      "bytes 10-19/1000",
      "bytes",
      '"v1"',
    ]);
  });
});

describe("a client that leaves", () => {
  /** Ms from the client's leaving until the provider's connection has closed. */
  async function closedAfter(kit: LaneKit, leave: () => void): Promise<number> {
    const cut = kit.provider.log[0]?.cut;
    const sinceLeft = ownTime();
    leave();
    await cut;
    return sinceLeft();
  }

  test("during its upload closes the provider's connection at once, and is charged nothing", async () => {
    const kit = await laneKit();
    kit.provider.on("*", () => undefined);
    const { out } = upload(kit);
    out.write(CHUNK);
    await expect.poll(() => kit.provider.log[0]?.bytes).toBe(CHUNK.length);
    expect(await closedAfter(kit, () => out.destroy())).toBeLessThan(100);
    expect(await kit.rows()).toMatchObject([{ state: "released", code: "client_closed", status: 499 }]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "abandoned", tokens: null } }]);
  });

  test("while the provider works closes its connection at once, and is charged as held", async () => {
    const kit = await laneKit();
    const arrived = Promise.withResolvers<void>();
    kit.provider.on("*", async (req) => {
      await bodyOf(req);
      arrived.resolve();
    });
    const { out } = upload(kit);
    out.end("x");
    await arrived.promise;
    await turns();
    expect(await closedAfter(kit, () => out.destroy())).toBeLessThan(100);
    expect(await kit.rows()).toMatchObject([{ state: "estimated", code: "client_closed" }]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "abandoned", tokens: 0 } }]);
  });

  test("during a download closes the provider's connection at once", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (_req, res) => {
      res.writeHead(200, { "content-length": LARGE });
      pour(res, LARGE);
    });
    const response = await download(kit);
    await once(response, "data");
    expect(await closedAfter(kit, () => response.destroy())).toBeLessThan(100);
    expect(await kit.rows()).toMatchObject([{ code: "client_closed" }]);
    expect([kit.pool.health.left, kit.pool.pool.inFlight("main")]).toMatchObject([[{ outcome: { kind: "abandoned" } }], 0]);
  });

  test("before its credential is there sends nothing", async () => {
    const gate = Promise.withResolvers<void>();
    const kit = await laneKit({ services: { recorder: { intent: () => gate.promise, attempt: () => undefined, close: () => undefined } } });
    const { out } = upload(kit);
    out.end("x");
    await expect.poll(() => kit.opened[0]?.attempts).toBe(1);
    out.destroy();
    await expect.poll(() => kit.opened[0]?.gone).toBe(true);
    gate.resolve();
    await expect.poll(() => kit.pool.health.left.length).toBe(1);
    expect([kit.provider.connections(), kit.pool.health.left[0]?.outcome.kind]).toEqual([0, "abandoned"]);
  });
});

test("whenever clients leave, nothing stays behind", async () => {
  const kit = await laneKit();
  const idle = kit.clock.pending();
  kit.provider.on("POST /v1/audio/transcriptions", async (req, res) => {
    await bodyOf(req);
    json({ text: "x".repeat(50_000) })(req, res);
  });
  kit.provider.on("GET /v1/files/file-1/content", (_req, res) => void pour(res, 4 * MB));
  const left: Promise<unknown>[] = [];
  for (let i = 0; i < 200; i += 1) {
    const isUpload = i % 2 === 0;
    const path = isUpload ? "/v1/audio/transcriptions" : "/v1/files/file-1/content";
    const aborting = new AbortController();
    const body = isUpload ? Buffer.alloc(100_000 * (i % 5)) : undefined;
    const done = kit.call(isUpload ? "POST" : "GET", path, { key: MASTER, signal: aborting.signal, ...(body ? { body } : {}) });
    left.push(done.then((response) => response.arrayBuffer()).catch(() => null));
    await turns(i % 23);
    aborting.abort();
    if (i % 10 === 9) await Promise.all(left.splice(0));
  }
  await kit.idle();
  await expect.poll(() => kit.pool.pool.inFlight("main")).toBe(0);
  expect(kit.clock.pending()).toBe(idle);
  const sent = kit.opened.reduce((sum, ctx) => sum + ctx.attempts, 0);
  expect(kit.pool.health.left.length).toBe(sent);
  expect(kit.pool.health.left.filter(({ outcome }) => outcome.kind !== "abandoned" && outcome.kind !== "served")).toEqual([]);
  expect((await kit.call("GET", "/v1/files/file-1/content", { key: MASTER })).status).toBe(200);
  expect(kit.logger.lines.filter(({ level }) => level === "error")).toEqual([]);
});

describe("a provider that breaks", () => {
  test("in the middle of a download: the client's connection breaks too, never a forged end", async () => {
    const kit = await laneKit();
    for (const headers of [{ "content-length": 1_000 }, {}]) {
      kit.provider.on("*", (req, res) => {
        res.writeHead(200, headers);
        res.write("half", () => setImmediate(reset, req.socket));
      });
      const response = await download(kit);
      let text = "";
      const failed = await (async () => {
        for await (const chunk of response as AsyncIterable<Buffer>) text += chunk.toString();
      })().catch((error: unknown) => (error as NodeJS.ErrnoException).code);
      expect([text, failed, response.complete]).toEqual(["half", "ECONNRESET", false]);
    }
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "failed" } }, { outcome: { kind: "failed" } }]);
    expect(await kit.rows()).toMatchObject([{ attempts: 1 }, { attempts: 1 }]);
  });

  test("before its answer: 502, and nothing is charged", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (req) => reset(req.socket));
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await response.json()]).toMatchObject([502, { error: { code: "upstream_unreachable" } }]);
    expect(await kit.rows()).toMatchObject([{ state: "released", status: 502, code: "upstream_unreachable" }]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "failed", tokens: null } }]);
  });

  test("in the middle of its refusal: the status has the word, and the credential is not to blame", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (req, res) => {
      res.writeHead(400, { "content-type": "application/json", "content-length": 100 });
      res.write('{"error"', () => setImmediate(reset, req.socket));
    });
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await response.json()]).toMatchObject([400, { error: { code: "upstream_refused" } }]);
    expect(kit.pool.health.left.map(({ outcome }) => outcome)).toMatchObject([{ kind: "refused", status: 400, fault: "request" }]);
  });

  test("by a refusal without end: the status has the word, and the connection is closed", async () => {
    const kit = await laneKit();
    kit.provider.on("*", (_req, res) => {
      res.writeHead(400, { "content-type": "application/json" });
      pour(res, LARGE);
    });
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await response.json()]).toMatchObject([400, { error: { code: "upstream_refused" } }]);
    await kit.provider.log[0]?.cut;
  });

  test("that speaks no HTTP: 502, and what it said is not logged", async () => {
    const server = createServer((socket) => void socket.end("canary canary\r\n\r\n"));
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    onTestFinished(() => void server.close());
    const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const kit = await laneKit({ credentials: () => [credential("main", { origin })] });
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await response.json()]).toMatchObject([502, { error: { code: "upstream_protocol" } }]);
    expect(kit.logger.lines.map(({ fields }) => Object.entries(fields.err as object)).join()).not.toContain("canary");
  });

  test("whose port is closed: 502", async () => {
    const kit = await laneKit({ credentials: () => [credential("main", { origin: "http://127.0.0.1:1" })] });
    const response = await kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    expect([response.status, await response.json()]).toMatchObject([502, { error: { message: expect.stringContaining("ECONNREFUSED") } }]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "failed" } }]);
  });
});

describe("a host whose response throws", () => {
  const withResponse = (spoil: (res: ServerResponse) => void) => (handler: PassthroughHandler) => {
    const app = express();
    app.use((_req, res, next) => {
      spoil(res);
      next();
    });
    app.use("/llm", handler);
    app.use(((_error, _req, res, _next) => void res.socket?.end("HTTP/1.1 599 Broken\r\n\r\n")) satisfies ErrorRequestHandler);
    return app;
  };

  test("once: the client is told, and the provider's connection closes", async () => {
    const kit = await laneKit({
      host: withResponse((res) => {
        const { writeHead } = res;
        res.writeHead = () => {
          res.writeHead = writeHead;
          throw new Error("canary");
        };
      }),
    });
    kit.provider.on("*", (_req, res) => void res.writeHead(200, { "content-type": "audio/mpeg" }).write("half"));
    const response = await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } });
    expect([response.status, await response.json()]).toMatchObject([500, { error: { code: "internal" } }]);
    await kit.provider.log[0]?.cut;
    expect(kit.logger.lines).toMatchObject([{ fields: { err: { message: "canary" } } }]);
  });

  test("always: the host's error handler has it", async () => {
    const kit = await laneKit({
      host: withResponse((res) => {
        res.writeHead = () => {
          throw new Error("canary");
        };
      }),
    });
    kit.provider.on("*", json({}));
    expect((await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } })).status).toBe(599);
    expect(kit.pool.pool.inFlight("main")).toBe(0);
  });
});

describe("silence", () => {
  test("while connecting ends at the connect deadline", async () => {
    const kit = await laneKit({
      credentials: () => [credential("main", { origin: "http://slow.example" })],
      lane: { lookup: () => undefined, connectTimeoutMs: 5_000 },
    });
    const pending = kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    await expect.poll(() => kit.opened[0]?.attempts).toBe(1);
    await turns();
    kit.clock.advance(4_999);
    await turns();
    expect(kit.pool.health.left).toEqual([]);
    kit.clock.advance(1);
    const response = await pending;
    expect([response.status, await response.json()]).toMatchObject([502, { error: { code: "upstream_unreachable" } }]);
  });

  test("before the answer ends at the request's deadline, and stays charged", async () => {
    const kit = await laneKit({ lane: { requestTimeoutMs: 90_000, idleTimeoutMs: 10_000 } });
    const arrived = Promise.withResolvers<void>();
    kit.provider.on("*", async (req) => {
      await bodyOf(req);
      arrived.resolve();
    });
    const pending = kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
    await arrived.promise;
    await turns();
    kit.clock.advance(89_999);
    await turns();
    expect(kit.pool.health.left).toEqual([]);
    kit.clock.advance(1);
    const response = await pending;
    expect([response.status, await response.json()]).toMatchObject([504, { error: { code: "upstream_timeout" } }]);
    await kit.provider.log[0]?.cut;
    expect(await kit.rows()).toMatchObject([{ state: "estimated", code: "upstream_timeout" }]);
  });

  test("of a client in the middle of its upload is its own fault", async () => {
    const kit = await laneKit({ lane: { idleTimeoutMs: 10_000 } });
    kit.provider.on("*", () => undefined);
    const { out, answer } = upload(kit);
    out.write(CHUNK);
    await expect.poll(() => kit.provider.log[0]?.bytes).toBe(CHUNK.length);
    await advanceUntil(kit.clock, 1_000, () => kit.pool.health.left.length > 0);
    const response = await answer;
    expect([response.statusCode, response.headers.connection, kit.pool.health.left[0]?.outcome.kind]).toEqual([408, "close", "abandoned"]);
    await kit.provider.log[0]?.cut;
  });

  test("of a provider that does not take the upload is the provider's fault", async () => {
    const kit = await laneKit({ lane: { idleTimeoutMs: 10_000 } });
    kit.provider.on("*", (req) => void req.pause());
    const { out, answer } = upload(kit);
    const poured = pour(out, LARGE);
    await settled(() => poured.taken);
    await advanceUntil(kit.clock, 1_000, () => kit.pool.health.left.length > 0);
    expect([(await answer).statusCode, kit.pool.health.left[0]?.outcome.kind]).toEqual([504, "failed"]);
  });

  test("an upload that moves may take as long as it likes", async () => {
    const kit = await laneKit({ lane: { idleTimeoutMs: 10_000, requestTimeoutMs: 10_000 } });
    kit.provider.on("*", async (req, res) => {
      await bodyOf(req);
      json({})(req, res);
    });
    const { out, answer } = upload(kit);
    for (let i = 1; i <= 20; i += 1) {
      out.write("x".repeat(100));
      await expect.poll(() => kit.provider.log[0]?.bytes).toBe(i * 100);
      kit.clock.advance(9_000);
    }
    out.end();
    expect((await answer).statusCode).toBe(200);
  });

  test("in the middle of a download ends it, whoever was silent", async () => {
    const kit = await laneKit({ lane: { idleTimeoutMs: 10_000 } });
    kit.provider.on("*", (_req, res) => {
      res.writeHead(200, { "content-length": 1_000 });
      res.write("half");
    });
    const silent = await download(kit);
    const over = closed(silent.resume());
    await advanceUntil(kit.clock, 1_000, () => kit.pool.health.left.length > 0);
    await over;
    expect([silent.complete, kit.pool.health.left[0]?.outcome.kind]).toEqual([false, "failed"]);

    let poured = { taken: 0 };
    kit.provider.on("*", (_req, res) => {
      res.writeHead(200, { "content-length": LARGE });
      poured = pour(res, LARGE);
    });
    const unread = await download(kit);
    unread.on("error", () => undefined);
    await settled(() => poured.taken);
    await advanceUntil(kit.clock, 1_000, () => kit.pool.health.left.length > 1);
    expect(kit.pool.health.left[1]?.outcome.kind).toBe("abandoned");
    await kit.provider.log[1]?.cut;
  });
});

test("a guard that shuts down tells who waits, and cuts what is under way", async () => {
  const kit = await laneKit();
  const closing = (): GuardError => new GuardError("overloaded", "shutting down", { retryAfterMs: 1_000 });
  kit.provider.on("POST /v1/images/generations", () => undefined);
  const pending = kit.call("POST", "/v1/images/generations", { json: { model: "m" } });
  await expect.poll(() => kit.provider.log.length).toBe(1);
  await turns();
  kit.opened[0]?.leave(closing());
  const response = await pending;
  expect([response.status, await response.json()]).toMatchObject([503, { error: { code: "overloaded" } }]);

  kit.provider.on("GET /v1/files/file-1/content", (_req, res) => void res.writeHead(200, { "content-length": 10 }).write("half"));
  const half = await download(kit);
  await once(half, "data");
  const over = closed(half);
  kit.opened[1]?.leave(closing());
  await over;
  expect(half.complete).toBe(false);
});

test("more transfers than a provider may have are refused before they are sent", async () => {
  const kit = await laneKit();
  kit.provider.on("*", () => undefined);
  const aborting = new AbortController();
  const open = Array.from({ length: 256 }, () =>
    kit.call("POST", "/v1/audio/speech", { json: { model: "m" }, signal: aborting.signal }).catch(() => null),
  );
  await expect.poll(() => kit.provider.log.length, { timeout: 10_000 }).toBe(256);
  const refused = await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } });
  expect([refused.status, await refused.json()]).toMatchObject([503, { error: { code: "overloaded" } }]);
  aborting.abort();
  await Promise.all(open);
  await kit.idle();
  kit.provider.on("*", json({}));
  expect((await kit.call("POST", "/v1/audio/speech", { json: { model: "m" } })).status).toBe(200);
});

test("server-sent events arrive one by one, and no compression holds them back", async () => {
  const kit = await laneKit();
  let write: (text: string) => void = () => undefined;
  kit.provider.on("*", (_req, res) => {
    res.writeHead(200, { "content-type": "text/event-stream" });
    res.flushHeaders();
    write = (text) => void res.write(text);
  });
  const client = await rawClient(
    kit.port,
    `POST /llm/v1/audio/speech HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${ALICE}\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{"model":"m"}`,
  );
  const head = await client.until("\r\n\r\n");
  expect(head).toMatch(/cache-control: no-cache, no-transform/i);
  expect(head).toMatch(/x-accel-buffering: no/i);
  write("data: 1\n\n");
  await client.until("data: 1");
  write("data: 2\n\n");
  await client.until("data: 2");
});
