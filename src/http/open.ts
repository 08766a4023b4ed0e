import type { IncomingMessage, ServerResponse } from "node:http";
import { Socket } from "node:net";
import type { Call, DialectId } from "../core/call.ts";
import { Context, type AddressReader, type CallReader, type Services } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import { andThen, type MaybePromise } from "../core/time.ts";
import type { CallPath } from "../dialects/dialect.ts";
import { dialect } from "../dialects/index.ts";
import { checkMedia } from "../dialects/media-check.ts";
import { withoutSuffix } from "../dialects/model-suffix.ts";
import { clientAddress } from "./address.ts";
import { readBody } from "./body.ts";
import { parseObject } from "./json.ts";

const SLOT = Symbol.for("quotaguard.context");
const TARGET = Symbol.for("quotaguard.target");
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/;
/** Printable, so that it is harmless wherever it is shown. */
const TAG = /^[\x20-\x7e]{1,128}$/;

type WithContext = { [SLOT]?: Context; [TARGET]?: CallTarget };

/** The context that a step of ours opened for this request, by any copy of the package. */
export const knownContext = (req: object): Context | undefined => (req as WithContext)[SLOT];

export interface OpenOptions {
  readonly services: Services;
  readonly nextId: () => string;
  /** Largest request body, bytes. */
  readonly bodyLimit: number;
  /** Called with each new context, before any step. A GuardError refuses the request. */
  readonly onOpen: (ctx: Context) => void;
}

/** Tells the guard of a new request; what it refuses is answered like any other refusal. */
export function admit(ctx: Context, options: OpenOptions): void {
  try {
    options.onOpen(ctx);
  } catch (error) {
    if (!GuardError.is(error)) throw error;
    ctx.failure = error;
  }
}

/** A caller's own id if it is harmless in headers and logs, else ours. */
export const cleanRequestId = (value: unknown, id: string): string => (typeof value === "string" && REQUEST_ID.test(value) ? value : id);

/** The caller's own label for a request; null = none, or none that can be shown. */
const cleanTag = (value: unknown): string | null => (typeof value === "string" && TAG.test(value) ? value : null);

/**
 * The path that is asked for below the mount point, without the query. Routers take what they have matched off `url` (Express keeps it in `baseUrl`,
 * Connect in nothing but `originalUrl`), and a middleware of the host's may have rewritten it: so `url` counts, and what came over the wire does not.
 */
export function pathBelowMount(req: IncomingMessage): { readonly path: string; readonly mounted: boolean } {
  const { originalUrl, baseUrl } = req as { originalUrl?: string; baseUrl?: string };
  const url = req.url ?? "/";
  const query = url.indexOf("?");
  const path = (query < 0 ? url : url.slice(0, query)) || "/";
  const mounted = baseUrl === undefined ? originalUrl !== undefined && originalUrl.length > url.length && originalUrl.endsWith(url) : baseUrl !== "";
  return { path, mounted };
}

function queryOf(req: IncomingMessage): string {
  const url = (req as { originalUrl?: string }).originalUrl ?? req.url ?? "";
  const query = url.indexOf("?");
  return query < 0 ? "" : url.slice(query + 1);
}

/** Reads and parses the body as a call of one operation. */
export function callFrom(bytes: MaybePromise<Buffer>, { dialect: id, path }: NonNullable<CallTarget>, ctx: Context): MaybePromise<Call> {
  const read = (body: Buffer): Call => {
    const call = withoutSuffix(dialect(id).read(path, body, parseObject(body)));
    checkMedia(call);
    ctx.resolveCall(call);
    return call;
  };
  return andThen(bytes, read);
}

/** Which operation the body belongs to; null on a host's own routes, where the body is the host's business. */
export type CallTarget = { readonly dialect: DialectId; readonly path: CallPath } | null;

const addressOfHost: AddressReader = (host, logger) => clientAddress(host as IncomingMessage, logger);

/** Finds the request's context or opens one and ties its end to the response's. */
export function openContext(req: IncomingMessage, res: ServerResponse, options: OpenOptions, route: string, target: CallTarget): Context {
  const known = knownContext(req);
  if (known) {
    // Opened before the mount took its prefix off, so that the path was not recognised there.
    if (target && !known.carriesCall) {
      (req as WithContext)[TARGET] = target;
      known.carriesCall = true;
      known.route = route;
    }
    return known;
  }
  const id = options.nextId();
  const reader: CallReader = {
    call(ctx) {
      const { [TARGET]: aim = target } = req as WithContext;
      if (!aim) throw new GuardError("body_invalid", "this route does not carry a model call");
      return callFrom(ctx.body(), aim, ctx);
    },
    body: () => readBody(req, options.bodyLimit, options.services.logger),
    query: () => queryOf(req),
  };
  const ctx = new Context({
    id,
    requestId: cleanRequestId(req.headers["x-request-id"], id),
    method: req.method ?? "GET",
    path: pathBelowMount(req).path,
    headers: req.headers,
    services: options.services,
    reader,
    carriesCall: target !== null,
    address: addressOfHost,
    host: req,
  });
  ctx.route = route;
  ctx.tag = cleanTag(req.headers["x-quotaguard-tag"]);
  (req as WithContext)[SLOT] = ctx;
  admit(ctx, options);
  // Fires exactly once, for finished, failed and aborted responses alike.
  res.once("close", () => {
    // What stands in for a socket in tests may close before it has flushed.
    const delivered = res.writableFinished || (res.writableEnded && !(res.socket instanceof Socket));
    if (!delivered) ctx.leave();
    const error = ctx.failure ?? null;
    void ctx.close({ status: res.headersSent ? res.statusCode : 499, code: delivered ? (error?.code ?? null) : "client_closed", error });
  });
  return ctx;
}
