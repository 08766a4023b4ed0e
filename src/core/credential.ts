import type { GuardError } from "./errors.ts";
import type { Secret } from "./secret.ts";
import type { MaybePromise } from "./time.ts";

/** An account at a provider that requests may be sent with. */
export interface Credential {
  readonly name: string;
  /** Id of a row of the provider table. */
  readonly provider: string;
  readonly apiKey: Secret | null;
  /** Scheme, host and port, e.g. `https://api.openai.com`. */
  readonly origin: string;
  /** Path prefix before the operation's own path, without a trailing slash, e.g. `/openai` or ``. A trailing `/v1` is already cut. */
  readonly basePath: string;
  /** Model patterns (`gpt-*`) that it offers; null = not said. */
  readonly models: readonly string[] | null;
  readonly isFallback: boolean;
  /** Higher is tried first. */
  readonly priority: number;
  readonly weight: number;
  /** Extra request headers, set by the operator. */
  readonly headers: Readonly<Record<string, string>>;
  /** Whether names that resolve to private addresses may be dialled. */
  readonly allowPrivate: boolean;
  readonly proxyUrl: string | null;
}

/** How one attempt ended, for the pool's health and limits. */
export type AttemptOutcome =
  | { readonly kind: "served"; readonly status: number }
  /** The upstream answered with an error status. */
  | { readonly kind: "refused"; readonly status: number; readonly retryAfterMs: number | null }
  /** No answer: connection, protocol or timeout. */
  | { readonly kind: "failed"; readonly error: GuardError }
  /** The client left, or the attempt was never sent. */
  | { readonly kind: "abandoned" };

/** A credential lent to one attempt. */
export interface Lease {
  readonly credential: Credential;
  /** The model's name at this provider. */
  readonly model: string;
  /** The name that config and prices know it by: the client's, after aliases. */
  readonly name: string;
  /** Gives it back. Once. */
  release(outcome: AttemptOutcome): void;
}

/** How a request gets its credentials: one lease per attempt, never the same credential twice. */
export interface Choice {
  /** Null when no untried candidate is left. The first call throws `GuardError` when there is none at all. */
  next(): MaybePromise<Lease | null>;
}
