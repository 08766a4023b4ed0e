import type { IncomingMessage, ServerResponse } from "node:http";
import type { Answer } from "../core/answer.ts";
import type { Context } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Step } from "../core/step.ts";
import { isPromise } from "../core/time.ts";
import { dialect, matchPath, matchSuffix, type Matched } from "../dialects/index.ts";
import type { Ambient } from "./ambient.ts";
import { openContext, pathBelowMount, type OpenOptions } from "./open.ts";
import { asGuardError, dialectRefusal, problemRefusal, refusalHeaders } from "./render.ts";
import { respond } from "./respond.ts";

export type Next = (error?: unknown) => void;

/** A handler for Express, Connect or Nest, with the step it runs. */
export interface Handler {
  (req: IncomingMessage, res: ServerResponse, next: Next): void;
  readonly step: Step;
}

export type OnRefused = (error: GuardError, req: IncomingMessage, res: ServerResponse, next: Next) => unknown;

const noEvents = (): Buffer => Buffer.alloc(0);

function refuse(
  thrown: unknown,
  ctx: Context,
  req: IncomingMessage,
  res: ServerResponse,
  next: Next,
  matched: Matched | undefined,
  onRefused?: OnRefused,
): void {
  const error = asGuardError(thrown, ctx);
  error.requestId = ctx.requestId;
  ctx.failure = error;
  if (ctx.services.events.has("refused")) ctx.services.events.emit("refused", { requestId: ctx.requestId, scopes: ctx.scopes ?? {}, error });
  if (onRefused) {
    if (!res.headersSent) setHeaders(res, ["x-request-id", ctx.requestId, ...refusalHeaders(error, false)]);
    const answering = onRefused(error, req, res, next);
    // Nobody else would hear of it: the client would wait, and Node ends a process whose promises fail unheard.
    if (isPromise(answering)) answering.then(undefined, next);
    return;
  }
  const answer = matched ? dialectRefusal(error, matched.dialect, false) : problemRefusal(error);
  // The rest of a body that nobody will read must not keep the connection busy.
  if (!req.readableEnded && !res.headersSent && error.status >= 400 && req.headers["content-length"] !== "0" && hasBody(req))
    res.setHeader("connection", "close");
  respond(res, ctx, answer, noEvents);
}

const hasBody = (req: IncomingMessage): boolean => req.headers["content-length"] !== undefined || req.headers["transfer-encoding"] !== undefined;

function run(
  step: Step,
  ctx: Context,
  req: IncomingMessage,
  res: ServerResponse,
  next: Next,
  matched: Matched | undefined,
  { onRefused, ambient }: PartOptions = {},
): void {
  const fail = (thrown: unknown): void => {
    try {
      refuse(thrown, ctx, req, res, next, matched, onRefused);
    } catch (fault) {
      // The host's own refusal failed: that is for the host's error handler.
      next(fault);
    }
  };
  const deliver = (answer: Answer | void): void => {
    if (answer === undefined) {
      handOver(ctx, res);
      if (ambient) ambient.enter(ctx, [req, res], next);
      else next();
    } else respond(res, ctx, ctx.recording ? ctx.recording(answer) : answer, matched ? dialect(matched.dialect).errorEvent : noEvents);
  };
  try {
    if (ctx.failure) throw ctx.failure;
    const result = step(ctx);
    if (isPromise(result)) result.then(deliver).catch(fail);
    else deliver(result);
  } catch (error) {
    fail(error);
  }
}

/** The host answers: what our steps want to say goes on its response. */
function handOver(ctx: Context, res: ServerResponse): void {
  const headers = ctx.replyHeaders;
  if (!headers || res.headersSent) return;
  ctx.replyHeaders = undefined;
  setHeaders(res, headers);
}

/** Several budgets on one route: the lists of their limits are joined, and of the single figures the tightest stay. */
function setHeaders(res: ServerResponse, headers: readonly string[]): void {
  const looser = FIGURES.filter((kind) => isLooser(headers, res.getHeader(REMAINING + kind), REMAINING + kind));
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i] as string;
    if (looser.some((kind) => name.startsWith("x-ratelimit-") && name.endsWith(kind))) continue;
    const before = res.getHeader(name);
    const isList = before !== undefined && (name === "ratelimit" || name === "ratelimit-policy");
    res.setHeader(name, isList ? `${String(before)}, ${headers[i + 1]}` : (headers[i + 1] as string));
  }
}

const REMAINING = "x-ratelimit-remaining-";
const FIGURES = ["requests", "tokens"] as const;

function isLooser(headers: readonly string[], before: unknown, name: string): boolean {
  const at = before === undefined ? -1 : headers.indexOf(name);
  return at >= 0 && Number(headers[at + 1]) >= Number(before);
}

export interface PartOptions {
  /** Replaces the refusal that is sent. */
  readonly onRefused?: OnRefused | undefined;
  /** What follows belongs to the request, for clients in this process. */
  readonly ambient?: Ambient;
}

/** One part on a route that the host chose: `app.post("/v1/chat/completions", auth(…), budgets(…), …)`. */
export function partHandler(name: string, step: Step, options: OpenOptions, more?: PartOptions): Handler {
  const handler = {
    [name](req: IncomingMessage, res: ServerResponse, next: Next): void {
      const { path, mounted } = pathBelowMount(req);
      const matched = matchPath(path, mounted, req.headers) ?? matchSuffix(path, req.headers);
      const target = matched?.kind === "call" ? matched : null;
      const ctx = openContext(req, res, options, matched?.route ?? hostRoute(req), target);
      run(step, ctx, req, res, next, matched, more);
    },
  }[name] as (req: IncomingMessage, res: ServerResponse, next: Next) => void;
  return Object.assign(handler, { step });
}

/** A route of ours that no dialect knows: its step answers, refusals are problem documents. */
export function answerWith(step: Step, ctx: Context, req: IncomingMessage, res: ServerResponse, next: Next): void {
  run(step, ctx, req, res, next, undefined);
}

/** The route's pattern (`/users/:id`), never the path itself: it becomes a label. */
function hostRoute(req: IncomingMessage): string {
  const { route, baseUrl } = req as { route?: { path?: unknown }; baseUrl?: string };
  return typeof route?.path === "string" ? `${baseUrl ?? ""}${route.path}` : "other";
}

/** The whole gateway below a mount point: answers the paths of the dialects, leaves everything else to the host. */
export function gatewayHandler(steps: { readonly call: Step; readonly models: Step }, options: OpenOptions): Handler {
  function quotaGuard(req: IncomingMessage, res: ServerResponse, next: Next): void {
    const { path, mounted } = pathBelowMount(req);
    const matched = matchPath(path, mounted, req.headers);
    // A preflight is the host's own business: `cors()` may stand behind us as well as in front.
    if (!matched || req.method === "OPTIONS") {
      next();
      return;
    }
    const target = matched.kind === "call" ? matched : null;
    const ctx = openContext(req, res, options, matched.route, target);
    if (req.method !== matched.method) {
      const error = new GuardError("method_not_allowed", `use ${matched.method} for ${matched.route}`, { headers: { allow: matched.method } });
      refuse(error, ctx, req, res, next, matched);
      return;
    }
    run(matched.kind === "call" ? steps.call : steps.models, ctx, req, res, next, matched);
  }
  return Object.assign(quotaGuard, { step: steps.call });
}
