import { workloads, type Workload } from "./workloads.ts";

/** One target, one workload, one round. */
export interface Sample {
  readonly target: string;
  readonly workload: Workload["id"];
  readonly round: number;
  readonly answered: number;
  readonly seconds: number;
  /** Of the target's process over the same interval; null = not known. */
  readonly cpuUs: number | null;
  /** Of the load generator and the upstream. */
  readonly benchCpuUs: number;
  /** Reason to count, over the whole round. */
  readonly failures: ReadonlyMap<string, number>;
}

export interface Target {
  readonly id: string;
  readonly title: string;
}

export interface Run {
  readonly targets: readonly Target[];
  /** Target to reason. */
  readonly skipped: ReadonlyMap<string, string>;
  readonly samples: readonly Sample[];
  /** What ran where, in lines. */
  readonly setting: readonly string[];
}

/** What the others are compared with: the least that a proxy inside Express can cost. */
const FLOOR = "c";
/** What an app uses today. */
const COMMON = "b";
const OURS = "a";
const NONE = "–";

const cpu = (sample: Sample): number => (sample.cpuUs === null ? Number.NaN : sample.cpuUs / sample.answered);
const rps = (sample: Sample): number => sample.answered / sample.seconds;
const busy = (sample: Sample): number => (sample.cpuUs === null ? Number.NaN : sample.cpuUs / (sample.seconds * 1e6));
const benchBusy = (sample: Sample): number => sample.benchCpuUs / (sample.seconds * 1e6);

/** What stands above the tables in the file. */
export const introduction = `# What a request costs

One run of \`npm run bench\`. Every target forwards the same requests to the same scripted upstream on this machine, over plain HTTP. Each round gives every
target its turn, in an order that rotates. Cells are \`median (lowest–highest)\` over the rounds; the columns that compare are made from the ratios within
each round, because the speed of a shared machine changes between rounds. There is no pass or fail.

CPU is what the kernel booked on the target's process (all its threads) in the measured seconds, divided by the answers of those seconds. "Busy" is the share
of a core that the target's process, and the bench's own with load generator and upstream, used. Where the target is well under 100 %, the bench or other
work on the machine was the limit: then requests per second say little about the target, and the CPU column is the one to read.

`;

/** Markdown that also reads well in a terminal. */
export function report(run: Run): string {
  const parts = workloads.filter(({ id }) => run.samples.some((sample) => sample.workload === id)).map((workload) => section(run, workload));
  const skipped = [...run.skipped].map(([id, why]) => `- ${id} was left out: ${why}`);
  const setting = [...run.setting.map((line) => `- ${line}`), ...skipped].join("\n");
  return `${[setting, ...parts, failureList(run.samples)].join("\n\n")}\n`;
}

function section(run: Run, workload: Workload): string {
  const samples = run.samples.filter((sample) => sample.workload === workload.id);
  const of = (id: string): readonly Sample[] => samples.filter((sample) => sample.target === id);
  const rows = run.targets
    .filter(({ id }) => of(id).length > 0)
    .map(({ id, title }) => {
      const mine = of(id);
      const failed = mine.reduce((sum, sample) => sum + total(sample.failures), 0);
      return [
        `${id} ${title}`,
        spread(mine.map(cpu), 1),
        spread(mine.map(rps), 0),
        spread(ratios(mine, of(FLOOR), cpu), 2),
        spread(ratios(mine, of(FLOOR), rps), 2),
        `${percent(median(mine.map(busy)))} / ${percent(median(mine.map(benchBusy)))}`,
        failed === 0 ? "0" : `**${failed}**`,
      ];
    });
  const head = [
    "target",
    "CPU µs per request",
    "requests per second",
    `CPU, ${FLOOR} = 1`,
    `requests/s, ${FLOOR} = 1`,
    "busy: target / bench",
    "failures",
  ];
  return [`## ${workload.title}`, "", ...table(head, rows), ...against(of(OURS), of(COMMON)), ...translating(run, workload)].join("\n");
}

/** What the translation costs each target that translates: the same answer next to the one that passes untranslated. */
function translating(run: Run, { id, translationOf }: Workload): readonly string[] {
  if (translationOf === undefined) return [];
  const of = (target: string, workload: Workload["id"]): readonly Sample[] =>
    run.samples.filter((sample) => sample.target === target && sample.workload === workload);
  return run.targets.flatMap(({ id: target }) => {
    const compared = ratios(of(target, id), of(target, translationOf), cpu);
    return compared.length === 0
      ? []
      : ["", `${target}, ${id} against ${translationOf}, round by round: ${spread(compared, 2)} times the CPU per request.`];
  });
}

function against(ours: readonly Sample[], common: readonly Sample[]): readonly string[] {
  if (ours.length === 0 || common.length === 0) return [];
  const costs = spread(ratios(ours, common, cpu), 2);
  const speed = spread(ratios(ours, common, rps), 2);
  return ["", `${OURS} against ${COMMON}, round by round: ${costs} times the CPU per request, ${speed} times the requests per second.`];
}

/** Round by round, because the machine's own speed changes between rounds and cancels out only within one. */
export function ratios<S extends { readonly round: number }>(
  mine: readonly S[],
  base: readonly S[],
  value: (sample: S) => number,
): readonly number[] {
  return mine.flatMap((sample) => {
    const other = base.find(({ round }) => round === sample.round);
    return other === undefined ? [] : [value(sample) / value(other)];
  });
}

function failureList(samples: readonly Sample[]): string {
  const lines = samples.flatMap(({ target, workload, round, failures: reasons }) =>
    [...reasons].map(([reason, count]) => `- ${target}, ${workload}, round ${round + 1}: ${count} × ${reason}`),
  );
  return lines.length === 0
    ? "Every answer of every round was checked (status, bytes of payload): no failures."
    : `Failures (their rounds are in the tables):\n${lines.join("\n")}`;
}

export function total(failures: ReadonlyMap<string, number>): number {
  let sum = 0;
  for (const count of failures.values()) sum += count;
  return sum;
}

export function progress(sample: Sample): string {
  const failed = total(sample.failures);
  return `${number(rps(sample), 0)} req/s, ${number(cpu(sample), 1)} µs CPU${failed > 0 ? `, ${failed} FAILED` : ""}`;
}

/** `median (lowest–highest)` over the values that are numbers. */
export function spread(values: readonly number[], digits: number): string {
  const known = values.filter(Number.isFinite);
  if (known.length === 0) return NONE;
  return `${number(median(known), digits)} (${number(Math.min(...known), digits)}–${number(Math.max(...known), digits)})`;
}

export function median(values: readonly number[]): number {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const upper = sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? Number.NaN;
  return (lower + upper) / 2;
}

export const number = (value: number, digits: number): string =>
  Number.isFinite(value) ? value.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : NONE;

const percent = (share: number): string => (Number.isFinite(share) ? `${Math.round(share * 100)} %` : NONE);

export function table(head: readonly string[], rows: readonly (readonly string[])[]): readonly string[] {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  const line = (cells: readonly string[]): string => `| ${cells.map((cell, column) => pad(cell, widths[column] ?? 0, column)).join(" | ")} |`;
  const rule = widths.map((width, column) => (column === 0 ? "-".repeat(width) : `${"-".repeat(width - 1)}:`));
  return [line(head), line(rule), ...rows.map(line)];
}

const pad = (cell: string, width: number, column: number): string => (column === 0 ? cell.padEnd(width) : cell.padStart(width));
