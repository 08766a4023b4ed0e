import express from "express";
import type { IncomingMessage } from "node:http";
import { describe, expect, test } from "vitest";
import { gzipSync } from "node:zlib";
import { GuardError } from "../../src/core/errors.ts";
import { readBody } from "../../src/http/body.ts";
import { rawClient, serve } from "./server-kit.ts";

const LIMIT = 1_000;

interface Reading {
  readonly port: number;
  readonly url: string;
  /** What came of the first request's body. */
  readonly result: Promise<Buffer | GuardError>;
  readonly request: Promise<IncomingMessage>;
}

/** A server that reads the body of what it is sent, behind whatever middleware. */
async function reading(prepare?: (app: ReturnType<typeof express>) => void, limit = LIMIT): Promise<Reading> {
  const result = Promise.withResolvers<Buffer | GuardError>();
  const request = Promise.withResolvers<IncomingMessage>();
  const app = express();
  prepare?.(app);
  app.use(async (req, res) => {
    request.resolve(req);
    try {
      const bytes = await readBody(req, limit);
      result.resolve(bytes);
      res.end("read");
    } catch (error) {
      if (!GuardError.is(error)) throw error;
      result.resolve(error);
      res.writeHead(error.status, error.headers).end(error.code);
    }
  });
  const { port, url } = await serve(app);
  return { port, url, result: result.promise, request: request.promise };
}

const post = (url: string, body: string | Buffer, headers: Record<string, string> = {}) =>
  fetch(url, { method: "POST", body: body as string, headers });
const text = async (reader: Reading): Promise<string> => String(await reader.result);

describe("a body that nobody has read", () => {
  test.each<[string, string]>([
    ["nothing", ""],
    ["a little", '{"model":"é😀"}'],
    ["exactly the limit", "x".repeat(LIMIT)],
  ])("is read as it came: %s", async (_name, body) => {
    const reader = await reading();
    expect((await post(reader.url, body)).status).toBe(200);
    expect(await text(reader)).toBe(body);
  });

  test("in many pieces is one", async () => {
    const reader = await reading();
    const client = await rawClient(reader.port, "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    await reader.request;
    for (const piece of ["ab", "c", "def"]) client.socket.write(`${piece.length.toString(16)}\r\n${piece}\r\n`);
    client.socket.write("0\r\n\r\n");
    expect(await text(reader)).toBe("abcdef");
  });

  test("of a declared length above the limit is refused before a byte is read", async () => {
    const reader = await reading();
    const client = await rawClient(reader.port, `POST / HTTP/1.1\r\nhost: x\r\ncontent-length: ${LIMIT + 1}\r\n\r\n`);
    expect(await reader.result).toMatchObject({ code: "body_too_large", status: 413 });
    expect(await client.until("body_too_large")).toContain("HTTP/1.1 413");
    await client.closed;
  });

  test("that grows above the limit is not read on, and its connection closes", async () => {
    const reader = await reading();
    const client = await rawClient(reader.port, "POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n");
    const piece = `3e8\r\n${"x".repeat(1_000)}\r\n`;
    client.socket.write(piece + piece);
    expect(await reader.result).toMatchObject({ code: "body_too_large" });
    const request = await reader.request;
    expect([request.isPaused(), request.listenerCount("data")]).toEqual([true, 0]);
    await client.until("connection: close");
    await client.closed;
  });

  test("that ends before its declared length is refused, whether the client closes or breaks off", async () => {
    for (const leave of ["end", "destroy"] as const) {
      const reader = await reading();
      const client = await rawClient(reader.port, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nshort");
      await reader.request;
      client.socket[leave]();
      expect(await reader.result).toMatchObject({ code: "body_invalid", message: expect.stringContaining("before the body was complete") as string });
    }
  });

  test("that is longer than declared ends where it was declared to", async () => {
    const reader = await reading();
    await rawClient(reader.port, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nshort and more");
    expect(await text(reader)).toBe("short");
  });

  test("leaves no listener behind", async () => {
    const reader = await reading();
    await post(reader.url, "abc");
    const request = await reader.request;
    expect(["data", "error"].map((name) => request.listenerCount(name))).toEqual([0, 0]);
  });

  test("of a request that is over already is refused at once", async () => {
    const errors: unknown[] = [];
    const { url } = await serve((req, res) => {
      req.resume().on("end", () => {
        Promise.resolve(readBody(req, LIMIT)).catch((error: unknown) => {
          errors.push(error);
          res.end();
        });
      });
    });
    await post(url, "abc");
    expect(errors).toMatchObject([{ code: "body_invalid" }]);
  });
});

describe("a compressed body", () => {
  test.each([["gzip"], ["br"], ["zstd"], ["deflate, gzip"]])("zstd-compressed-request-body: %s is refused and named", async (encoding) => {
    const reader = await reading();
    const response = await post(reader.url, gzipSync("{}"), { "content-encoding": encoding });
    expect(response.status).toBe(415);
    expect(response.headers.get("accept-encoding")).toBe("identity");
    expect((await reader.result) as GuardError).toMatchObject({ code: "unsupported_encoding", message: expect.stringContaining(encoding) as string });
  });

  test("whose encoding is hostile is not repeated", async () => {
    const reader = await reading();
    await post(reader.url, "{}", { "content-encoding": "<script>alert(1)</script>" });
    expect(((await reader.result) as GuardError).message).not.toContain("<");
  });

  test("that says identity is not compressed", async () => {
    const reader = await reading();
    await post(reader.url, "{}", { "content-encoding": "identity" });
    expect(await text(reader)).toBe("{}");
  });

  test("that a parser before us inflated is fine", async () => {
    const reader = await reading((app) => app.use(express.json()));
    await post(reader.url, gzipSync('{"a":1}'), { "content-encoding": "gzip", "content-type": "application/json" });
    expect(await text(reader)).toBe('{"a":1}');
  });
});

describe("behind a body parser", () => {
  const JSON_BODY = '{ "model": "a", "n": 1.0 }';
  const json = { "content-type": "application/json" };

  test("what express.json() parsed is written again", async () => {
    const reader = await reading((app) => app.use(express.json()));
    await post(reader.url, JSON_BODY, json);
    expect(await text(reader)).toBe('{"model":"a","n":1}');
  });

  test("what it did not parse is read from the stream", async () => {
    const reader = await reading((app) => app.use(express.json()));
    await post(reader.url, JSON_BODY, { "content-type": "text/plain" });
    expect(await text(reader)).toBe(JSON_BODY);
  });

  test("what a parser left as an empty object, because the body was not its own, is read from the stream", async () => {
    const reader = await reading((app) =>
      app.use((req, _res, next) => {
        req.body = {};
        next();
      }),
    );
    await post(reader.url, JSON_BODY, json);
    expect(await text(reader)).toBe(JSON_BODY);
  });

  test("the raw bytes that a host kept come first", async () => {
    const keep = (req: IncomingMessage, _res: unknown, bytes: Buffer): void => void Object.assign(req, { rawBody: bytes });
    const reader = await reading((app) => app.use(express.json({ verify: keep })));
    await post(reader.url, JSON_BODY, json);
    expect(await text(reader)).toBe(JSON_BODY);
  });

  test.each<[string, ReturnType<typeof express.text>]>([
    ["text", express.text({ type: "*/*" })],
    ["raw", express.raw({ type: "*/*" })],
  ])("of %s is taken as it is", async (_name, parser) => {
    const reader = await reading((app) => app.use(parser));
    await post(reader.url, JSON_BODY, json);
    expect(await text(reader)).toBe(JSON_BODY);
  });

  test("the limit is the same", async () => {
    for (const parser of [express.json({ limit: "1mb" }), express.raw({ type: "*/*", limit: "1mb" })]) {
      const reader = await reading((app) => app.use(parser));
      await post(reader.url, JSON.stringify({ a: "x".repeat(LIMIT) }), json);
      expect(await reader.result).toMatchObject({ code: "body_too_large" });
    }
  });
});
