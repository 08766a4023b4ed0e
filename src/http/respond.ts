import type { ServerResponse } from "node:http";
import { isSource, type Answer, type Sink, type Source } from "../core/answer.ts";
import type { Context } from "../core/context.ts";
import type { GuardError } from "../core/errors.ts";
import { writeHead } from "./write-head.ts";

/** `compression()` adds this: without it, it would keep small events back. */
type Flushable = ServerResponse & { flush?: () => void };

/** Delivers an Answer on a Node response. */
export function respond(res: ServerResponse, ctx: Context, answer: Answer, errorEvent: (error: GuardError) => Buffer): void {
  const { headers, body } = answer;
  if (res.headersSent || res.destroyed) {
    if (isSource(body)) body.cancel();
    return;
  }
  headers.push("x-request-id", ctx.requestId);
  if (ctx.replyHeaders) headers.push(...ctx.replyHeaders);
  if (isSource(body)) {
    try {
      writeHead(res, answer.status, headers);
    } catch (error) {
      body.cancel();
      throw error;
    }
    const sink = new ResponseSink(res, body, ctx, errorEvent);
    body.start(sink);
    sink.begin();
    return;
  }
  headers.push("content-length", String(body?.length ?? 0));
  writeHead(res, answer.status, headers);
  res.end(body ?? undefined);
}

/**
 * Writes a pushed body: once per tick, because each write to a socket costs far more than a copy of small chunks, and no faster than the
 * client reads.
 */
class ResponseSink implements Sink {
  readonly #res: Flushable;
  readonly #source: Source;
  readonly #ctx: Context;
  readonly #errorEvent: (error: GuardError) => Buffer;
  #pending: Buffer[] = [];
  #scheduled = false;
  #full = false;
  #over = false;

  constructor(res: Flushable, source: Source, ctx: Context, errorEvent: (error: GuardError) => Buffer) {
    this.#res = res;
    this.#source = source;
    this.#ctx = ctx;
    this.#errorEvent = errorEvent;
    // A response that closes never drains: without this an upstream paused for it would stay paused for ever.
    res.once("close", () => {
      if (!this.#over) source.cancel();
    });
  }

  /** Sends the headers with the first chunk if it is there, at once if it is not. */
  begin(): void {
    if (this.#pending.length === 0 && !this.#over) this.#res.flushHeaders();
  }

  chunk(bytes: Buffer): boolean {
    this.#pending.push(bytes);
    if (!this.#scheduled) {
      this.#scheduled = true;
      process.nextTick(() => this.#flush());
    }
    return !this.#full;
  }

  end(): void {
    this.#over = true;
    this.#res.end(this.#take());
  }

  error(error: GuardError): void {
    this.#ctx.failure = error;
    error.requestId = this.#ctx.requestId;
    const event = this.#errorEvent(error);
    // A reader that is full would not read the event either, and where there is none a plain end would pass for the whole.
    if (this.#full || event.length === 0) {
      this.#over = true;
      this.#res.destroy();
      return;
    }
    this.#pending.push(event);
    this.end();
  }

  #take(): Buffer | undefined {
    const pending = this.#pending;
    if (pending.length === 0) return undefined;
    this.#pending = [];
    return pending.length === 1 ? pending[0] : Buffer.concat(pending);
  }

  #flush(): void {
    this.#scheduled = false;
    if (this.#over || this.#res.destroyed) return;
    const bytes = this.#take();
    if (!bytes) return;
    if (!this.#res.write(bytes) && !this.#full) {
      this.#full = true;
      this.#res.once("drain", () => {
        this.#full = false;
        this.#source.resume();
      });
    }
    this.#res.flush?.();
  }
}
