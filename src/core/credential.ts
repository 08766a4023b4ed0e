import type { DialectId, Family, Operation, WireId } from "./call.ts";
import type { GuardError } from "./errors.ts";
import type { QuotaMeasure } from "./quota-fact.ts";
import type { Secret } from "./secret.ts";
import type { MaybePromise } from "./time.ts";

/** What may go out per minute and at one time; -1 = unlimited, yet counted. Tokens are those of input and output together. */
export interface SendLimits {
  readonly rpm: number;
  readonly tpm: number;
  readonly maxConcurrent: number;
}

/** A service account of Google: proves itself by a signature instead of a key. */
export interface ServiceAccount {
  readonly clientEmail: string;
  /** PEM. */
  readonly privateKey: Secret;
  /** Id of the key; null = not said. */
  readonly privateKeyId: string | null;
  readonly projectId: string;
  /** Where its signature is exchanged for a token. */
  readonly tokenUri: string;
}

/** What only some providers ask of an account. Which of them a row's credentials may say stands in its {@link AccountRule}. */
export interface AccountFields {
  /** Google Cloud. */
  readonly project?: string | undefined;
  /** Google Cloud, e.g. `us-central1` or `global`. */
  readonly location?: string | undefined;
  readonly serviceAccount?: ServiceAccount | undefined;
  /** Azure. */
  readonly apiVersion?: string | undefined;
  /** ChatGPT. */
  readonly accountId?: string | undefined;
  /** Qwen's portal: the host that the login named. */
  readonly resourceUrl?: string | undefined;
  /** AWS, e.g. `us-east-1`. */
  readonly region?: string | undefined;
  /** Kiro: the profile that is billed. */
  readonly profileArn?: string | undefined;
  /** Antigravity: whose login it is. */
  readonly email?: string | undefined;
}

export type AccountField = keyof AccountFields;

/** What a provider's credentials may and must say. */
export interface AccountRule {
  readonly takes?: readonly AccountField[];
  /** One of each list must be there. */
  readonly needs?: readonly (readonly (AccountField | "apiKey")[])[];
  /** What else is missing, seeing what is there: the option and what to do about it. `account` is as it was written. */
  lacks?(account: Readonly<Partial<Record<AccountField, unknown>>>, key: string): { readonly field: AccountField; readonly message: string } | null;
}

/** An account at a provider that requests may be sent with. */
export interface Credential extends SendLimits, AccountFields {
  readonly name: string;
  /** Id of a row of the provider table. */
  readonly provider: string;
  /** What is particular about that provider; absent = the built-in row of that id. */
  readonly row?: ProviderRow;
  readonly apiKey: Secret | null;
  /** When `apiKey` ends, wall clock, ms; absent or null = never. */
  readonly expiresAt?: number | null;
  /** Scheme, host and port, e.g. `https://api.openai.com`. */
  readonly origin: string;
  /** Path prefix before the operation's own path, without a trailing slash, e.g. `/openai` or ``. A trailing `/v1` is already cut. */
  readonly basePath: string;
  /** Model patterns (`gpt-*`) that it offers; null = not said. */
  readonly models: readonly string[] | null;
  readonly isFallback: boolean;
  /** Higher is tried first. */
  readonly priority: number;
  /** Its share under the weighted strategy, relative to the others. */
  readonly weight: number;
  /** A label of the operator's. */
  readonly tier: string | null;
  /** Extra request headers, set by the operator. */
  readonly headers: Readonly<Record<string, string>>;
  /** Whether names that resolve to private addresses may be dialled. */
  readonly allowPrivate: boolean;
  readonly proxyUrl: string | null;
}

/**
 * Whose fault an error answer is. `request`: the call itself, no other credential would help · `credential`: this account may not or cannot
 * pay · `capacity`: the account or the provider has no room now.
 */
export type Fault = "request" | "credential" | "capacity";

type Headers = Readonly<Record<string, string | readonly string[] | undefined>>;

/** What an error answer says about the credential that it came for. */
export interface Verdict {
  readonly fault: Fault;
  /** Whether the provider speaks of the account as a whole, not of one model. */
  readonly isAccountWide: boolean;
  /** Ms to wait when the answer's headers name no time; null = whoever asks knows better. */
  readonly waitMs: number | null;
  /** The token is no longer good, and a renewed one may be. A status of 401 says so by itself. */
  readonly isTokenStale?: true;
}

type Body = Readonly<Record<string, unknown>>;

/** A quota as an answer tells it. */
export type QuotaReading = QuotaMeasure;

/**
 * Below the base URL's path. An operation without a path is not offered. `{model}` stands for the model's name. `stream` = where streamed chats go, if
 * elsewhere than whole ones.
 */
export type ProviderPaths = Readonly<Partial<Record<Operation | "stream" | "models", string>>>;

export interface AdaptedRequest {
  readonly credential: Credential;
  /** As the provider knows it. */
  readonly model: string;
  readonly operation: Operation;
  readonly stream: boolean;
  /** Unique, ours. */
  readonly requestId: string;
}

/** What is particular about a provider. A row, not a class: other rows are made by spreading one and changing what differs. */
export interface ProviderRow {
  readonly id: string;
  /** What requests are written in when the provider does not speak the caller's dialect. */
  readonly dialect: WireId;
  /** Where it lives unless the credential says otherwise; null = the credential must say. */
  readonly baseUrl: string | null;
  /** Of its own dialect. */
  readonly paths: ProviderPaths;
  /** Absent = no more than a base URL, where the row has none. */
  readonly account?: AccountRule;
  /** What the account decides: where it lives, what it is asked. Called once per credential; a base URL of the credential itself goes first. */
  of?(account: AccountFields): Partial<ProviderRow>;
  /** Tokens that a credential is exchanged for before anything is sent. Absent = it is sent as it is. */
  readonly tokens?: TokenExchange;
  /** Origins that are asked next when one has no room (503) or cannot be reached; only for credentials that live at the row's own base URL. */
  readonly otherOrigins?: readonly string[];
  /** Other dialects that it speaks: their callers' bytes pass untouched. */
  readonly also?: Readonly<Partial<Record<DialectId, ProviderPaths>>>;
  /** Of its models; a function where one provider serves several. Absent = that of its dialect. */
  readonly family?: Family | ((model: string) => Family);
  /** Its models want their past thoughts back as text (`reasoning_content`). */
  readonly keepsThoughts?: true;
  /** It answers in streams only; whole answers are put together from them. */
  readonly streamsOnly?: true;
  /** What it asks beyond its dialect. Called with the body of its own dialect, and changes a copy. */
  adapt?(body: Body, request: AdaptedRequest): Body;
  /** Takes an answer, or an event of a stream, out of what this provider puts around it. */
  unwrap?(body: Body): Body;
  /** Headers that depend on the request; lower case. */
  requestHeaders?(body: Body, request: AdaptedRequest): Readonly<Record<string, string>>;
  /** Models that it is known to have, for when it cannot be asked. */
  readonly models?: readonly string[];
  /** The field that caps a chat answer's length. */
  readonly capField: "max_tokens" | "max_completion_tokens";
  /** Client headers that the provider may see, besides the content type; lower case. What tells who the client is never goes, whatever stands here. */
  readonly forwardedHeaders: readonly string[];
  /** Adds the credential's proof to lower-case headers. Called once per credential, so it must depend on nothing else. */
  authorize(headers: Record<string, string>, credential: Credential): void;
  /** For a status outside 2xx. `body` is the answer; of a long one only the start is looked at. `nowMs` is the wall clock, for moments that a body names. */
  classify(status: number, headers: Headers, body: Buffer | string, nowMs: number): Verdict;
  /** Ms until the provider says to come back; null = it did not say. `isRateLimit` = a lack of room is why it refused, not the account or an outage. */
  retryAfterMs(headers: Headers, nowMs: number, isRateLimit: boolean): number | null;
  /**
   * What the headers of any answer say is left of the account's quotas. `model` = the one that was asked, as the provider knows it: a quota of each model by
   * itself has it in its `group` and in its `models`.
   */
  quotas?(headers: Headers, nowMs: number, model: string): readonly QuotaReading[];
  /** What else the refusal of a call says has run out, for which quota, and when it is back. Asked for a status outside 2xx, with the answer's start as its `body`. */
  faultQuotas?(status: number, headers: Headers, body: Buffer | string, nowMs: number, model: string): readonly QuotaReading[];
}

/** How a credential is exchanged for a token that lives for a while. */
export interface TokenExchange {
  /** Null = this credential needs none, and is sent as it is. */
  request(credential: Credential, nowMs: number): TokenRequest | null;
  /** Null = the answer (of status 2xx) holds no token. */
  read(body: Body, credential: Credential, nowMs: number): IssuedToken | null;
}

export interface TokenRequest {
  readonly url: string;
  readonly method: "GET" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | null;
}

export interface IssuedToken {
  readonly token: Secret;
  /** Wall clock, ms. */
  readonly expiresAt: number;
  /** Where requests with this token go; absent = where the credential says. */
  readonly origin?: string;
}

/** How one attempt ended, for the pool's health and limits. `tokens` are input and output together; null = nothing was used, so the slot goes back. */
export type AttemptOutcome =
  | { readonly kind: "served"; readonly status: number; readonly tokens: number }
  /** The upstream answered with an error status. */
  | {
      readonly kind: "refused";
      readonly status: number;
      readonly fault: Fault;
      /** Whether the provider speaks of the account as a whole, not of one model. */
      readonly isAccountWide: boolean;
      /** Ms until the provider says to come back; null = it did not say. */
      readonly waitMs: number | null;
      /** It says nothing about the credential's use for answers: only that its token is not right, where it is 401. */
      readonly isAside?: boolean;
      /** A renewed token may be accepted, whatever the status. */
      readonly isTokenStale?: true;
    }
  /** No answer, or half of one: connection, protocol or timeout. */
  | { readonly kind: "failed"; readonly error: GuardError; readonly tokens: number | null }
  /** The client left, or the attempt was never sent. */
  | { readonly kind: "abandoned"; readonly tokens: number | null };

/** Nothing reached the provider. */
export const NEVER_SENT: AttemptOutcome = Object.freeze({ kind: "abandoned", tokens: null });

/** A credential lent to one attempt. */
export interface Lease {
  readonly credential: Credential;
  /** The model's name at this provider. */
  readonly model: string;
  /** The name that config and prices know it by: the client's, after aliases, or that of the fallback which takes its place. */
  readonly name: string;
  /** Whether it comes from a fallback chain: nobody who serves the model by itself is left. Absent = no. */
  readonly isFallback?: boolean;
  /** Gives it back. Once. */
  release(outcome: AttemptOutcome): void;
}

/** How a request gets its credentials: one lease per attempt, never the same model of the same credential twice. */
export interface Choice {
  /**
   * Null when no untried candidate is left that may be used now. The first call throws instead: `all_credentials_limited` with the earliest time,
   * or `no_credential`.
   */
  next(): MaybePromise<Lease | null>;
  /** `all_credentials_limited` when candidates that were passed over have no room now or are cooling down; else null. */
  busy?(): GuardError | null;
  /** Whether all that serve the model by itself had their turn, and there are such: nobody stands in for what none of them can be asked. */
  hadAllOwn?(): boolean;
}
