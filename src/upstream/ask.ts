import type { Credential } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import type { Clock } from "../core/time.ts";
import { requestHeaders } from "./headers.ts";
import type { ProviderRow } from "../core/provider.ts";
import { rowOf, upstreamPath } from "./providers.ts";
import type { OutgoingRequest, ResponseHeaders, Transport } from "./transport.ts";

export interface Question {
  readonly credential: Credential;
  /** Which of the provider's paths. */
  readonly to: keyof ProviderRow["paths"];
  /** Null = GET. */
  readonly body: Buffer | null;
  readonly timeoutMs: number;
  /** A larger answer is refused. */
  readonly maxBytes: number;
}

export interface ProviderAnswer {
  readonly status: number;
  readonly headers: ResponseHeaders;
  readonly body: Buffer;
}

/** Asks a provider something of our own (not a client's call) and collects the answer. Throws `upstream_*` when there is none; any status is an answer. */
export function askProvider(transport: Transport, clock: Clock, question: Question): Promise<ProviderAnswer> {
  const { credential, to, body, timeoutMs, maxBytes } = question;
  const row = rowOf(credential);
  const { origin, allowPrivate, proxyUrl } = credential;
  const headers = requestHeaders({}, row, credential, body?.length ?? null);
  const path = upstreamPath(credential, row.paths[to] as string);
  const request = { origin, path, method: body ? "POST" : "GET", headers, body, allowPrivate, proxyUrl };
  return collected(transport, clock, request, { timeoutMs, maxBytes }).answer;
}

export interface Collecting {
  readonly answer: Promise<ProviderAnswer>;
  /** Ends it: the answer rejects with this. */
  giveUp(error: GuardError): void;
}

/** Sends a small request and collects the whole answer, within a time and a size. */
export function collected(
  transport: Transport,
  clock: Clock,
  request: OutgoingRequest,
  { timeoutMs, maxBytes }: Pick<Question, "timeoutMs" | "maxBytes">,
): Collecting {
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
  const exchange = transport.send(request, {
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
