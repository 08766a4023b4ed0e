import { readFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { systemClock, type Clock } from "../../core/time.ts";
import { listening, readBody } from "./loopback.ts";
import { bodyOf, bytesOf, canonical, differences, parseRecording, type RecordedExchange } from "./recording.ts";
import { redaction } from "./redaction.ts";

export interface ReplayUpstreamOptions {
  /** What {@link recordUpstream} had as `redact`: the same texts are taken out of requests before they are compared. */
  readonly redact?: readonly string[];
  /**
   * `order`: each chunk on its own, as soon as the one before is gone. `recorded`: not before its time since the head of the answer, by `clock`.
   * Default `order`.
   */
  readonly timing?: "order" | "recorded";
  readonly clock?: Clock;
  /** Bytes of one request body. Default 8 MiB. */
  readonly maxBodyBytes?: number;
}

export interface UpstreamReplay {
  /** What a credential has as its `baseUrl`. */
  readonly url: string;
  readonly port: number;
  /** Why requests had no answer in the recording, in the order in which they came. Each was answered with 501 and these words. The first 1,000. */
  readonly unmatched: readonly string[];
  /** Recorded exchanges that nobody has asked for. */
  readonly unused: number;
  close(): Promise<void>;
}

const MAX_UNMATCHED = 1_000;
/** How many recorded requests are compared to say which was meant. */
const MOST_COMPARED = 200;
const MOST_DIFFERENCES = 3;
const NOT_REPLAYED = /^(?:connection|keep-alive|transfer-encoding|date)$/;

interface Queue {
  readonly exchanges: RecordedExchange[];
  next: number;
}

/** What makes two requests the same: method, path and body; the order of JSON keys is not part of it. */
const nameOf = (method: string, path: string, body: unknown): string => `${method} ${path} ${canonical(body)}`;

/**
 * Answers as a recording says: the n-th time that the same request comes it gets the n-th answer, with the same status, headers and chunks. A request
 * that is not in the recording is answered with 501 and says what differs from the nearest one.
 * @param recording The text of a recording, or where its file is.
 * @throws Error when it is no recording; it names the line.
 * @example
 * const upstream = await replayUpstream({ file: "test/openai.jsonl" });
 * // credentials: [{ name: "main", provider: "openai", apiKey: "any", baseUrl: upstream.url }]
 * expect(upstream.unmatched).toEqual([]);
 */
export async function replayUpstream(
  recording: { readonly text: string } | { readonly file: string },
  options: ReplayUpstreamOptions = {},
): Promise<UpstreamReplay> {
  const { timing = "order", clock = systemClock, maxBodyBytes = 8 * 1024 * 1024 } = options;
  const { exchanges } = parseRecording("text" in recording ? recording.text : await readFile(recording.file, "utf8"));
  const clean = redaction(options.redact);
  const queues = new Map<string, Queue>();
  for (const exchange of exchanges) {
    const { method, path, body } = exchange.request;
    const name = nameOf(method, path, body);
    const queue = queues.get(name);
    if (queue) queue.exchanges.push(exchange);
    else queues.set(name, { exchanges: [exchange], next: 0 });
  }
  const unmatched: string[] = [];

  async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "GET", url = "/" } = request;
    const bytes = await readBody(request, maxBodyBytes);
    if (bytes === null) return refuse(response, `the request is larger than ${maxBodyBytes} bytes; give replayUpstream() a larger maxBodyBytes`);
    const path = clean.path(url);
    const body = bodyOf(Buffer.from(clean.bytes(bytes.toString("latin1")), "latin1"));
    const queue = queues.get(nameOf(method, path, body));
    const exchange = queue?.exchanges[queue.next];
    if (queue && exchange) {
      queue.next += 1;
      return play(exchange, response);
    }
    const times = queue?.exchanges.length;
    if (times === undefined) return refuse(response, nearestTo(method, path, body));
    return refuse(response, `${method} ${path} came more than the ${times} ${times === 1 ? "time" : "times"} that it was recorded with this body`);
  }

  function refuse(response: ServerResponse, why: string): void {
    if (unmatched.length < MAX_UNMATCHED) unmatched.push(why);
    const body = JSON.stringify({ error: { message: `replayUpstream: ${why}`, type: "server_error", param: null, code: "not_recorded" } });
    response.writeHead(501, { "content-type": "application/json", "x-should-retry": "false" }).end(body);
  }

  function nearestTo(method: string, path: string, body: unknown): string {
    const asked = `${method} ${path} is not in the recording`;
    const same = exchanges.filter(({ request }) => request.method === method && request.path === path);
    if (same.length === 0)
      return `${asked}: it has ${[...new Set(exchanges.map(({ request }) => `${request.method} ${request.path}`))].slice(0, 5).join(", ") || "nothing"}`;
    let nearest: { readonly line: number; readonly found: readonly string[] } | undefined;
    for (const exchange of same.slice(0, MOST_COMPARED)) {
      const found = differences(body, exchange.request.body, MOST_DIFFERENCES);
      if (!nearest || found.length < nearest.found.length) nearest = { line: exchanges.indexOf(exchange) + 2, found };
    }
    return `${asked} with this body; nearest is line ${nearest?.line}: ${nearest?.found.join("; ")}`;
  }

  async function play({ answer }: RecordedExchange, response: ServerResponse): Promise<void> {
    const headers = Object.fromEntries(Object.entries(answer.headers).filter(([name]) => !NOT_REPLAYED.test(name)));
    const fromMs = clock.monotonic();
    response.writeHead(answer.status, headers);
    response.flushHeaders();
    for (const chunk of answer.chunks) {
      const waitMs = timing === "recorded" ? chunk.afterMs - (clock.monotonic() - fromMs) : 0;
      if (waitMs > 0) await new Promise<void>((resolve) => void clock.timer(waitMs, resolve));
      if (response.destroyed) return;
      await new Promise<void>((resolve) => void response.write(bytesOf(chunk), () => resolve()));
      // A turn of the event loop, so that the reader sees each chunk on its own.
      await new Promise<void>((resolve) => void setImmediate(() => setImmediate(resolve)));
    }
    if (answer.end === "broken") response.destroy();
    else response.end();
  }

  const server = await listening(
    createServer({ requestTimeout: 0 }, (request, response) => {
      response.on("error", () => {});
      serve(request, response).catch(() => response.destroy());
    }),
  );
  return {
    url: server.url,
    port: server.port,
    unmatched,
    get unused() {
      return [...queues.values()].reduce((sum, { exchanges: all, next }) => sum + all.length - next, 0);
    },
    close: server.close,
  };
}
