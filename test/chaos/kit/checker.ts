// Compares what clients saw with what the upstream would bill and what the ledger says. That ledger and upstream agree is for `expectConserved()`.
import type { TruthEntry } from "quotaguard/testing";

import type { LedgerRow } from "../../../src/core/ledger.ts";
import type { Seen } from "./requests.ts";

/** One request as the provider knows it. */
export interface TrueRequest {
  readonly arrivals: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
}

const contentOf = (entry: TruthEntry): string => {
  const { messages } = JSON.parse(entry.body.toString()) as { messages: readonly { content: string }[] };
  return messages[0]?.content ?? "";
};

/** The request's id, which is the first word of its message. */
export const requestOf = (entry: TruthEntry): string => contentOf(entry).split(" ")[0] as string;

/** The truth log by the request's id. */
export function truthOf(log: readonly TruthEntry[]): ReadonlyMap<string, TrueRequest> {
  const truth = new Map<string, TrueRequest>();
  for (const entry of log) {
    const id = requestOf(entry);
    const before = truth.get(id) ?? { arrivals: 0, inputTokens: 0, outputTokens: 0 };
    truth.set(id, {
      arrivals: before.arrivals + 1,
      inputTokens: before.inputTokens + entry.billed.inputTokens,
      outputTokens: before.outputTokens + entry.billed.outputTokens,
    });
  }
  return truth;
}

export const tokensOf = (one: TrueRequest | undefined): number => (one ? one.inputTokens + one.outputTokens : 0);

/** What the provider would bill, by a scope of the clients' requests; `all` for no scope. */
export function trueTokens(history: readonly Seen[], truth: ReadonlyMap<string, TrueRequest>, scope: string): ReadonlyMap<string, number> {
  const totals = new Map<string, number>();
  for (const { requestId, scopes } of history) {
    const value = scope === "global" ? "all" : scopes[scope];
    const tokens = tokensOf(truth.get(requestId));
    if (value !== undefined && tokens > 0) totals.set(value, (totals.get(value) ?? 0) + tokens);
  }
  return totals;
}

export interface Books {
  readonly history: readonly Seen[];
  /** All rows of all ledgers. */
  readonly rows: readonly LedgerRow[];
}

/** Every contradiction between what clients saw and the rows, in words; none when all is well. To be asked when nothing is open any more. */
export function contradictions({ history, rows }: Books): string[] {
  const found: string[] = [];
  const byRequest = Map.groupBy(rows, ({ requestId }) => requestId);
  for (const [requestId, many] of byRequest) if (many.length > 1) found.push(`${requestId}: ${many.length} rows`);
  for (const { requestId, status, finished } of history) {
    const row = byRequest.get(requestId)?.[0];
    if (status !== 200 || !finished) continue;
    if (!row) found.push(`${requestId}: the client has its answer and there is no row`);
    else if (row.state !== "settled" && row.state !== "unknown") found.push(`${requestId}: the client has its answer and the row says ${row.state}`);
  }
  return found;
}
