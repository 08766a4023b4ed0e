import type { LedgerGroup } from "../core/store.ts";
import { usdText } from "../core/money.ts";
import type { UsageRow } from "../core/usage-report.ts";

const COUNTS = [
  "requests",
  "refused",
  "estimated",
  "unpriced",
  "inputTokens",
  "cacheReadTokens",
  "cacheWriteTokens",
  "outputTokens",
  "reasoningTokens",
  "totalTokens",
] as const satisfies readonly (keyof UsageRow)[];

/** A report as RFC 4180 has it, with a line of names. Money is exact, in USD with nine places. */
export function usageCsv(rows: readonly UsageRow[], groupBy: readonly LedgerGroup[]): string {
  const lines = rows.map((row) => [
    ...groupBy.map((name) => row.group[name] ?? ""),
    ...COUNTS.map((name) => String(row[name])),
    usdText(BigInt(row.rawNanoUsd)),
    usdText(BigInt(row.billedNanoUsd)),
  ]);
  return [[...groupBy, ...COUNTS, "rawUsd", "billedUsd"], ...lines].map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
}

/** Spreadsheets run what begins with one of these, and names in a report are of the clients' making: an apostrophe makes it text. */
const FORMULA = /^[=+\-@\t\r]/;

function csvCell(text: string): string {
  const safe = FORMULA.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
