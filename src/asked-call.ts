/** Opens a request that nobody has sent: what `guard.explain` is asked about, as the steps of a gateway see requests. */
import { IncomingMessage } from "node:http";
import { Context, type CallReader, type Headers, type Services } from "./core/context.ts";
import type { DialectId } from "./core/call.ts";
import { GuardError } from "./core/errors.ts";
import type { CallQuestion, RequestQuestion } from "./core/explain.ts";
import { silentLogger } from "./core/logger.ts";
import type { MaybePromise } from "./core/time.ts";
import { matchPath, matchSuffix, type Matched } from "./dialects/index.ts";
import { readBody } from "./http/body.ts";
import { callFrom, cleanRequestId, knownContext, pathBelowMount, type OpenOptions } from "./http/open.ts";

type CallPath = Extract<Matched, { kind: "call" }>;
type Fields = Readonly<Record<string, unknown>>;

/** How the dialects write what a description says. */
interface Writing {
  readonly path: (model: string, streams: boolean) => string;
  readonly conversation: string;
  readonly none: unknown;
  readonly cap: (body: Fields, tokens: number) => Fields;
  /** Where the path says neither model nor stream. */
  readonly isInBody: boolean;
}

const capAs =
  (field: string) =>
  (body: Fields, tokens: number): Fields => ({ ...body, [field]: tokens });

const NO_WORDS = [{ role: "user", content: "" }];

const WRITING: Readonly<Record<DialectId, Writing>> = {
  openai: { path: () => "/v1/chat/completions", conversation: "messages", none: NO_WORDS, cap: capAs("max_tokens"), isInBody: true },
  anthropic: { path: () => "/v1/messages", conversation: "messages", none: NO_WORDS, cap: capAs("max_tokens"), isInBody: true },
  responses: { path: () => "/v1/responses", conversation: "input", none: NO_WORDS, cap: capAs("max_output_tokens"), isInBody: true },
  gemini: {
    path: (model, streams) => `/v1beta/models/${encodeURIComponent(model)}:${streams ? "streamGenerateContent" : "generateContent"}`,
    conversation: "contents",
    none: [{ role: "user", parts: [{ text: "" }] }],
    cap: (body, maxOutputTokens) => ({ ...body, generationConfig: { ...(body.generationConfig as object | undefined), maxOutputTokens } }),
    isInBody: false,
  },
};

/** Anthropic's calls must name a cap; a description need not. */
const ANTHROPIC_CAP = 4096;

export const isRequest = (question: object): question is RequestQuestion => "headers" in question;

type Opening = Pick<OpenOptions, "nextId" | "bodyLimit">;

/** A description as a request with this key (null = without one). */
export function contextOfCall(
  { model, maxTokens, messages, body, stream, dialect = "openai" }: CallQuestion,
  key: string | null,
  services: Services,
  opening: Opening,
): Context {
  const writing = WRITING[dialect];
  const named = model ?? body?.model;
  if (typeof named !== "string" || named === "") throw new GuardError("body_invalid", "model: say which model is asked for", { param: "model" });
  const streams = stream ?? body?.stream === true;
  let whole: Fields = { [writing.conversation]: writing.none, ...(dialect === "anthropic" ? { max_tokens: ANTHROPIC_CAP } : {}), ...body };
  if (messages) whole = { ...whole, [writing.conversation]: messages };
  if (maxTokens !== undefined) whole = writing.cap(whole, maxTokens);
  if (writing.isInBody) whole = { ...whole, model: named, ...(streams ? { stream: true } : {}) };
  const path = writing.path(named, streams);
  const headers = { "content-type": "application/json", ...(key === null ? {} : { authorization: `Bearer ${key}` }) };
  const bytes = Buffer.from(JSON.stringify(whole));
  return opened({ method: "POST", path, headers, body: () => capped(bytes, opening.bodyLimit), host: {}, address: null }, services, opening);
}

/** A request of a host's; `Request`s are copied before they are read. */
export function contextOfRequest(request: RequestQuestion, services: Services, opening: Opening): Context {
  if (request instanceof Request) {
    const body = async (): Promise<Buffer> => capped(Buffer.from(await request.clone().arrayBuffer()), opening.bodyLimit);
    const { pathname } = new URL(request.url);
    return opened(
      { method: request.method, path: pathname, headers: Object.fromEntries(request.headers), body, host: request, address: null },
      services,
      opening,
    );
  }
  const known = knownContext(request);
  const { method = "POST", url = "/" } = request;
  const headers = (request.headers instanceof globalThis.Headers ? Object.fromEntries(request.headers) : request.headers) as Headers;
  const { path } = pathBelowMount({ ...request, url } as unknown as IncomingMessage);
  if (!isRead(request)) throw new GuardError("body_invalid", UNREAD);
  const bytes = (): MaybePromise<Buffer> => bodyOf(request, opening.bodyLimit);
  const ctx = opened({ method, path, headers, body: bytes, host: request, address: known?.address ?? null }, services, opening);
  // What the host's own middlewares have said of it.
  ctx.principal = known?.principal;
  ctx.scopes = known?.scopes;
  return ctx;
}

const UNREAD =
  "the body of this request is not read yet, and whoever stands behind must still find it; put express.json() before, or ask explain({ key, body }) instead";

/** Whether its bytes are there without asking its socket for them. */
function isRead(request: RequestQuestion): boolean {
  if (!(request instanceof IncomingMessage)) return request.body !== undefined;
  return request.readableEnded || Buffer.isBuffer((request as { rawBody?: unknown }).rawBody) || knownContext(request)?.knownCall !== undefined;
}

function bodyOf(request: RequestQuestion, limit: number): MaybePromise<Buffer> {
  const known = knownContext(request);
  if (known?.knownCall) return known.body();
  if (request instanceof IncomingMessage) return readBody(request, limit);
  const { body } = request;
  return capped(Buffer.isBuffer(body) ? body : Buffer.from(typeof body === "string" ? body : JSON.stringify(body)), limit);
}

function capped(bytes: Buffer, limit: number): Buffer {
  if (bytes.length > limit) throw new GuardError("body_too_large", `the body is larger than ${limit} bytes`);
  return bytes;
}

interface Opened {
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
  readonly body: () => MaybePromise<Buffer>;
  readonly host: unknown;
  readonly address: string | null;
}

function opened({ method, path, headers, body, host, address }: Opened, services: Services, { nextId }: Opening): Context {
  const matched = matchSuffix(path, headers) ?? matchPath(path, true, headers);
  if (matched?.kind !== "call") {
    throw new GuardError("body_invalid", "explain() is about model calls, such as POST /v1/chat/completions, and this path carries none");
  }
  const target: CallPath = matched;
  const reader: CallReader = { call: (ctx) => callFrom(ctx.body(), target, ctx), body };
  const id = nextId();
  const ctx = new Context({
    id,
    requestId: cleanRequestId(headers["x-request-id"], id),
    method,
    path,
    headers,
    services: quiet(services),
    reader,
    carriesCall: true,
    address,
    host,
  });
  ctx.route = matched.route;
  return ctx;
}

const nothing = (): void => undefined;

/** Nobody hears of a request that is none. It is never closed, so nothing that steps would do afterwards is done. */
const quiet = ({ clock, pricer }: Services): Services => ({
  clock,
  pricer,
  logger: silentLogger,
  events: { on: () => nothing, has: () => false, emit: nothing },
  recorder: { intent: nothing, attempt: nothing, close: nothing },
});
