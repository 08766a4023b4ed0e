/** Why a request was, or would be, decided as it is. */
import type { DialectId, Operation } from "./call.ts";
import type { Principal } from "./context.ts";
import type { ErrorCode } from "./errors.ts";
import type { LedgerRow, LedgerState, TriedAttempt } from "./ledger.ts";
import type { Scopes, ScopesInput } from "./scope.ts";
import type { Judgement } from "./strategy.ts";
import type { Amounts, Unit } from "./units.ts";

/** A call to come, described. Whose it is: a key, scopes, or nobody in particular. */
export interface CallQuestion {
  /** The name of a client's key, or a key as a client presents it. */
  readonly key?: string;
  /** In place of a key: the values that the limits count. Those that they need and that are not here do not apply. */
  readonly scopes?: ScopesInput;
  /** Default: what `body` says. */
  readonly model?: string;
  /** The client's own output cap, tokens. */
  readonly maxTokens?: number;
  /** The conversation, as the dialect writes it: OpenAI's and Anthropic's `messages`, Responses' `input`, Gemini's `contents`. Default: one of no length. */
  readonly messages?: readonly unknown[];
  /** The whole body, as the dialect writes it. `model`, `maxTokens`, `messages` and `stream` go before what it says. */
  readonly body?: Readonly<Record<string, unknown>>;
  readonly stream?: boolean;
  /** Default `openai`. */
  readonly dialect?: DialectId;
}

/** A request as Express has it. Its body must have been read by whoever parses bodies: it is not taken away from those behind. */
export interface RequestQuestion {
  readonly method?: string | undefined;
  readonly url?: string | undefined;
  readonly headers: object;
  readonly body?: unknown;
}

/** An id of a past request (`x-request-id`, or the row's own), a request (Express's, or a `Request`, which is copied), or a description. */
export type ExplainQuestion = string | CallQuestion | RequestQuestion;

/** Who asks. Nothing in it is secret. */
export interface ExplainedIdentity {
  /** `host`: the app in front of the gateway says who it is. */
  readonly kind: Principal["kind"];
  /** Of the key; null = the host let it in without one. */
  readonly key: string | null;
  readonly org: string | null;
  /** Model patterns that it may use; null = all. */
  readonly models: readonly string[] | null;
}

/** Amounts in the limit's unit, USD for money. */
export interface ExplainedLimit {
  readonly name: string;
  /** For people: `user`, `user+model`. */
  readonly scope: string;
  /** The value that is counted: `alice`, `acme/alice` within an organisation. */
  readonly value: string;
  readonly unit: Unit;
  /** `shadow` only watches. */
  readonly mode: "enforce" | "shadow";
  /** Its capacity, limit or places; null = unlimited, or nobody got as far as asking. */
  readonly limit: number | null;
  /** What would be held; null = nothing is counted. */
  readonly needed: number | null;
  /** What is left now; below 0 = debt. */
  readonly before: number | null;
  /** What would be left while it is held; null = nothing would be held. */
  readonly after: number | null;
  readonly fits: boolean;
  /** It is one of those that refuse. */
  readonly refuses: boolean;
  /** When so much fits if nothing else happens, ms; null = it does now, or never will. */
  readonly waitMs: number | null;
  /** When it is whole again, wall clock, ms; null = not by itself. */
  readonly resetsAt: number | null;
}

/**
 * Why a candidate is not used: `banned`, `cooling`, `breaker`, `paused` · `limited`: no room in its own limits · `exhausted`, `unaffordable`: nothing or too little is left of its
 * quota · `untranslatable`: its provider cannot be asked this, or no fallback may take its place · or what else a build of this gateway passes candidates over for.
 */
export interface ExplainedReason {
  readonly code: string;
  /** For people. */
  readonly message: string;
  /** When it may be used again, wall clock, ms; null = not by itself, or nobody knows. */
  readonly until: number | null;
}

export interface ExplainedCandidate {
  readonly credential: string;
  readonly provider: string;
  /** The model's name there. */
  readonly model: string;
  readonly priority: number;
  readonly isFallback: boolean;
  /** The model that it takes the place of, by a fallback chain; null = it serves the model by itself. */
  readonly fallbackFor: string | null;
  /** 1 = it is asked first; null = it is not asked. */
  readonly place: number | null;
  /** Null = it may be used. */
  readonly reason: ExplainedReason | null;
  /** What the strategy makes of it; null = it goes by the order. */
  readonly judgement: Judgement | null;
}

export interface ExplainedOutcome {
  /** Null = it is refused. */
  readonly served: { readonly credential: string; readonly provider: string; readonly model: string } | null;
  /** What the client gets; 200 where a provider is asked, whatever that one says. */
  readonly status: number;
  readonly code: ErrorCode | "client_closed" | null;
  /** As the client is told. */
  readonly message: string | null;
  /** Null = waiting does not help. */
  readonly retryAfterMs: number | null;
}

export interface ExplainedPrice {
  /** What is held at most, and what it will probably be, at the dearest candidate; null = there is a model without a price. */
  readonly ceilingUsd: number | null;
  readonly expectedUsd: number | null;
  readonly inputTokens: number;
  readonly ceilingOutputTokens: number;
  readonly expectedOutputTokens: number;
}

/** What would become of a call now. Nothing was changed to find out. */
export interface ExplainedCall {
  readonly kind: "call";
  /** Wall clock, ms. */
  readonly at: number;
  /** Null = nobody let it in. */
  readonly identity: ExplainedIdentity | null;
  readonly scopes: Scopes;
  readonly call: {
    readonly dialect: DialectId;
    readonly operation: Operation;
    /** As the client names it. */
    readonly model: string;
    /** What that stands for. */
    readonly resolved: string;
    readonly stream: boolean;
    /** The client's own; null = it said none. */
    readonly maxTokens: number | null;
    /** What would be sent as the cap in its place; null = the client's, or none. */
    readonly sentMaxTokens: number | null;
  } | null;
  /** Those that apply. */
  readonly limits: readonly ExplainedLimit[];
  /** In the order in which they are asked, then those that are not. */
  readonly candidates: readonly ExplainedCandidate[];
  readonly price: ExplainedPrice | null;
  readonly outcome: ExplainedOutcome;
}

/** What became of a request, by its row in the ledger. */
export interface ExplainedRequest {
  readonly kind: "request";
  readonly id: string;
  readonly requestId: string;
  /** Wall clock, ms. */
  readonly at: number;
  readonly identity: Pick<ExplainedIdentity, "key" | "org">;
  readonly scopes: Scopes;
  readonly route: string;
  readonly dialect: string | null;
  readonly model: string | null;
  readonly stream: boolean;
  readonly tag: string | null;
  /** `intent`: it still runs. */
  readonly state: LedgerState | "intent";
  /** The limit that refused it. */
  readonly limit: string | null;
  /** Of each unit the most that a limit held; USD for money. */
  readonly held: Amounts;
  /** All attempts, oldest first. The last one's status is that of the answer, where it was the provider's. */
  readonly attempts: readonly TriedAttempt[];
  readonly usage: LedgerRow["usage"];
  readonly provenance: LedgerRow["provenance"];
  /** Null = the model has no price. */
  readonly rawUsd: number | null;
  readonly billedUsd: number | null;
  readonly priceVersion: string | null;
  readonly latencyMs: number;
  readonly firstByteMs: number | null;
  readonly outcome: ExplainedOutcome;
}

export type Explanation = ExplainedCall | ExplainedRequest;

/** Answers what is asked. See `Admin.explain`. */
export type Explain = <Q extends ExplainQuestion>(question: Q) => Promise<Q extends string ? ExplainedRequest : ExplainedCall>;
