import type { LedgerIntent, LedgerRow } from "../../core/ledger.ts";

/** When the rows happened, and where the clock of a case stands at its beginning. */
export const AT = Date.UTC(2026, 10, 20, 12);

/** What makes a row one that was refused. */
export const VOID = {
  state: "refused",
  status: 429,
  code: "budget_exhausted",
  attempts: 0,
  usage: null,
  provenance: "void",
  firstByteMs: null,
} as const;

export function intentOf(id: string, more: Partial<LedgerIntent> = {}): LedgerIntent {
  return {
    id,
    requestId: id,
    at: AT,
    key: "alice",
    scopes: { org: "acme", team: "data", user: "alice" },
    route: "/v1/chat/completions",
    dialect: "openai",
    model: "gpt-4o",
    servedModel: "gpt-4o-2024-11-20",
    provider: "openai",
    credential: "openai_main",
    stream: false,
    tag: "nightly",
    held: { requests: 1, tokens: 1500, usd: 12_000_000 },
    ...more,
  };
}

export function rowOf(id: string, more: Partial<LedgerRow> = {}): LedgerRow {
  return {
    ...intentOf(id),
    state: "settled",
    status: 200,
    code: null,
    latencyMs: 812,
    firstByteMs: 120,
    attempts: 1,
    tried: null,
    usage: { inputTokens: 100, cacheReadTokens: 20, cacheWriteTokens: 3, outputTokens: 50, reasoningTokens: 7 },
    provenance: "exact",
    rawNanoUsd: 1_000_001,
    billedNanoUsd: 1_100_002,
    limit: null,
    priceVersion: "rules:0123456789",
    ...more,
  };
}
