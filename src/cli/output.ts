/** What commands print: tables where a person looks, JSON where a script does. */
import { styleText } from "node:util";
import { ConfigError } from "../core/errors.ts";

export const EXIT_FAILED = 1;
export const EXIT_USAGE = 2;

export interface CommonFlags {
  readonly config?: string;
  readonly json?: boolean;
  /** False with --no-color. */
  readonly color?: boolean;
}

type Style = "bold" | "dim" | "green" | "red" | "yellow" | "cyan";

/** Colours text when a person reads it: honours --no-color, NO_COLOR and pipes. */
export function painter(flags: CommonFlags): (style: Style, text: string) => string {
  const isOn = flags.color !== false && process.stdout.isTTY === true && !process.env.NO_COLOR;
  return (style, text) => (isOn ? styleText(style, text, { validateStream: false }) : text);
}

export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** Columns as wide as their widest cell. Cells may be painted: colours do not count. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, width(cell))));
  return rows.map((row) => row.map((cell, i) => (i === row.length - 1 ? cell : cell + " ".repeat((widths[i] ?? 0) - width(cell)))).join("  ")).join("\n");
}

// oxlint-disable-next-line no-control-regex -- the escape sequences of colours start with a control character
const COLOURS = /\u001b\[\d+m/g;
const width = (cell: string): number => cell.replaceAll(COLOURS, "").length;

/** Says what went wrong on stderr and returns the exit code. */
export function reportFailure(error: unknown, json: boolean): number {
  const isConfig = error instanceof ConfigError;
  const problems = isConfig ? error.problems : [error instanceof Error ? error.message : String(error)];
  if (json) print(JSON.stringify({ ok: false, problems }));
  else process.stderr.write(`${isConfig ? "The configuration has problems:\n" : ""}${problems.map((line) => (isConfig ? `  - ${line}` : line)).join("\n")}\n`);
  return isConfig ? EXIT_USAGE : EXIT_FAILED;
}
