/** Small answers as a whole, within a time and a size. */
import { GuardError } from "../core/errors.ts";
import type { Clock } from "../core/time.ts";
import type { Exchange, OutgoingRequest, ResponseHandler, ResponseHeaders, Transport } from "./transport.ts";

export interface ProviderAnswer {
  readonly status: number;
  readonly headers: ResponseHeaders;
  readonly body: Buffer;
}

export interface CollectingLimits {
  readonly timeoutMs: number;
  /** A larger answer is refused. */
  readonly maxBytes: number;
}

export interface Collecting {
  readonly answer: Promise<ProviderAnswer>;
  /** Ends it: the answer rejects with this. */
  giveUp(error: GuardError): void;
}

/** Sends a small request and collects the whole answer. */
export const collected = (transport: Transport, clock: Clock, request: OutgoingRequest, limits: CollectingLimits): Collecting =>
  collecting((handler) => transport.send(request, handler), clock, limits);

/** Collects the whole answer to whatever `send` sends. */
export function collecting(send: (handler: ResponseHandler) => Exchange, clock: Clock, { timeoutMs, maxBytes }: CollectingLimits): Collecting {
  const { promise, resolve, reject } = Promise.withResolvers<ProviderAnswer>();
  const chunks: Buffer[] = [];
  let size = 0;
  let head: { readonly status: number; readonly headers: ResponseHeaders } | undefined;
  const fail = (error: GuardError): void => {
    timer.cancel();
    reject(error);
  };
  const giveUp = (error: GuardError): void => {
    exchange.abort();
    fail(error);
  };
  const timer = clock.timer(timeoutMs, () => giveUp(new GuardError("upstream_timeout", "the provider did not answer in time")));
  const exchange = send({
    head(status, answered) {
      head = { status, headers: answered };
    },
    data(chunk) {
      chunks.push(chunk);
      size += chunk.length;
      if (size > maxBytes) giveUp(new GuardError("upstream_protocol", "the provider's answer is too large"));
      return true;
    },
    end() {
      timer.cancel();
      if (head) resolve({ ...head, body: Buffer.concat(chunks, size) });
      else reject(new GuardError("upstream_protocol", "the provider's answer had no head"));
    },
    fail,
  });
  return { answer: promise, giveUp };
}
