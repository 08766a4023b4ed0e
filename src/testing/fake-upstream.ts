import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { systemClock, type Clock, type MaybePromise } from "../core/time.ts";
import { isRecord, type Composed, type Json } from "./fake-answers.ts";
import type { FakeDialect } from "./fake-dialect.ts";
import { brokenOff, playReply, type FakeReply } from "./fake-exchange.ts";
import { dialectOf, fakeRouteOf, type FoundRoute } from "./fake-routes.ts";
import { modelsFor } from "./fake-models.ts";
import { digestOf, keysIn, redacted, redactedPath, type TruthEntry, type TruthTotals } from "./truth-log.ts";

/** What a script sees of a request. */
export interface FakeRequest {
  readonly id: number;
  readonly method: string;
  readonly path: string;
  /** Lower-case names, credentials as digests. */
  readonly headers: TruthEntry["headers"];
  /** The parsed body; empty when there is none or it is no JSON object. */
  readonly body: Readonly<Record<string, unknown>>;
}

/** The same reply for all · one reply per request in turn, then the default · a function; undefined = the default answer. */
export type FakeScript = FakeReply | readonly FakeReply[] | ((request: FakeRequest) => MaybePromise<FakeReply | undefined>);

export interface FakeUpstreamOptions {
  /** Default 0: any free port. */
  readonly port?: number;
  /** Default 127.0.0.1. */
  readonly host?: string;
  /** Names that the lists of models show, in every dialect. */
  readonly models?: readonly string[];
  /** When given, other keys are refused with 401. */
  readonly keys?: readonly string[];
  /** Pause between two events of every stream. Default none. */
  readonly delayMs?: number;
  readonly clock?: Clock;
  /** Requests that the log keeps; older ones leave it. Default 5000. */
  readonly logLimit?: number;
  /** Bytes of each body that the log keeps. Default 16 KiB. */
  readonly logBodyBytes?: number;
}

export interface FakeUpstream {
  /** Base URL without a trailing slash; `/v1` or `/v1beta` may be added or not, as with a provider. */
  readonly url: string;
  readonly port: number;
  /** The truth log, in order of arrival. */
  readonly log: readonly TruthEntry[];
  /** Requests that are no longer in the log: beyond its limit, or before a reset. */
  readonly forgotten: number;
  /** Replaces the script. */
  script(script: FakeScript): void;
  /** Back to the default script and an empty log: what it held can no longer be checked. Running exchanges go on. */
  reset(): void;
  /** Resolves with the request number `count` (from 1, since the last reset) as soon as its body has arrived. */
  received(count: number): Promise<TruthEntry>;
  totals(): TruthTotals;
  /** How a key appears in the log when it is sent as `Authorization: Bearer <key>`; sent in any other way it appears as `digestOf(key)`. */
  digest(key: string): string;
  openSockets(): number;
  /** Stops listening and closes every socket. */
  close(): Promise<void>;
}

const MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo-instruct", "text-embedding-3-small", "claude-sonnet-5", "gemini-2.5-flash"];
const MAX_BODY_BYTES = 64 * 1024 * 1024;
/** What a reset throws away; an exchange that is still running keeps writing into its own. */
interface Run {
  readonly log: Entry[];
  readonly arrived: Map<number, Entry>;
  readonly waiters: Map<number, ((entry: TruthEntry) => void)[]>;
  readonly total: { requests: number; inputTokens: number; outputTokens: number };
  serial: number;
}

type Entry = { -readonly [K in keyof TruthEntry]: TruthEntry[K] };

function parsed(bytes: Buffer): Json | null {
  try {
    const value: unknown = JSON.parse(bytes.toString());
    return isRecord(value) ? value : null;
  } catch {
    return null;
  }
}

async function read(request: IncomingMessage): Promise<Buffer | null> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > MAX_BODY_BYTES) return null;
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

/**
 * A provider on 127.0.0.1 that does what a test tells it: answers, refuses, hangs, breaks off. It speaks the dialect of the path: OpenAI's chat and
 * Responses, Anthropic's Messages, Google's generateContent, Kiro's event streams. Its log says what arrived and what a provider would have billed.
 * @example
 * const upstream = await fakeUpstream();
 * upstream.script({ status: 429, headers: { "retry-after": "2" } });
 */
export async function fakeUpstream(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const { host = "127.0.0.1", models = MODELS, clock = systemClock, logLimit = 5_000, logBodyBytes = 16 * 1024 } = options;
  const keys = options.keys && new Set(options.keys.map((key) => digestOf(key)));
  const sockets = new Set<Socket>();
  const newRun = (): Run => ({ log: [], arrived: new Map(), waiters: new Map(), total: { requests: 0, inputTokens: 0, outputTokens: 0 }, serial: 0 });
  let run = newRun();
  let script: FakeScript | null = null;
  let nextOfList = 0;
  let forgotten = 0;
  let closing = false;

  function open({ log, total }: Run, id: number, request: IncomingMessage, response: ServerResponse): Entry {
    const { promise, resolve } = Promise.withResolvers<void>();
    const entry: Entry = {
      id,
      method: request.method ?? "",
      path: redactedPath(request.url ?? ""),
      headers: redacted(request.headers),
      body: Buffer.alloc(0),
      bodyBytes: 0,
      call: null,
      startedAtMs: clock.monotonic(),
      endedAtMs: null,
      status: null,
      chunks: 0,
      billed: { inputTokens: 0, outputTokens: 0 },
      told: null,
      end: null,
      ended: promise,
    };
    log.push(entry);
    if (log.length > logLimit) {
      log.shift();
      forgotten += 1;
    }
    total.requests += 1;
    response.once("close", () => {
      entry.end = closing || brokenOff.has(response) ? "upstream" : response.writableFinished ? "done" : "client";
      entry.endedAtMs = clock.monotonic();
      total.inputTokens += entry.billed.inputTokens;
      total.outputTokens += entry.billed.outputTokens;
      resolve();
    });
    return entry;
  }

  function announce({ arrived, waiters }: Run, entry: Entry): void {
    arrived.set(entry.id, entry);
    if (arrived.size > logLimit) arrived.delete(entry.id - logLimit);
    for (const tell of waiters.get(entry.id) ?? []) tell(entry);
    waiters.delete(entry.id);
  }

  async function replyTo(request: FakeRequest): Promise<FakeReply> {
    if (typeof script === "function") return (await script(request)) ?? {};
    if (script === null) return {};
    return "length" in script ? (script[nextOfList++] ?? {}) : script;
  }

  /** Answers that no script is asked for: other paths, wrong keys, broken bodies. */
  function refusalOf(
    entry: Entry,
    sent: readonly string[],
    found: FoundRoute | null,
    body: Json | null,
  ): readonly [status: number, message: string] | null {
    if (keys && !sent.some((key) => keys.has(key))) return [401, "Incorrect API key provided."];
    if (!found) return [404, `no such path: ${entry.method} ${entry.path}`];
    if (entry.method !== "POST") return [405, "use POST"];
    if (body === null) return [400, "the body is not a JSON object"];
    const complaint = found.route.complaint?.(body, entry.headers) ?? null;
    return complaint === null ? null : [400, complaint];
  }

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const current = run;
    current.serial += 1;
    const entry = open(current, current.serial, request, response);
    const bytes = await read(request);
    if (bytes === null) return void response.destroy();
    entry.bodyBytes = bytes.length;
    // A copy: a slice would keep the whole body alive.
    entry.body = bytes.length > logBodyBytes ? Buffer.from(bytes.subarray(0, logBodyBytes)) : bytes;
    const { id, method, path, headers } = entry;
    const url = new URL(path, "http://fake");
    const found = fakeRouteOf(url.pathname);
    const body = parsed(bytes);
    const stream = found !== null && body !== null && found.route.isStream(body);
    const named = body && (found?.route.modelOf?.(body) ?? body.model);
    const model = found?.model ?? (typeof named === "string" ? named : null);
    if (found && body) entry.call = { model, stream };
    announce(current, entry);
    const dialect: FakeDialect = found?.dialect ?? dialectOf(url, headers);
    const list = method === "GET" ? modelsFor(dialect, models, url) : null;
    const sent = keysIn(request);
    const refusal = refusalOf(entry, sent, found, body);
    const common = { dialect, entry, response, clock, headers: dialect.headers(id) };
    if (refusal && !(list && refusal[0] === 404)) {
      const [status, message] = refusal;
      const reply = { status, body: dialect.error(status, message, id) };
      return playReply({ ...common, reply, stream: false, composed: null, plain: null });
    }
    let reply: FakeReply;
    let composed: Composed | null;
    try {
      reply = await replyTo({ id, method, path, headers, body: body ?? {} });
      const query = { body: body ?? {}, answer: reply, serial: id, createdS: Math.floor(clock.now() / 1_000), model: model ?? undefined };
      composed = found && body ? found.route.compose({ ...query, search: url.searchParams }) : null;
    } catch (error) {
      // Said in the answer: a connection that breaks would look like a fault of the app.
      const said = dialect.error(500, `the script of fakeUpstream() failed: ${error instanceof Error ? error.message : String(error)}`, id);
      return playReply({ ...common, reply: { status: 500, body: said }, stream: false, composed: null, plain: null });
    }
    const paced = reply.delayMs === undefined && options.delayMs !== undefined ? { ...reply, delayMs: options.delayMs } : reply;
    return playReply({ ...common, reply: paced, stream, composed, plain: list });
  }

  const server = createServer({ keepAliveTimeout: 60_000, requestTimeout: 0, headersTimeout: 0 }, (request, response) => {
    // A socket that breaks while the body is read or written ends the exchange; the log has it.
    response.on("error", () => {});
    serve(request, response).catch(() => response.destroy());
  });
  server.on("connection", (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port ?? 0, host, 4_096, () => resolve());
  });
  const { port } = server.address() as AddressInfo;

  return {
    url: `http://${host.includes(":") ? `[${host}]` : host}:${port}`,
    port,
    get log() {
      return run.log;
    },
    get forgotten() {
      return forgotten;
    },
    script(next) {
      script = next;
      nextOfList = 0;
    },
    reset() {
      script = null;
      nextOfList = 0;
      forgotten += run.log.length;
      run = newRun();
    },
    received(count) {
      const { arrived, waiters } = run;
      const entry = arrived.get(count);
      if (entry) return Promise.resolve(entry);
      return new Promise((resolve) => void waiters.set(count, [...(waiters.get(count) ?? []), resolve]));
    },
    totals: () => ({ ...run.total }),
    digest: (key) => digestOf(`Bearer ${key}`),
    openSockets: () => sockets.size,
    async close() {
      closing = true;
      const closed = new Promise((resolve) => void server.close(resolve));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}
