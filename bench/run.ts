/**
 * `npm run bench [-- --rounds 6 --seconds 1.6 --only a,c --workload json,sse --profile]`
 *
 * What one request costs in QuotaGuard, next to what the alternatives cost on the same machine in the same minutes. It judges nothing: a machine is
 * noisy, so read the ratios within a round, not the absolute numbers, and not one run alone.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { cores } from "./cores.ts";
import { disturbance } from "./disturbance.ts";
import { introduction, progress, report, type Sample, type Target } from "./report.ts";
import { killTargets, targetProcess, type TargetProcess } from "./target-process.ts";
import { nginxBinary, nginxTarget } from "./targets/nginx.ts";
import { CONNECTIONS, prepared, turn, WARM_UP_MS } from "./turn.ts";
import { upstream, type Upstream } from "./upstream.ts";
import { workloads, type Workload } from "./workloads.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const say = (line: string): void => void process.stdout.write(`${line}\n`);

interface Candidate extends Target {
  /** Whether it answers clients of other dialects than the provider's. */
  readonly translates?: true;
  start(provider: Upstream): Promise<TargetProcess>;
}

const candidates: readonly Candidate[] = [
  { id: "a", title: "QuotaGuard in Express, SQLite ledger", translates: true, start: (provider) => node("gateway.ts", provider, "sqlite") },
  { id: "a-mem", title: "QuotaGuard in Express, memory ledger", translates: true, start: (provider) => node("gateway.ts", provider, "memory") },
  { id: "b", title: "Express + http-proxy-middleware", start: (provider) => node("express-hpm.ts", provider) },
  { id: "c", title: "Express + undici dispatch", start: (provider) => node("express-dispatch.ts", provider) },
  { id: "d", title: "nginx, one worker", start: startNginx },
  { id: "direct", title: "no gateway: the bench's own ceiling", start: async (provider) => straight(provider) },
];

const options = commandLine();
const place = cores();
const nginx = nginxBinary();
const temporary = mkdtempSync(join(tmpdir(), "quotaguard-bench-"));
const profiles = options.profile ? mkdtempSync(join(tmpdir(), "quotaguard-bench-profiles-")) : null;

process.on("exit", () => {
  killTargets();
  rmSync(temporary, { recursive: true, force: true });
});
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
process.on("SIGHUP", () => process.exit(129));

async function main(): Promise<void> {
  const provider = await upstream();
  const running = new Map<string, TargetProcess>();
  const skipped = new Map<string, string>();
  const chosen = candidates.filter(({ id }) => options.only.length === 0 || options.only.includes(id));
  const asked = workloads.filter(({ id }) => options.workload.length === 0 || options.workload.includes(id));
  say(
    `${chosen.length} targets, ${asked.length} workloads, ${options.rounds} rounds of ${options.seconds} s, ${CONNECTIONS} connections, closed loop`,
  );
  say(place.text);

  for (const candidate of chosen) {
    try {
      running.set(candidate.id, await prepare(candidate, provider, asked));
      say(`  ${candidate.id.padEnd(6)} ready: ${candidate.title}`);
    } catch (error) {
      const why = (error instanceof Error ? error.message : String(error)).replaceAll(root, "");
      skipped.set(candidate.id, why);
      say(`  ${candidate.id.padEnd(6)} SKIPPED: ${why}`);
    }
  }

  const quiet = await disturbance([...running.values()]);
  const present = chosen.filter(({ id }) => running.has(id));
  const samples = await measure(present, running, provider, asked);
  const setting = [...describe(), await quiet()];
  for (const target of running.values()) await target.stop();
  provider.close();

  const text = report({ targets: chosen, skipped, samples, setting });
  say(`\n${text}`);
  if (profiles !== null) say(`CPU profiles: ${profiles}`);
  else if (options.only.length > 0 || options.workload.length > 0) say("A part of the bench only: bench/results.md stays as it was.");
  else {
    writeFileSync(new URL("results.md", import.meta.url), `${introduction}${text}`);
    say("Written to bench/results.md.");
  }
}

const answers = ({ translates }: Candidate, { translationOf }: Workload): boolean => translationOf === undefined || translates === true;

/** Started, checked and warm. */
function prepare(candidate: Candidate, provider: Upstream, asked: readonly Workload[]): Promise<TargetProcess> {
  const own = asked.filter((workload) => answers(candidate, workload));
  return prepared(candidate.start(provider), own, WARM_UP_MS, (line) => say(`  ${candidate.id}: ${line}`));
}

async function measure(
  targets: readonly Candidate[],
  running: ReadonlyMap<string, TargetProcess>,
  provider: Upstream,
  asked: readonly Workload[],
): Promise<Sample[]> {
  const samples: Sample[] = [];
  for (let round = 0; round < options.rounds; round++) {
    const first = targets.length === 0 ? 0 : round % targets.length;
    const order = [...targets.slice(first), ...targets.slice(0, first)];
    for (const workload of round % 2 === 0 ? asked : asked.toReversed()) {
      for (const candidate of order) {
        const { id } = candidate;
        const target = running.get(id);
        if (target === undefined || !answers(candidate, workload)) continue;
        const { failures, ...counted } = await turn(target, provider, workload, options.seconds);
        const sample = { target: id, workload: workload.id, round, ...counted, failures: withoutPaths(failures) };
        samples.push(sample);
        say(`  round ${round + 1}/${options.rounds} ${workload.id.padEnd(4)} ${id.padEnd(6)} ${progress(sample)}`);
      }
    }
  }
  return samples;
}

/** A fault that names a file names it within the project. */
const withoutPaths = (failures: ReadonlyMap<string, number>): ReadonlyMap<string, number> =>
  new Map([...failures].map(([reason, count]) => [reason.replaceAll(root, ""), count]));

function node(file: string, provider: Upstream, ...more: readonly string[]): Promise<TargetProcess> {
  const folder = mkdtempSync(join(temporary, "target-"));
  const profile =
    profiles === null
      ? []
      : ["--cpu-prof", `--cpu-prof-dir=${profiles}`, `--cpu-prof-name=${[file.replace(".ts", ""), ...more].join("-")}.cpuprofile`];
  const args = [...profile, "--conditions=@quotaguard/source", "--disable-warning=ExperimentalWarning", join(root, "bench/targets", file)];
  return targetProcess(place.target(process.execPath, [...args, `http://127.0.0.1:${provider.port}`, ...more, folder]), root, null);
}

async function startNginx(provider: Upstream): Promise<TargetProcess> {
  if (nginx === null) throw new Error("nginx is not installed");
  const folder = join(temporary, "nginx");
  mkdirSync(folder, { recursive: true });
  const { port, command, args } = await nginxTarget(nginx.path, folder, provider.port);
  return targetProcess(place.target(command, args), folder, port);
}

/** The load generator on the upstream itself. */
function straight(provider: Upstream): TargetProcess {
  return { port: provider.port, ended: null, measureCpu: async () => async () => null, stop: async () => undefined };
}

function describe(): readonly string[] {
  const installed = (name: string): string => `${name} ${JSON.parse(readFileSync(join(root, "node_modules", name, "package.json"), "utf8")).version}`;
  const versions = [
    `Node ${process.versions.node}`,
    ...["express", "undici", "http-proxy-middleware"].map(installed),
    ...(nginx ? [`nginx ${nginx.version}`] : []),
  ];
  const machine = cpus();
  return [
    `Run of ${new Date().toISOString().slice(0, 10)}: ${options.rounds} interleaved rounds of ${options.seconds} s per target and workload, ${CONNECTIONS} kept-alive connections, closed loop`,
    `Machine: ${machine.length} × ${machine[0]?.model.trim() ?? "unknown"}, ${process.platform} ${process.arch}; ${place.text}`,
    `Versions: ${versions.join(", ")}`,
  ];
}

function commandLine(): { rounds: number; seconds: number; only: readonly string[]; workload: readonly string[]; profile: boolean } {
  try {
    const text = { type: "string" } as const;
    const { values } = parseArgs({ options: { rounds: text, seconds: text, only: text, workload: text, profile: { type: "boolean" } } });
    const only = values.only?.split(",") ?? [];
    const known = candidates.map(({ id }) => id);
    const unknown = only.find((id) => !known.includes(id));
    if (unknown !== undefined) throw new Error(`--only ${unknown}: there is no such target; known are ${known.join(", ")}`);
    const workload = values.workload?.split(",") ?? [];
    if (!workload.every((name) => workloads.some(({ id }) => id === name)))
      throw new Error(`--workload: some of ${workloads.map(({ id }) => id).join(", ")}`);
    const rounds = positive("rounds", values.rounds ?? "6");
    return {
      rounds: Math.ceil(rounds),
      seconds: positive("seconds", values.seconds ?? "1.6"),
      only,
      workload,
      profile: values.profile ?? false,
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(2);
  }
}

function positive(name: string, value: string): number {
  const parsed = Number(value);
  if (!(parsed > 0 && parsed <= 3600)) throw new Error(`--${name} ${value}: a number above 0`);
  return parsed;
}

await main();
process.exit(0);
