import type { ServerResponse } from "node:http";
import { describe, expect, test } from "vitest";
import type { Answer, Sink, Source } from "../../src/core/answer.ts";
import type { Context } from "../../src/core/context.ts";
import { GuardError } from "../../src/core/errors.ts";
import { openai } from "../../src/dialects/openai/index.ts";
import { respond } from "../../src/http/respond.ts";
import { contextWith, kit } from "../core/context-kit.ts";
import { rawClient, serve, type RawClient } from "./server-kit.ts";

/** A source that a test feeds, and that notes what is asked of it. */
class FedSource implements Source {
  readonly calls: string[] = [];
  readonly #waiting = new Map<string, () => void>();
  sink: Sink | undefined;

  start(sink: Sink): void {
    this.sink = sink;
    this.#note("start");
  }

  resume(): void {
    this.#note("resume");
  }

  cancel(): void {
    this.#note("cancel");
  }

  #note(call: string): void {
    this.calls.push(call);
    this.#waiting.get(call)?.();
  }

  called(call: string): Promise<void> {
    return this.calls.includes(call) ? Promise.resolve() : new Promise((resolve) => void this.#waiting.set(call, resolve));
  }
}

interface Exchange {
  readonly source: FedSource;
  readonly sink: Sink;
  readonly res: ServerResponse;
  readonly ctx: Context;
  readonly client: RawClient;
  /** Each body write to the response, as text. */
  readonly writes: string[];
}

/** A streamed answer on its way to a client that reads, or does not. */
async function streaming(headers: string[] = ["content-type", "text/event-stream"]): Promise<Exchange> {
  const source = new FedSource();
  const writes: string[] = [];
  const opened = Promise.withResolvers<{ res: ServerResponse; ctx: Context }>();
  const { port } = await serve((_req, res) => {
    const ctx = contextWith(kit().services);
    const write = res.write.bind(res) as (chunk: Buffer) => boolean;
    res.write = ((chunk: Buffer) => (writes.push(chunk.toString()), write(chunk))) as typeof res.write;
    respond(res, ctx, { status: 200, headers, body: source }, openai.errorEvent);
    opened.resolve({ res, ctx });
  });
  const client = await rawClient(port, "GET / HTTP/1.1\r\nhost: x\r\n\r\n");
  const { res, ctx } = await opened.promise;
  return { source, sink: source.sink as Sink, res, ctx, client, writes };
}

const tick = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));
const BIG = Buffer.alloc(1024 * 1024, "x");

/** Feeds the sink, a tick apart, until it is full and stays so: what the kernel takes on the way has been taken. */
async function fill({ sink, res, source }: Exchange): Promise<void> {
  for (let chunks = 0; chunks < 64; chunks += 1) {
    const takesMore = sink.chunk(BIG);
    await tick();
    const held = res.writableLength;
    for (let ticks = 0; ticks < 20; ticks += 1) await tick();
    if (!takesMore && held === res.writableLength) {
      source.calls.length = 0;
      return;
    }
  }
  throw new Error("the sink was never full");
}

describe("a whole answer", () => {
  const answering = async (answer: Answer, prepare?: (ctx: Context) => void): Promise<Response> => {
    const { url } = await serve((_req, res) => {
      const ctx = contextWith(kit().services);
      prepare?.(ctx);
      respond(res, ctx, answer, openai.errorEvent);
    });
    return fetch(url);
  };

  test("has its length, our request id and what the steps want to say", async () => {
    const response = await answering({ status: 201, headers: ["content-type", "application/json"], body: Buffer.from("é") }, (ctx) =>
      ctx.reply("ratelimit", '"a";r=1'),
    );
    expect([response.status, await response.text()]).toEqual([201, "é"]);
    expect(Object.fromEntries(response.headers)).toMatchObject({
      "content-length": "2",
      "x-request-id": "req-1",
      ratelimit: '"a";r=1',
      "content-type": "application/json",
    });
  });

  test("without a body has length 0", async () => {
    const response = await answering({ status: 429, headers: [], body: null });
    expect([response.status, response.headers.get("content-length"), await response.text()]).toEqual([429, "0", ""]);
  });
});

describe("a streamed answer", () => {
  test("sends its headers at once when no chunk is there yet", async () => {
    const { client, writes } = await streaming();
    const text = await client.until("\r\n\r\n");
    expect([text.startsWith("HTTP/1.1 200 OK"), text.includes("x-request-id: req-1"), writes]).toEqual([true, true, []]);
  });

  test("is written once per tick, in order", async () => {
    const { sink, client, writes } = await streaming();
    for (const text of ["a", "b", "c"]) sink.chunk(Buffer.from(text));
    await tick();
    sink.chunk(Buffer.from("d"));
    await tick();
    await tick();
    for (const text of ["e", "f"]) sink.chunk(Buffer.from(text));
    sink.end();
    const text = await client.until("0\r\n\r\n");
    expect(writes).toEqual(["abc", "d"]);
    expect(text.slice(text.indexOf("\r\n\r\n") + 4)).toBe("3\r\nabc\r\n1\r\nd\r\n2\r\nef\r\n0\r\n\r\n");
  });

  test("that ends without a chunk is empty", async () => {
    const { sink, client } = await streaming();
    sink.end();
    expect(await client.until("0\r\n\r\n")).toMatch(/\r\n\r\n0\r\n\r\n$/);
  });

  test("that is over keeps nobody's source running", async () => {
    const { source, sink, res, client } = await streaming();
    sink.chunk(Buffer.from("a"));
    sink.end();
    await client.until("0\r\n\r\n");
    client.socket.end();
    await new Promise((resolve) => void (res.closed ? resolve(null) : res.once("close", resolve)));
    expect(source.calls).toEqual(["start"]);
  });

  test("tells compression to let each write go", async () => {
    const { sink, res } = await streaming();
    let flushed = 0;
    Object.assign(res, { flush: () => (flushed += 1) });
    sink.chunk(Buffer.from("a"));
    await tick();
    expect(flushed).toBe(1);
  });
});

describe("a client that reads slowly", () => {
  test("pauses the source, and lets it go on once it has read", async () => {
    const exchange = await streaming();
    const { source, sink, client } = exchange;
    client.socket.pause();
    await fill(exchange);
    expect([sink.chunk(BIG), source.calls]).toEqual([false, []]);
    client.socket.resume();
    await source.called("resume");
    expect(sink.chunk(Buffer.from("more"))).toBe(true);
    sink.end();
    expect(await client.until("0\r\n\r\n")).toContain("more");
  });

  test("and leaves while the source waits, ends the source", async () => {
    const exchange = await streaming();
    const { source, client } = exchange;
    client.socket.pause();
    await fill(exchange);
    client.socket.destroy();
    await source.called("cancel");
    expect(source.calls).toEqual(["cancel"]);
  });

  test("and not at all is cut when the stream fails: it would not read the event either", async () => {
    const exchange = await streaming();
    const { sink, res, ctx, client } = exchange;
    client.socket.pause();
    await fill(exchange);
    const error = new GuardError("upstream_timeout", "the client did not read the stream in time");
    sink.error(error);
    expect([res.destroyed, ctx.failure]).toEqual([true, error]);
    client.socket.resume();
    await client.closed;
    expect(client.received()).not.toContain("upstream_timeout");
    expect(client.received()).not.toMatch(/0\r\n\r\n$/);
  });
});

describe("a client that leaves", () => {
  test("ends the source, once", async () => {
    const { source, client } = await streaming();
    client.socket.destroy();
    await source.called("cancel");
    expect(source.calls).toEqual(["start", "cancel"]);
  });

  test("is sent nothing more", async () => {
    const { source, sink, client, writes } = await streaming();
    client.socket.destroy();
    await source.called("cancel");
    expect(() => sink.chunk(Buffer.from("late"))).not.toThrow();
    await tick();
    expect(writes).toEqual([]);
  });
});

describe("a failure after the first byte", () => {
  test("is one event behind what was delivered, with our request id, and the end", async () => {
    const { sink, ctx, client } = await streaming();
    sink.chunk(Buffer.from("data: 1\n\n"));
    const error = new GuardError("upstream_protocol", "broken");
    sink.error(error);
    const text = await client.until("0\r\n\r\n");
    const event = /data: (\{.*\})\n\n/.exec(text)?.[1] as string;
    expect(text.indexOf("data: 1")).toBeLessThan(text.indexOf(event));
    expect(JSON.parse(event)).toMatchObject({ error: { code: "upstream_protocol", request_id: "req-1" } });
    expect([ctx.failure, error.requestId, text.includes("[DONE]")]).toEqual([error, "req-1", false]);
  });
});

describe("an answer that cannot be delivered", () => {
  test("because the host has answered ends its source", async () => {
    const source = new FedSource();
    const { url } = await serve((_req, res) => {
      res.writeHead(204).end();
      respond(res, contextWith(kit().services), { status: 200, headers: [], body: source }, openai.errorEvent);
    });
    expect((await fetch(url)).status).toBe(204);
    expect(source.calls).toEqual(["cancel"]);
  });

  test("because a header cannot be sent ends its source too", async () => {
    const source = new FedSource();
    const { url } = await serve((_req, res) => {
      const answer = { status: 200, headers: ["x-quotaguard-model", "модель"], body: source };
      expect(() => respond(res, contextWith(kit().services), answer, openai.errorEvent)).toThrow("Invalid character");
      res.statusCode = 500;
      res.end();
    });
    expect((await fetch(url)).status).toBe(500);
    expect(source.calls).toEqual(["cancel"]);
  });
});
