import type { Unit } from "../core/units.ts";
import { barOf, barRoom, painter, print, table, type CommonFlags } from "./output.ts";
import { operate } from "./operator.ts";

/** The longest bar. */
const BAR_WIDTH = 20;

interface Tally {
  readonly count: number;
  readonly firstAt: string;
  readonly lastAt: string;
  readonly largest: { readonly needed: number; readonly available: number };
}

interface Report {
  readonly name: string;
  readonly unit: Unit;
  readonly from: string;
  readonly count: number;
  readonly values: readonly (Tally & { readonly value: string })[];
  readonly other: Tally | null;
}

/** `quotaguard limits shadow`. Returns the exit code. */
export function showShadow(name: string, flags: CommonFlags): Promise<number> {
  return operate(flags, "store", async ({ ask }) => {
    const report = (await ask("GET", `/limits/${encodeURIComponent(name)}/shadow`)) as unknown as Report;
    if (flags.json) print(JSON.stringify(report));
    else if (report.count === 0) print(`${name} would have refused nobody since ${report.from.slice(0, 10)}, while it only watched`);
    else printReport(flags, report);
    return 0;
  });
}

function printReport(flags: CommonFlags, { name, unit, from, count, values, other }: Report): void {
  const paint = painter(flags);
  const rows = [...values, ...(other ? [{ ...other, value: "all others" }] : [])];
  const most = Math.max(...rows.map((row) => row.count));
  const cells = rows.map((row) => [
    row.value,
    String(row.count),
    row.firstAt,
    row.lastAt,
    `${row.largest.needed} of ${row.largest.available} ${unit}`,
  ]);
  print(`${name} would have refused ${count} ${count === 1 ? "request" : "requests"} since ${from.slice(0, 10)}`);
  const lines = [["value", "count", "first", "last", "largest, needed of available"], ...cells];
  const room = barRoom(lines, BAR_WIDTH);
  // Nobody who would have been refused has no bar.
  const bars = ["", ...rows.map((row) => barOf(row.count / most, room))];
  print(
    table(room === 0 ? lines : lines.map(([value = "", number = "", ...rest], at) => [value, number, bars[at] ?? "", ...rest]), {
      paint: (text, row, column) => (row === 0 ? paint("dim", text) : room > 0 && column === 2 ? paint("yellow", text) : text),
    }),
  );
}
