import type { GuardError } from "../../src/core/errors.ts";
import type { Exchange, OutgoingRequest, ResponseHeaders, Transport } from "../../src/upstream/transport.ts";

export interface Collected {
  readonly status: number | null;
  readonly headers: ResponseHeaders;
  readonly text: string;
  readonly error: GuardError | null;
  readonly sent: boolean | null;
}

export interface Collection {
  readonly exchange: Exchange;
  /** Resolves at `end` or `fail`. */
  readonly done: Promise<Collected>;
  /** Resolves at the first body chunk. */
  readonly firstChunk: Promise<void>;
  /** Every call of the handler, in order. */
  readonly calls: string[];
  bytes(): number;
}

/** Sends a request and collects the answer. `takes` false pauses after each chunk until `exchange.resume()`. */
export function collect(transport: Transport, request: OutgoingRequest, takes: (chunk: Buffer) => boolean = () => true): Collection {
  const calls: string[] = [];
  const chunks: Buffer[] = [];
  const done = Promise.withResolvers<Collected>();
  const first = Promise.withResolvers<void>();
  let status: number | null = null;
  let headers: ResponseHeaders = {};
  const finish = (error: GuardError | null, sent: boolean | null): void =>
    done.resolve({ status, headers, text: Buffer.concat(chunks).toString(), error, sent });
  const exchange = transport.send(request, {
    head(code, fields) {
      calls.push("head");
      status = code;
      headers = fields;
    },
    data(chunk) {
      calls.push("data");
      chunks.push(chunk);
      first.resolve();
      return takes(chunk);
    },
    end() {
      calls.push("end");
      finish(null, null);
    },
    fail(error, sent) {
      calls.push("fail");
      finish(error, sent);
    },
  });
  return { exchange, done: done.promise, firstChunk: first.promise, calls, bytes: () => chunks.reduce((sum, chunk) => sum + chunk.length, 0) };
}

export function chatRequest(origin: string, body: Record<string, unknown> = {}, more: Partial<OutgoingRequest> = {}): OutgoingRequest {
  const bytes = Buffer.from(JSON.stringify({ model: "gpt-4o", messages: [{ role: "user", content: "hello there" }], ...body }));
  const headers = ["content-type", "application/json", "authorization", "Bearer sk-canary-1234567890"];
  return { origin, path: "/v1/chat/completions", method: "POST", headers, body: bytes, allowPrivate: false, proxyUrl: null, ...more };
}
