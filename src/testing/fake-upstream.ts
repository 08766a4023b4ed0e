import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { systemClock, type Clock, type MaybePromise } from "../core/time.ts";
import type { Composed } from "./fake-answers.ts";
import { FAKE_DIALECTS, fakeRouteOf } from "./fake-dialect.ts";
import { brokenOff, playReply, type FakeReply } from "./fake-exchange.ts";
import { digestOf, redacted, type TruthEntry, type TruthTotals } from "./truth-log.ts";

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
  /** Names that `GET /v1/models` lists. */
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
  /** Base URL without a trailing slash; `/v1` may be added or not, as with a provider. */
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
  /** How a key appears in the log when it is sent as `Authorization: Bearer <key>`. */
  digest(key: string): string;
  openSockets(): number;
  /** Stops listening and closes every socket. */
  close(): Promise<void>;
}

const MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-3.5-turbo-instruct", "text-embedding-3-small"];
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

function parsed(bytes: Buffer): Record<string, unknown> | null {
  try {
    const value: unknown = JSON.parse(bytes.toString());
    return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Record<string, unknown>) : null;
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
 * A provider on 127.0.0.1 that speaks OpenAI's dialect and does what a test tells it: answers, refuses, hangs, breaks off. Its log says what arrived
 * and what a provider would have billed.
 * @example
 * const upstream = await fakeUpstream();
 * upstream.script({ status: 429, headers: { "retry-after": "2" } });
 */
export async function fakeUpstream(options: FakeUpstreamOptions = {}): Promise<FakeUpstream> {
  const { host = "127.0.0.1", models = MODELS, clock = systemClock, logLimit = 5_000, logBodyBytes = 16 * 1024 } = options;
  const keys = options.keys && new Set(options.keys.map((key) => digestOf(`Bearer ${key}`)));
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
      path: request.url ?? "",
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
  function refusalOf(entry: Entry, isKnown: boolean, body: Record<string, unknown> | null): readonly [status: number, message: string] | null {
    if (keys && !keys.has(String(entry.headers.authorization))) return [401, "Incorrect API key provided."];
    if (!isKnown) return [404, `no such path: ${entry.method} ${entry.path}`];
    if (entry.method !== "POST") return [405, "use POST"];
    return body === null ? [400, "the body is not a JSON object"] : null;
  }

  function modelsAt(entry: Entry): Record<string, unknown> | null {
    const found = /\/models(?:\/([^/?]+))?$/.exec(entry.path);
    if (!found || entry.method !== "GET") return null;
    const list = models.map((id) => ({ id, object: "model", created: 1_700_000_000, owned_by: "fake" }));
    if (found[1] === undefined) return { object: "list", data: list };
    const id = decodeURIComponent(found[1]);
    return list.find((model) => model.id === id) ?? null;
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
    const found = fakeRouteOf(entry.path);
    const body = parsed(bytes);
    const stream = found !== null && body !== null && found.route.isStream(body);
    if (found && body) entry.call = { model: typeof body.model === "string" ? body.model : null, stream };
    announce(current, entry);
    const { id, method, path, headers } = entry;
    const list = modelsAt(entry);
    const refusal = list
      ? keys && !keys.has(String(headers.authorization))
        ? ([401, "Incorrect API key provided."] as const)
        : null
      : refusalOf(entry, found !== null, body);
    const dialect = found?.dialect ?? FAKE_DIALECTS[0];
    const common = {
      dialect,
      entry,
      response,
      clock,
      headers: {
        "x-request-id": `req_fake${id}`,
        "openai-organization": "org-fake",
        "openai-processing-ms": "1",
        "openai-version": "2020-10-01",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
        "set-cookie": "__fake=1; Path=/; HttpOnly",
      },
    };
    if (refusal) {
      const [status, message] = refusal;
      const reply = { status, body: dialect.error(status, id, message) };
      return playReply({ ...common, reply, stream: false, composed: null, plain: null });
    }
    let reply: FakeReply;
    let composed: Composed | null;
    try {
      reply = await replyTo({ id, method, path, headers, body: body ?? {} });
      composed = found && body ? found.route.compose(body, reply, id, Math.floor(clock.now() / 1_000)) : null;
    } catch (error) {
      // Said in the answer: a connection that breaks would look like a fault of the app.
      const said = dialect.error(500, id, `the script of fakeUpstream() failed: ${error instanceof Error ? error.message : String(error)}`);
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
