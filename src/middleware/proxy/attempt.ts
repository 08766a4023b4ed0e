/** One exchange with one provider: from the request sent to the last byte delivered, and what it was worth. */
import type { Answer, Sink, Source } from "../../core/answer.ts";
import type { Call } from "../../core/call.ts";
import type { Context } from "../../core/context.ts";
import type { AttemptOutcome, Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import { nanoToUsd } from "../../core/money.ts";
import type { Timer } from "../../core/time.ts";
import { NO_USAGE, type Usage } from "../../core/usage.ts";
import type { StreamObserver } from "../../dialects/dialect.ts";
import { refusalHeaders } from "../../http/render.ts";
import { responseHeaders } from "../../upstream/headers.ts";
import { redacted, redactedError } from "../../upstream/redacted.ts";
import { larger, tokensCharged, usageCharged } from "./charging.ts";
import { headerValue, listOfNames, rewritten } from "./reply-headers.ts";
import type { Exchange, ResponseHandler } from "../../upstream/transport.ts";
import { countOutcome, FREE } from "./token-count.ts";
import { refusedBy, retold, type UpstreamHeaders } from "./refusal.ts";
import { steadyWire, type SteadyWire } from "./steady-wire.ts";
import { isStream, type Collector, type WholeAnswer, type Wire } from "./wire.ts";
import type { AttemptSettings, Failure } from "./attempt-settings.ts";

/** Whole answers are held in memory until they have been read. */
const MAX_ANSWER_BYTES = 32 * 1024 * 1024;
/** Some servers repeat the whole request in their refusal of it. */
const MAX_ERROR_BYTES = 1024 * 1024;

const JSON_TYPE = "application/json";
const CUT_SHORT = "the upstream's stream ended before its answer was complete";

/** `collecting` = a stream that the caller gets as a whole answer. */
type Phase = "waiting" | "whole" | "error" | "streaming" | "collecting" | "over";

/** Receives one upstream response and is the Source of a streamed answer: one object per attempt, no closures per chunk. */
export class Attempt implements ResponseHandler, Source {
  readonly #settings: AttemptSettings;
  readonly #ctx: Context;
  readonly #call: Call;
  readonly #lease: Lease;
  readonly #wire: SteadyWire;
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
  #collector: Collector | undefined;
  #sink: Sink | undefined;
  /** Something to deliver once the sink is there: the stream's end, or its failure. */
  #ended: GuardError | true | undefined;
  #paused = false;
  #sent = false;

  constructor(settings: AttemptSettings, ctx: Context, call: Call, lease: Lease, wire: Wire) {
    this.#settings = settings;
    this.#ctx = ctx;
    this.#call = call;
    this.#lease = lease;
    this.#wire = steadyWire(wire);
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
    const isRefusal = status < 200 || status >= 300;
    if (!isRefusal) this.#settings.onAnswer?.(this.#lease, status, headers, null);
    if (isRefusal) this.#phase = "error";
    else if (isStream(this.#wire, String(headers["content-type"] ?? ""))) {
      const watching = { hideUsage: !this.#call.wantsUsage, countTokens: this.#settings.countTokens };
      const collects = this.#wire.stream === "collects";
      this.#phase = collects ? "collecting" : "streaming";
      this.#observer = collects ? (this.#collector = this.#wire.collector(watching)) : this.#wire.observer(watching);
    } else this.#phase = "whole";
  }

  data(chunk: Buffer): boolean {
    if (this.#phase === "streaming") {
      // All that one read of the socket brings is looked at and delivered as one: a chunk is the unit that costs.
      this.#arrived.push(chunk);
      if (this.#arrived.length === 1) process.nextTick(deliverArrived, this);
      return !this.#paused;
    }
    this.#size += chunk.length;
    if (this.#phase === "collecting") this.#collect(chunk);
    else this.#chunks.push(chunk);
    if (this.#size > (this.#phase === "error" ? MAX_ERROR_BYTES : MAX_ANSWER_BYTES)) this.#tooLarge();
    return true;
  }

  end(): void {
    if (this.#phase === "streaming") this.#endStream();
    else if (this.#phase === "collecting") this.#collected();
    else if (this.#phase === "whole") this.#whole();
    else if (this.#phase === "error") this.#refused(true);
  }

  fail(thrown: GuardError, sent: boolean): void {
    const error = redactedError(thrown, this.#lease.credential);
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
    if (this.#resolve) {
      const fault = this.#wire.opensWith(bytes);
      if (fault) {
        this.#exchange?.abort();
        this.fail(fault, true);
        return;
      }
      this.#firstByte();
    } else this.#timer?.refresh();
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
    const headers = this.#replyHeaders("text/event-stream; charset=utf-8");
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
    const { rest, complete, fault: said, isTold = false, isPartial = false } = observer.end();
    const error = complete
      ? null
      : (fault ?? (said && redactedError(said, this.#lease.credential)) ?? new GuardError("upstream_protocol", CUT_SHORT));
    if (error && this.#resolve) {
      this.#observer = undefined;
      this.fail(error, true);
      return;
    }
    if (this.#resolve) this.#firstByte();
    if (rest && (!error || isTold)) this.#give(rest);
    this.#charge(observer.usage(), error || isPartial ? "counted" : "exact");
    if (error) this.#finish({ kind: "failed", error, tokens: this.#usedTokens() }, this.#status, error);
    else this.#served();
    // Its own words were forwarded: another event would be a second failure.
    const ending = isTold && fault === null ? null : error;
    if (error) this.#ctx.failure = error;
    this.#ended = ending ?? true;
    if (ending) this.#sink?.error(ending);
    else this.#sink?.end();
  }

  // --- whole answers

  #whole(): void {
    const read = this.#wire.whole(this.#body());
    if (GuardError.is(read)) this.fail(read, true);
    else this.#deliverWhole(read);
  }

  #collect(chunk: Buffer): void {
    try {
      (this.#collector as Collector).push(chunk);
    } catch (error) {
      this.#exchange?.abort();
      this.fail(error as GuardError, true);
    }
  }

  /** A stream that ended is a whole answer now, or none. */
  #collected(): void {
    const collector = this.#collector as Collector;
    try {
      const { complete, fault } = collector.end();
      const answer = complete ? collector.answer() : null;
      this.#observer = undefined;
      if (answer) this.#deliverWhole(answer);
      else this.fail(fault ?? new GuardError("upstream_protocol", CUT_SHORT), true);
    } catch (error) {
      this.fail(error as GuardError, true);
    }
  }

  #deliverWhole({ bytes, usage, text }: WholeAnswer): void {
    if (this.#call.operation === "count_tokens") this.#ctx.charged = FREE;
    else if (usage) this.#charge(usage, "exact");
    else this.#charge(this.#countedUsage(this.#settings.countTokens(text)), "counted");
    const headers = this.#replyHeaders(JSON_TYPE);
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
    const { credential } = this.#lease;
    const bytes = redacted(this.#body(), credential);
    this.#settings.onAnswer?.(this.#lease, this.#status, this.#headers, bytes);
    const { error, outcome } = refusedBy(credential, this.#status, this.#headers, bytes, this.#ctx.services.clock.now());
    this.#ctx.charged = { kind: "nothing" };
    this.#ctx.fault = outcome.fault;
    this.#finish(outcome, this.#status, error);
    const headers = this.#replyHeaders(JSON_TYPE);
    if (error.retryAfterMs !== undefined) headers.push(...refusalHeaders(error, false));
    // A redirect or an answer that is no JSON is not something a client of this dialect can read.
    const readable = isWhole && this.#status >= 400 && String(this.#headers["content-type"] ?? "").includes("json");
    const { translated } = this.#wire;
    const body = translated ? retold(bytes, translated, this.#settings.dialectOf(this.#call), error, credential) : bytes;
    this.#settle({ error, retryable: outcome.fault !== "request", answer: readable && body ? { status: this.#status, headers, body } : null });
  }

  // --- common

  /** `type` = of what we have written. What the provider's own headers say is true of the provider's own bytes. */
  #replyHeaders(type: string): string[] {
    const { stream, translated, dropped } = this.#wire;
    const own = responseHeaders(this.#headers);
    const headers = translated || stream === "collects" ? rewritten(own, type) : own;
    if (this.#lease.model !== this.#call.model) headers.push("x-quotaguard-model", headerValue(this.#lease.model));
    if (dropped.length > 0) headers.push("x-quotaguard-dropped", listOfNames(dropped));
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
    this.#ctx.charged = usageCharged(this.#ctx, this.#lease, usage, counted ? "counted" : "exact");
  }

  #countedUsage(outputTokens: number): Usage {
    return { ...NO_USAGE, inputTokens: this.#settings.inputTokens(this.#call), outputTokens };
  }

  /** What the request is charged, as one figure for the credential's own limits: null when nothing is. */
  #usedTokens(): number | null {
    return tokensCharged(this.#ctx, () => this.#settings.inputTokens(this.#call));
  }

  #served(): void {
    this.#finish({ kind: "served", status: this.#status, tokens: this.#usedTokens() ?? 0 }, this.#status, null);
  }

  #finish(outcome: AttemptOutcome, status: number | null, error: GuardError | null): void {
    this.#phase = "over";
    this.#timer?.cancel();
    this.#ctx.onGone(undefined);
    this.#lease.release(this.#call.operation === "count_tokens" ? countOutcome(outcome) : outcome);
    this.#ctx.services.recorder.attempt(this.#ctx, this.#lease, status, error?.code ?? null);
  }

  #settle(result: Answer | Failure): void {
    const resolve = this.#resolve;
    this.#resolve = undefined;
    resolve?.(result);
  }
}

const deliverArrived = (attempt: Attempt): void => attempt.deliver();
