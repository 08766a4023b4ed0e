/**
 * A WebSocket between a client and a provider: bytes both ways, as they are, until either ends. Only the handshake is ours, because a provider that refuses
 * it answers in plain HTTP, with headers and a body that are not all for the client.
 */
import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Answer } from "../../core/answer.ts";
import type { AttemptOutcome, Lease } from "../../core/credential.ts";
import { GuardError } from "../../core/errors.ts";
import type { Timer } from "../../core/time.ts";
import type { Upgrading } from "../../http/upgrade.ts";
import { protocolError } from "../../upstream/failure.ts";
import type { Seat } from "./agents.ts";
import { laneFailure } from "./failure.ts";
import { switchedHeaders, upgradeHeaders } from "./headers.ts";
import { refusedAnswer } from "./refused.ts";

/** From the request to the provider's word, connecting included. */
const HANDSHAKE_MS = 20_000;
const KEEP_ALIVE_MS = 30_000;
const MOST_REFUSAL_BYTES = 64 * 1024;

export interface TunnelParts {
  readonly edge: Upgrading;
  /** What the client sent behind its request. */
  readonly early: Buffer;
  readonly lease: Lease;
  readonly seat: Seat;
  /** Those that the client offers, without keys. */
  readonly protocols: readonly string[];
}

export class Tunnel {
  readonly #parts: TunnelParts;
  #request: ClientRequest | undefined;
  #provider: Socket | undefined;
  #timer: Timer | undefined;
  #isOver = false;
  #resolve: ((answer: Answer | null) => void) | undefined;
  #reject: ((error: GuardError) => void) | undefined;

  constructor(parts: TunnelParts) {
    this.#parts = parts;
  }

  /** Resolves once both sides are connected (null), or with the provider's refusal. The path is below the origin, with the query. */
  open(path: () => string): Promise<Answer | null> {
    return new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
      try {
        this.#ask(path());
      } catch (error) {
        // Nothing was sent: the credential goes back, and the fault is for the log.
        this.#abandon();
        throw error;
      }
      this.#parts.edge.ctx.onGone((reason) => this.#leave(reason));
    });
  }

  #ask(path: string): void {
    const { edge, lease, seat, protocols } = this.#parts;
    const { ctx } = edge;
    this.#timer = ctx.services.clock.timer(HANDSHAKE_MS, () =>
      this.#fail(new GuardError("upstream_timeout", "the provider did not answer the request for a WebSocket in time")),
    );
    const send = seat.isSecure ? httpsRequest : httpRequest;
    const headers = upgradeHeaders(ctx.headers, lease.credential, protocols);
    const request = (this.#request = send(new URL(lease.credential.origin), { agent: seat.agent, path, headers }));
    request.on("error", (error) => this.#fail(laneFailure(error, request.socket ? "sent" : "unsent")));
    request.once("response", (answer) => this.#refused(answer));
    request.once("upgrade", (answer, provider, first) => this.#connect(answer, provider, first));
    request.end();
  }

  /** The provider answers in plain HTTP. */
  #refused(answer: IncomingMessage): void {
    const { ctx } = this.#parts.edge;
    const status = answer.statusCode ?? 0;
    if (status < 300) {
      this.#fail(protocolError("it did not change to the WebSocket protocol"));
      return;
    }
    const chunks: Buffer[] = [];
    let size = 0;
    answer.on("data", (chunk: Buffer) => {
      chunks.push(chunk);
      size += chunk.length;
      if (size > MOST_REFUSAL_BYTES) this.#fail(protocolError("its refusal is too large"));
    });
    answer.once("close", () => {
      if (this.#isOver) return;
      if (!answer.complete) {
        this.#fail(laneFailure(new Error("aborted"), "answered"));
        return;
      }
      const { credential } = this.#parts.lease;
      const refused = refusedAnswer(credential, status, answer.headers, Buffer.concat(chunks, size), ctx.services.clock.now());
      ctx.charged = { kind: "nothing" };
      this.#finish(refused.outcome, status, refused.error);
      if (refused.answer) this.#resolve?.(refused.answer);
      else this.#reject?.(refused.error);
    });
  }

  #connect(answer: IncomingMessage, provider: Duplex, first: Buffer): void {
    const { edge, early } = this.#parts;
    const { client, ctx } = edge;
    const socket = (this.#provider = provider as Socket);
    socket.on("error", () => socket.destroy());
    if (this.#isOver || client.destroyed) {
      socket.destroy();
      return;
    }
    this.#timer?.cancel();
    // What a session comes to is in messages that we do not read: the held cost stands.
    ctx.charged = { kind: "estimate" };
    ctx.firstByteAt = ctx.services.clock.monotonic();
    edge.accept(switchedHeaders(answer.headers));
    for (const end of [client, socket]) end.setTimeout(0).setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_MS);
    if (first.length > 0) client.write(first);
    if (early.length > 0) socket.write(early);
    client.pipe(socket);
    socket.pipe(client);
    // A pipe passes on an end, but not the loss of a connection.
    client.once("close", () => this.#close());
    socket.once("close", () => this.#close());
    this.#resolve?.(null);
  }

  #close(): void {
    if (this.#isOver) return;
    this.#finish({ kind: "served", status: 101, tokens: 0 }, 101, null);
    this.#parts.edge.client.destroySoon();
    this.#provider?.destroySoon();
  }

  #fail(error: GuardError): void {
    if (this.#isOver) return;
    this.#parts.edge.ctx.charged = { kind: "nothing" };
    this.#finish({ kind: "failed", error, tokens: null }, null, error);
    this.#request?.destroy();
    this.#reject?.(error);
  }

  /** The client left, or must go. */
  #leave(reason: GuardError | null): void {
    if (this.#isOver) return;
    if (this.#provider) {
      this.#close();
      return;
    }
    this.#abandon();
    this.#request?.destroy();
    this.#reject?.(reason ?? new GuardError("upstream_unreachable", "the client left"));
  }

  #abandon(): void {
    this.#parts.edge.ctx.charged = { kind: "nothing" };
    this.#finish({ kind: "abandoned", tokens: null }, null, null);
  }

  #finish(outcome: AttemptOutcome, status: number | null, error: GuardError | null): void {
    const { edge, lease, seat } = this.#parts;
    this.#isOver = true;
    this.#timer?.cancel();
    edge.ctx.onGone(undefined);
    seat.leave();
    lease.release(outcome);
    edge.ctx.services.recorder.attempt(edge.ctx, lease, status, error?.code ?? null);
  }
}
