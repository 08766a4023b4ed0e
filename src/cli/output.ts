/** What commands print: tables where a person looks, JSON where a script does. */
import { styleText } from "node:util";
import { ConfigError } from "../core/errors.ts";

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

/** What a command cannot do, and how it ends. The message says what to do about it. */
export class CommandError extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode: number) {
    super(message);
    this.exitCode = exitCode;
  }
}

export interface CommonFlags {
  readonly config?: string;
  readonly json?: boolean;
  /** False with --no-color. */
  readonly color?: boolean;
}

type Style = "bold" | "dim" | "green" | "red" | "yellow" | "cyan";

/** Colours text when a person reads it: honours --no-color, NO_COLOR and pipes. */
export function painter(flags: CommonFlags): (style: Style, text: string) => string {
  const isOn = flags.color !== false && process.stdout.isTTY && !process.env.NO_COLOR;
  return (style, text) => (isOn ? styleText(style, text, { validateStream: false }) : text);
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

export interface TableOptions {
  /** Columns of the terminal; longer cells are wrapped. @default the terminal's own, none in a pipe */
  readonly columns?: number | undefined;
  /** Colours a piece of a cell, after everything has its place. */
  readonly paint?: (text: string, row: number, column: number) => string;
}

const GAP = "  ";
/** Narrower than this a column says nothing. */
const MIN_COLUMN = 12;
/** A shorter bar tells nothing apart. */
const LEAST_BAR = 4;

/** Columns as wide as their widest cell, the widest ones narrowed until the table fits the terminal. */
export const table = (rows: readonly (readonly string[])[], options: TableOptions = {}): string => tableRows(rows, options).join("\n");

/** The same row by row: one takes several lines where a cell is wrapped. */
export function tableRows(rows: readonly (readonly string[])[], options: TableOptions = {}): readonly string[] {
  const { columns = process.stdout.columns, paint = (text) => text } = options;
  const widths = widthsFor(rows, columns);
  return rows.map((row, at) => {
    const lines: string[] = [];
    const cells = row.map((cell, column) => wrapped(cell, widths[column] as number));
    const height = Math.max(...cells.map(({ length }) => length));
    for (let line = 0; line < height; line += 1) {
      const pieces = cells.map((cell, column) => {
        const text = cell[line] ?? "";
        return (text === "" ? "" : paint(text, at, column)) + " ".repeat((widths[column] as number) - text.length);
      });
      lines.push(pieces.join(GAP).trimEnd());
    }
    return lines.join("\n");
  });
}

function widthsFor(rows: readonly (readonly string[])[], columns: number | undefined): number[] {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  // Some terminals say 0.
  if (!columns) return widths;
  const room = columns - GAP.length * (widths.length - 1);
  const used = (): number => widths.reduce((sum, width) => sum + width, 0);
  for (let widest = Math.max(...widths); used() > room && widest > MIN_COLUMN; widest = Math.max(...widths)) {
    const second = Math.max(MIN_COLUMN, ...widths.filter((width) => width < widest));
    widths[widths.indexOf(widest)] = Math.max(second - 1, widest - (used() - room), MIN_COLUMN);
  }
  return widths;
}

/** Lines of at most `width`, broken at a space where there is one. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  let rest = text;
  while (rest.length > width) {
    const space = rest.lastIndexOf(" ", width);
    const end = space > width / 3 ? space : width;
    lines.push(rest.slice(0, end));
    rest = rest.slice(end).trimStart();
  }
  return [...lines, rest];
}

/** A sentence as wide as the terminal, broken between words. In a pipe it is one line. */
export function paragraph(text: string, indent = ""): string {
  const columns = process.stdout.columns || Infinity;
  return wrapped(text, Math.max(MIN_COLUMN, columns - indent.length))
    .map((line) => indent + line)
    .join("\n");
}

/** A bar of so much of the largest, at most `width` long; what is more than nothing can be seen. */
export const barOf = (share: number, width: number): string => (share > 0 && width > 0 ? "█".repeat(Math.max(1, Math.round(width * share))) : "");

/** How long bars may be beside these cells: `most`, or what the terminal leaves for them. Too little is nothing, for a bar on two lines says something else. */
export function barRoom(rows: readonly (readonly string[])[], most: number, columns: number | undefined = process.stdout.columns): number {
  if (!columns) return most;
  const widths = (rows[0] ?? []).map((_cell, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)));
  const left = columns - widths.reduce((sum, width) => sum + width + GAP.length, 0);
  return left < LEAST_BAR ? 0 : Math.min(most, left);
}

/** Names may come from clients and providers: none of them moves the cursor. */
export const printable = (text: string): string => text.replaceAll(/[\p{Cc}\p{Bidi_Control}\u2028\u2029]/gu, "�");

/** What a flag names, separated by commas; blanks around them are nobody's name. */
export function namesIn(flag: string, text: string): readonly string[] {
  const names = text.split(",").map((name) => name.trim());
  if (names.every((name) => name !== "")) return names;
  throw new CommandError(`${flag}: a name is missing; separate names by commas, such as ${flag} one,two`, EXIT_USAGE);
}

/** Says what went wrong on stderr and returns the exit code. */
export function reportFailure(error: unknown, json: boolean): number {
  const isConfig = error instanceof ConfigError;
  const problems = isConfig ? error.problems : [error instanceof Error ? error.message : String(error)];
  if (json) print(JSON.stringify({ ok: false, problems }));
  else
    process.stderr.write(
      `${isConfig ? "The configuration has problems:\n" : ""}${problems.map((line) => (isConfig ? `  - ${line}` : line)).join("\n")}\n`,
    );
  if (error instanceof CommandError) return error.exitCode;
  return isConfig ? EXIT_USAGE : EXIT_FAILED;
}
