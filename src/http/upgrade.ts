/** The edge of requests that ask for another protocol. They have no response object: what they are told is written on their connection. */
import { STATUS_CODES, type IncomingMessage } from "node:http";
import type { Server, Socket } from "node:net";
import { isSource, type Answer } from "../core/answer.ts";
import { Context, type CallReader } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import { clientAddress } from "./address.ts";
import { admit, cleanRequestId, type OpenOptions } from "./open.ts";
import { asGuardError, dialectRefusal } from "./render.ts";

/** How long a client may take to read an answer before its connection is cut. */
const READ_MS = 5_000;

/** A request for another protocol on its way through the steps. It ends with its connection. */
export interface Upgrading {
  readonly ctx: Context;
  readonly client: Socket;
  /** Changes to the other protocol: nothing else is written by us from then on. Alternating names and values. */
  accept(headers: readonly string[]): void;
  /** A plain answer, and then the end of the connection. A Source is not possible here. */
  answer(answer: Answer): void;
  /** Answers with the error in OpenAI's shape. */
  refuse(thrown: unknown): void;
}

export interface UpgradeRequest {
  readonly req: IncomingMessage;
  readonly client: Socket;
  readonly route: string;
  readonly path: string;
  /** The request's own, or what they stand for. */
  readonly headers: Context["headers"];
}

const reader: CallReader = {
  call() {
    throw new GuardError("body_invalid", "a WebSocket does not carry a model call");
  },
};

/** Opens the context of an upgrade and ties its end to the connection's. What the guard does not admit is in `ctx.failure`. */
export function openUpgrade({ req, client, route, path, headers }: UpgradeRequest, options: OpenOptions): Upgrading {
  const id = options.nextId();
  const ctx = new Context({
    id,
    requestId: cleanRequestId(req.headers["x-request-id"], id),
    method: req.method ?? "GET",
    path,
    headers,
    services: options.services,
    reader,
    carriesCall: false,
    address: (host, logger) => clientAddress(host as IncomingMessage, logger),
    host: req,
  });
  ctx.route = route;
  let status: number | null = null;

  client.on("error", ignore);
  // The client will say no more, and neither protocol goes on in one direction.
  client.once("end", () => client.destroySoon());
  client.once("close", () => {
    if (status === null) ctx.leave();
    const error = ctx.failure ?? null;
    void ctx.close({ status: status ?? 499, code: status === null ? "client_closed" : (error?.code ?? null), error });
  });
  admit(ctx, options);

  function write(answered: number, headers_: readonly string[], body: Buffer | null): void {
    status = answered;
    const all = [...headers_, "x-request-id", ctx.requestId, ...(ctx.replyHeaders ?? [])];
    let head = `HTTP/1.1 ${answered} ${STATUS_CODES[answered] ?? ""}\r\n`;
    for (let i = 0; i < all.length; i += 2) head += `${all[i]}: ${all[i + 1]}\r\n`;
    client.write(`${head}\r\n`, "latin1");
    if (body) client.write(body);
  }

  function answer({ status: answered, headers: given, body }: Answer): void {
    if (status !== null || client.destroyed) return;
    const bytes = body === null || isSource(body) ? Buffer.alloc(0) : body;
    write(answered, [...given, "content-length", String(bytes.length), "connection", "close"], bytes);
    const timer = ctx.services.clock.timer(READ_MS, () => client.destroy());
    client.once("close", () => timer.cancel());
    client.destroySoon();
  }

  return {
    ctx,
    client,
    answer,
    accept(given) {
      client.setTimeout(0);
      write(101, given, null);
    },
    refuse(thrown) {
      const error = asGuardError(thrown, ctx);
      error.requestId = ctx.requestId;
      ctx.failure = error;
      const { events } = ctx.services;
      if (events.has("refused")) events.emit("refused", { requestId: ctx.requestId, scopes: ctx.scopes ?? {}, error });
      answer(dialectRefusal(error, "openai", false));
    },
  };
}

/**
 * An upgrade that is not ours: if nobody else listens for upgrades of this server, nobody would ever answer it, and its connection would stay open for
 * good. Then it is refused.
 */
export function refuseUnclaimed(client: Socket): void {
  const { server } = client as { server?: Server };
  if (server === undefined || server.listenerCount("upgrade") > 1) return;
  client.on("error", ignore);
  client.write("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
  client.destroySoon();
}

const ignore = (): void => undefined;
