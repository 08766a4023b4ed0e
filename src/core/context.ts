import type { Answer } from "./answer.ts";
import type { Call } from "./call.ts";
import type { Choice, Fault, Lease } from "./credential.ts";
import type { ErrorCode, GuardError } from "./errors.ts";
import type { Events } from "./events.ts";
import type { LedgerRow, TriedAttempt } from "./ledger.ts";
import type { Logger } from "./logger.ts";
import type { Scopes } from "./scope.ts";
import type { Amounts, Charge } from "./store.ts";
import { isPromise, type Clock, type MaybePromise } from "./time.ts";
import type { Provenance, Usage } from "./usage.ts";

/** Who asks. */
export interface Principal {
  /** `master` may name any scope; `key` is a configured client key; `host` was authenticated by the app in front of us. */
  readonly kind: "master" | "key" | "host";
  readonly name: string;
  readonly scopes: Scopes;
  /** Model patterns it may use; null = all. */
  readonly models: readonly string[] | null;
  readonly mayAssertScopes: boolean;
}

/** What one `budgets` step holds for this request. */
export interface Reservation {
  readonly opId: string;
  readonly charges: readonly Charge[];
  /** Limit names and the scope values that they count, by charge. */
  readonly limits: readonly { readonly name: string; readonly scope: string }[];
  readonly held: Amounts;
  /** The input's part of it: what stays charged when no answer came but the provider may have read the request. */
  readonly input: Amounts;
  /** For a model call, where what was used is known or nothing was; else the host may or may not report it. */
  readonly forCall: boolean;
  /** Calls of its handler, in this process, are charged in its place: its estimate does not stand. Absent = there were none. */
  readonly isServed?: boolean;
}

/**
 * What the request is charged in the end: `nothing` reached a provider · `usage` as metered · `input` the provider may have billed the input
 * although no answer came · `estimate` as held, because nobody said otherwise.
 */
export type Charged =
  | { readonly kind: "nothing" }
  | {
      readonly kind: "usage";
      /** Null = only the cost was told: what was held of tokens stands. */
      readonly usage: Usage | null;
      readonly provenance: "exact" | "counted";
      readonly rawNanoUsd: number | null;
      readonly billedNanoUsd: number | null;
      /** Of the prices that say so; null = there was none, or the cost was said without one. */
      readonly priceVersion: string | null;
    }
  | { readonly kind: "input" }
  | { readonly kind: "estimate" };

/** How the exchange with the client ended. */
export interface Outcome {
  readonly status: number;
  readonly code: ErrorCode | "client_closed" | null;
  readonly error: GuardError | null;
}

/** Nano-USD, before and after markup, and what was applied: the same text for the same prices. */
export interface PricedCost {
  readonly rawNanoUsd: number;
  readonly billedNanoUsd: number;
  readonly priceVersion: string;
}

export interface Prices {
  /** Prices a usage; null = the model has no price. */
  cost(model: string, credential: string | null, usage: Usage): PricedCost | null;
}

/** Itself it is the prices of now, for no org in particular. */
export interface Pricer extends Prices {
  /** What a request is held and settled by: the prices for its org, as they were when it first asked. */
  of(ctx: Context): Prices;
}

/** Writes what happened: ledger rows, metrics and events. */
export interface Recorder {
  /** Before an attempt is sent: resolves when the intent is committed. */
  intent(ctx: Context, lease: Lease): MaybePromise<void>;
  /** An attempt ended. `status` null = no answer. */
  attempt(ctx: Context, lease: Lease, status: number | null, code: ErrorCode | null): void;
  /** The request ended and was settled. */
  close(ctx: Context): void;
}

/** What a guard gives to each of its requests. */
export interface Services {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly events: Events;
  readonly pricer: Pricer;
  readonly recorder: Recorder;
}

/** Where the request's body comes from; nothing is read before somebody asks. */
export interface CallReader {
  call(ctx: Context): MaybePromise<Call>;
  /** The whole body, asked for once. Absent = the request has none that anybody may read. */
  body?(): MaybePromise<Buffer>;
  /** What follows the `?` of the path, without it. Absent = nothing does. */
  query?(): string;
}

const NO_BYTES = Buffer.alloc(0);

/** What `fail2ban` knows of a client, for the step that finds out who it is. */
export interface ClientGate {
  /** Throws `banned` when this client may not come in now. */
  admit(principal: Principal): void;
  /** The refusal of a key that is wrong: `banned` instead when its address is. */
  refusal(error: GuardError): GuardError;
}

/** Finds a client's network address in what the edge gave as `host`. Warns through the logger when the host's settings let clients choose it. */
export type AddressReader = (host: unknown, logger: Logger) => string | null;

export type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** Work to do once the response is over. It is called with the context, so one function can serve all requests. */
export type AfterHook = (ctx: Context) => MaybePromise<void>;

export interface ContextInit {
  readonly id: string;
  readonly requestId: string;
  readonly method: string;
  /** Path below the mount, without the query. */
  readonly path: string;
  /** Lower-case names. */
  readonly headers: Headers;
  readonly services: Services;
  readonly reader: CallReader;
  /** Whether the path is one of a dialect's, so that there is a call to read. */
  readonly carriesCall: boolean;
  /** The client's network address; null = it has none (in-process). A function is asked when somebody wants to know, and once. */
  readonly address: AddressReader | string | null;
  /** Whatever host callbacks should get: the Express request, or the `fetch` init. */
  readonly host: unknown;
}

/**
 * One request on its way through the steps. Each slot has one writer. It knows neither `req` nor `res`: an edge opens it, delivers the Answer
 * and closes it, so the same steps serve a socket and an in-process call.
 */
export class Context {
  /** Unique, ours; `requestId` is what the client sees and may have chosen. */
  readonly id: string;
  readonly requestId: string;
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
  readonly host: unknown;
  /** Written by the edge: a step that stands before the mount may not know yet. */
  carriesCall: boolean;
  /** Monotonic ms. */
  readonly startedAt: number;

  /** Of the guard that opened the request; a proxy of another guard puts its own, because who sends it upstream records it. */
  services: Services;
  /** Written by the edge. */
  route = "";
  /** Written by `fail2ban`. */
  gate: ClientGate | undefined;
  /** Written by `auth`. */
  principal: Principal | undefined;
  /** Written by `scopes`. */
  scopes: Scopes | undefined;
  /** The request whose handler made this call, in this process: what both touch is charged once. Written by the edge. */
  outer: Context | undefined;
  /** The caller's label for it. Written by the edge. */
  tag: string | null = null;
  /** Sees the answer of a later step before it is delivered; what it returns goes to the client. Written by `idempotency`. */
  recording: ((answer: Answer) => Answer) | undefined;
  /** The request whose answer this one was given again: it cost nothing. Written by `idempotency`. */
  replayOf: string | undefined;
  /** Where a call with the caller's own key goes, and the key: no two of them share an answer. Only ever hashed. */
  account: string | undefined;
  /** Written by `budgets`; several steps may each add one. */
  reservations: Reservation[] | undefined;
  /** The output cap in tokens that `budgets` held and the proxy must send; undefined = leave the client's. */
  outputCap: number | undefined;
  /** Response headers that steps want on any answer: alternating names and values. */
  replyHeaders: string[] | undefined;
  /** Who may serve the call, as it was when its budgets were costed: nobody else may. Opaque but to the guard that it is of. Written by `budgets`. */
  offer: object | undefined;
  /** Written by `credentials`. */
  choice: Choice | undefined;
  /** Written by `passthrough`: the model that a request names which is no call; null = none was seen. */
  model: string | null = null;
  /** Written by `proxy`, per attempt. */
  lease: Lease | undefined;
  attempts = 0;
  /** Written by the recorder: attempts that failed; undefined = none did. */
  failedAttempts: TriedAttempt[] | undefined;
  /** Written by `proxy`: whose fault the last refusal of a provider was; undefined = the last attempt was not refused. */
  fault: Fault | undefined;
  firstByteAt: number | undefined;
  /** Written by the meter: `proxy`, or the host's own handler. */
  charged: Charged | undefined;
  /** Written by the recorder: the row, begun with the first attempt and completed at the end. */
  row: LedgerRow | undefined;
  /** How the charge came about, written by `budgets` when it settles. */
  provenance: Provenance = "void";
  /** The refusal or failure that the client was told. Written by the edge. */
  failure: GuardError | undefined;
  /** Written by the edge when it closes. */
  outcome: Outcome | undefined;

  /** Where it stands among its guard's open requests. */
  place = -1;

  #address: AddressReader | string | null;
  readonly #reader: CallReader;
  #call: MaybePromise<Call> | undefined;
  #body: MaybePromise<Buffer> | undefined;
  #query: URLSearchParams | undefined;
  #after: AfterHook[] | undefined;
  #corrections: AfterHook[] | undefined;
  #closed = false;
  #gone = false;
  #onGone: ((reason: GuardError | null) => void) | undefined;
  #reason: GuardError | null = null;
  #controller: AbortController | undefined;

  constructor(init: ContextInit) {
    this.id = init.id;
    this.requestId = init.requestId;
    this.method = init.method;
    this.path = init.path;
    this.headers = init.headers;
    this.services = init.services;
    this.host = init.host;
    this.#address = init.address;
    this.carriesCall = init.carriesCall;
    this.startedAt = init.services.clock.monotonic();
    this.#reader = init.reader;
  }

  /** The client's network address; null = it has none, or nobody knows it. */
  get address(): string | null {
    if (typeof this.#address === "function") this.#address = this.#address(this.host, this.services.logger);
    return this.#address;
  }

  /** The parsed request. Read once, when first asked for. */
  call(): MaybePromise<Call> {
    this.#call ??= this.#reader.call(this);
    return this.#call;
  }

  /** The parsed request if somebody already asked for it and it has arrived. */
  get knownCall(): Call | undefined {
    return this.#call === undefined || isPromise(this.#call) ? undefined : this.#call;
  }

  /** The request's bytes, at most `server.bodyLimit` of them. Read once, when first asked for. Throws `body_too_large` and what else is wrong with it. */
  body(): MaybePromise<Buffer> {
    this.#body ??= this.#reader.body?.() ?? NO_BYTES;
    return this.#body;
  }

  /** What follows the `?` of the path; a copy of its own for this request. */
  get query(): URLSearchParams {
    this.#query ??= new URLSearchParams(this.#reader.query?.() ?? "");
    return this.#query;
  }

  /** Replaces the pending promise by its value, so that later steps do not wait. */
  resolveCall(call: Call): void {
    this.#call = call;
  }

  /** Registers work for after the response: last in, first out. */
  after(hook: AfterHook): void {
    // A step that finishes behind a client that left must still clean up.
    if (this.#closed) this.#detached(hook);
    else (this.#after ??= []).push(hook);
  }

  /** Adds a header to whatever is answered. */
  reply(name: string, value: string): void {
    (this.replyHeaders ??= []).push(name, value);
  }

  /** Whether the client has left. */
  get gone(): boolean {
    return this.#gone;
  }

  /** The one listener for the request's untimely end (the proxy's); called at once if it is over already. The reason is null when the client left. */
  onGone(fn: ((reason: GuardError | null) => void) | undefined): void {
    this.#onGone = fn;
    if (fn && this.#gone) fn(this.#reason);
  }

  /** Aborted when the client leaves. Made on first use: the gateway's own path uses {@link onGone}. */
  get signal(): AbortSignal {
    if (!this.#controller) {
      this.#controller = new AbortController();
      if (this.#gone) this.#controller.abort();
    }
    return this.#controller.signal;
  }

  /** Called by the edge when the client leaves before the end, or by the guard with the reason why it must go. */
  leave(reason: GuardError | null = null): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#reason = reason;
    this.#onGone?.(reason);
    this.#controller?.abort();
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Usage became known after the end: the steps that settle by it run once more. Never throws. */
  correct(): void {
    for (const hook of this.#corrections ?? []) this.#detached(hook);
  }

  /** Registers work for usage that is reported after the end. */
  onCorrection(hook: AfterHook): void {
    (this.#corrections ??= []).push(hook);
  }

  /** Runs the after-work once. A hook that fails is logged; the others still run. */
  close(outcome: Outcome): MaybePromise<void> {
    if (this.#closed) return undefined;
    this.#closed = true;
    this.outcome = outcome;
    this.#onGone = undefined;
    const hooks = this.#after;
    if (!hooks) return undefined;
    for (let i = hooks.length - 1; i >= 0; i -= 1) {
      const pending = this.#run(hooks[i] as AfterHook);
      if (pending !== undefined) return this.#finish(hooks, i - 1, pending);
    }
    return undefined;
  }

  #run(hook: AfterHook): Promise<void> | undefined {
    try {
      const result = hook(this);
      return result !== undefined && isPromise(result) ? result : undefined;
    } catch (error) {
      // One broken hook must not keep the others from settling.
      this.services.logger.error({ err: error, requestId: this.requestId }, "after-work failed");
      return undefined;
    }
  }

  #detached(hook: AfterHook): void {
    this.#run(hook)?.catch((error: unknown) => this.services.logger.error({ err: error, requestId: this.requestId }, "after-work failed"));
  }

  async #finish(hooks: readonly AfterHook[], from: number, pending: Promise<void>): Promise<void> {
    let current: Promise<void> | undefined = pending;
    for (let i = from; ; i -= 1) {
      try {
        await current;
      } catch (error) {
        this.services.logger.error({ err: error, requestId: this.requestId }, "after-work failed");
      }
      if (i < 0) return;
      current = this.#run(hooks[i] as AfterHook);
    }
  }
}
