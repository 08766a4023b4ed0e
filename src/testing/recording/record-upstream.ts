import { appendFile, writeFile } from "node:fs/promises";
import { createServer, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage, type ServerResponse } from "node:http";
import { request as httpsRequest } from "node:https";
import { systemClock, type Clock } from "../../core/time.ts";
import { listening, readBody } from "./loopback.ts";
import { bodyOf, chunkOf, RECORDING_VERSION, type RecordedChunk, type RecordedExchange } from "./recording.ts";
import { redaction } from "./redaction.ts";

export interface RecordUpstreamOptions {
  /** The provider's base URL, as a credential's `baseUrl`: `https://api.openai.com`. */
  readonly target: string;
  /** Where the recording is written, line by line; what is there is replaced. Default: it is only kept in memory. */
  readonly file?: string;
  /** Texts to take out wherever they stand, besides keys, tokens, cookies and account ids. */
  readonly redact?: readonly string[];
  /** Silence after which an exchange is given up, ms. Default 60,000. */
  readonly timeoutMs?: number;
  /** Bytes of one request body, and of one answer. Default 8 MiB. A larger request is refused, a larger answer is passed on and not recorded. */
  readonly maxBodyBytes?: number;
  /** Bytes of the whole recording; what comes later is passed on and not recorded. Default 64 MiB. */
  readonly maxBytes?: number;
  readonly clock?: Clock;
}

export interface UpstreamRecorder {
  /** What a credential has as its `baseUrl` instead of the target. */
  readonly url: string;
  readonly port: number;
  /** Exchanges that are recorded. */
  readonly count: number;
  /** Exchanges that were passed on, or failed, and are not recorded, with the reason. The first 1,000. */
  readonly skipped: readonly { readonly path: string; readonly reason: string }[];
  /** The recording so far, as it stands in the file. */
  text(): string;
  /** Stops, and resolves when the file is complete. Rejects when it could not be written. */
  close(): Promise<void>;
}

const MAX_SKIPPED = 1_000;

/** Hop-by-hop, or made anew. Compression is not asked for: nobody could take secrets out of it. */
const NOT_FORWARDED = /^(?:host|connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade|expect|accept-encoding|content-length)$/;
const NOT_RETURNED = /^(?:connection|keep-alive|proxy-.*|te|trailer|transfer-encoding|upgrade)$/;

type Headers = Record<string, string>;

function flat(headers: IncomingHttpHeaders, left: RegExp): Headers {
  const kept: Headers = {};
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined && !left.test(name)) kept[name] = typeof value === "string" ? value : value.join(", ");
  }
  return kept;
}

/**
 * A proxy on 127.0.0.1 that passes every request on to a provider and writes down what was asked and answered, chunk by chunk: without keys, tokens, cookies
 * and account ids. {@link replayUpstream} plays it back.
 * @example
 * const recorder = await recordUpstream({ target: "https://api.openai.com", file: "test/openai.jsonl" });
 * // credentials: [{ name: "main", provider: "openai", apiKey: process.env.OPENAI_API_KEY, baseUrl: recorder.url }]
 * await recorder.close();
 */
export async function recordUpstream(options: RecordUpstreamOptions): Promise<UpstreamRecorder> {
  const { file, timeoutMs = 60_000, maxBodyBytes = 8 * 1024 * 1024, maxBytes = 64 * 1024 * 1024, clock = systemClock } = options;
  const target = new URL(options.target);
  if (target.protocol !== "http:" && target.protocol !== "https:")
    throw new Error(`target: expected a URL with http or https, not ${target.protocol}`);
  const send = target.protocol === "https:" ? httpsRequest : httpRequest;
  const base = target.pathname.replace(/\/$/, "");
  const clean = redaction(options.redact);
  const lines: string[] = [];
  const skipped: { path: string; reason: string }[] = [];
  let bytes = 0;
  let writing: Promise<void> = Promise.resolve();

  function write(line: string): void {
    lines.push(line);
    bytes += line.length;
    if (file !== undefined)
      writing = writing.then(() => (lines[0] === line ? writeFile(file, `${line}\n`, { mode: 0o600 }) : appendFile(file, `${line}\n`)));
    // Who closes hears of it.
    writing.catch(() => {});
  }
  write(JSON.stringify({ quotaguardRecording: RECORDING_VERSION, target: `${target.protocol}//${target.host}${base}` }));

  function skip(path: string, reason: string): void {
    if (skipped.length < MAX_SKIPPED) skipped.push({ path: clean.path(path), reason });
  }

  function keep(recorded: RecordedExchange): void {
    const line = JSON.stringify(recorded);
    if (bytes + line.length > maxBytes) skip(recorded.request.path, "the recording is full; give recordUpstream() a larger maxBytes");
    else write(line);
  }

  async function serve(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const { method = "GET", url: path = "/" } = incoming;
    const body = await readBody(incoming, maxBodyBytes);
    if (body === null) {
      skip(path, `the request is larger than ${maxBodyBytes} bytes`);
      outgoing.writeHead(413, { connection: "close" }).end();
      return;
    }
    const asked = flat(incoming.headers, NOT_FORWARDED);
    const cleanBody = Buffer.from(clean.bytes(body.toString("latin1")), "latin1");
    const request = { method, path: clean.path(path), headers: cleaned(asked), body: bodyOf(cleanBody) };
    const answer = await exchange({ method, path: base + path, headers: asked, body, outgoing });
    if (typeof answer === "string") skip(path, answer);
    else keep({ request, answer });
  }

  const cleaned = (headers: Headers): Headers =>
    Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, clean.header(name, value)]));

  interface Forwarded {
    readonly method: string;
    readonly path: string;
    readonly headers: Headers;
    readonly body: Buffer;
    readonly outgoing: ServerResponse;
  }

  /** Passes a request on and its answer back. Resolves with what to write down, or with why there is nothing. */
  function exchange({ method, path, headers, body, outgoing }: Forwarded): Promise<RecordedExchange["answer"] | string> {
    const { promise, resolve } = Promise.withResolvers<RecordedExchange["answer"] | string>();
    const sent = send({
      protocol: target.protocol,
      hostname: target.hostname.replace(/^\[|\]$/g, ""),
      port: target.port,
      method,
      path,
      headers: { ...headers, host: target.host, "accept-encoding": "identity", ...(body.length > 0 ? { "content-length": body.length } : {}) },
    });
    let isAnswered = false;
    const silence = clock.timer(timeoutMs, () => {
      const why = `the target was silent for ${timeoutMs} ms`;
      end(why);
      sent.destroy(new Error(why));
    });
    function end(result: RecordedExchange["answer"] | string): void {
      silence.cancel();
      resolve(result);
    }
    outgoing.once("close", () => {
      if (outgoing.writableFinished) return;
      sent.destroy();
      end("the client left before the answer was complete");
    });
    sent.on("error", (error) => {
      // A break within the answer is the answer's.
      if (isAnswered) return;
      if (!outgoing.headersSent) outgoing.writeHead(502, { "content-type": "text/plain" }).end(`recordUpstream: ${error.message}\n`);
      end(error.message);
    });
    sent.on("response", (received) => {
      isAnswered = true;
      const returned = flat(received.headers, NOT_RETURNED);
      const arrived: { readonly bytes: Buffer; readonly afterMs: number }[] = [];
      const fromMs = clock.monotonic();
      const encoding = received.headers["content-encoding"];
      let size = 0;
      outgoing.writeHead(received.statusCode ?? 502, {
        ...returned,
        ...(received.headers["set-cookie"] ? { "set-cookie": received.headers["set-cookie"] } : {}),
      });
      outgoing.flushHeaders();
      received.on("data", (chunk: Buffer) => {
        silence.refresh();
        size += chunk.length;
        if (size <= maxBodyBytes) arrived.push({ bytes: chunk, afterMs: Math.round(clock.monotonic() - fromMs) });
        if (!outgoing.write(chunk)) received.pause();
      });
      outgoing.on("drain", () => received.resume());
      const finish = (how: "done" | "broken"): void => {
        if (size > maxBodyBytes) return end(`the answer is larger than ${maxBodyBytes} bytes`);
        if (encoding !== undefined && encoding !== "identity") return end(`the answer is compressed (${encoding}), so no secret could be taken out`);
        end({ status: received.statusCode ?? 0, headers: cleaned(returned), chunks: cleanChunks(arrived), end: how });
      };
      received.on("end", () => {
        finish("done");
        outgoing.end();
      });
      received.on("error", () => {
        finish("broken");
        outgoing.destroy();
      });
    });
    sent.end(body);
    return promise;
  }

  /** Secrets may lie across chunks: the body is cleaned as a whole, and cut again where it was. */
  function cleanChunks(arrived: readonly { readonly bytes: Buffer; readonly afterMs: number }[]): RecordedChunk[] {
    const whole = Buffer.from(clean.bytes(Buffer.concat(arrived.map(({ bytes: chunk }) => chunk)).toString("latin1")), "latin1");
    let from = 0;
    return arrived.map(({ bytes: chunk, afterMs }) => chunkOf(whole.subarray(from, (from += chunk.length)), afterMs));
  }

  const server = await listening(
    createServer({ requestTimeout: 0 }, (incoming, outgoing) => {
      outgoing.on("error", () => {});
      serve(incoming, outgoing).catch(() => outgoing.destroy());
    }),
  );
  return {
    url: server.url,
    port: server.port,
    get count() {
      return lines.length - 1;
    },
    skipped,
    text: () => `${lines.join("\n")}\n`,
    async close() {
      await server.close();
      await writing;
    },
  };
}
