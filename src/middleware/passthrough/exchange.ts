/** One exchange with one provider: from the request handed to the carrier to the last byte of its answer, and what it was worth. */
import type { ClientRequest, IncomingMessage, ServerResponse } from "node:http";
import type { Answer } from "../../core/answer.ts";
import type { Context } from "../../core/context.ts";
import type { AttemptOutcome, Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Timer } from "../../core/time.ts";
import { protocolError, type Stage } from "../../upstream/failure.ts";
import { responseHeaders } from "../../upstream/headers.ts";
import { writeHead } from "../../http/write-head.ts";
import type { Seat } from "./agents.ts";
import type { Cargo, Carriage, Carrier, Recipient } from "./carrier.ts";
import { chargeFor, type Ending } from "./charge.ts";
import { laneFailure } from "./failure.ts";
import { isEventStream, returnedHeaders } from "./headers.ts";
import type { LaneOperation } from "./operations.ts";
import { refusedAnswer, type Refused } from "./refused.ts";
import { usageTail, type UsageTail } from "./usage-tail.ts";

/** An error or a small object larger than this is neither. */
const MOST_HELD_BYTES = 1024 * 1024;
/** A connection on which nothing moves is looked at this often until it is idle. */
const LOOKS = 4;

export interface ExchangeSettings {
  /** How long nothing may move while a body is on its way, in either direction. */
  readonly idleTimeoutMs: number;
  /** How long the provider may take from the end of the request to the head of its answer. */
  readonly requestTimeoutMs: number;
}

export interface ExchangeParts {
  readonly ctx: Context;
  readonly lease: Lease;
  readonly seat: Seat;
  readonly operation: LaneOperation;
  /** The model that the client named, after aliases; null = none was seen. */
  readonly model: string | null;
  /** A good answer is small JSON that must be read before the client gets it. */
  readonly isHeld: boolean;
  readonly req: IncomingMessage;
  readonly res: ServerResponse;
}

/** A phase ends where the next begins; what may be silent, and for how long, depends on it. */
type Phase = "connecting" | "sending" | "waiting" | "answering" | "over";

/** `null`: it was delivered as it came. Else the caller answers with it; `isGood` = of a 2xx that was held. */
export type Delivered = { readonly answer: Answer; readonly isGood: boolean } | null;

export class Exchange implements Recipient {
  readonly #parts: ExchangeParts;
  readonly #settings: ExchangeSettings;
  #phase: Phase = "connecting";
  #carriage: Carriage | undefined;
  #request: ClientRequest | undefined;
  #answer: IncomingMessage | undefined;
  #tail: UsageTail | undefined;
  #timer: Timer | undefined;
  #moved = -1;
  #silent = 0;
  #resolve: ((delivered: Delivered) => void) | undefined;
  #reject: ((error: GuardError) => void) | undefined;

  constructor(parts: ExchangeParts, settings: ExchangeSettings) {
    this.#parts = parts;
    this.#settings = settings;
  }

  /** Rejects when there is no answer and nothing of one went to the client. */
  run(carry: Carrier, load: () => Omit<Cargo, "recipient">): Promise<Delivered> {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      try {
        this.#carriage = carry({ ...load(), recipient: this });
      } catch (error) {
        // Nothing was sent: the credential goes back, and the fault is for the log.
        this.#charge("nothing");
        this.#finish({ kind: "abandoned", tokens: null }, null, null);
        throw error;
      }
      this.#parts.ctx.onGone((reason) => this.#leave(reason));
    });
  }

  // --- the provider's side

  connected(request: ClientRequest): void {
    if (this.#phase !== "connecting") return;
    this.#request = request;
    this.#phase = "sending";
    this.#watch();
    request.once("finish", () => this.#sent());
  }

  #sent(): void {
    if (this.#phase !== "sending") return;
    this.#phase = "waiting";
    this.#timer?.cancel();
    const { clock } = this.#parts.ctx.services;
    this.#timer = clock.timer(this.#settings.requestTimeoutMs, () =>
      this.#fail(new GuardError("upstream_timeout", "the provider did not answer in time"), "estimate"),
    );
  }

  answered(answer: IncomingMessage): void {
    if (this.#phase === "over") {
      answer.destroy();
      return;
    }
    this.#answer = answer;
    this.#phase = "answering";
    this.#timer?.cancel();
    this.#watch();
    const status = answer.statusCode ?? 0;
    if (this.#isRefusal() || (this.#parts.isHeld && status !== 304)) {
      this.#hold(answer);
      return;
    }
    try {
      this.#stream(answer, status);
    } catch (error) {
      // A host's middleware may have its own idea of a response; here a throw would end the process.
      this.#fail(new GuardError("internal", "the provider's answer could not be handed on", { cause: error }), "estimate");
    }
  }

  failed(error: Error): void {
    if (this.#answer && this.#isRefusal()) {
      this.#refused(this.#answer, null);
      return;
    }
    const stage: Stage = this.#phase === "connecting" ? "unsent" : this.#phase === "answering" ? "answered" : "sent";
    this.#fail(laneFailure(error, stage), stage === "answered" ? "estimate" : "nothing");
  }

  // --- the answer

  #isRefusal(): boolean {
    const status = this.#answer?.statusCode ?? 0;
    return this.#answer !== undefined && (status < 200 || status >= 300) && status !== 304;
  }

  #hold(answer: IncomingMessage): void {
    const chunks: Buffer[] = [];
    let size = 0;
    answer.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      size += chunk.length;
      if (size <= MOST_HELD_BYTES) return;
      if (this.#isRefusal()) this.#refused(answer, null);
      else this.#fail(protocolError("it is too large for what was asked"), "estimate");
    });
    answer.once("end", () => {
      if (this.#phase === "over") return;
      const bytes = Buffer.concat(chunks, size);
      if (this.#isRefusal()) this.#refused(answer, bytes);
      else this.#whole(answer, bytes);
    });
  }

  #whole(answer: IncomingMessage, bytes: Buffer): void {
    const fault = codingFault(answer);
    if (fault) {
      this.#fail(fault, "estimate");
      return;
    }
    const status = answer.statusCode ?? 0;
    this.#served(status);
    this.#resolve?.({ answer: { status, headers: responseHeaders(answer.headers), body: bytes }, isGood: true });
  }

  /** The status has the word, so that no request can make its own error look like a failure of the provider. `bytes` null = not all of the body. */
  #refused(answer: IncomingMessage, bytes: Buffer | null): void {
    if (this.#phase === "over") return;
    const { ctx, lease } = this.#parts;
    const refused: Refused = refusedAnswer(lease.credential, answer.statusCode ?? 0, answer.headers, bytes, ctx.services.clock.now());
    this.#charge("nothing");
    this.#finish(refused.outcome, answer.statusCode ?? 0, refused.error);
    if (refused.answer) this.#resolve?.({ answer: refused.answer, isGood: false });
    else this.#reject?.(refused.error);
  }

  #stream(answer: IncomingMessage, status: number): void {
    const { ctx, res, req, operation } = this.#parts;
    const fault = codingFault(answer);
    if (fault) {
      this.#fail(fault, "estimate");
      return;
    }
    if (res.destroyed || res.headersSent) {
      this.#leave(null);
      return;
    }
    const headers = returnedHeaders(answer.headers);
    headers.push("x-request-id", ctx.requestId);
    if (ctx.replyHeaders) headers.push(...ctx.replyHeaders);
    // An answer that came before the whole request was read: the rest of it would be the next request.
    if (!req.complete) headers.push("connection", "close");
    ctx.firstByteAt = ctx.services.clock.monotonic();
    writeHead(res, status, headers);
    const events = isEventStream(answer.headers);
    if (events) res.flushHeaders();
    if (operation.runsModel && (events || /\bjson\b/i.test(answer.headers["content-type"] ?? ""))) {
      const tail = (this.#tail = usageTail(events));
      answer.on("data", (chunk: Buffer) => tail.push(chunk));
    }
    answer.pipe(res);
    answer.once("end", () => {
      if (this.#served(status)) this.#resolve?.(null);
    });
  }

  /** False = it was over already. */
  #served(status: number): boolean {
    if (this.#phase === "over") return false;
    const tokens = this.#charge("estimate");
    this.#finish({ kind: "served", status, tokens }, status, null);
    return true;
  }

  // --- untimely ends

  /** `charged` is what it comes to when the answer does not say. */
  #fail(error: GuardError, charged: Ending): void {
    if (this.#phase === "over") return;
    const tokens = this.#charge(charged);
    this.#finish({ kind: "failed", error, tokens: charged === "nothing" ? null : tokens }, this.#answer?.statusCode ?? null, error);
    this.#end(error);
  }

  /** The client left, or must go for a reason: the provider's connection is closed at once. */
  #leave(reason: GuardError | null): void {
    if (this.#phase === "over") return;
    // Until it has all of the request, a provider has nothing to bill.
    const isSent = this.#phase === "waiting" || (this.#phase === "answering" && !this.#isRefusal());
    const tokens = this.#charge(isSent ? "estimate" : "nothing");
    this.#finish({ kind: "abandoned", tokens: isSent ? tokens : null }, this.#answer?.statusCode ?? null, null);
    this.#end(reason);
  }

  /** Tells the client, if it is there (null = it left) and can still be told. Half an answer is cut off, so that nobody takes it for a whole one. */
  #end(error: GuardError | null): void {
    const { ctx, res } = this.#parts;
    if (!res.headersSent) {
      this.#reject?.(error ?? new GuardError("upstream_unreachable", "the client left"));
      return;
    }
    if (error) ctx.failure = error;
    res.destroy();
    this.#resolve?.(null);
  }

  // --- silence

  #watch(): void {
    this.#moved = -1;
    this.#silent = 0;
    this.#timer = this.#parts.ctx.services.clock.timer(this.#settings.idleTimeoutMs / LOOKS, () => this.#look());
  }

  /** Counters of the sockets instead of a timer that every chunk touches. */
  #look(): void {
    const client = this.#parts.req.socket;
    const provider = this.#request?.socket;
    const moved = client.bytesRead + client.bytesWritten + (provider ? provider.bytesRead + provider.bytesWritten : 0);
    this.#silent = moved === this.#moved ? this.#silent + 1 : 0;
    this.#moved = moved;
    if (this.#silent < LOOKS) this.#timer?.refresh();
    else this.#stalled();
  }

  /** Whoever is waited for is at fault. */
  #stalled(): void {
    const { req, res } = this.#parts;
    if (this.#phase === "sending" && !req.complete && !this.#request?.writableNeedDrain) {
      this.#leave(new GuardError("body_invalid", "the body stopped arriving before it was complete", { status: 408 }));
    } else if (this.#phase === "answering" && res.writableNeedDrain) this.#leave(null);
    else
      this.#fail(
        new GuardError("upstream_timeout", "the provider stopped in the middle of the transfer"),
        this.#phase === "sending" ? "nothing" : "estimate",
      );
  }

  // --- common

  /** Returns the tokens that it came to. */
  #charge(ending: Ending): number {
    const { ctx, lease, operation, model } = this.#parts;
    const { charged, tokens } = chargeFor(ctx, lease, operation, model, ending, ending === "nothing" ? null : (this.#tail?.found() ?? null));
    ctx.charged = charged;
    return tokens;
  }

  #finish(outcome: AttemptOutcome, status: number | null, error: GuardError | null): void {
    const { ctx, lease, seat } = this.#parts;
    this.#phase = "over";
    this.#timer?.cancel();
    ctx.onGone(undefined);
    seat.leave();
    lease.release(outcome);
    ctx.services.recorder.attempt(ctx, lease, status, error?.code ?? null);
    this.#carriage?.stop();
  }
}

function codingFault({ headers }: IncomingMessage): GuardError | null {
  const coding = headers["content-encoding"];
  return coding === undefined || coding === "identity" ? null : protocolError("it is compressed although that was not accepted");
}
