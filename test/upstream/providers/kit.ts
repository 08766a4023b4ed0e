/** One request to a provider as its row wants it, over a real socket to a server that answers what it is told. */
import { createServer, type IncomingHttpHeaders, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll } from "vitest";
import type { Operation } from "../../../src/core/call.ts";
import type { Credential, ProviderPaths } from "../../../src/core/credential.ts";
import { resolveOptions } from "../../../src/options.ts";
import { requestHeaders } from "../../../src/upstream/headers.ts";
import { rowOf, upstreamPath } from "../../../src/upstream/providers.ts";
import { senderOf } from "../../../src/upstream/sender.ts";
import { undiciTransport, type OutgoingRequest, type Transport } from "../../../src/upstream/transport.ts";
import { testClock, type TestClock } from "../../../src/testing/clock.ts";
import { collect } from "../collect.ts";

export interface Seen {
  readonly method: string;
  readonly url: string;
  readonly headers: IncomingHttpHeaders;
  readonly body: Readonly<Record<string, unknown>> | null;
}

export interface Scripted {
  /** Of the server. */
  readonly url: string;
  readonly seen: Seen[];
  /** Answers the next requests. */
  answers(answer: (seen: Seen, res: ServerResponse) => void): void;
  readonly transport: Transport;
  readonly clock: TestClock;
}

/** A server for all tests of a file. */
export function scripted(): Scripted {
  const seen: Seen[] = [];
  const clock = testClock();
  let answer: (seen: Seen, res: ServerResponse) => void;
  let out: Transport | undefined;
  const server = createServer((req, res) => {
    const chunks: Buffer[] = [];
    req.on("data", (chunk: Buffer) => chunks.push(chunk));
    req.on("end", () => {
      const text = Buffer.concat(chunks).toString();
      const isJson = String(req.headers["content-type"]).startsWith("application/json");
      const one = {
        method: req.method ?? "",
        url: req.url ?? "",
        headers: req.headers,
        body: text === "" ? null : isJson ? JSON.parse(text) : { text },
      };
      seen.push(one);
      answer(one, res);
    });
  });
  beforeAll(() => new Promise<void>((resolve) => void server.listen(0, "127.0.0.1", resolve)));
  afterAll(async () => {
    await out?.close();
    server.closeAllConnections();
    await new Promise((resolve) => void server.close(resolve));
  });
  return {
    get url() {
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    },
    seen,
    answers(next) {
      seen.length = 0;
      answer = next;
    },
    clock,
    get transport() {
      return (out ??= undiciTransport({ connectTimeoutMs: 5_000 }));
    },
  };
}

/** A credential as the configuration makes it. */
export function configured(fields: Readonly<Record<string, unknown>>): Credential {
  const { credentials } = resolveOptions({ credentials: [{ name: "mine", ...fields }] });
  return credentials[0] as Credential;
}

export interface Asked {
  readonly operation?: Operation;
  readonly model?: string;
  readonly stream?: boolean;
  /** Of one of the dialects that the row speaks besides its own. */
  readonly paths?: ProviderPaths;
  readonly body?: Readonly<Record<string, unknown>>;
  readonly client?: Readonly<Record<string, string>>;
}

/** Sends one request. Resolves to the answer's status and text. */
export async function asked(
  upstream: Scripted,
  credential: Credential,
  about: Asked = {},
): Promise<{ readonly status: number | null; readonly text: string }> {
  const { operation = "chat", model = "some/model", stream = false, body = { model, hello: 1 }, client = {} } = about;
  const row = rowOf(credential);
  const paths = about.paths ?? row.paths;
  const request = { credential, model, operation, stream, requestId: "req_1" };
  const adapted = row.adapt && !about.paths ? row.adapt(body, request) : body;
  const bytes = Buffer.from(JSON.stringify(adapted));
  const path = ((stream ? paths.stream : undefined) ?? paths[operation] ?? "/not-offered").replace("{model}", encodeURIComponent(model));
  const build = (sent: Credential): OutgoingRequest => {
    const headers = requestHeaders(client, row, sent, bytes.length);
    for (const [name, value] of Object.entries(row.requestHeaders?.(body, request) ?? {})) headers.push(name, value);
    const { origin, allowPrivate, proxyUrl } = sent;
    return { origin, path: upstreamPath(credential, path), method: "POST", headers, body: bytes, allowPrivate, proxyUrl };
  };
  const send: Transport["send"] = (_request, handler) => senderOf(upstream.transport, upstream.clock).send(credential, build, handler);
  const { status, text, error } = await collect({ send, close: async () => {} }, build(credential)).done;
  if (error) throw error;
  return { status, text };
}

/** What a refusal means: the row's verdict, with the wait that counts. */
export function judged(credential: Credential, status: number, body: unknown, headers: Readonly<Record<string, string>> = {}, nowMs = 0) {
  const row = rowOf(credential);
  const { fault, isAccountWide, waitMs } = row.classify(status, headers, typeof body === "string" ? body : JSON.stringify(body), nowMs);
  const said = row.retryAfterMs(headers, nowMs, status === 429 && fault === "capacity");
  return { fault, isAccountWide, waitMs: said ?? waitMs };
}
