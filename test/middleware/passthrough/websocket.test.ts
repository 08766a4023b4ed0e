// WebSockets through the lane: real clients and servers on both sides.
import { once } from "node:events";
import type { Socket } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { WebSocket, type ClientOptions } from "ws";
import { Secret } from "../../../src/core/secret.ts";
import { GuardError } from "../../../src/core/errors.ts";
import { rawClient } from "../../http/server-kit.ts";
import { credential } from "../../pool/pool-kit.ts";
import { advanceUntil, ALICE, BOB, CAROL, laneKit, limit, MASTER, PROVIDER_KEY, type LaneKit } from "./lane-kit.ts";
import { ownTime } from "../../helpers/own-time.ts";

const MB = 1024 * 1024;
const PATH = "/llm/v1/realtime?model=gpt-realtime";

function client(kit: LaneKit, path = PATH, options: ClientOptions = {}, protocols: readonly string[] = [], key: string | null = ALICE): WebSocket {
  const headers = { ...(key === null ? {} : { authorization: `Bearer ${key}` }), ...options.headers };
  const socket = new WebSocket(`ws://127.0.0.1:${kit.port}${path}`, [...protocols], { ...options, headers });
  onTestFinished(() => socket.terminate());
  return socket;
}

async function opened(socket: WebSocket): Promise<WebSocket> {
  await once(socket, "open");
  return socket;
}

interface Refused {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly body: string;
}

/** What a client gets instead of a WebSocket. */
const refused = (socket: WebSocket): Promise<Refused> =>
  new Promise((resolve, reject) => {
    socket.once("open", () => reject(new Error("it was opened")));
    socket.on("error", () => undefined);
    socket.once("unexpected-response", (_request, response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (text: string) => (body += text));
      response.once("close", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body }));
    });
  });

const message = async (socket: WebSocket): Promise<Buffer> => ((await once(socket, "message")) as [Buffer])[0];
const closing = async (socket: WebSocket): Promise<[number, string]> => {
  const [code, reason] = (await once(socket, "close")) as [number, Buffer];
  return [code, reason.toString()];
};

const echo = (kit: LaneKit): void =>
  kit.provider.onSocket((socket) => {
    socket.on("message", (data, isBinary) => socket.send(data as Buffer, { binary: isBinary }));
  });

/** The head of an upgrade as a browser or an SDK writes it. */
const head = (key = ALICE, more = ""): string =>
  `GET ${PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${key}\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n` +
  `sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n${more}\r\n`;

describe("a WebSocket", () => {
  test("carries text, bytes and large frames both ways", async () => {
    const kit = await laneKit();
    echo(kit);
    const socket = await opened(client(kit));
    socket.send("héllo");
    expect((await message(socket)).toString()).toBe("héllo");
    for (const size of [1, 125, 126, 65_535, 65_536, MB, 5 * MB]) {
      const bytes = Buffer.alloc(size, "quota");
      socket.send(bytes);
      expect((await message(socket)).equals(bytes)).toBe(true);
    }
  });

  test("carries many frames in their order", async () => {
    const kit = await laneKit();
    echo(kit);
    const socket = await opened(client(kit));
    const got: number[] = [];
    const all = new Promise<void>((resolve) => socket.on("message", (data: Buffer) => got.push(Number(data.toString())) === 2_000 && resolve()));
    for (let i = 0; i < 2_000; i += 1) socket.send(String(i));
    await all;
    expect(got).toEqual(Array.from({ length: 2_000 }, (_, i) => i));
  });

  test("closes with the code and words of whoever closed it", async () => {
    const kit = await laneKit();
    const theirs = Promise.withResolvers<[number, string]>();
    kit.provider.onSocket((socket) => {
      socket.once("message", () => socket.close(4_001, "session over"));
      socket.once("close", (code, reason) => theirs.resolve([code, reason.toString()]));
    });
    const first = await opened(client(kit));
    const over = closing(first);
    first.send("end");
    expect(await over).toEqual([4_001, "session over"]);
    await theirs.promise;

    const ours = Promise.withResolvers<[number, string]>();
    kit.provider.onSocket((socket) => socket.once("close", (code, reason) => ours.resolve([code, reason.toString()])));
    (await opened(client(kit))).close(1_000, "done");
    expect(await ours.promise).toEqual([1_000, "done"]);
  });

  test("is asked for with our key and the provider's name of the model, and nothing of who the client is", async () => {
    const kit = await laneKit({ models: [{ name: "gpt-realtime", model: "gpt-realtime-2026" }], aliases: { live: "gpt-realtime" } });
    const headers = { "openai-beta": "realtime=v1", cookie: "a=b", origin: "https://app.example", "x-forwarded-for": "1.2.3.4", "user-agent": "sdk" };
    await opened(client(kit, `/llm/v1/realtime?a=1&model=live&key=${BOB}`, { headers }));
    const [seen] = kit.provider.log;
    expect(seen?.url).toBe("/v1/realtime?a=1&model=gpt-realtime-2026");
    expect(Object.keys(seen?.headers ?? {}).toSorted()).toEqual([
      "accept-encoding",
      "authorization",
      "connection",
      "host",
      "openai-beta",
      "sec-websocket-extensions",
      "sec-websocket-key",
      "sec-websocket-version",
      "upgrade",
      "user-agent",
    ]);
    expect(seen?.headers).toMatchObject({
      authorization: `Bearer ${PROVIDER_KEY}`,
      host: new URL(kit.provider.url).host,
      "user-agent": expect.stringMatching(/^quotaguard\//),
    });
  });

  test("is answered with our headers, and none of the provider's own", async () => {
    const kit = await laneKit({ limits: [limit({ unit: "requests" })] });
    kit.provider.onUpgrade((_req, socket) => {
      socket.write(
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: x\r\n" +
          "set-cookie: a=b\r\nopenai-organization: ours\r\nx-request-id: theirs-1\r\n\r\n",
      );
    });
    const raw = await rawClient(kit.port, head(ALICE, "x-request-id: mine-1\r\n"));
    const answer = await raw.until("\r\n\r\n");
    const names = answer.split("\r\n").map((line) => line.split(":")[0]?.toLowerCase());
    expect(names).toEqual([
      "http/1.1 101 switching protocols",
      "upgrade",
      "connection",
      "sec-websocket-accept",
      "x-upstream-request-id",
      "x-request-id",
      "ratelimit-policy",
      "ratelimit",
      ...names.filter((name) => name?.startsWith("x-ratelimit-")),
      "",
      "",
    ]);
    expect(answer).toContain("x-request-id: mine-1");
  });

  test("loses no byte that came with the handshake, on either side", async () => {
    const kit = await laneKit();
    const got = Promise.withResolvers<string>();
    kit.provider.onUpgrade((_req, socket, first) => {
      socket.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\nsec-websocket-accept: x\r\n\r\nwelcome");
      let text = first.toString();
      socket.on("data", (chunk: Buffer) => {
        text += chunk.toString();
        if (text.length >= 5) got.resolve(text);
      });
    });
    const raw = await rawClient(kit.port, `${head()}early`);
    await raw.until("welcome");
    expect(await got.promise).toBe("early");
  });

  test("leaves a row and its credential behind when it closes", async () => {
    const kit = await laneKit();
    echo(kit);
    const socket = await opened(client(kit));
    expect(kit.pool.pool.inFlight("main")).toBe(1);
    socket.close();
    expect(await kit.rows()).toMatchObject([{ route: "/v1/realtime", key: "alice", status: 101, code: null, state: "estimated", attempts: 1 }]);
    expect([kit.pool.pool.inFlight("main"), kit.pool.health.left]).toMatchObject([0, [{ outcome: { kind: "served", status: 101 } }]]);
  });
});

describe("a key among the subprotocols", () => {
  const KEY_PROTOCOL = `openai-insecure-api-key.${ALICE}`;

  test("is the client's key, as browsers send it, and never goes on", async () => {
    const kit = await laneKit();
    const socket = await opened(client(kit, PATH, {}, ["realtime", KEY_PROTOCOL, "openai-organization.org-1", "openai-beta.realtime-v1"], null));
    expect(socket.protocol).toBe("realtime");
    expect(kit.provider.log[0]?.headers["sec-websocket-protocol"]).toBe("realtime, openai-beta.realtime-v1");
    expect(JSON.stringify(kit.provider.log)).not.toContain(ALICE);
    expect(kit.opened[0]?.principal?.name).toBe("alice");
  });

  test("that is wrong is refused", async () => {
    const kit = await laneKit();
    const { status, body } = await refused(client(kit, PATH, {}, ["realtime", "openai-insecure-api-key.wrong"], null));
    expect([status, JSON.parse(body)]).toMatchObject([401, { error: { code: "unauthenticated" } }]);
  });

  test("must not be another than the header's", async () => {
    const kit = await laneKit();
    const { status, body } = await refused(client(kit, PATH, {}, ["realtime", KEY_PROTOCOL], BOB));
    expect([status, JSON.parse(body)]).toMatchObject([400, { error: { code: "auth_conflict" } }]);
    expect(kit.provider.log).toEqual([]);
  });
});

describe("is refused in plain HTTP", () => {
  test("without a key, and the connection closes", async () => {
    const kit = await laneKit();
    const { status, headers, body } = await refused(client(kit, PATH, {}, [], null));
    expect([status, headers.connection, headers["content-length"], headers["x-request-id"]]).toEqual([401, "close", String(body.length), "id-1"]);
    expect(JSON.parse(body)).toMatchObject({ error: { code: "unauthenticated", request_id: "id-1" } });
    expect(await kit.rows()).toEqual([]);
  });

  test("for a model that the key may not use, or that it does not name", async () => {
    const kit = await laneKit();
    for (const path of ["/llm/v1/realtime?model=gpt-realtime", "/llm/v1/realtime", "/llm/v1/realtime?intent=transcription"]) {
      const { status, body } = await refused(client(kit, path, {}, [], CAROL));
      expect([status, JSON.parse(body)]).toMatchObject([403, { error: { code: "model_not_allowed" } }]);
    }
    const { status } = await refused(client(kit, "/llm/v1/realtime?model=gpt-image-1&model=gpt-realtime", {}, [], CAROL));
    expect([status, kit.provider.log]).toEqual([400, []]);
  });

  test("beyond a budget, which holds its slot until the socket closes", async () => {
    const kit = await laneKit({ limits: [limit({ unit: "concurrent" }), limit({ unit: "requests" })] });
    echo(kit);
    const first = await opened(client(kit));
    const { status, headers, body } = await refused(client(kit));
    expect([status, JSON.parse(body), headers["ratelimit"]]).toMatchObject([429, { error: { code: "budget_exhausted" } }, expect.any(String)]);
    for (let minute = 0; minute < 60; minute += 1) {
      kit.clock.advance(60_000);
      await new Promise(setImmediate);
    }
    expect((await refused(client(kit))).status).toBe(429);
    first.close();
    await kit.idle();
    await opened(client(kit));
    expect(kit.provider.log.length).toBe(2);
  });

  test("under a limit of money without a cost; with one, it is charged", async () => {
    const limits = [limit({ unit: "usd", kind: { bucket: { capacity: 1e-6, refillPerSec: 0 } } })];
    const closed = await laneKit({ limits });
    expect(JSON.parse((await refused(client(closed))).body)).toMatchObject({ error: { code: "model_not_priced" } });
    const open = await laneKit({ limits, costs: { "/v1/realtime": { usd: 300 } } });
    (await opened(client(open))).close();
    expect(await open.left("user-usd")).toBe(700);
  });

  test("when it is no request for a WebSocket", async () => {
    const kit = await laneKit();
    const raw = await rawClient(kit.port, head().replace("upgrade: WebSocket", "upgrade: h2c"));
    await raw.closed;
    expect(raw.received()).toMatch(/^HTTP\/1.1 400 Bad Request\r\n.*"code":"body_invalid"/s);
  });

  test("with the provider's own words and status, without our key", async () => {
    const kit = await laneKit();
    kit.provider.onUpgrade((_req, socket) => {
      const body = JSON.stringify({ error: { message: `wrong key ${PROVIDER_KEY}` } });
      socket.end(
        `HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\nset-cookie: a=b\r\nx-request-id: theirs\r\n\r\n${body}`,
      );
    });
    const { status, headers, body } = await refused(client(kit));
    expect([status, JSON.parse(body)]).toEqual([401, { error: { message: "wrong key [redacted]" } }]);
    expect([headers["set-cookie"], headers["x-upstream-request-id"], headers.connection]).toEqual([undefined, "theirs", "close"]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "refused", fault: "credential" } }]);
    expect(await kit.rows()).toMatchObject([{ state: "released", status: 401 }]);
  });

  test.each<[string, string]>([
    ["refuses without end", `HTTP/1.1 403 Forbidden\r\ncontent-type: application/json\r\n\r\n${"x".repeat(200_000)}`],
    ["does not change the protocol", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"],
    ["redirects", "HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"],
    ["speaks no HTTP", "hello\r\n\r\n"],
    ["closes", ""],
  ])("by 502 when the provider %s", async (_what, text) => {
    const kit = await laneKit();
    kit.provider.onUpgrade((_req, socket) => void socket.end(text));
    const { status, body } = await refused(client(kit));
    expect([status, JSON.parse(body)]).toMatchObject([502, { error: { code: expect.stringMatching(/^upstream_(protocol|unreachable)$/) } }]);
    expect(await kit.rows()).toMatchObject([{ state: "released" }]);
    expect(kit.pool.pool.inFlight("main")).toBe(0);
  });

  test("when the provider does not answer in time", async () => {
    const kit = await laneKit();
    const silent = Promise.withResolvers<Socket>();
    kit.provider.onUpgrade((_req, socket) => silent.resolve(socket));
    const answer = refused(client(kit));
    const provider = await silent.promise;
    await advanceUntil(kit.clock, 1_000, () => kit.pool.health.left.length > 0);
    expect((await answer).status).toBe(504);
    await expect.poll(() => provider.resume().readableEnded).toBe(true);
  });

  test("for a call that is under way, which is whoever's made it", async () => {
    const kit = await laneKit();
    expect((await refused(client(kit, "/llm/v1/realtime?call_id=rtc_1"))).status).toBe(404);
    expect(kit.provider.log).toEqual([]);
    await opened(client(kit, "/llm/v1/realtime?call_id=rtc_1", {}, [], MASTER));
    expect(kit.provider.log[0]?.url).toBe("/v1/realtime?call_id=rtc_1");
  });

  test("when every credential needs a proxy", async () => {
    const kit = await laneKit({
      credentials: ({ url }) => [credential("main", { origin: url, apiKey: new Secret("sk"), proxyUrl: "http://p.example:1" })],
    });
    const { status, body } = await refused(client(kit));
    expect([status, body]).toEqual([503, expect.stringContaining("proxy_url")]);
  });
});

describe("ends on both sides", () => {
  test.each<[string, (socket: WebSocket) => void]>([
    ["closes", (socket) => socket.close()],
    ["vanishes", (socket) => socket.terminate()],
    ["is reset", (socket) => (socket as unknown as { _socket: Socket })._socket.resetAndDestroy()],
  ])("when the client %s", async (_how, leave) => {
    const kit = await laneKit();
    echo(kit);
    const socket = await opened(client(kit));
    const sinceLeft = ownTime();
    leave(socket);
    await kit.idle();
    await expect.poll(() => kit.provider.open(), { interval: 5 }).toBe(0);
    expect(sinceLeft()).toBeLessThan(200);
  });

  test.each<[string, (socket: Socket) => void]>([
    ["ends", (socket) => void socket.end()],
    ["vanishes", (socket) => void socket.destroy()],
    ["is reset", (socket) => void socket.resetAndDestroy()],
  ])("when the provider %s", async (_how, leave) => {
    const kit = await laneKit();
    const socket = await opened(client(kit));
    const over = closing(socket);
    for (const each of kit.provider.sockets()) leave(each);
    expect((await over)[0]).toBe(1_006);
    await kit.idle();
    expect(kit.pool.pool.inFlight("main")).toBe(0);
  });

  test("when the guard shuts down", async () => {
    const kit = await laneKit();
    const socket = await opened(client(kit));
    const over = closing(socket);
    kit.opened[0]?.leave(new GuardError("overloaded", "shutting down"));
    await over;
    await expect.poll(() => kit.provider.open()).toBe(0);
  });

  test("when the client leaves before the provider has answered", async () => {
    const kit = await laneKit();
    const silent = Promise.withResolvers<Socket>();
    kit.provider.onUpgrade((_req, socket) => silent.resolve(socket));
    const raw = await rawClient(kit.port, head());
    const provider = await silent.promise;
    raw.socket.end();
    await expect.poll(() => provider.resume().readableEnded).toBe(true);
    expect(await kit.rows()).toMatchObject([{ code: "client_closed", state: "released" }]);
    expect(kit.pool.health.left).toMatchObject([{ outcome: { kind: "abandoned", tokens: null } }]);
  });
});

test("a reader that is slow stops the provider", async () => {
  const kit = await laneKit();
  let sent = 0;
  kit.provider.onSocket((socket) => {
    const chunk = Buffer.alloc(MB);
    const more = (): void => {
      if (sent >= 200 || socket.readyState !== WebSocket.OPEN) return;
      sent += 1;
      socket.send(chunk, (error) => error ?? more());
    };
    more();
  });
  const socket = await opened(client(kit));
  socket.pause();
  for (let last = -1, still = 0; still < 1_000; still = sent === last ? still + 1 : 0) {
    last = sent;
    await new Promise(setImmediate);
  }
  expect(sent).toBeLessThan(40);
});

describe("an upgrade of another path", () => {
  const other = `GET /app/live HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n`;

  test("is refused when nobody else listens, so that it does not stay open", async () => {
    const kit = await laneKit();
    const raw = await rawClient(kit.port, other);
    await raw.closed;
    expect(raw.received()).toMatch(/^HTTP\/1.1 404 Not Found\r\n/);
    expect(kit.opened).toEqual([]);
  });

  test("is left to the host's own listener", async () => {
    const kit = await laneKit();
    kit.server.on("upgrade", (_req, socket: Socket) => void socket.end("HTTP/1.1 418 I'm a teapot\r\n\r\n"));
    const raw = await rawClient(kit.port, other);
    await raw.closed;
    expect(raw.received()).toMatch(/^HTTP\/1.1 418/);
  });
});

test("a provider's path has its base, and the mount's prefix is gone", async () => {
  const kit = await laneKit({ credentials: ({ url }) => [credential("main", { origin: url, basePath: "/openai" })] });
  await opened(client(kit, "/any/where/v1/realtime?model=m"));
  expect(kit.provider.log[0]?.url).toBe("/openai/v1/realtime?model=m");
});

test("the master key may use any model, and one that nobody offers is refused", async () => {
  const kit = await laneKit({ credentials: ({ url }) => [credential("main", { origin: url, models: ["gpt-realtime"] })] });
  await opened(client(kit, PATH, {}, [], MASTER));
  const { status, body } = await refused(client(kit, "/llm/v1/realtime?model=none", {}, [], MASTER));
  expect([status, JSON.parse(body)]).toMatchObject([400, { error: { code: "model_not_found" } }]);
});
