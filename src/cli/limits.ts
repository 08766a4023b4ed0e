import { CommandError, EXIT_USAGE, painter, print, table, type CommonFlags } from "./output.ts";
import { operate } from "./operator.ts";

export interface SetFlags extends CommonFlags {
  readonly limit?: string;
  readonly capacity?: string;
  readonly refillPerSec?: string;
  readonly until?: string;
}

interface ValueRow {
  readonly value: string;
  readonly limit: number | null;
  readonly refillPerSec?: number;
  readonly until: string | null;
}

interface LimitRow {
  readonly name: string;
  readonly scope: readonly string[];
  readonly unit: string;
  readonly kind: string;
  readonly mode: string;
  readonly limit: number | null;
  readonly refillPerSec?: number;
  readonly values: readonly ValueRow[];
}

/** `quotaguard limits list`. Returns the exit code. */
export function listLimits(flags: CommonFlags): Promise<number> {
  return operate(flags, "store", async ({ ask }) => {
    const answer = await ask("GET", "/limits");
    const limits = answer.limits as readonly LimitRow[];
    if (flags.json) print(JSON.stringify(answer));
    else if (limits.length === 0) print("no limit is configured");
    else printTable(flags, limits);
    return 0;
  });
}

/** `quotaguard limits set`: other numbers for one value, at run time. */
export async function setLimit(name: string, value: string, flags: SetFlags): Promise<number> {
  const { limit, capacity, refillPerSec, until } = flags;
  const numbers = Object.entries({ limit, capacity, refillPerSec }).flatMap(([field, text]) =>
    text === undefined ? [] : [[field, numberOf(field, text)] as const],
  );
  const body = { ...Object.fromEntries(numbers), ...(until === undefined ? {} : { until }) };
  return operate(flags, "store", async ({ ask }) => {
    const row = (await ask("PUT", path(name, value), body)) as unknown as ValueRow;
    print(flags.json ? JSON.stringify(row) : `${name}  ${row.value}  ${amountOf(row)}${row.until === null ? "" : ` until ${row.until}`}`);
    return 0;
  });
}

/** `quotaguard limits reset`: back to what the configuration says. */
export function resetLimit(name: string, value: string, flags: CommonFlags): Promise<number> {
  return operate(flags, "store", async ({ ask }) => {
    const answer = await ask("DELETE", path(name, value));
    print(flags.json ? JSON.stringify(answer) : `${name} of ${value} is as configured again`);
    return 0;
  });
}

const path = (name: string, value: string): string => `/limits/${encodeURIComponent(name)}/values/${encodeURIComponent(value)}`;

function numberOf(field: string, text: string): number {
  const number = Number(text);
  if (text.trim() !== "" && Number.isFinite(number)) return number;
  throw new CommandError(`${field}: ${text} is not a number`, EXIT_USAGE);
}

function amountOf({ limit, refillPerSec }: Pick<LimitRow, "limit" | "refillPerSec">): string {
  const size = limit === null ? "as configured" : limit === -1 ? "unlimited" : String(limit);
  return refillPerSec === undefined ? size : `${size}, refills ${refillPerSec}/s`;
}

function printTable(flags: CommonFlags, limits: readonly LimitRow[]): void {
  const paint = painter(flags);
  const rows = limits.flatMap((limit) => [
    [limit.name, limit.scope.join("+"), limit.unit, limit.kind, limit.mode, "", limit.limit === null ? "a function" : amountOf(limit), ""],
    ...limit.values.map((value) => [limit.name, "", "", "", "", value.value, amountOf(value), value.until ?? ""]),
  ]);
  const head = ["limit", "scope", "unit", "kind", "mode", "value", "limit", "until"];
  print(table([head, ...rows], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
}
