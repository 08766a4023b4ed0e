import type { Answer, Sink, Source } from "./core/answer.ts";
import type { Context } from "./core/context.ts";
import type { Lease } from "./core/credential.ts";
import { GuardError } from "./core/errors.ts";
import type { Timer } from "./core/time.ts";
import { chargeFor, type Ending } from "./middleware/passthrough/charge.ts";
import type { LaneOperation } from "./middleware/passthrough/operations.ts";
import { usageTail, type UsageTail } from "./middleware/passthrough/usage-tail.ts";
import type { Exchange, ResponseHandler, ResponseHeaders } from "./upstream/transport.ts";

export interface UnreadSettings {
  /** Until the answer's head, ms. */
  readonly requestTimeoutMs: number;
  /** Between two chunks, and how long its reader may stop reading, ms. */
  readonly idleTimeoutMs: number;
}

/** Sends the request; `headers` are filled by the time the answer's head is told. */
export type Send = (handler: ResponseHandler) => { readonly exchange: Exchange; readonly headers: string[] };

/** An answer that is passed on without being understood: its bytes are handed over as they come, and only its end is searched for usage. */
export class UnreadAnswer implements ResponseHandler, Source {
  readonly #settings: UnreadSettings;
  readonly #ctx: Context;
  readonly #lease: Lease;
  readonly #operation: LaneOperation;
  readonly #result = Promise.withResolvers<Answer>();
  #tail: UsageTail | undefined;
  #exchange: Exchange | undefined;
  #headers: string[] = [];
  #timer: Timer | undefined;
  #status = 0;
  /** What came before somebody listened. */
  #early: Buffer[] = [];
  #sink: Sink | undefined;
  #paused = false;
  /** How it ended, while nobody listens yet. */
  #ended: GuardError | true | undefined;

  constructor(settings: UnreadSettings, ctx: Context, lease: Lease, operation: LaneOperation) {
    this.#settings = settings;
    this.#ctx = ctx;
    this.#lease = lease;
    this.#operation = operation;
  }

  send(send: Send): Promise<Answer> {
    this.#timer = this.#ctx.services.clock.timer(this.#settings.requestTimeoutMs, () => this.#timeout());
    const { exchange, headers } = send(this);
    this.#exchange = exchange;
    this.#headers = headers;
    this.#ctx.onGone((reason) => this.cancel(reason));
    return this.#result.promise;
  }

  head(status: number, headers: ResponseHeaders): void {
    const { clock } = this.#ctx.services;
    this.#status = status;
    this.#tail = usageTail(String(headers["content-type"] ?? "").includes("text/event-stream"));
    this.#timer?.cancel();
    this.#timer = clock.timer(this.#settings.idleTimeoutMs, () => this.#timeout());
    this.#ctx.firstByteAt = clock.monotonic();
    this.#result.resolve({ status, headers: this.#headers, body: this });
  }

  data(chunk: Buffer): boolean {
    this.#tail?.push(chunk);
    this.#timer?.refresh();
    if (!this.#sink) this.#early.push(chunk);
    else if (!this.#sink.chunk(chunk)) this.#paused = true;
    return !this.#paused;
  }

  end(): void {
    this.#over(true, "estimate");
  }

  fail(error: GuardError): void {
    // Before the answer has begun a break is not billed; after a timeout nobody knows.
    this.#over(error, this.#status === 0 && error.code !== "upstream_timeout" ? "nothing" : "estimate");
  }

  start(sink: Sink): void {
    this.#sink = sink;
    for (const chunk of this.#early.splice(0)) if (!sink.chunk(chunk)) this.#paused = true;
    this.#tell();
  }

  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#timer?.refresh();
    this.#exchange?.resume();
  }

  cancel(reason: GuardError | null = null): void {
    if (this.#ended !== undefined) return;
    this.#exchange?.abort();
    const isUntold = reason === null && this.#status !== 0;
    if (isUntold) this.#sink = undefined;
    this.#over(reason ?? new GuardError("upstream_unreachable", "the caller left"), "estimate");
  }

  #timeout(): void {
    if (this.#ended !== undefined) return;
    this.#exchange?.abort();
    const what = this.#paused ? "nobody read the answer in time" : "the provider did not answer in time";
    this.#over(new GuardError("upstream_timeout", what), "estimate");
  }

  #over(ended: GuardError | true, ending: Ending): void {
    if (this.#ended !== undefined) return;
    this.#ended = ended;
    this.#timer?.cancel();
    const { recorder } = this.#ctx.services;
    this.#ctx.onGone(undefined);
    if (this.#ctx.attempts > 0) {
      // Its head said that it was refused, whatever became of the rest.
      const worth = this.#status < 400 ? ending : "nothing";
      const found = worth === "nothing" ? null : (this.#tail?.found() ?? null);
      this.#ctx.charged = chargeFor(this.#ctx, this.#lease, this.#operation, null, worth, found).charged;
      recorder.attempt(this.#ctx, this.#lease, this.#status || null, ended === true ? null : ended.code);
    }
    if (this.#status === 0 && ended !== true) this.#result.reject(ended);
    this.#tell();
  }

  #tell(): void {
    if (!this.#sink || this.#ended === undefined) return;
    if (this.#ended === true) this.#sink.end();
    else this.#sink.error(this.#ended);
    this.#sink = undefined;
  }
}
