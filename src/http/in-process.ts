import { isSource, type Answer, type Sink, type Source } from "../core/answer.ts";
import { Context, type CallReader } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import type { Step } from "../core/step.ts";
import { dialect, matchPath, type Matched } from "../dialects/index.ts";
import { admit, callFrom, cleanRequestId, type OpenOptions } from "./open.ts";
import { asGuardError, dialectRefusal } from "./render.ts";

/** The `fetch` of an SDK, answered by the same steps as the gateway, without a socket. */
export type InProcessFetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

export interface InProcessOptions extends OpenOptions {
  readonly call: Step;
  readonly models: Step;
  /** The scopes of one call. They stand in for client auth, which never runs here. */
  readonly scopesOf: (init: RequestInit) => Scopes | Promise<Scopes>;
}

/** Statuses that a Response must not have a body with. */
const BODYLESS = new Set([101, 204, 205, 304]);

export function inProcessFetch(options: InProcessOptions): InProcessFetch {
  return async function guardedFetch(input, init = {}) {
    const request = input instanceof Request ? input : null;
    const url = new URL(input instanceof Request ? input.url : input);
    const method = (init.method ?? request?.method ?? "GET").toUpperCase();
    const signal = init.signal ?? request?.signal;
    signal?.throwIfAborted();
    const headers = Object.fromEntries(new Headers(init.headers ?? request?.headers).entries());
    // The SDK's own base URL may carry a prefix before `/v1`; only the path from there counts, its host and key are dropped.
    const matched = matchPath(suffix(url.pathname), true);
    const id = options.nextId();
    const reader: CallReader = {
      async call(ctx) {
        const bytes = await bodyBytes(init, request, options.bodyLimit);
        if (matched?.kind !== "call") throw new GuardError("body_invalid", "this path does not carry a model call");
        return callFrom(bytes, matched.dialect, matched.operation, ctx);
      },
    };
    const ctx = new Context({
      id,
      requestId: cleanRequestId(headers["x-request-id"], id),
      method,
      path: url.pathname,
      headers,
      services: options.services,
      reader,
      carriesCall: matched?.kind === "call",
      address: null,
      host: init,
    });
    ctx.route = matched?.route ?? "other";
    admit(ctx, options);
    const leave = (): void => ctx.leave();
    signal?.addEventListener("abort", leave, { once: true });
    let status = 499;
    const over = (): void => {
      signal?.removeEventListener("abort", leave);
      const error = ctx.failure ?? null;
      void ctx.close({ status, code: ctx.gone ? "client_closed" : (error?.code ?? null), error });
    };
    const answer = await answerOf(options, ctx, method, matched, init);
    status = answer.status;
    if (signal?.aborted) {
      if (isSource(answer.body)) answer.body.cancel();
      over();
      throw signal.reason;
    }
    return responseOf(answer, ctx, matched, over);
  };
}

/** From the last `/v1/` on, so that any base URL works. */
function suffix(pathname: string): string {
  const version = pathname.lastIndexOf("/v1/");
  return version < 0 ? pathname : pathname.slice(version);
}

async function answerOf(options: InProcessOptions, ctx: Context, method: string, matched: Matched | undefined, init: RequestInit): Promise<Answer> {
  try {
    if (ctx.failure) throw ctx.failure;
    if (!matched) throw new GuardError("not_found", `${ctx.path} is not a path of a known dialect`);
    if (method !== matched.method)
      throw new GuardError("method_not_allowed", `use ${matched.method} for ${matched.route}`, { headers: { allow: matched.method } });
    const scopes = await options.scopesOf(init);
    ctx.principal = { kind: "host", name: "in-process", scopes, models: null, mayAssertScopes: false };
    const answer = await (matched.kind === "call" ? options.call : options.models)(ctx);
    if (answer === undefined) throw new Error("no step answered the in-process call");
    return answer;
  } catch (thrown) {
    const error = asGuardError(thrown, ctx);
    error.requestId = ctx.requestId;
    ctx.failure = error;
    if (ctx.services.events.has("refused")) ctx.services.events.emit("refused", { requestId: ctx.requestId, scopes: ctx.scopes ?? {}, error });
    return dialectRefusal(error, matched?.dialect ?? "openai", true);
  }
}

async function bodyBytes(init: RequestInit, request: Request | null, limit: number): Promise<Buffer> {
  const { body } = init;
  let bytes: Buffer;
  if (typeof body === "string") bytes = Buffer.from(body);
  else if (body instanceof Uint8Array) bytes = Buffer.from(body);
  else if (body === undefined || body === null) bytes = request?.body ? Buffer.from(await request.arrayBuffer()) : Buffer.alloc(0);
  else bytes = Buffer.from(await new Response(body).arrayBuffer());
  if (bytes.length > limit) throw new GuardError("body_too_large", `the body is larger than ${limit} bytes`);
  return bytes;
}

function responseOf(answer: Answer, ctx: Context, matched: Matched | undefined, over: () => void): Response {
  const headers = new Headers();
  const pairs = [...answer.headers, ...(ctx.replyHeaders ?? []), "x-request-id", ctx.requestId];
  for (let i = 0; i < pairs.length; i += 2) headers.append(pairs[i] as string, pairs[i + 1] as string);
  const { body, status } = answer;
  if (!isSource(body)) {
    over();
    return new Response(body && !BODYLESS.has(status) ? new Uint8Array(body) : null, { status, headers });
  }
  return new Response(streamOf(body, ctx, matched, over), { status, headers });
}

function streamOf(source: Source, ctx: Context, matched: Matched | undefined, over: () => void): ReadableStream<Uint8Array> {
  let waiting = false;
  return new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const sink: Sink = {
          chunk(bytes) {
            controller.enqueue(bytes);
            waiting = (controller.desiredSize ?? 0) <= 0;
            return !waiting;
          },
          end() {
            controller.close();
            over();
          },
          error(error) {
            error.requestId = ctx.requestId;
            ctx.failure = error;
            controller.enqueue(dialect(matched?.dialect ?? "openai").errorEvent(error));
            controller.close();
            over();
          },
        };
        // An abort while streaming must reach the reader as the abort that it is, not as a clean end.
        ctx.signal.addEventListener("abort", () => {
          source.cancel();
          controller.error(new DOMException("This operation was aborted", "AbortError"));
          over();
        });
        source.start(sink);
      },
      pull() {
        if (waiting) {
          waiting = false;
          source.resume();
        }
      },
      cancel() {
        source.cancel();
        ctx.leave();
        over();
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: 64 * 1024 }),
  );
}
