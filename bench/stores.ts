/**
 * `npm run bench:stores [-- --quick]`
 *
 * What the stores cost: their verbs alone, next to rate-limiter-flexible on the same Redis, and the whole gateway on each of them. All take turns in
 * every round, so that what else happens on the machine hits them alike: read the ratios. It judges nothing.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { cores } from "./cores.ts";
import { disturbance } from "./disturbance.ts";
import { cases, type Case, type ContenderId, type GatewayId } from "./stores/cases.ts";
import type { Job, JobResult } from "./stores/job.ts";
import { redisServer, type RedisServer } from "./stores/redis-server.ts";
import { storesJson, storesProgress, storesReport, type StoreSample } from "./stores/stores-report.ts";
import { killTargets, targetProcess, type TargetProcess } from "./target-process.ts";
import { prepared, turn, WARM_UP_MS } from "./turn.ts";
import { upstream, type Upstream } from "./upstream.ts";
import { workloads, type Workload } from "./workloads.ts";

const HELP = `npm run bench:stores [-- options]

  --rounds 6      how often each case has its turn
  --seconds 1.2   how long a turn is measured
  --quick         3 rounds of 0.4 seconds: under a minute
  --only a,b      groups (process, redis, gateway) or single cases
  --json          the figures as JSON on standard output
  --profile       CPU profiles of all processes, in a new folder
  -h, --help      this text

Cases: ${cases.map(({ id }) => id).join(", ")}
`;

/** What a turn of a store does before it is measured. */
const JOB_WARM_UP_MS = 200;

const root = fileURLToPath(new URL("..", import.meta.url));
const options = commandLine();
const say = (line: string): void => void (options.json ? process.stderr : process.stdout).write(`${line}\n`);
const place = cores();
const temporary = mkdtempSync(join(tmpdir(), "quotaguard-bench-"));
const profiles = options.profile ? mkdtempSync(join(tmpdir(), "quotaguard-bench-profiles-")) : null;

process.on("exit", () => {
  killTargets();
  rmSync(temporary, { recursive: true, force: true });
});
process.on("SIGINT", () => process.exit(130));
process.on("SIGTERM", () => process.exit(143));
process.on("SIGHUP", () => process.exit(129));

type Who = ContenderId | GatewayId;
const whoOf = (each: Case): Who => (each.group === "gateway" ? each.gateway : each.contender);

async function main(): Promise<void> {
  const provider = await upstream();
  const skipped = new Map<string, string>();
  const redis = options.cases.some(({ needsRedis }) => needsRedis) ? await optionalRedis(skipped) : null;
  const possible = options.cases.filter(({ needsRedis }) => redis !== null || !needsRedis);
  say(`${possible.length} cases, ${options.rounds} rounds of ${options.seconds} s`);
  say(place.text);

  const running = new Map<Who, TargetProcess>();
  for (const who of new Set(possible.map(whoOf))) {
    const mine = possible.filter((each) => whoOf(each) === who);
    try {
      running.set(who, await started(who, mine, provider, redis));
      say(`  ${who} ready`);
    } catch (error) {
      const why = withoutPaths(error instanceof Error ? error.message : String(error));
      skipped.set(who, why);
      say(`  ${who} SKIPPED: ${why}`);
    }
  }

  const quiet = await disturbance([...running.values()], redis?.cpuUs);
  const samples: StoreSample[] = [];
  const present = possible.filter((each) => running.has(whoOf(each)));
  for (let round = 0; round < options.rounds; round += 1) {
    const first = present.length === 0 ? 0 : Math.floor((round * present.length) / options.rounds);
    const order = [...present.slice(first), ...present.slice(0, first)];
    for (const each of round % 2 === 0 ? order : order.toReversed()) {
      const sample = { id: each.id, round, ...(await measured(each, running.get(whoOf(each)) as TargetProcess, provider, redis)) };
      samples.push(sample);
      say(`  round ${round + 1}/${options.rounds} ${each.id.padEnd(20)} ${storesProgress(sample)}`);
    }
  }

  const setting = [...describe(redis), await quiet()];
  for (const target of running.values()) await target.stop();
  await redis?.stop();
  provider.close();
  const run = { samples, skipped, setting };
  if (options.json) process.stdout.write(storesJson(run));
  else say(`\n${storesReport(run)}`);
  if (profiles !== null) say(`CPU profiles: ${profiles}`);
}

async function optionalRedis(skipped: Map<string, string>): Promise<RedisServer | null> {
  try {
    return await redisServer(place);
  } catch (error) {
    skipped.set("everything on Redis", withoutPaths(error instanceof Error ? error.message : String(error)));
    return null;
  }
}

/** Started, and warm in all of its cases. */
async function started(who: Who, mine: readonly Case[], provider: Upstream, redis: RedisServer | null): Promise<TargetProcess> {
  const redisUrl = redis?.url ?? "";
  const folder = mkdtempSync(join(temporary, `${who}-`));
  switch (who) {
    case "gateway-memory":
    case "gateway-sqlite":
    case "gateway-redis": {
      const store = { "gateway-memory": "memory", "gateway-sqlite": `sqlite:${join(folder, "store.db")}`, "gateway-redis": redisUrl }[who];
      const asked = workloads.filter(({ id }) => mine.some((each) => each.group === "gateway" && each.workload === id));
      const start = node(who, "targets/gateway.ts", [`http://127.0.0.1:${provider.port}`, "memory", folder, store]);
      return prepared(start, asked, WARM_UP_MS * options.warmth, (line) => say(`  ${who}: ${line}`));
    }
    default: {
      const target = await node(who, "stores/contender.ts", [who, mine.some(({ needsRedis }) => needsRedis) ? redisUrl : "", folder]);
      for (const each of mine) {
        if (each.group === "gateway") continue;
        const { failures, operations } = await jobResult(target, { ...each.job, warmUpMs: 0, measureMs: 500 * options.warmth });
        for (const [reason, count] of failures) say(`  ${who}: ${count} failures in the warm-up of ${each.id}: ${reason}`);
        if (operations === 0) throw new Error(`${each.id}: no answer in the warm-up`);
      }
      return target;
    }
  }
}

async function measured(
  each: Case,
  target: TargetProcess,
  provider: Upstream,
  redis: RedisServer | null,
): Promise<Omit<StoreSample, "id" | "round">> {
  if (each.group !== "gateway") return jobSample(each, target);
  const serverTime = each.needsRedis ? redis?.cpuUs : undefined;
  const { answered, seconds, cpuUs, serverCpuUs, failures } = await turn(target, provider, workloadOf(each.workload), options.seconds, serverTime);
  const reasons = [...failures].map(([reason, count]) => [withoutPaths(reason), count] as const);
  return { operations: answered, seconds, clientCpuUs: cpuUs, serverCpuUs, p50Ms: null, p99Ms: null, failures: reasons };
}

async function jobSample(each: Exclude<Case, { group: "gateway" }>, target: TargetProcess): Promise<Omit<StoreSample, "id" | "round">> {
  try {
    return await jobResult(target, { ...each.job, warmUpMs: JOB_WARM_UP_MS, measureMs: options.seconds * 1000 });
  } catch (error) {
    const why = withoutPaths(target.ended ?? (error instanceof Error ? error.message : String(error)));
    return { operations: 0, seconds: options.seconds, clientCpuUs: null, serverCpuUs: null, p50Ms: null, p99Ms: null, failures: [[why, 1]] };
  }
}

async function jobResult(target: TargetProcess, job: Job): Promise<JobResult> {
  const response = await fetch(`http://127.0.0.1:${target.port}`, { method: "POST", body: JSON.stringify(job) });
  const result = (await response.json()) as JobResult | { readonly error: string };
  if ("error" in result) throw new Error(result.error);
  return result;
}

function workloadOf(id: Workload["id"]): Workload {
  const found = workloads.find((workload) => workload.id === id);
  if (found === undefined) throw new Error(`there is no workload ${id}`);
  return found;
}

function node(who: Who, file: string, args: readonly string[]): Promise<TargetProcess> {
  const profile = profiles === null ? [] : ["--cpu-prof", `--cpu-prof-dir=${profiles}`, `--cpu-prof-name=${who}.cpuprofile`];
  const flags = [...profile, "--conditions=@quotaguard/source", "--disable-warning=ExperimentalWarning"];
  return targetProcess(place.target(process.execPath, [...flags, join(root, "bench", file), ...args]), root, null);
}

function describe(redis: RedisServer | null): readonly string[] {
  const machine = cpus();
  return [
    `Run of ${new Date().toISOString().slice(0, 10)}: ${options.rounds} interleaved rounds of ${options.seconds} s per case; cells are \`median (lowest–highest)\``,
    `Machine: ${machine.length} × ${machine[0]?.model.trim() ?? "unknown"}, ${process.platform} ${process.arch}; ${place.text}`,
    `Versions: Node ${process.versions.node}${redis === null ? "" : `, Redis ${redis.version}; Redis ${place.serverText}`}`,
  ];
}

/** A fault that names a file names it within the project. */
const withoutPaths = (text: string): string => text.replaceAll(root, "");

interface Options {
  readonly rounds: number;
  readonly seconds: number;
  /** Share of the usual warm-up. */
  readonly warmth: number;
  readonly cases: readonly Case[];
  readonly json: boolean;
  readonly profile: boolean;
}

function commandLine(): Options {
  try {
    const text = { type: "string" } as const;
    const flag = { type: "boolean", default: false } as const;
    const { values } = parseArgs({
      options: { rounds: text, seconds: text, only: text, quick: flag, json: flag, profile: flag, help: { ...flag, short: "h" } },
    });
    if (values.help) {
      process.stdout.write(HELP);
      process.exit(0);
    }
    return {
      rounds: Math.ceil(positive("rounds", values.rounds ?? (values.quick ? "3" : "6"))),
      seconds: positive("seconds", values.seconds ?? (values.quick ? "0.4" : "1.2")),
      warmth: values.quick ? 0.5 : 1,
      cases: chosen(values.only?.split(",") ?? []),
      json: values.json,
      profile: values.profile,
    };
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(2);
  }
}

function chosen(names: readonly string[]): readonly Case[] {
  const unknown = names.find((name) => !cases.some(({ id, group }) => id === name || group === name));
  if (unknown !== undefined) throw new Error(`--only ${unknown}: there is no such group or case; npm run bench:stores -- -h lists them`);
  return names.length === 0 ? cases : cases.filter(({ id, group }) => names.includes(id) || names.includes(group));
}

function positive(name: string, value: string): number {
  const parsed = Number(value);
  if (!(parsed > 0 && parsed <= 3600)) throw new Error(`--${name} ${value}: a number above 0`);
  return parsed;
}

await main();
process.exit(0);
