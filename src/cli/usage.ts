/** `quotaguard usage`: what was used and what it cost. */
import { usdText } from "../core/money.ts";
import type { LedgerGroup } from "../core/store.ts";
import type { UsageRow } from "../core/usage-report.ts";
import { usageCsv } from "../management/usage-csv.ts";
import { CommandError, EXIT_USAGE, barOf, barRoom, namesIn, painter, print, printable, table, type CommonFlags } from "./output.ts";
import { operate } from "./operator.ts";

const FILTERS = ["from", "to", "org", "team", "user", "key", "model", "provider", "credential", "route", "tag"] as const;
const BAR = 24;
/** Nine places are for machines; what is smaller than this shows all of them. */
const SMALLEST_SHOWN_NANO_USD = 100_000n;

export interface UsageFlags extends CommonFlags, Readonly<Partial<Record<(typeof FILTERS)[number], string>>> {
  readonly groupBy?: string;
  readonly scope?: readonly string[];
  readonly csv?: boolean;
}

/** Returns the exit code. */
export async function usage(flags: UsageFlags, nowMs: number): Promise<number> {
  if (flags.json && flags.csv) throw new CommandError("usage: give --json or --csv, not both", EXIT_USAGE);
  const asked = new URLSearchParams();
  for (const name of FILTERS) if (flags[name] !== undefined) asked.set(name, flags[name]);
  for (const pair of flags.scope ?? []) {
    const [, scope, value] = /^([^=]+)=(.+)$/.exec(pair) ?? [];
    if (scope === undefined || value === undefined)
      throw new CommandError(`--scope ${pair}: expected scope=value, such as --scope role=dev`, EXIT_USAGE);
    asked.set(`scope.${scope}`, value);
  }
  if (flags.from === undefined) asked.set("from", monthOf(nowMs, flags.to));
  const groupBy = namesIn("--group-by", flags.groupBy ?? "day");
  asked.set("group_by", groupBy.join(","));
  return operate(flags, "ledger", async ({ ask }) => {
    const answer = await ask("GET", `/usage/ledger?${asked.toString()}`);
    const rows = answer.usage as readonly UsageRow[];
    if (flags.json) print(JSON.stringify(answer));
    else if (flags.csv) process.stdout.write(usageCsv(rows, groupBy as readonly LedgerGroup[]));
    else if (rows.every(({ requests }) => requests === 0)) print(nothingText(asked));
    else printTable(flags, groupBy, rows);
    return 0;
  });
}

/** A name that nobody has looks like one that used nothing. */
function nothingText(asked: URLSearchParams): string {
  const wanted = [...asked].filter(([name]) => !["from", "to", "group_by"].includes(name)).map((pair) => pair.join("="));
  const time = `since ${asked.get("from")}${asked.has("to") ? ` and before ${asked.get("to")}` : ""}`;
  if (wanted.length === 0) return `nothing was used ${time}; --from asks for an earlier time`;
  return `nothing was used ${time} by ${wanted.join(", ")}; look at the name, or ask for an earlier time with --from`;
}

/** The month of today, or the one that ends at `to`. */
function monthOf(nowMs: number, to: string | undefined): string {
  const endMs = to === undefined ? Number.NaN : Date.parse(to);
  return `${new Date(Number.isNaN(endMs) ? nowMs : endMs - 1).toISOString().slice(0, 7)}-01`;
}

const COUNT = new Intl.NumberFormat("en-US");

function printTable(flags: CommonFlags, groupBy: readonly string[], rows: readonly UsageRow[]): void {
  const paint = painter(flags);
  const isByTime = groupBy.includes("day");
  // Days are read in their order, everything else from the dearest down.
  const shown = isByTime ? rows : rows.toSorted((a, b) => Number(BigInt(b.billedNanoUsd) - BigInt(a.billedNanoUsd)) || b.totalTokens - a.totalTokens);
  const billed = sumOf(rows, "billedNanoUsd");
  const raw = sumOf(rows, "rawNanoUsd");
  const hasMarkup = raw !== billed;
  const sizeOf = (row: UsageRow): number => (billed > 0n ? Number(BigInt(row.billedNanoUsd)) : row.totalTokens);
  const largest = Math.max(...rows.map(sizeOf));
  const line = (names: readonly string[], sums: Sums): string[] => [
    ...names,
    COUNT.format(sums.requests),
    COUNT.format(sums.inputTokens),
    COUNT.format(sums.outputTokens),
    ...(hasMarkup ? [usd(BigInt(sums.rawNanoUsd))] : []),
    usd(BigInt(sums.billedNanoUsd)),
  ];
  const head = [...groupBy, "requests", "input", "output", ...(hasMarkup ? ["at cost"] : []), "USD"];
  const total = {
    requests: count(rows, "requests"),
    inputTokens: count(rows, "inputTokens"),
    outputTokens: count(rows, "outputTokens"),
    rawNanoUsd: String(raw),
    billedNanoUsd: String(billed),
  };
  const names = (row: UsageRow): string[] => groupBy.map((name) => printable(row.group[name] ?? "") || "(none)");
  const isNumber = (column: number): boolean => column >= groupBy.length;
  const cells = alignedRight(
    [
      head,
      ...shown.map((row) => line(names(row), row)),
      line(
        groupBy.map((_name, i) => (i === 0 ? "total" : "")),
        total,
      ),
    ],
    isNumber,
  );
  const room = barRoom(cells, BAR);
  const bars = shown.map((row) => barOf(largest > 0 ? sizeOf(row) / largest : 0, room));
  const lines = room === 0 ? cells : cells.map((row, at) => [...row, bars[at - 1] ?? ""]);
  const style = (text: string, row: number, column: number): string => {
    if (row === 0) return paint("dim", text);
    if (row === lines.length - 1) return paint("bold", text);
    return column === head.length ? paint("cyan", text) : text;
  };
  print(table(lines, { paint: style }));
  const notes = [
    [count(rows, "refused"), "refused by a limit or a rule"],
    [count(rows, "estimated"), "charged as held, because the usage was not told"],
    [count(rows, "unpriced"), "without a price, which are in no sum of money"],
  ] as const;
  for (const [number, what] of notes) if (number > 0) print(paint("dim", `${COUNT.format(number)} of the requests were ${what}`));
}

type Sums = Pick<UsageRow, "requests" | "inputTokens" | "outputTokens" | "rawNanoUsd" | "billedNanoUsd">;

const count = (rows: readonly UsageRow[], name: "requests" | "inputTokens" | "outputTokens" | "refused" | "estimated" | "unpriced"): number =>
  rows.reduce((sum, row) => sum + row[name], 0);

const sumOf = (rows: readonly UsageRow[], name: "rawNanoUsd" | "billedNanoUsd"): bigint => rows.reduce((sum, row) => sum + BigInt(row[name]), 0n);

/** Four places, or as many as it takes to show that something was spent. */
function usd(nanoUsd: bigint): string {
  if (nanoUsd > 0n && nanoUsd < SMALLEST_SHOWN_NANO_USD) return usdText(nanoUsd).replace(/0+$/, "");
  return usdText(((nanoUsd + 50_000n) / 100_000n) * 100_000n).slice(0, -5);
}

function alignedRight(lines: readonly (readonly string[])[], isNumber: (column: number) => boolean): string[][] {
  const width = (column: number): number => Math.max(...lines.map((cells) => cells[column]?.length ?? 0));
  return lines.map((cells) => cells.map((cell, column) => (isNumber(column) ? cell.padStart(width(column)) : cell)));
}
