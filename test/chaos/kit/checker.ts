// Compares what clients saw, what the upstream would bill, what the ledger says and what the counters hold.
import type { TruthEntry } from "quotaguard/testing";

import type { LedgerRow } from "../../../src/core/ledger.ts";
import type { Seen } from "./requests.ts";

/** One request as the provider knows it. */
export interface TrueRequest {
  readonly arrivals: number;
  readonly inputTokens: number;
  readonly outputTokens: number;
  /** Each of its answers was delivered whole. */
  readonly done: boolean;
}

const contentOf = (entry: TruthEntry): string => {
  const { messages } = JSON.parse(entry.body.toString()) as { messages: readonly { content: string }[] };
  return messages[0]?.content ?? "";
};

/** The truth log by the request's id, which is the first word of its message. */
export function truthOf(log: readonly TruthEntry[]): ReadonlyMap<string, TrueRequest> {
  const truth = new Map<string, TrueRequest>();
  for (const entry of log) {
    const id = contentOf(entry).split(" ")[0] as string;
    const before = truth.get(id) ?? { arrivals: 0, inputTokens: 0, outputTokens: 0, done: true };
    truth.set(id, {
      arrivals: before.arrivals + 1,
      inputTokens: before.inputTokens + entry.billed.inputTokens,
      outputTokens: before.outputTokens + entry.billed.outputTokens,
      done: before.done && entry.end === "done",
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
  readonly truth: ReadonlyMap<string, TrueRequest>;
  /** All rows of all ledgers. */
  readonly rows: readonly LedgerRow[];
}

/** Every contradiction between the books, in words; none when all is well. To be asked when nothing is open any more. */
export function contradictions({ history, truth, rows }: Books): string[] {
  const found: string[] = [];
  const byRequest = Map.groupBy(rows, ({ requestId }) => requestId);
  for (const [requestId, many] of byRequest) if (many.length > 1) found.push(`${requestId}: ${many.length} rows`);
  for (const row of rows) if (row.state === "intent") found.push(`${row.requestId}: its row is still an intent`);
  for (const requestId of truth.keys()) if (!byRequest.has(requestId)) found.push(`${requestId}: reached the upstream and has no row`);
  for (const { requestId, status, finished } of history) {
    const row = byRequest.get(requestId)?.[0];
    if (status !== 200 || !finished) continue;
    if (!row) found.push(`${requestId}: the client has its answer and there is no row`);
    else if (row.state !== "settled" && row.state !== "unknown") found.push(`${requestId}: the client has its answer and the row says ${row.state}`);
  }
  for (const { requestId, state, usage } of rows) {
    if (state !== "settled" || usage === null) continue;
    const real = truth.get(requestId);
    if (real?.done !== true) continue;
    if (usage.inputTokens !== real.inputTokens || usage.outputTokens !== real.outputTokens)
      found.push(
        `${requestId}: the row says ${usage.inputTokens}+${usage.outputTokens} tokens, the upstream ${real.inputTokens}+${real.outputTokens}`,
      );
  }
  return found;
}
