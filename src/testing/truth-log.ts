import { createHash } from "node:crypto";
import type { IncomingHttpHeaders, IncomingMessage } from "node:http";

/** How a request at the fake upstream ended: answered in full, left by the client, or broken off by the script. */
export type TruthEnd = "done" | "client" | "upstream";

/** Totals: cached input and reasoning are parts of them. */
export interface TokenCount {
  readonly inputTokens: number;
  readonly outputTokens: number;
}

/** One request as the fake upstream saw it: the billing oracle. Fields change until `ended` resolves. */
export interface TruthEntry {
  /** From 1, in order of arrival. */
  readonly id: number;
  readonly method: string;
  /** With its query; a key in it as its {@link digestOf}. */
  readonly path: string;
  /** As received, with credentials replaced by {@link digestOf}. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  /** The body as received, cut at the log's limit; `bodyBytes` is its full length. */
  body: Buffer;
  bodyBytes: number;
  /** What was asked for, if it is a model call; null = lists of models, unknown paths, broken bodies. */
  call: { readonly model: string | null; readonly stream: boolean } | null;
  /** Monotonic ms of the fake's clock. */
  readonly startedAtMs: number;
  endedAtMs: number | null;
  status: number | null;
  /** Body writes that were made. */
  chunks: number;
  /** What a provider would bill: the input once an answer has begun, and the output tokens written before the socket closed. */
  readonly billed: { inputTokens: number; outputTokens: number };
  /** The usage that the answer told, once it was written; null = none, or none that makes sense; counting tokens costs nothing. A script may make it differ from `billed`. */
  told: TokenCount | null;
  end: TruthEnd | null;
  /** Resolves when the exchange is over. */
  readonly ended: Promise<void>;
}

const SECRET_HEADERS: ReadonlySet<string> = new Set(["authorization", "proxy-authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie"]);

/**
 * How a credential header appears in the log.
 * @example
 * upstream.script(({ headers }) => (headers.authorization === digestOf("Bearer sk-1") ? { status: 429 } : {}));
 */
export function digestOf(value: string): string {
  return `sha256:${createHash("sha256").update(value).digest("hex").slice(0, 16)}`;
}

export function redacted(headers: IncomingHttpHeaders): Record<string, string | string[] | undefined> {
  const copy: Record<string, string | string[] | undefined> = { ...headers };
  for (const name of SECRET_HEADERS) {
    const value = copy[name];
    if (value !== undefined) copy[name] = digestOf(String(value));
  }
  return copy;
}

const KEY_IN_QUERY = /(?<=[?&]key=)[^&#]+/;

/** Google takes keys in the query, too. */
export const redactedPath = (path: string): string => path.replace(KEY_IN_QUERY, (key) => digestOf(key));

/** The digests of the keys that a request brings, in whatever place a provider looks for them. */
export function keysIn({ headers, url = "" }: IncomingMessage): readonly string[] {
  const inQuery = KEY_IN_QUERY.exec(url)?.[0];
  const sent = [headers.authorization?.replace(/^Bearer +/i, ""), headers["x-api-key"], headers["x-goog-api-key"], inQuery];
  return sent.flatMap((key) => (key === undefined ? [] : [digestOf(String(key))]));
}

/** Sums over all requests, also those that the log no longer holds. */
export interface TruthTotals {
  readonly requests: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
}
