/** The whole gateway as one request handler: which of its lanes a path belongs to. */
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Step } from "./core/step.ts";
import { gatewayHandler, type Next } from "./http/handler.ts";
import { pathBelowMount, type OpenOptions } from "./http/open.ts";
import { refuseUnclaimed } from "./http/upgrade.ts";
import type { PassthroughHandler } from "./middleware/passthrough/passthrough.ts";

export type HandleRequest = (req: IncomingMessage, res: ServerResponse, next: Next) => void;

export interface GatewayParts {
  readonly opening: OpenOptions;
  /** Everything a model call goes through. */
  readonly call: Step;
  /** Everything a model list goes through. */
  readonly models: Step;
  /** Null = nothing is passed through. */
  readonly unread: PassthroughHandler | null;
  /** Null = there are no management routes here. */
  readonly management: { readonly path: string; readonly handle: HandleRequest } | null;
}

export interface Gateway {
  readonly handle: HandleRequest;
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): boolean;
}

export function gatewayOf({ opening, call, models, unread, management }: GatewayParts): Gateway {
  const understood = gatewayHandler({ call, models }, opening);
  return {
    handle: named("quotaGuard", (req, res, next) => {
      if (management && isBelow(req, management.path)) mountAt(management.path, management.handle, req, res, next);
      else if (unread) understood(req, res, (fault) => (fault === undefined ? unread(req, res, next) : next(fault)));
      else understood(req, res, next);
    }),
    upgrade(req, socket, head) {
      if (unread) return unread.upgrade(req, socket, head);
      refuseUnclaimed(socket as Socket);
      return false;
    },
  };
}

/** Stack traces and Express's own router listings show this name. */
export function named(name: string, handle: HandleRequest): HandleRequest {
  Object.defineProperty(handle, "name", { value: name });
  return handle;
}

function isBelow(req: IncomingMessage, prefix: string): boolean {
  const { path } = pathBelowMount(req);
  return path === prefix || path.startsWith(`${prefix}/`);
}

/** Runs a router as if the host had mounted it at `prefix` below us; on `next` the request is as it was. */
function mountAt(prefix: string, router: HandleRequest, req: IncomingMessage, res: ServerResponse, next: Next): void {
  const request = req as IncomingMessage & { baseUrl?: string };
  const { url, baseUrl } = request;
  request.url = (url ?? "").slice(prefix.length) || "/";
  request.baseUrl = (baseUrl ?? "") + prefix;
  router(req, res, (error) => {
    request.url = url as string;
    if (baseUrl === undefined) delete request.baseUrl;
    else request.baseUrl = baseUrl;
    next(error);
  });
}
