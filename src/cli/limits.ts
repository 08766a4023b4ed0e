/** `quotaguard limits`: what is limited, what was set at run time, and who would have been refused. */
import { CommandError, EXIT_USAGE, painter, print, table, type CommonFlags } from "./output.ts";
import { operate } from "./operator.ts";

export interface SetFlags extends CommonFlags {
  readonly limit?: string;
  readonly capacity?: string;
  readonly refillPerSec?: string;
  readonly until?: string;
  readonly mode?: string;
  readonly enforceFrom?: string;
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
  readonly enforceFrom: string | null;
  readonly limit: number | null;
  readonly refillPerSec?: number;
  readonly set: readonly string[];
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

/** `quotaguard limits set`: another mode or other numbers at run time, for one value or, without it, for the whole limit. */
export async function setLimit(name: string, value: string | undefined, flags: SetFlags): Promise<number> {
  const { limit, capacity, refillPerSec, until, mode, enforceFrom } = flags;
  if (value === undefined && until !== undefined) throw new CommandError("--until: is for one value; name it behind the limit", EXIT_USAGE);
  if (value !== undefined && (mode ?? enforceFrom) !== undefined)
    throw new CommandError("--mode, --enforce-from: are for the whole limit; leave the value out", EXIT_USAGE);
  const numbers = Object.entries({ limit, capacity, refillPerSec }).flatMap(([field, text]) =>
    text === undefined ? [] : [[field, numberOf(field, text)] as const],
  );
  const texts = Object.entries({ until, mode, enforceFrom }).filter(([, text]) => text !== undefined);
  const body: Record<string, string | number | undefined> = { ...Object.fromEntries(numbers), ...Object.fromEntries(texts) };
  return operate(flags, "store", async ({ ask }) => {
    if (value === undefined) {
      const row = (await ask("PATCH", `/limits/${encodeURIComponent(name)}`, body)) as unknown as LimitRow;
      print(flags.json ? JSON.stringify(row) : `${name}  ${modeOf(row)}  ${sizeOf(row)}`);
      return 0;
    }
    const row = (await ask("PUT", path(name, value), body)) as unknown as ValueRow;
    print(flags.json ? JSON.stringify(row) : `${name}  ${row.value}  ${amountOf(row)}${row.until === null ? "" : ` until ${row.until}`}`);
    return 0;
  });
}

/** `quotaguard limits reset`: back to what the configuration says. */
export function resetLimit(name: string, value: string | undefined, flags: CommonFlags): Promise<number> {
  return operate(flags, "store", async ({ ask }) => {
    const answer = await ask("DELETE", value === undefined ? `/limits/${encodeURIComponent(name)}/settings` : path(name, value));
    print(flags.json ? JSON.stringify(answer) : `${value === undefined ? name : `${name} of ${value}`} is as configured again`);
    return 0;
  });
}

function path(name: string, value: string): string {
  if (value !== "") return `/limits/${encodeURIComponent(name)}/values/${encodeURIComponent(value)}`;
  throw new CommandError(`${name}: the value is empty; name one, such as acme`, EXIT_USAGE);
}

function numberOf(field: string, text: string): number {
  const number = Number(text);
  if (text.trim() !== "" && Number.isFinite(number)) return number;
  throw new CommandError(`${field}: ${text} is not a number`, EXIT_USAGE);
}

function amountOf({ limit, refillPerSec }: Pick<LimitRow, "limit" | "refillPerSec">): string {
  const size = limit === null ? "as configured" : limit === -1 ? "unlimited" : String(limit);
  return refillPerSec === undefined ? size : `${size}, refills ${refillPerSec}/s`;
}

/** With its date, while that is what decides. */
const modeOf = ({ mode, enforceFrom }: Pick<LimitRow, "mode" | "enforceFrom">): string =>
  mode === "enforce" && enforceFrom !== null ? `${mode} from ${enforceFrom}` : mode;

const sizeOf = (row: LimitRow): string => (row.limit === null ? "a function" : amountOf(row));

function printTable(flags: CommonFlags, limits: readonly LimitRow[]): void {
  const paint = painter(flags);
  const rows = limits.flatMap((limit) => [
    [limit.name, limit.scope.join("+"), limit.unit, limit.kind, modeOf(limit), "", sizeOf(limit), "", limit.set.join(", ")],
    ...limit.values.map((value) => [limit.name, "", "", "", "", value.value, amountOf(value), value.until ?? "", "this value"]),
  ]);
  const head = ["limit", "scope", "unit", "kind", "mode", "value", "limit", "until", "set at run time"];
  print(table([head, ...rows], { paint: (text, row) => (row === 0 ? paint("dim", text) : text) }));
}
