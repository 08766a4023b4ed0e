import { median, number, ratios, spread, table } from "../report.ts";
import { cases, comparisons, type Case, type Group } from "./cases.ts";

/** One case, one round. */
export interface StoreSample {
  readonly id: string;
  readonly round: number;
  readonly operations: number;
  readonly seconds: number;
  /** Of the process that uses the store; null = not known. */
  readonly clientCpuUs: number | null;
  readonly serverCpuUs: number | null;
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  /** Reason and count. */
  readonly failures: readonly (readonly [string, number])[];
}

export interface StoresRun {
  readonly samples: readonly StoreSample[];
  /** What was left out, and why. */
  readonly skipped: ReadonlyMap<string, string>;
  /** What ran where, in lines. */
  readonly setting: readonly string[];
}

type Value = (sample: StoreSample) => number;

interface Column {
  readonly head: string;
  readonly digits: number;
  readonly value: Value;
}

const rate: Value = ({ operations, seconds }) => operations / seconds;
const perOperation =
  (cpu: "clientCpuUs" | "serverCpuUs"): Value =>
  (sample) =>
    sample[cpu] === null || sample.operations === 0 ? Number.NaN : sample[cpu] / sample.operations;
const client = perOperation("clientCpuUs");
const server = perOperation("serverCpuUs");
const p50: Value = (sample) => sample.p50Ms ?? Number.NaN;
const p99: Value = (sample) => sample.p99Ms ?? Number.NaN;

const SECTIONS: Readonly<Record<Group, { readonly title: string; readonly note: string; readonly columns: readonly Column[] }>> = {
  process: {
    title: "Stores in this process",
    note:
      "A reservation is reserved and settled: two verbs. The number behind @ is how many callers wait for a promise at any time; without it one calls " +
      "and waits for none.",
    columns: [
      { head: "verbs/s", digits: 0, value: rate },
      { head: "p99 ms", digits: 3, value: p99 },
      { head: "reservations/s", digits: 0, value: (sample) => rate(sample) / 2 },
      { head: "CPU µs per reservation", digits: 2, value: (sample) => client(sample) * 2 },
    ],
  },
  redis: {
    title: "On Redis, over one connection",
    note:
      "An operation is one verb over all five limits, or five limiters asked. The number behind @ is how many callers wait at any time. rate-limiter-flexible " +
      "counts fixed windows without reservations: nothing is all-or-nothing, repeatable or given back.",
    columns: [
      { head: "operations/s", digits: 0, value: rate },
      { head: "p50 ms", digits: 2, value: p50 },
      { head: "p99 ms", digits: 2, value: p99 },
      { head: "client CPU µs", digits: 1, value: client },
      { head: "Redis CPU µs", digits: 1, value: server },
    ],
  },
  gateway: {
    title: "The whole gateway in Express, by the store of its five token budgets",
    note: "64 kept-alive connections, closed loop, ledger in memory.",
    columns: [
      { head: "requests/s", digits: 0, value: rate },
      { head: "gateway CPU µs", digits: 1, value: client },
      { head: "Redis CPU µs", digits: 1, value: server },
    ],
  },
};

/** Markdown that also reads well in a terminal. */
export function storesReport({ samples, skipped, setting }: StoresRun): string {
  const of = (id: string): readonly StoreSample[] => samples.filter((sample) => sample.id === id);
  const left = [...skipped].map(([what, why]) => `${what} was left out: ${why}`);
  const parts = (Object.keys(SECTIONS) as Group[]).map((group) => section(group, of)).filter((part) => part !== null);
  return `${[[...setting, ...left].map((line) => `- ${line}`).join("\n"), ...parts, failureList(samples)].join("\n\n")}\n`;
}

function section(group: Group, of: (id: string) => readonly StoreSample[]): string | null {
  const { title, note, columns } = SECTIONS[group];
  const mine = cases.filter((each) => each.group === group && of(each.id).length > 0);
  if (mine.length === 0) return null;
  const rows = mine.map((each) => [label(each), ...columns.map(({ value, digits }) => spread(of(each.id).map(value), digits)), failed(of(each.id))]);
  const lines = compared(of)
    .filter(({ of: id }) => mine.some((each) => each.id === id))
    .map(
      (each) =>
        `- ${each.of} / ${each.with}: **${number(median(each.ratios), 2)}** (${number(Math.min(...each.ratios), 2)}–${number(Math.max(...each.ratios), 2)})`,
    );
  const against = lines.length === 0 ? [] : ["", "Operations per second against each other, round by round:", "", ...lines];
  return [`## ${title}`, "", note, "", ...table(["case", ...columns.map(({ head }) => head), "failures"], rows), ...against].join("\n");
}

const label = ({ id, title }: Case): string => `${id} ${title}`;

const failed = (samples: readonly StoreSample[]): string => {
  const count = samples.reduce((sum, { failures }) => sum + failures.reduce((all, [, n]) => all + n, 0), 0);
  return count === 0 ? "0" : `**${count}**`;
};

/** The comparisons of which both sides were measured. */
function compared(of: (id: string) => readonly StoreSample[]) {
  return comparisons
    .map((each) => ({ ...each, ratios: ratios(of(each.of), of(each.with), rate).filter(Number.isFinite) }))
    .filter((each) => each.ratios.length > 0);
}

function failureList(samples: readonly StoreSample[]): string {
  const lines = samples.flatMap(({ id, round, failures }) => failures.map(([reason, count]) => `- ${id}, round ${round + 1}: ${count} × ${reason}`));
  return lines.length === 0 ? "Every answer was looked at: no failures." : `Failures (their rounds are in the tables):\n${lines.join("\n")}`;
}

export function storesProgress(sample: StoreSample): string {
  const count = sample.failures.reduce((sum, [, n]) => sum + n, 0);
  const times = sample.p99Ms === null ? "" : `, p50 ${number(p50(sample), 2)} ms, p99 ${number(p99(sample), 2)} ms`;
  const ofServer = sample.serverCpuUs === null ? "" : `, Redis ${number(server(sample), 1)} µs`;
  return `${number(rate(sample), 0)}/s${times}, CPU ${number(client(sample), 1)} µs${ofServer}${count > 0 ? `, ${count} FAILED` : ""}`;
}

/** The same for programs: medians and all rounds. */
export function storesJson({ samples, skipped, setting }: StoresRun): string {
  const of = (id: string): readonly StoreSample[] => samples.filter((sample) => sample.id === id);
  const middle = (mine: readonly StoreSample[], value: Value): number | null => {
    const found = median(mine.map(value));
    return Number.isFinite(found) ? found : null;
  };
  const measured = cases
    .map((each) => ({ ...each, samples: of(each.id) }))
    .filter((each) => each.samples.length > 0)
    .map(({ id, title, group, samples: mine }) => ({
      id,
      title,
      group,
      operationsPerSecond: middle(mine, rate),
      p50Ms: middle(mine, p50),
      p99Ms: middle(mine, p99),
      clientCpuUsPerOperation: middle(mine, client),
      serverCpuUsPerOperation: middle(mine, server),
      rounds: mine,
    }));
  const ratioList = compared(of).map(({ of: id, with: base, ratios: all }) => ({ of: id, with: base, median: median(all), rounds: all }));
  return `${JSON.stringify({ setting, skipped: Object.fromEntries(skipped), cases: measured, ratios: ratioList }, null, 2)}\n`;
}
