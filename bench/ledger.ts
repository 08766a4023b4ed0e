/**
 * `npm run bench:ledger [-- --quick]`
 *
 * What the ledger does to the event loop at a steady pace of requests, next to the same loop with nothing to do. It judges nothing.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { initPostgres, servePostgres } from "../test/setup/postgres.ts";
import { freePort, type ServerProcess } from "../test/setup/server-process.ts";
import { cores } from "./cores.ts";
import { disturbance } from "./disturbance.ts";
import type { Measured, Pace } from "./ledger/arrivals.ts";
import { ledgerCases, ledgerIntroduction, ledgerProgress, ledgerReport, type LedgerCase, type LedgerSample } from "./ledger/ledger-report.ts";
import { killTargets, targetProcess, type TargetProcess } from "./target-process.ts";

const HELP = `npm run bench:ledger [-- options]

  --rounds 5           how often each ledger has its turn
  --seconds 4          how long a turn is measured
  --per-second 1000    requests a second
  --quick              2 rounds of 1 second
  --only a,b           some of: ${ledgerCases.map(([id]) => id).join(", ")}
  --json               the figures as JSON on standard output
  -h, --help           this text
`;

const WARM_UP_MS = 500;

const root = fileURLToPath(new URL("..", import.meta.url));
const options = commandLine();
const say = (line: string): void => void (options.json ? process.stderr : process.stdout).write(`${line}\n`);
const place = cores();
const temporary = mkdtempSync(join(tmpdir(), "quotaguard-bench-"));

process.on("exit", () => {
  killTargets();
  rmSync(temporary, { recursive: true, force: true });
});
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
process.on("SIGHUP", () => process.exit(129));

async function main(): Promise<void> {
  say(place.text);
  const skipped = new Map<string, string>();
  const running = new Map<LedgerCase, TargetProcess>();
  const postgres = options.cases.includes("postgres") ? await optionalPostgres(skipped) : null;
  for (const id of options.cases) {
    if (id === "postgres" && postgres === null) continue;
    const flags = ["--conditions=@quotaguard/source", "--disable-warning=ExperimentalWarning", join(root, "bench/ledger/ledger-process.ts")];
    const folder = mkdtempSync(join(temporary, `${id}-`));
    const target = await targetProcess(place.target(process.execPath, [...flags, id, postgres?.url ?? "", folder]), root, null);
    running.set(id, target);
    await measured(target, { perSecond: paceOf(id), warmUpMs: 0, measureMs: 1_000 });
    say(`  ${id} ready`);
  }
  const quiet = await disturbance([...running.values()]);
  const samples: LedgerSample[] = [];
  const present = [...running.keys()];
  for (let round = 0; round < options.rounds; round += 1) {
    for (const id of round % 2 === 0 ? present : present.toReversed()) {
      const pace = { perSecond: paceOf(id), warmUpMs: WARM_UP_MS, measureMs: options.seconds * 1_000 };
      const sample = { id, ...(await measured(running.get(id) as TargetProcess, pace)) };
      samples.push(sample);
      say(`  round ${round + 1}/${options.rounds} ${id.padEnd(12)} ${ledgerProgress(sample)}`);
    }
  }
  const machine = cpus();
  const setting = [
    `Run of ${new Date().toISOString().slice(0, 10)}: ${options.rounds} interleaved rounds of ${options.seconds} s per ledger, ${options.perSecond} requests a second`,
    `Machine: ${machine.length} × ${machine[0]?.model.trim() ?? "unknown"}, ${process.platform} ${process.arch}; ${place.text}`,
    `Versions: Node ${process.versions.node}, SQLite ${process.versions["sqlite"] ?? "?"}${postgres === null ? "" : "; Postgres on the core of the bench, with fsync"}`,
    await quiet(),
  ];
  for (const target of running.values()) await target.stop();
  await postgres?.stop();
  if (options.json) process.stdout.write(`${JSON.stringify({ setting, skipped: Object.fromEntries(skipped), samples }, null, 2)}\n`);
  else say(`\n${ledgerIntroduction}${ledgerReport({ samples, skipped, setting })}`);
}

const paceOf = (id: LedgerCase): number => (id === "idle" ? 0 : options.perSecond);

/** A Postgres that nobody else uses, with the settings that it comes with. */
async function optionalPostgres(skipped: Map<string, string>): Promise<ServerProcess | null> {
  try {
    return await servePostgres(await initPostgres(), await freePort(), []);
  } catch (error) {
    skipped.set("postgres", error instanceof Error ? error.message : String(error));
    return null;
  }
}

async function measured(target: TargetProcess, pace: Pace): Promise<Measured> {
  const response = await fetch(`http://127.0.0.1:${target.port}`, { method: "POST", body: JSON.stringify(pace) });
  const result = (await response.json()) as Measured | { readonly error: string };
  if ("error" in result) throw new Error(result.error);
  return result;
}

interface Options {
  readonly rounds: number;
  readonly seconds: number;
  readonly perSecond: number;
  readonly cases: readonly LedgerCase[];
  readonly json: boolean;
}

function commandLine(): Options {
  try {
    const text = { type: "string" } as const;
    const flag = { type: "boolean", default: false } as const;
    const { values } = parseArgs({
      options: { rounds: text, seconds: text, "per-second": text, only: text, quick: flag, json: flag, help: { ...flag, short: "h" } },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    return {
      rounds: Math.ceil(positive("rounds", values.rounds ?? (values.quick ? "2" : "5"), 1_000)),
      seconds: positive("seconds", values.seconds ?? (values.quick ? "1" : "4"), 3_600),
      perSecond: positive("per-second", values["per-second"] ?? "1000", 100_000),
      cases: chosen(values.only?.split(",") ?? []),
      json: values.json,
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(2);
  }
}

function chosen(names: readonly string[]): readonly LedgerCase[] {
  const known = ledgerCases.map(([id]) => id);
  const unknown = names.find((name) => !known.some((id) => id === name));
  if (unknown !== undefined) throw new Error(`--only ${unknown}: there is no such ledger; npm run bench:ledger -- -h lists them`);
  return names.length === 0 ? known : known.filter((id) => names.includes(id));
}

function positive(name: string, value: string, most: number): number {
  const parsed = Number(value);
  if (!(parsed > 0 && parsed <= most)) throw new Error(`--${name} ${value}: a number above 0`);
  return parsed;
}

await main();
process.exit(0);
