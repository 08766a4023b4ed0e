import type { LookupFunction, Socket } from "node:net";
import { Pool, ProxyAgent, type Dispatcher } from "undici";
import { GuardError } from "../core/errors.ts";
import { systemClock, type Clock } from "../core/time.ts";
import { connector } from "./connector.ts";
import { checkProxyUrl, guardedLookup, refusedHost } from "./egress.ts";
import { failure, protocolError } from "./failure.ts";

/**
 * The inference lane's hot path: one pool of kept-alive HTTP/1.1 connections per origin, driven at undici's dispatch level, one object a request.
 *
 * A kept-alive connection may be closed by the upstream at the moment it is used again. undici checks a socket for a pending close before it writes;
 * what still slips through fails with `sent = true`, because the request may have been read. Nothing is ever resent here: whoever retries decides.
 */
export interface OutgoingRequest {
  /** Scheme, host and port. */
  readonly origin: string;
  /** With a leading slash. */
  readonly path: string;
  readonly method: string;
  /** Alternating names and values, or a record. No host, content-length or transfer-encoding: they follow from the origin and the body. */
  readonly headers: string[] | Record<string, string>;
  readonly body: Buffer | null;
  /** Whether a name may resolve to a private address. */
  readonly allowPrivate: boolean;
  /** `http://` or `https://`, perhaps with user and password. */
  readonly proxyUrl: string | null;
}

export type ResponseHeaders = Readonly<Record<string, string | string[] | undefined>>;

/** Receives one answer. Exactly one of `end` and `fail` is called, once, never before `send` has returned and never after `abort()`. */
export interface ResponseHandler {
  /** The final answer's head, once. Interim (1xx) answers are not reported; redirects fail. */
  head(status: number, headers: ResponseHeaders): void;
  /** A piece of the body, yours to keep. False = no more until `resume()`; what was already read may still come. */
  data(chunk: Buffer): boolean;
  end(): void;
  /** `sent` = the request had been handed to a connection, so the upstream may have seen and billed it. */
  fail(error: GuardError, sent: boolean): void;
}

export interface Exchange {
  /** Goes on after a `data` that returned false. */
  resume(): void;
  /** Gives the exchange up and closes its connection at once, paused or not. Nothing is called afterwards. */
  abort(): void;
}

export interface Transport {
  send(request: OutgoingRequest, handler: ResponseHandler): Exchange;
  /** Closes every connection; exchanges that are still open fail. Let them finish first. */
  close(): Promise<void>;
}

export interface TransportOptions {
  /** For name lookup, TCP and TLS together. */
  readonly connectTimeoutMs: number;
  /** Connections per origin; more exchanges wait. Default 256. */
  readonly connections?: number;
  /** Exchanges that may wait per origin before the rest is refused as `overloaded`. Default 2048. */
  readonly maxWaiting?: number;
  /** Origins with a pool at one time; the idle one unused for longest makes room. Default 256. */
  readonly maxOrigins?: number;
  /** How long an idle connection is kept when the upstream gives no hint. Default 30 s. */
  readonly keepAliveMs?: number;
  readonly clock?: Clock;
  /** Replaces `dns.lookup`; its answers are still checked. */
  readonly lookup?: LookupFunction;
  /** Certificates to trust instead of the system's. */
  readonly ca?: string | Buffer;
}

const MAX_HEADER_BYTES = 32 * 1024;
const MAX_HEADERS = 64;
const MAX_INTERIM = 16;
const WAIT_HINT_MS = 1_000;
/** Reasons for undici; they never reach a handler. Made once: a stack trace per aborted stream would be wasted. */
const GIVEN_UP = new Error("the exchange was given up");

/** True while a handler of ours runs inside undici's parser, which must not be entered again, not even for another connection. */
let parsing = false;

/** The pool of one origin, and the exchanges that use or wait for it. */
class Lane {
  readonly dispatcher: Dispatcher;
  readonly connecting = new Set<Socket>();
  readonly #waiting = new Set<Trip>();
  readonly #connections: number;
  readonly #maxWaiting: number;
  #open = 0;

  constructor(dispatcher: (connecting: Set<Socket>) => Dispatcher, connections: number, maxWaiting: number) {
    this.dispatcher = dispatcher(this.connecting);
    this.#connections = connections;
    this.#maxWaiting = maxWaiting;
  }

  get idle(): boolean {
    return this.#open === 0;
  }

  enter(trip: Trip): void {
    if (this.#open < this.#connections) {
      this.#open += 1;
      trip.dispatch(this.dispatcher);
    } else if (this.#waiting.size < this.#maxWaiting) {
      // Our own queue, not undici's: an exchange that is given up leaves it at once.
      this.#waiting.add(trip);
    } else {
      trip.refuse(new GuardError("overloaded", "Too many requests wait for this provider; try again soon.", { retryAfterMs: WAIT_HINT_MS }));
    }
  }

  cancel(trip: Trip): void {
    this.#waiting.delete(trip);
  }

  /** One exchange is through with undici; the next in line takes its place. */
  leave(): void {
    this.#open -= 1;
    for (const next of this.#waiting) {
      this.#waiting.delete(next);
      this.#open += 1;
      next.dispatch(this.dispatcher);
      return;
    }
  }

  async close(): Promise<void> {
    for (const trip of this.#waiting) trip.refuse(failure({ code: "UND_ERR_CLOSED" }, "unsent"));
    this.#waiting.clear();
    const closing = Array.from(this.connecting, (socket) => new Promise((resolve) => void socket.once("close", resolve).destroy()));
    await Promise.all([...closing, this.dispatcher.destroy()]);
  }
}

/** One exchange: undici's handler and the caller's handle in one object. */
class Trip implements Dispatcher.DispatchHandler, Exchange {
  readonly #request: OutgoingRequest;
  readonly #handler: ResponseHandler;
  readonly #lane: Lane | null;
  #controller: Dispatcher.DispatchController | null = null;
  /** Ended, failed or given up: the handler hears nothing more. */
  #over = false;
  /** undici is done with it (or never had it). */
  #left = true;
  #launching = true;
  #answered = false;
  #interim = 0;

  constructor(request: OutgoingRequest, handler: ResponseHandler, lane: Lane | null) {
    this.#request = request;
    this.#handler = handler;
    this.#lane = lane;
  }

  /** Failures that arise before this are told later, so that the caller has its Exchange by then. */
  launched(): void {
    this.#launching = false;
  }

  dispatch(dispatcher: Dispatcher): void {
    this.#left = false;
    dispatcher.dispatch(this.#request, this);
  }

  refuse(error: GuardError): void {
    this.#fail(error);
  }

  resume(): void {
    if (this.#over) return;
    if (parsing) queueMicrotask(() => this.resume());
    else this.#controller?.resume();
  }

  abort(): void {
    if (this.#over) return;
    this.#over = true;
    if (this.#controller) this.#controller.abort(GIVEN_UP);
    else this.#lane?.cancel(this);
  }

  onRequestStart(controller: Dispatcher.DispatchController): void {
    // Throwing before anything is written cancels this request and leaves the connection to the next one.
    if (this.#over) throw GIVEN_UP;
    this.#controller = controller;
  }

  onResponseStart(controller: Dispatcher.DispatchController, status: number, headers: ResponseHeaders): void {
    if (this.#over) return;
    if (status < 200) {
      this.#interim += 1;
      if (this.#interim > MAX_INTERIM) this.#reject("it sends interim answers only");
      return;
    }
    const { rawHeaders } = controller;
    const fault = faultOf(status, headers, Array.isArray(rawHeaders) ? rawHeaders.length : 0);
    if (fault !== null) return this.#reject(fault);
    this.#answered = true;
    parsing = true;
    try {
      this.#handler.head(status, headers);
    } catch (error) {
      throw bug(error);
    } finally {
      parsing = false;
    }
  }

  onResponseData(controller: Dispatcher.DispatchController, chunk: Buffer): void {
    // A parser that is resumed before more has arrived reports an empty piece; pausing on it again and again would starve the socket.
    if (this.#over || chunk.length === 0) return;
    parsing = true;
    try {
      if (!this.#handler.data(chunk) && !this.#over) controller.pause();
    } catch (error) {
      throw bug(error);
    } finally {
      parsing = false;
    }
  }

  onResponseEnd(): void {
    this.#leave();
    if (this.#over) return;
    this.#over = true;
    this.#handler.end();
  }

  onResponseError(_controller: Dispatcher.DispatchController | null, error: Error): void {
    this.#leave();
    if (this.#over) return;
    this.#fail(failure(error, this.#answered ? "answered" : this.#controller ? "sent" : "unsent"));
  }

  #reject(what: string): void {
    this.#fail(protocolError(what));
    this.#controller?.abort(GIVEN_UP);
  }

  #fail(error: GuardError): void {
    if (this.#launching) {
      queueMicrotask(() => {
        this.#launching = false;
        this.#fail(error);
      });
      return;
    }
    if (this.#over) return;
    this.#over = true;
    this.#handler.fail(error, this.#controller !== null);
  }

  #leave(): void {
    if (this.#left) return;
    this.#left = true;
    this.#lane?.leave();
  }
}

/** Why an answer's head cannot be used; null = it can. */
function faultOf(status: number, headers: ResponseHeaders, rawLength: number): string | null {
  if (rawLength > 2 * MAX_HEADERS) return "it has too many headers";
  if (status < 300) {
    const encoding = headers["content-encoding"];
    // A coding that nobody asked for would hide the usage from the meter, and the client did not ask for it either.
    return encoding === undefined || encoding === "identity" ? null : "it is compressed although that was not accepted";
  }
  return status < 400 ? `it is a redirect (${status}), which is never followed; check base_url` : null;
}

function bug(error: unknown): GuardError {
  return GuardError.is(error) ? error : new GuardError("internal", "The provider's answer could not be handled.", { cause: error });
}

/** The transport on undici's connection pools. One per guard. */
export function undiciTransport(options: TransportOptions): Transport {
  const {
    connectTimeoutMs,
    lookup,
    ca,
    clock = systemClock,
    connections = 256,
    maxWaiting = 2_048,
    maxOrigins = 256,
    keepAliveMs = 30_000,
  } = options;
  const limits = {
    pipelining: 1,
    headersTimeout: 0,
    bodyTimeout: 0,
    keepAliveTimeout: keepAliveMs,
    maxHeaderSize: MAX_HEADER_BYTES,
    allowH2: false,
  } as const;
  const guarded = new Map<string, Lane>();
  const trusting = new Map<string, Lane>();
  const proxied = new Map<string, Lane>();
  let closed = false;

  function direct(origin: string, allowPrivate: boolean, connecting: Set<Socket>): Dispatcher {
    const rule = { host: new URL(origin).hostname, allowPrivate, connectTimeoutMs, clock, connecting };
    const connect = connector({ ...rule, ...(lookup ? { lookup } : {}), ...(ca === undefined ? {} : { ca }) });
    return new Pool(origin, { ...limits, connections, connect });
  }

  /** The proxy's own address is guarded; the target's name is resolved by the proxy and cannot be. */
  function throughProxy(proxyUrl: string, allowPrivate: boolean): Dispatcher {
    const uri = checkProxyUrl(proxyUrl);
    const tls = ca === undefined ? {} : { ca };
    return new ProxyAgent({
      ...limits,
      connections,
      connectTimeout: connectTimeoutMs,
      uri: uri.href,
      proxyTls: { ...tls, lookup: guardedLookup({ host: uri.hostname, allowPrivate, ...(lookup ? { lookup } : {}) }) },
      ...(ca === undefined ? {} : { requestTls: { ca } }),
      // The tunnel's own answer is waited for no longer than a connection is.
      clientFactory: (origin, inherited) => new Pool(origin, Object.assign({ connections, headersTimeout: connectTimeoutMs }, inherited)),
      factory: (origin, inherited: Pool.Options) => new Pool(origin, { ...inherited, ...limits, connections }),
    });
  }

  function openLane(lanes: Map<string, Lane>, key: string, request: OutgoingRequest): Lane {
    const { origin, allowPrivate, proxyUrl } = request;
    const refused = refusedHost(new URL(origin).hostname);
    if (refused !== null) throw failure({ code: "EGRESS_REFUSED", message: refused }, "unsent");
    if (guarded.size + trusting.size + proxied.size >= maxOrigins) makeRoom();
    const dispatcher = (connecting: Set<Socket>): Dispatcher =>
      proxyUrl === null ? direct(origin, allowPrivate, connecting) : throughProxy(proxyUrl, allowPrivate);
    const lane = new Lane(dispatcher, connections, maxWaiting);
    lanes.set(key, lane);
    return lane;
  }

  function makeRoom(): void {
    for (const lanes of [guarded, trusting, proxied]) {
      for (const [key, lane] of lanes) {
        if (!lane.idle) continue;
        lanes.delete(key);
        void lane.close();
        return;
      }
    }
    throw new GuardError("overloaded", "Too many providers are in use at one time; try again soon.", { retryAfterMs: WAIT_HINT_MS });
  }

  function laneOf(request: OutgoingRequest): Lane {
    if (closed) throw failure({ code: "UND_ERR_CLOSED" }, "unsent");
    if (request.proxyUrl !== null) {
      const key = `${request.allowPrivate ? 1 : 0} ${request.proxyUrl} ${request.origin}`;
      return proxied.get(key) ?? openLane(proxied, key, request);
    }
    const lanes = request.allowPrivate ? trusting : guarded;
    return lanes.get(request.origin) ?? openLane(lanes, request.origin, request);
  }

  return {
    send(request, handler) {
      let lane: Lane;
      try {
        lane = laneOf(request);
      } catch (error) {
        const trip = new Trip(request, handler, null);
        const known = GuardError.is(error)
          ? error
          : new GuardError("internal", "The provider's address is unusable; check base_url and proxy_url.", { cause: error });
        trip.refuse(known);
        return trip;
      }
      const trip = new Trip(request, handler, lane);
      lane.enter(trip);
      trip.launched();
      return trip;
    },
    async close() {
      closed = true;
      const lanes = [...guarded.values(), ...trusting.values(), ...proxied.values()];
      await Promise.all(lanes.map((lane) => lane.close()));
    },
  };
}
