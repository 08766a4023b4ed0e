import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { onTestFinished } from "vitest";
import { WebSocketServer, type WebSocket } from "ws";

/** One request as the provider saw it. */
export interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingMessage["headers"];
  /** The connection it came on, numbered. */
  readonly connection: number;
  body: string;
  bytes: number;
  digest: string;
  /** Ms since the request arrived, when its connection closed before the exchange was complete. */
  readonly cut: Promise<void>;
}

export type Script = (req: IncomingMessage, res: ServerResponse, seen: Seen) => void | Promise<void>;

export interface ScriptedProvider {
  readonly url: string;
  /** Everything that arrived, in order. */
  readonly log: readonly Seen[];
  readonly connections: () => number;
  readonly open: () => number;
  /** Answers by `METHOD /path` without the query; `*` for all others. */
  readonly on: (what: string, script: Script) => void;
  readonly onSocket: (take: (socket: WebSocket, req: IncomingMessage) => void) => void;
  /** Answers upgrades by hand. */
  readonly onUpgrade: (take: (req: IncomingMessage, socket: Socket, head: Buffer) => void) => void;
  readonly sockets: () => ReadonlySet<Socket>;
}

/** Answers with JSON. */
export const json =
  (body: unknown, status = 200, headers: Record<string, string> = {}) =>
  (_req: IncomingMessage, res: ServerResponse, _seen?: Seen): void => {
    res.writeHead(status, { "content-type": "application/json", ...headers });
    res.end(JSON.stringify(body));
  };

/** Bodies up to this size are kept as text. */
const KEPT_BYTES = 256 * 1024;

/** Waits until the whole body has arrived. */
export const bodyOf = (req: IncomingMessage): Promise<void> =>
  new Promise((resolve) => {
    if (req.readableEnded) resolve();
    else req.once("end", () => resolve());
  });

/** A provider that does what a test says and keeps the truth about what reached it. Gone with the test. */
export async function scriptedProvider(): Promise<ScriptedProvider> {
  const log: Seen[] = [];
  const scripts = new Map<string, Script>();
  const sockets = new Set<Socket>();
  const numbers = new WeakMap<object, number>();
  let connections = 0;
  let byHand: ((req: IncomingMessage, socket: Socket, head: Buffer) => void) | undefined;
  const webSockets = new WebSocketServer({ noServer: true });
  let takeSocket: (socket: WebSocket, req: IncomingMessage) => void = () => undefined;

  function see(req: IncomingMessage, res?: ServerResponse): Seen {
    const hash = createHash("sha256");
    const kept: Buffer[] = [];
    const cut = new Promise<void>((resolve) => {
      const ended = res ?? req;
      ended.once("close", () => {
        if (!res || !res.writableFinished || !req.complete) resolve();
      });
    });
    const seen: Seen = {
      method: req.method ?? "",
      url: req.url ?? "",
      headers: req.headers,
      connection: numbers.get(req.socket) ?? 0,
      body: "",
      bytes: 0,
      digest: "",
      cut,
    };
    req.on("data", (chunk: Buffer) => {
      seen.bytes += chunk.length;
      hash.update(chunk);
      if (seen.bytes <= KEPT_BYTES) kept.push(chunk);
    });
    req.once("end", () => {
      seen.body = Buffer.concat(kept).toString();
      seen.digest = hash.digest("hex");
    });
    log.push(seen);
    return seen;
  }

  const server = createServer((req, res) => {
    const seen = see(req, res);
    const path = (req.url ?? "").split("?")[0];
    const script = scripts.get(`${req.method} ${path}`) ?? scripts.get("*") ?? json({ error: { message: "no script", code: "unscripted" } }, 404);
    void script(req, res, seen);
  });
  server.on("connection", (socket) => {
    numbers.set(socket, (connections += 1));
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  server.on("upgrade", (req, socket, head) => {
    see(req);
    socket.on("error", () => undefined);
    if (byHand) byHand(req, socket as Socket, head);
    else webSockets.handleUpgrade(req, socket, head, (client) => takeSocket(client, req));
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    await new Promise((resolve) => {
      server.close(resolve);
    });
  });
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    log,
    connections: () => connections,
    open: () => sockets.size,
    sockets: () => sockets,
    on: (what, script) => void scripts.set(what, script),
    onSocket(take) {
      takeSocket = take;
    },
    onUpgrade(take) {
      byHand = take;
    },
  };
}
