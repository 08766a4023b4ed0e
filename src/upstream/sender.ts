/**
 * What stands between an attempt and the wire where a provider asks for more than one request: a token before it, another token when the kept one
 * is refused, the provider's next address when the first has no room. To the attempt it is one exchange.
 */
import type { Credential, ProviderRow } from "../core/credential.ts";
import { GuardError } from "../core/errors.ts";
import { isPromise, type Clock } from "../core/time.ts";
import { accessTokens, TokenRefused, type AccessTokens, type Sendable } from "./access-tokens.ts";
import { rowOf } from "./providers.ts";
import type { Exchange, OutgoingRequest, ResponseHandler, ResponseHeaders, Transport } from "./transport.ts";

/** Makes the request for the credential that is sent in the end: it holds a token, or lives elsewhere. */
export type Build = (credential: Credential) => OutgoingRequest;

export interface Sender {
  /** As `Transport.send`. What `build` throws is thrown, or told as a failure where a token has to be waited for. */
  send(credential: Credential, build: Build, handler: ResponseHandler): Exchange;
}

const senders = new WeakMap<Transport, Sender>();

/** The sender of a transport: all who use the transport share its tokens. */
export function senderOf(transport: Transport, clock: Clock): Sender {
  const known = senders.get(transport);
  if (known) return known;
  const tokens = accessTokens(transport, clock);
  const sender: Sender = {
    send(credential, build, handler) {
      const row = rowOf(credential);
      if (!row.tokens && !row.otherOrigins) return transport.send(build(credential), handler);
      return new Journey(transport, tokens, row, credential, build, handler);
    },
  };
  senders.set(transport, sender);
  return sender;
}

/** One attempt's requests, one after the other. */
class Journey implements Exchange {
  readonly #transport: Transport;
  readonly #tokens: AccessTokens;
  readonly #row: ProviderRow;
  readonly #own: Credential;
  readonly #build: Build;
  readonly #handler: ResponseHandler;
  /** Where else may be asked. */
  readonly #origins: string[];
  #current: Exchange | null = null;
  #sendable: Sendable;
  #isRenewed = false;
  #isOver = false;

  constructor(transport: Transport, tokens: AccessTokens, row: ProviderRow, credential: Credential, build: Build, handler: ResponseHandler) {
    this.#transport = transport;
    this.#tokens = tokens;
    this.#row = row;
    this.#own = credential;
    this.#build = build;
    this.#handler = handler;
    this.#sendable = { credential, isKept: false };
    const isAtHome = row.baseUrl !== null && new URL(row.baseUrl).origin === credential.origin;
    this.#origins = isAtHome ? [...(row.otherOrigins ?? [])] : [];
    this.#prove();
  }

  resume(): void {
    this.#current?.resume();
  }

  abort(): void {
    this.#isOver = true;
    this.#current?.abort();
  }

  #prove(): void {
    const { tokens } = this.#row;
    const sendable = tokens ? this.#tokens.of(this.#own, tokens) : this.#sendable;
    if (!isPromise(sendable)) return this.#go(sendable);
    sendable.then(
      (proved) => {
        try {
          if (!this.#isOver) this.#go(proved);
        } catch (error) {
          this.#fail(GuardError.is(error) ? error : new GuardError("internal", "the request to the provider could not be built", { cause: error }));
        }
      },
      (error: unknown) => this.#unproved(error),
    );
  }

  #go(sendable: Sendable): void {
    this.#sendable = sendable;
    this.#current = this.#transport.send(this.#build(sendable.credential), this.#listener());
  }

  /** Until an answer's head is the one that counts, nobody else hears of it. */
  #listener(): ResponseHandler {
    const handler = this.#handler;
    let isDropped = false;
    const again = (next: () => void): void => {
      isDropped = true;
      this.#current?.abort();
      // Not inside the transport's own call.
      queueMicrotask(() => {
        if (!this.#isOver) next();
      });
    };
    return {
      head: (status: number, headers: ResponseHeaders): void => {
        if (status === 401 && this.#sendable.isKept && !this.#isRenewed) {
          this.#isRenewed = true;
          this.#tokens.forget(this.#sendable);
          again(() => this.#prove());
        } else if (status === 503 && this.#origins.length > 0) again(() => this.#elsewhere());
        else handler.head(status, headers);
      },
      data: (chunk) => (isDropped ? true : handler.data(chunk)),
      end: () => {
        if (!isDropped) handler.end();
      },
      fail: (error, sent) => {
        if (isDropped) return;
        if (!sent && this.#origins.length > 0) again(() => this.#elsewhere());
        else handler.fail(error, sent);
      },
    };
  }

  #elsewhere(): void {
    const origin = this.#origins.shift() as string;
    try {
      this.#go({ ...this.#sendable, credential: Object.freeze({ ...this.#sendable.credential, origin }) });
    } catch (error) {
      this.#fail(error as GuardError);
    }
  }

  #unproved(error: unknown): void {
    if (this.#isOver) return;
    if (error instanceof TokenRefused) {
      // As the provider's own refusal of the account, without a body: the issuer's words are no answer of the provider's dialect.
      this.#handler.head(401, {});
      if (!this.#isOver) this.#handler.end();
      return;
    }
    this.#fail(GuardError.is(error) ? error : new GuardError("internal", "the access token could not be asked for", { cause: error }));
  }

  #fail(error: GuardError): void {
    if (!this.#isOver) this.#handler.fail(error, false);
  }
}
