/** The passthrough lane as a handler, for requests and for WebSockets. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Answer } from "../../core/answer.ts";
import type { Context } from "../../core/context.ts";
import { GuardError } from "../../core/errors.ts";
import type { Step } from "../../core/step.ts";
import type { MaybePromise } from "../../core/time.ts";
import { knownContext, openContext, type OpenOptions } from "../../http/open.ts";
import { callerDialect } from "../../dialects/index.ts";
import { asGuardError, dialectRefusal } from "../../http/render.ts";
import { respond } from "../../http/respond.ts";
import { openUpgrade, refuseUnclaimed, type Upgrading } from "../../http/upgrade.ts";
import { afterPrefix, checkPath, laneAddress, queryOf, type LaneAddress } from "./address.ts";
import type { PassthroughLane } from "./lane.ts";
import { operationOf, type LaneOperation, type LanePaths } from "./operations.ts";
import { offeredProtocols, withProtocolKey } from "./protocols.ts";

type Next = (error?: unknown) => void;

export interface PassthroughHandlerOptions {
  readonly opening: OpenOptions;
  /** What every request passes first: who it is, and whether it may. */
  readonly chain: Step;
  /** The lane, once the guard has started. */
  readonly lane: () => MaybePromise<PassthroughLane>;
  readonly paths: LanePaths;
  /** On a route that the host chose, behind other parts: whatever stands before `/v1/` is the host's. */
  readonly isPart: boolean;
}

export interface PassthroughHandler {
  (req: IncomingMessage, res: ServerResponse, next: Next): void;
  readonly step: Step;
  /**
   * For `server.on("upgrade", …)`: takes WebSockets whose path ends in `/v1/realtime`. The host's own middlewares do not run before it; with `auth: false`
   * whoever calls it has authenticated the request. False = not ours. Nobody else's then either? It is refused, so that no connection stays open unheard.
   */
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
}

export function passthroughHandler(options: PassthroughHandlerOptions): PassthroughHandler {
  const { opening, chain, paths } = options;

  /** Ours to answer, or the host's (null). */
  function find(req: IncomingMessage): { readonly address: LaneAddress; readonly operation: LaneOperation } | null {
    // A preflight is the host's own business.
    if (req.method === "OPTIONS") return null;
    const address = laneAddress(req, options.isPart);
    if (!address || !paths.takes(address.path)) return null;
    return { address, operation: operationOf(req.method ?? "GET", address.path) };
  }

  async function answer(ctx: Context, found: NonNullable<ReturnType<typeof find>>, req: IncomingMessage, res: ServerResponse): Promise<void> {
    if (ctx.failure) throw ctx.failure;
    checkMethod(req.method);
    checkPath(found.address.path);
    const given = (await chain(ctx)) ?? (await (await options.lane()).send({ ctx, req, ...found }, res));
    if (given) deliver(ctx, given, req, res);
  }

  async function connect(edge: Upgrading, address: LaneAddress, req: IncomingMessage, head: Buffer): Promise<void> {
    const { ctx } = edge;
    if (ctx.failure) throw ctx.failure;
    checkUpgrade(req);
    const request = { ctx, req, address, operation: operationOf("GET", address.path) };
    const given = (await chain(ctx)) ?? (await (await options.lane()).connect(request, edge, head, offeredProtocols(req.headers)));
    if (given) edge.answer(given);
  }

  function passthrough(req: IncomingMessage, res: ServerResponse, next: Next): void {
    const found = find(req);
    if (!found) {
      next();
      return;
    }
    const ctx = knownContext(req) ?? openContext(req, res, opening, found.operation.route, null);
    answer(ctx, found, req, res)
      .catch((thrown: unknown) => refuse(thrown, ctx, req, res))
      // Not even the refusal could be written: that is for the host's error handler.
      .catch(next);
  }

  function upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean {
    const client = socket as Socket;
    const path = afterPrefix(req.url ?? "/");
    if (path !== REALTIME || !paths.takes(path)) {
      refuseUnclaimed(client);
      return false;
    }
    const address = { path, query: queryOf(req.url ?? "/") };
    const edge = openUpgrade({ req, client, route: REALTIME, path, headers: withProtocolKey(req.headers) }, opening);
    connect(edge, address, req, head).catch((thrown: unknown) => edge.refuse(thrown));
    return true;
  }

  return Object.assign(passthrough, { step: chain, upgrade });
}

const REALTIME = "/v1/realtime";

const noEvents = (): Buffer => Buffer.alloc(0);

function deliver(ctx: Context, answer: Answer, req: IncomingMessage, res: ServerResponse): void {
  // The rest of a body that nobody will read must not keep the connection busy.
  if (!req.complete && !answer.headers.includes("connection")) answer.headers.push("connection", "close");
  respond(res, ctx, answer, noEvents);
}

function refuse(thrown: unknown, ctx: Context, req: IncomingMessage, res: ServerResponse): void {
  const error = asGuardError(thrown, ctx);
  error.requestId = ctx.requestId;
  ctx.failure = error;
  const { events } = ctx.services;
  if (events.has("refused")) events.emit("refused", { requestId: ctx.requestId, scopes: ctx.scopes ?? {}, error });
  const refusal = dialectRefusal(error, callerDialect(undefined, ctx.path, ctx.headers), false);
  deliver(ctx, refusal, req, res);
}

/** Others have bodies that are framed in other ways, or answers that repeat the request with the provider's key in it (TRACE). */
const METHODS: readonly (string | undefined)[] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

function checkMethod(method: string | undefined): void {
  if (METHODS.includes(method)) return;
  throw new GuardError("method_not_allowed", "this method is not passed through", { headers: { allow: METHODS.join(", ") } });
}

function checkUpgrade({ method, headers }: IncomingMessage): void {
  if (method === "GET" && headers.upgrade?.toLowerCase() === "websocket" && headers["sec-websocket-key"] !== undefined) return;
  throw new GuardError("body_invalid", "this is not a request for a WebSocket: it must be a GET with Upgrade: websocket and a Sec-WebSocket-Key");
}
