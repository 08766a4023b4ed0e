/** One exchange with one provider: from the request sent to the last byte delivered, and what it was worth. */
import type { Answer, Sink, Source } from "../../core/answer.ts";
import type { Call } from "../../core/call.ts";
import type { Context } from "../../core/context.ts";
import type { AttemptOutcome, Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import { nanoToUsd } from "../../core/money.ts";
import type { Timer } from "../../core/time.ts";
import { NO_USAGE, totalInputTokens, totalOutputTokens, type Usage } from "../../core/usage.ts";
import type { Dialect, StreamObserver } from "../../dialects/dialect.ts";
import { refusalHeaders } from "../../http/render.ts";
import { responseHeaders } from "../../upstream/headers.ts";
import { rowOf } from "../../upstream/providers.ts";
import { redacted } from "../../upstream/redacted.ts";
import type { Exchange, ResponseHandler } from "../../upstream/transport.ts";

/** Whole answers are held in memory until they have been read. */
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
/** Some servers repeat the whole request in their refusal of it. */
const MAX_ERROR_BYTES = 1024 * 1024;

type UpstreamHeaders = Readonly<Record<string, string | string[] | undefined>>;

export interface AttemptSettings {
  readonly dialectOf: (call: Call) => Dialect;
  /** Streams only: until the first byte of the body. */
  readonly firstByteTimeoutMs: number;
  /** Streams only: between two chunks, and how long a client may stop reading. */
  readonly idleTimeoutMs: number;
  /** Whole answers only. */
  readonly requestTimeoutMs: number;
  readonly countTokens: (text: string) => number;
  /** Input tokens of a call, for when the provider does not say. */
  readonly inputTokens: (call: Call) => number;
}

/** A failed attempt. `answer` is the provider's own refusal, to be passed on when no other credential helps. */
export interface Failure {
  readonly error: GuardError;
  readonly retryable: boolean;
  readonly answer: Answer | null;
}

type Phase = "waiting" | "whole" | "error" | "streaming" | "over";

/** Receives one upstream response and is the Source of a streamed answer: one object per attempt, no closures per chunk. */
export class Attempt implements ResponseHandler, Source {
  readonly #settings: AttemptSettings;
  readonly #ctx: Context;
  readonly #call: Call;
  readonly #lease: Lease;
  readonly #dialect: Dialect;
  #resolve: ((result: Answer | Failure) => void) | undefined;
  #exchange: Exchange | undefined;
  #timer: Timer | undefined;
  #phase: Phase = "waiting";
  #status = 0;
  #headers: UpstreamHeaders = {};
  /** The body of a whole answer, or what a stream delivered before its sink was there. */
  #chunks: Buffer[] = [];
  /** Of a stream: not yet looked at. */
  #arrived: Buffer[] = [];
  #size = 0;
  #observer: StreamObserver | undefined;
  #sink: Sink | undefined;
  /** Something to deliver once the sink is there: the stream's end, or its failure. */
  #ended: GuardError | true | undefined;
  #paused = false;
  #sent = false;

  constructor(settings: AttemptSettings, ctx: Context, call: Call, lease: Lease) {
    this.#settings = settings;
    this.#ctx = ctx;
    this.#call = call;
    this.#lease = lease;
    this.#dialect = settings.dialectOf(call);
  }

  send(dispatch: (handler: ResponseHandler) => Exchange): Promise<Answer | Failure> {
    return new Promise((resolve) => {
      this.#resolve = resolve;
      const { firstByteTimeoutMs, requestTimeoutMs } = this.#settings;
      this.#timer = this.#ctx.services.clock.timer(this.#call.stream ? firstByteTimeoutMs : requestTimeoutMs, () => this.#timeout());
      try {
        this.#exchange = dispatch(this);
      } catch (error) {
        // Nothing was sent: the credential goes back, and the fault is for the log.
        this.#ctx.charged = { kind: "nothing" };
        this.#finish({ kind: "abandoned", tokens: null }, null, null);
        throw error;
      }
      this.#sent = true;
      this.#ctx.onGone((reason) => this.cancel(reason));
    });
  }

  // --- the upstream's side

  head(status: number, headers: UpstreamHeaders): void {
    this.#status = status;
    this.#headers = headers;
    if (status < 200 || status >= 300) this.#phase = "error";
    else if (this.#call.stream && String(headers["content-type"] ?? "").includes("text/event-stream")) {
      this.#phase = "streaming";
      this.#observer = this.#dialect.observer({ hideUsage: !this.#call.wantsUsage, countTokens: this.#settings.countTokens });
    } else this.#phase = "whole";
  }

  data(chunk: Buffer): boolean {
    if (this.#phase === "streaming") {
      // All that one read of the socket brings is looked at and delivered as one: a chunk is the unit that costs.
      this.#arrived.push(chunk);
      if (this.#arrived.length === 1) process.nextTick(deliverArrived, this);
      return !this.#paused;
    }
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#size > (this.#phase === "error" ? MAX_ERROR_BYTES : MAX_ANSWER_BYTES)) this.#tooLarge();
    return true;
  }

  end(): void {
    if (this.#phase === "streaming") this.#endStream();
    else if (this.#phase === "whole") this.#whole();
    else if (this.#phase === "error") this.#refused(true);
  }

  fail(error: GuardError, sent: boolean): void {
    this.deliver();
    if (this.#phase === "over") return;
    // Its head said whose fault it is, whatever became of the rest.
    if (this.#phase === "error") {
      this.#refused(false);
      return;
    }
    if (this.#phase === "streaming" && this.#resolve === undefined) {
      this.#closeStream(error);
      return;
    }
    const timedOut = error.code === "upstream_timeout";
    // A break before the answer is not billed; after a timeout nobody knows, so the input stays charged.
    this.#ctx.charged = timedOut && sent ? { kind: "input" } : { kind: "nothing" };
    // A whole answer that timed out has used up the client's patience too.
    this.#finish({ kind: "failed", error, tokens: this.#usedTokens() }, null, error);
    this.#settle({ error, retryable: !timedOut || this.#call.stream, answer: null });
  }

  // --- the client's side

  start(sink: Sink): void {
    this.#sink = sink;
    const early = this.#chunks;
    this.#chunks = [];
    for (const chunk of early) this.#give(chunk);
    if (this.#ended === true) sink.end();
    else if (this.#ended) sink.error(this.#ended);
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#timer?.refresh();
    this.#exchange?.resume();
  }

  /** The client is gone, or must go for a reason: the upstream stops at once, and what it delivered is charged. */
  cancel(reason: GuardError | null = null): void {
    if (this.#phase === "over") return;
    this.#exchange?.abort();
    // What has arrived was billed, whether or not it was still delivered.
    this.#look();
    const waiting = this.#resolve !== undefined;
    if (this.#observer && !waiting) this.#charge(this.#observer.usage(), "counted");
    else this.#ctx.charged = this.#sent ? { kind: "input" } : { kind: "nothing" };
    this.#finish({ kind: "abandoned", tokens: this.#usedTokens() }, this.#status || null, null);
    this.#settle({ error: reason ?? new GuardError("upstream_unreachable", "the client left"), retryable: false, answer: null });
    if (reason && !waiting) {
      this.#ended = reason;
      this.#sink?.error(reason);
    }
  }

  // --- streams

  /** Delivers what has arrived since the last time. */
  deliver(): void {
    const bytes = this.#look();
    if (bytes === null) return;
    // Failover stays possible until there is something to deliver: headers alone are no first byte.
    if (this.#resolve) this.#firstByte();
    else this.#timer?.refresh();
    this.#give(bytes);
  }

  /** Shows the observer what has arrived; returns what may be forwarded of it. */
  #look(): Buffer | null {
    const arrived = this.#arrived;
    if (arrived.length === 0 || this.#phase !== "streaming") return null;
    this.#arrived = [];
    try {
      return (this.#observer as StreamObserver).push(arrived.length === 1 ? (arrived[0] as Buffer) : Buffer.concat(arrived));
    } catch (error) {
      this.#exchange?.abort();
      this.fail(error as GuardError, true);
      return null;
    }
  }

  #firstByte(): void {
    const { clock } = this.#ctx.services;
    this.#ctx.firstByteAt = clock.monotonic();
    this.#timer?.cancel();
    this.#timer = clock.timer(this.#settings.idleTimeoutMs, () => this.#timeout());
    const headers = this.#replyHeaders();
    headers.push("cache-control", "no-cache, no-transform", "x-accel-buffering", "no");
    this.#settle({ status: this.#status, headers, body: this });
  }

  #give(bytes: Buffer): void {
    if (!this.#sink) this.#chunks.push(bytes);
    else if (!this.#sink.chunk(bytes)) this.#paused = true;
  }

  #endStream(): void {
    this.deliver();
    if (this.#phase === "streaming") this.#closeStream(null);
  }

  /**
   * The stream is over, by its end or by a fault. One that came to its proper end is complete, whatever the connection did then. Any other failed: before the
   * first byte another credential may take over; after it, what was delivered is charged and the client is told by an event, never by a forged end.
   */
  #closeStream(fault: GuardError | null): void {
    const observer = this.#observer as StreamObserver;
    const { rest, complete } = observer.end();
    const error = complete ? null : (fault ?? new GuardError("upstream_protocol", "the upstream's stream ended before its answer was complete"));
    if (error && this.#resolve) {
      this.#observer = undefined;
      this.fail(error, true);
      return;
    }
    if (this.#resolve) this.#firstByte();
    if (rest && !error) this.#give(rest);
    this.#charge(observer.usage(), error ? "counted" : "exact");
    if (error) this.#finish({ kind: "failed", error, tokens: this.#usedTokens() }, this.#status, error);
    else this.#served();
    this.#ended = error ?? true;
    if (error) this.#sink?.error(error);
    else this.#sink?.end();
  }

  // --- whole answers

  #whole(): void {
    const bytes = this.#body();
    const read = this.#dialect.readResponse(bytes);
    if (!read) {
      this.fail(new GuardError("upstream_protocol", "the upstream's answer is not a JSON object"), true);
      return;
    }
    if ("usage" in read) this.#charge(read.usage, "exact");
    else this.#charge(this.#countedUsage(this.#settings.countTokens(read.text)), "counted");
    const headers = this.#replyHeaders();
    const { charged } = this.#ctx;
    if (charged?.kind === "usage" && charged.billedNanoUsd !== null)
      headers.push("x-quotaguard-cost-usd", nanoToUsd(charged.billedNanoUsd).toFixed(9));
    this.#ctx.firstByteAt = this.#ctx.services.clock.monotonic();
    this.#served();
    this.#settle({ status: this.#status, headers, body: bytes });
  }

  #body(): Buffer {
    const chunks = this.#chunks;
    this.#chunks = [];
    return chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks, this.#size);
  }

  /** The limit is ours. The provider did its work and bills it, so nobody is to blame and nothing is asked for a second time. */
  #tooLarge(): void {
    this.#exchange?.abort();
    if (this.#phase === "error") {
      this.#refused(false);
      return;
    }
    this.#ctx.charged = { kind: "estimate" };
    this.#served();
    const message = `the provider's answer is larger than ${MAX_ANSWER_BYTES / 1024 / 1024} MiB; ask for less in one request`;
    const error = new GuardError("upstream_protocol", message, { headers: { "x-should-retry": "false" } });
    this.#settle({ error, retryable: false, answer: null });
  }

  /** The provider's own refusal: passed through as it is when no other credential can help, and all of it is here. */
  #refused(isWhole: boolean): void {
    const row = rowOf(this.#lease.credential);
    const bytes = redacted(this.#body(), this.#lease.credential);
    const { fault, isAccountWide, waitMs: usualWaitMs } = row.classify(this.#status, this.#headers, bytes);
    const isRateLimit = this.#status === 429 && fault === "capacity";
    const waitMs = row.retryAfterMs(this.#headers, this.#ctx.services.clock.now(), isRateLimit) ?? usualWaitMs;
    const code = "upstream_refused";
    const status = this.#status >= 400 ? this.#status : 502;
    const error = new GuardError(code, `the provider answered with status ${this.#status}`, {
      status,
      ...(waitMs === null ? {} : { retryAfterMs: waitMs }),
    });
    this.#ctx.charged = { kind: "nothing" };
    this.#ctx.fault = fault;
    this.#finish({ kind: "refused", status: this.#status, fault, isAccountWide, waitMs }, this.#status, error);
    const headers = this.#replyHeaders();
    if (waitMs !== null) headers.push(...refusalHeaders(error, false));
    // A redirect or an answer that is no JSON is not something a client of this dialect can read.
    const readable = isWhole && this.#status >= 400 && String(this.#headers["content-type"] ?? "").includes("json");
    this.#settle({ error, retryable: fault !== "request", answer: readable ? { status: this.#status, headers, body: bytes } : null });
  }

  // --- common

  #replyHeaders(): string[] {
    const headers = responseHeaders(this.#headers);
    if (this.#lease.model !== this.#call.model) headers.push("x-quotaguard-model", headerValue(this.#lease.model));
    return headers;
  }

  #timeout(): void {
    if (this.#phase === "over") return;
    // A client that does not read stops the stream; that is not the provider's fault.
    if (this.#paused) {
      this.cancel();
      this.#sink?.error(new GuardError("upstream_timeout", "the client did not read the stream in time"));
      return;
    }
    this.#exchange?.abort();
    this.fail(new GuardError("upstream_timeout", "the provider did not answer in time; try again or ask for less output"), true);
  }

  #charge(reported: Usage | null, provenance: "exact" | "counted"): void {
    const counted = reported === null || provenance === "counted";
    const usage = counted && this.#observer ? larger(reported, this.#countedUsage(this.#observer.deliveredTokens())) : (reported as Usage);
    const { credential, model, name } = this.#lease;
    const prices = this.#ctx.services.pricer.of(this.#ctx);
    const cost = prices.cost(name, credential.name, usage) ?? prices.cost(model, credential.name, usage) ?? NOT_PRICED;
    this.#ctx.charged = { kind: "usage", usage, provenance: counted ? "counted" : "exact", ...cost };
  }

  #countedUsage(outputTokens: number): Usage {
    return { ...NO_USAGE, inputTokens: this.#settings.inputTokens(this.#call), outputTokens };
  }

  /** What the request is charged, as one figure for the credential's own limits: null when nothing is. */
  #usedTokens(): number | null {
    const { charged } = this.#ctx;
    if (charged?.kind === "usage" && charged.usage) return totalInputTokens(charged.usage) + totalOutputTokens(charged.usage);
    return charged?.kind === "input" || charged?.kind === "estimate" ? this.#settings.inputTokens(this.#call) : null;
  }

  #served(): void {
    this.#finish({ kind: "served", status: this.#status, tokens: this.#usedTokens() ?? 0 }, this.#status, null);
  }

  #finish(outcome: AttemptOutcome, status: number | null, error: GuardError | null): void {
    this.#phase = "over";
    this.#timer?.cancel();
    this.#ctx.onGone(undefined);
    this.#lease.release(outcome);
    this.#ctx.services.recorder.attempt(this.#ctx, this.#lease, status, error?.code ?? null);
  }

  #settle(result: Answer | Failure): void {
    const resolve = this.#resolve;
    this.#resolve = undefined;
    resolve?.(result);
  }
}

const NOT_PRICED = { rawNanoUsd: null, billedNanoUsd: null, priceVersion: null };

/** A client may have made the name up, and not every character may stand in a header. */
const headerValue = (name: string): string => (/^[\x21-\x7e]+$/.test(name) ? name : encodeURIComponent(name.toWellFormed()));

const deliverArrived = (attempt: Attempt): void => attempt.deliver();

/** A provider that reports as it goes may be behind what it delivered: the larger figure of each is what was used. */
function larger(reported: Usage | null, counted: Usage): Usage {
  if (!reported) return counted;
  // All text is counted: what was thought aloud, and what came as predicted.
  const apart = reported.reasoningTokens + (reported.predictionTokens ?? 0);
  return { ...reported, outputTokens: Math.max(reported.outputTokens, counted.outputTokens - apart) };
}
