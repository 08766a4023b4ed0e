import { isSource, type Answer, type Sink, type Source } from "../core/answer.ts";
import { Context, type CallReader, type Principal } from "../core/context.ts";
import { GuardError } from "../core/errors.ts";
import type { Scopes } from "../core/scope.ts";
import type { Step } from "../core/step.ts";
import type { MaybePromise } from "../core/time.ts";
import { callerDialect, dialect, matchPath, matchSuffix, type Matched } from "../dialects/index.ts";
import type { Ambient } from "./ambient.ts";
import { admit, callFrom, cleanRequestId, type OpenOptions } from "./open.ts";
import { asGuardError, dialectRefusal } from "./render.ts";

/** The `fetch` of an SDK, answered by the same steps as the gateway, without a socket. */
export type InProcessFetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** What an SDK wants to send. */
export interface SdkRequest {
  readonly url: URL;
  readonly method: string;
  /** Its own copy. */
  readonly headers: Headers;
  /** What its path means; undefined = it is none of a dialect's. */
  readonly matched: Matched | undefined;
  readonly init: RequestInit;
  /** Where the SDK made a Request of it first. */
  readonly request: Request | null;
}

export interface InProcessOptions extends OpenOptions {
  readonly ambient: Ambient;
  /** What a request goes through. A throw refuses it. */
  readonly stepFor: (request: SdkRequest) => Step;
  /** The scopes of one call. They stand in for client auth, which never runs here, and win over those of the request around it. */
  readonly scopesOf: (init: RequestInit) => MaybePromise<Scopes>;
  /** A label for its events; null = none. */
  readonly tag: string | null;
  /** For what goes to nobody: SDKs find out by `data:,` what their `fetch` can do. */
  readonly fetch: (url: URL, init: RequestInit) => Promise<Response>;
}

/** Statuses that a Response must not have a body with. */
const BODYLESS = new Set([101, 204, 205, 304]);
/** A Response can say no higher one: what a provider says beyond is told as a fault of the provider. */
const LAST_STATUS = 599;
const UNTOLD_STATUS = 502;

export function inProcessFetch(options: InProcessOptions): InProcessFetch {
  return async function guardedFetch(input, init = {}) {
    const asked = sdkRequest(input, init);
    if (!asked.url.protocol.startsWith("http")) return options.fetch(asked.url, init);
    const around = options.ambient.current();
    const signals = [init.signal ?? asked.request?.signal, around?.signal].filter((signal) => signal !== undefined && signal !== null);
    for (const signal of signals) signal.throwIfAborted();
    const ctx = contextOf(asked, around, options);
    admit(ctx, options);
    const leave = (): void => ctx.leave();
    for (const signal of signals) signal.addEventListener("abort", leave, { once: true });
    let status = 499;
    const over = (): void => {
      for (const signal of signals) signal.removeEventListener("abort", leave);
      const error = ctx.failure ?? null;
      void ctx.close({ status, code: ctx.gone ? "client_closed" : (error?.code ?? null), error });
    };
    const answer = await answerOf(options, ctx, asked, around);
    status = answer.status;
    const aborted = signals.find((signal) => signal.aborted);
    if (aborted) {
      if (isSource(answer.body)) answer.body.cancel();
      over();
      throw aborted.reason;
    }
    try {
      return responseOf(answer, ctx, asked.matched, over);
    } catch (thrown) {
      // Nobody will read it, and what it holds must not stay held.
      if (isSource(answer.body)) answer.body.cancel();
      over();
      throw thrown;
    }
  };
}

function sdkRequest(input: string | URL | Request, init: RequestInit): SdkRequest {
  const request = input instanceof Request ? input : null;
  const url = new URL(input instanceof Request ? input.url : input);
  const method = (init.method ?? request?.method ?? "GET").toUpperCase();
  const headers = new Headers(init.headers ?? request?.headers);
  const told = Object.fromEntries(headers);
  // The SDK's own base URL may carry a prefix before its version; only the path from there counts.
  const matched = matchSuffix(url.pathname, told) ?? matchPath(url.pathname, true, told);
  return { url, method, headers, matched, init, request };
}

function contextOf({ url, method, headers, matched, init, request }: SdkRequest, around: Context | undefined, options: InProcessOptions): Context {
  const id = options.nextId();
  const reader: CallReader = {
    call(ctx) {
      if (matched?.kind !== "call") throw new GuardError("body_invalid", "this path does not carry a model call");
      return callFrom(ctx.body(), matched, ctx);
    },
    body: () => bodyBytes(init, request, options.bodyLimit),
  };
  const ctx = new Context({
    id,
    requestId: cleanRequestId(headers.get("x-request-id"), id),
    method,
    path: url.pathname,
    headers: Object.fromEntries(headers),
    services: options.services,
    reader,
    carriesCall: matched?.kind === "call",
    address: null,
    // What a host's functions are asked about is its own request, if there is one.
    host: around ? around.host : init,
  });
  // Limits per route mean the host's: they are what the route's hold is on, too.
  ctx.route = around ? around.route : (matched?.route ?? "other");
  ctx.tag = options.tag;
  return ctx;
}

/** Sets whose budgets a call touches: what its caller says, over what the request around it has. */
function claim(ctx: Context, around: Context | undefined, given: Scopes): void {
  const inherited = around?.scopes ?? NO_SCOPES;
  const names = Object.keys(given);
  const scopes = names.length === 0 ? inherited : Object.freeze({ ...inherited, ...given });
  // A call in the name of somebody else has nothing to do with what the route holds.
  if (names.every((name) => inherited[name] === undefined || inherited[name] === given[name])) ctx.outer = around;
  ctx.principal = around ? nestedPrincipal(around, scopes) : { kind: "host", name: "in-process", scopes, models: null, mayAssertScopes: false };
  ctx.scopes = scopes;
}

/** Limits per key count the key of the request around; which models it may ask for is about clients, not about the host's own code. */
const nestedPrincipal = ({ principal }: Context, scopes: Scopes): Principal => ({
  kind: principal?.kind ?? "host",
  name: principal?.name ?? "host",
  scopes,
  models: null,
  mayAssertScopes: false,
});

const NO_SCOPES: Scopes = Object.freeze({});

async function answerOf(options: InProcessOptions, ctx: Context, asked: SdkRequest, around: Context | undefined): Promise<Answer> {
  const { matched, init } = asked;
  try {
    if (ctx.failure) throw ctx.failure;
    const step = options.stepFor(asked);
    claim(ctx, around, await options.scopesOf(init));
    const answer = await step(ctx);
    if (answer === undefined) throw new Error("no step answered the in-process call");
    return ctx.recording ? ctx.recording(answer) : answer;
  } catch (thrown) {
    const error = asGuardError(thrown, ctx);
    error.requestId = ctx.requestId;
    ctx.failure = error;
    if (ctx.services.events.has("refused")) ctx.services.events.emit("refused", { requestId: ctx.requestId, scopes: ctx.scopes ?? {}, error });
    return dialectRefusal(error, callerDialect(matched, ctx.path, ctx.headers), true);
  }
}

/** What an SDK wants to send, whole. Throws `body_too_large`. */
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
  for (let i = 0; i < answer.headers.length; i += 2) headers.append(answer.headers[i] as string, answer.headers[i + 1] as string);
  const ours = [...(ctx.replyHeaders ?? []), "x-request-id", ctx.requestId];
  for (let i = 0; i < ours.length; i += 2) {
    const name = ours[i] as string;
    // Lists of limits are joined; any other of our own names stands alone, whatever the provider said under it.
    if (name === "ratelimit" || name === "ratelimit-policy") headers.append(name, ours[i + 1] as string);
    else headers.set(name, ours[i + 1] as string);
  }
  const { body } = answer;
  const status = answer.status > LAST_STATUS ? UNTOLD_STATUS : answer.status;
  const isBodyless = BODYLESS.has(status);
  if (!isSource(body)) {
    over();
    return new Response(body && !isBodyless ? new Uint8Array(body) : null, { status, headers });
  }
  // It ends by itself: nothing comes.
  const stream = streamOf(body, ctx, matched, over);
  return new Response(isBodyless ? null : stream, { status, headers });
}

/** A body that nobody reads fills its buffer and then stalls its source, which gives up after its idle time: a call always comes to an end. */
function streamOf(source: Source, ctx: Context, matched: Matched | undefined, over: () => void): ReadableStream<Uint8Array> {
  let waiting = false;
  let ended = false;
  const end = (): void => {
    ended = true;
    over();
  };
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
            end();
          },
          error(error) {
            error.requestId = ctx.requestId;
            ctx.failure = error;
            if (matched?.kind === "call") {
              controller.enqueue(dialect(matched.dialect).errorEvent(error));
              controller.close();
            } else controller.error(error);
            end();
          },
        };
        // An abort while streaming must reach the reader as the abort that it is, not as a clean end.
        ctx.signal.addEventListener("abort", () => {
          if (ended) return;
          source.cancel();
          controller.error(new DOMException("This operation was aborted", "AbortError"));
          end();
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
        end();
      },
    },
    new ByteLengthQueuingStrategy({ highWaterMark: 64 * 1024 }),
  );
}
