import type { Call, DialectId, Operation } from "../core/call.ts";
import type { GuardError } from "../core/errors.ts";
import type { Codec } from "./codec.ts";
import type { Usage } from "../core/usage.ts";

/** A path of a dialect and what it means. Paths are written with their `/v1`; a mount below a prefix may leave it out. */
export interface DialectRoute {
  readonly method: "GET" | "POST";
  /** `{model}` stands for one or more parts of a path, up to what follows it. */
  readonly path: string;
  readonly operation: Operation;
  /** Where the path says it, and not the body. */
  readonly stream?: boolean;
}

/** What the path says of a call. */
export interface CallPath {
  readonly operation: Operation;
  /** Null = the body says it. */
  readonly model: string | null;
  readonly stream: boolean | null;
}

/** What the gateway may have to change in a request. Everything else stays as the client wrote it, byte for byte. */
export interface RequestChanges {
  /** The model's name at the provider. It also decides which parameters the model would refuse, and those are taken out. */
  readonly model?: string;
  /** Ask for usage at the end of a stream. */
  readonly includeUsage?: boolean;
  /** An output cap in tokens, lower than or in place of the client's. */
  readonly outputCap?: number;
  /** The field that carries the cap when the client sent none; a model that knows only one of them gets that one. */
  readonly capField?: "max_tokens" | "max_completion_tokens";
}

export interface ObserverOptions {
  /** We asked for usage, the client did not: its extra chunk must not reach the client. */
  readonly hideUsage: boolean;
  /** Counts the tokens of delivered text, when the provider does not say. */
  readonly countTokens: (text: string) => number;
}

/** Watches a stream of this dialect on its way to a client that speaks it too. Bounded memory; never changes what it forwards. */
export interface StreamObserver {
  /** Returns what to forward now: usually the same buffer. Throws `upstream_protocol` when an event grows without end. */
  push(chunk: Buffer): Buffer | null;
  /**
   * The upstream's body is over: what was held back, and whether the stream came to its proper end. `fault` = the provider said itself that it failed; `isTold` =
   * in an event that was forwarded. `isPartial` = it never said what all of the output was.
   */
  end(): {
    readonly rest: Buffer | null;
    readonly complete: boolean;
    readonly fault?: GuardError;
    readonly isTold?: boolean;
    readonly isPartial?: boolean;
  };
  /** The last usage that the provider reported, if any. */
  usage(): Usage | null;
  /** Our own count of the output delivered so far. */
  deliveredTokens(): number;
}

/** A wire format: pure functions, no I/O. */
export interface Dialect {
  readonly id: DialectId;
  readonly routes: readonly DialectRoute[];
  /** Checks the parsed body's own fields. Throws `body_invalid` that names the field. */
  read(path: CallPath, bytes: Buffer, body: Readonly<Record<string, unknown>>): Call;
  /** The request's bytes with the changes made, or the very same buffer when nothing has to change. */
  rewrite(call: Call, changes: RequestChanges): Buffer;
  /**
   * What a whole response used: the provider's figures, or its text for counting when it has none. Null = it is no response of this dialect.
   */
  readResponse(bytes: Buffer): { readonly usage: Usage } | { readonly text: string } | null;
  observer(options: ObserverOptions): StreamObserver;
  /** The answer to a call that only counts tokens; absent = the dialect has no such call. */
  countBody?(tokens: number): Record<string, unknown>;
  errorBody(error: GuardError): Record<string, unknown>;
  /** How it is translated from and to other dialects. */
  readonly codec: Codec;
  /** One event that tells a client in mid-stream that it failed. */
  errorEvent(error: GuardError): Buffer;
}
