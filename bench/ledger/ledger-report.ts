import { number, spread, table } from "../report.ts";
import type { Measured } from "./arrivals.ts";

export type LedgerCase = "idle" | "arrivals" | "memory" | "sqlite" | "sqlite-full" | "postgres";

/** In the order of the table. */
export const ledgerCases: readonly (readonly [id: LedgerCase, title: string])[] = [
  ["idle", "nothing: no requests at all"],
  ["arrivals", "the requests alone, no ledger"],
  ["memory", "ledger in memory"],
  ["sqlite", "SQLite"],
  ["sqlite-full", "SQLite, synchronous: full"],
  ["postgres", "Postgres"],
];

/** One case, one round. */
export interface LedgerSample extends Measured {
  readonly id: LedgerCase;
}

export interface LedgerRun {
  readonly samples: readonly LedgerSample[];
  /** What was left out, and why. */
  readonly skipped: ReadonlyMap<string, string>;
  /** What ran where, in lines. */
  readonly setting: readonly string[];
}

/** The period of the timer that looks. */
const TIMER_MS = 1;

/** What stands above the table in the file. */
export const ledgerIntroduction = `# What the ledger costs the event loop

One run of \`npm run bench:ledger\`. Each ledger has a process of its own, to which requests come at a fixed pace, whether or not it keeps up: an intent, which
must be committed before a provider is asked, and a finished row 20 ms later. Afterwards every row is looked for. Cells are \`median (lowest–highest)\` over the rounds.

"Intent" is the time from the moment a request should have come until its intent is committed; the requests come in steps of a millisecond, which the
line without a ledger shows. "Block" is what Node's \`monitorEventLoopDelay\` sees with a resolution of 1 ms: the time from one run of a 1 ms timer to the
next. On a loop with nothing to do that is about 1 ms; nothing is subtracted. "Late" is what is left of it without the millisecond that the timer asks for: for so
long something else held the loop.

`;

export function ledgerReport({ samples, skipped, setting }: LedgerRun): string {
  const rows = ledgerCases
    .map(([id, title]) => [title, samples.filter((sample) => sample.id === id)] as const)
    .filter(([, mine]) => mine.length > 0)
    .map(([title, mine]) => {
      const cell = (value: (sample: LedgerSample) => number | null, digits: number): string =>
        spread(
          mine.map((sample) => value(sample) ?? Number.NaN),
          digits,
        );
      const failed = mine.flatMap(({ failures }) => failures).reduce((sum, [, count]) => sum + count, 0);
      return [
        title,
        cell(({ rows: written, seconds }) => (written === 0 ? null : written / seconds), 0),
        cell(({ intentP50Ms }) => intentP50Ms, 2),
        cell(({ intentP99Ms }) => intentP99Ms, 2),
        cell(({ blockP50Ms }) => blockP50Ms, 2),
        cell(({ blockP99Ms }) => blockP99Ms, 2),
        cell(({ blockP99Ms }) => Math.max(0, blockP99Ms - TIMER_MS), 2),
        cell(({ blockMaxMs }) => blockMaxMs, 1),
        cell(({ cpuUs, rows: written }) => (written === 0 ? null : cpuUs / written), 0),
        failed === 0 ? "0" : `**${failed}**`,
      ];
    });
  const head = [
    "ledger",
    "rows/s",
    "intent p50 ms",
    "intent p99 ms",
    "block p50 ms",
    "block p99 ms",
    "late p99 ms",
    "block max ms",
    "CPU µs per request",
    "failures",
  ];
  const left = [...skipped].map(([id, why]) => `- ${id} was left out: ${why}`);
  const failures = samples.flatMap(({ id, failures: mine }) => mine.map(([reason, count]) => `- ${id}: ${count} × ${reason}`));
  const end = failures.length === 0 ? ["Every row was found: no failures."] : ["Failures:", "", ...failures];
  return `${[...setting.map((line) => `- ${line}`), ...left, "", ...table(head, rows), "", ...end].join("\n")}\n`;
}

export const ledgerProgress = ({ rows, seconds, blockP99Ms, intentP99Ms }: LedgerSample): string =>
  `${number(rows / seconds, 0)} rows/s, intent p99 ${number(intentP99Ms ?? Number.NaN, 2)} ms, block p99 ${number(blockP99Ms, 2)} ms`;
