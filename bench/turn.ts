import { performance } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { Load, probe } from "./load.ts";
import { total, type Sample } from "./report.ts";
import type { TargetProcess } from "./target-process.ts";
import type { Upstream } from "./upstream.ts";
import type { Workload } from "./workloads.ts";

export const CONNECTIONS = 64;
export const WARM_UP_MS = 1_200;
/** Connecting and finding its pace is not measured. */
export const SETTLE_MS = 200;
const GRACE_MS = 2_000;
const PROBE_MS = 5_000;

/** What one interval says about its target. */
export interface Turn extends Pick<Sample, "answered" | "seconds" | "cpuUs" | "benchCpuUs" | "failures"> {
  /** Of the server behind the target, over the same interval; null = there is none. */
  readonly serverCpuUs: number | null;
}

/** Checks a started target byte for byte and warms it up; stops it and rejects when it does not answer as it must. `say` is told of failures. */
export async function prepared(
  start: Promise<TargetProcess>,
  asked: readonly Workload[],
  warmUpMs: number,
  say: (line: string) => void,
): Promise<TargetProcess> {
  const target = await start;
  try {
    for (const workload of asked) {
      const { status, body } = await probe(target.port, workload, PROBE_MS);
      if (status !== "200") throw new Error(`${workload.id}: status ${status}: ${body.toString().slice(0, 300)}`);
      if (!body.equals(workload.answer)) throw new Error(`${workload.id}: the answer is not the upstream's, byte for byte`);
    }
    for (const workload of asked) {
      const load = new Load(target.port, workload, CONNECTIONS);
      load.start();
      await sleep(warmUpMs);
      await load.stop(GRACE_MS);
      const reasons = [...load.failures.keys()].join("; ");
      if (reasons !== "") say(`${total(load.failures)} failures in the warm-up of ${workload.id}: ${reasons}`);
      if (load.answered === 0) throw new Error(`${workload.id}: no good answer in the warm-up`);
    }
    return target;
  } catch (error) {
    const gone = target.ended;
    await target.stop();
    throw gone === null ? error : new Error(gone, { cause: error });
  }
}

/** Loads a target for so long and counts. `serverTime` reads the CPU time (microseconds) of a server that the target uses. */
export async function turn(
  target: TargetProcess,
  provider: Upstream,
  workload: Workload,
  seconds: number,
  serverTime: () => Promise<number | null> = async () => null,
): Promise<Turn> {
  if (target.ended !== null) return { answered: 0, seconds, cpuUs: null, benchCpuUs: 0, serverCpuUs: null, failures: new Map([[target.ended, 1]]) };
  const servedBefore = provider.served;
  const load = new Load(target.port, workload, CONNECTIONS);
  load.start();
  await sleep(SETTLE_MS);
  const cpu = await target.measureCpu();
  const serverMark = await serverTime();
  const own = process.cpuUsage();
  const startMs = performance.now();
  const before = load.answered;
  await sleep(seconds * 1000);
  const cpuUs = await cpu();
  const measured = (performance.now() - startMs) / 1000;
  const { user, system } = process.cpuUsage(own);
  const answered = load.answered - before;
  const serverNow = await serverTime();
  await load.stop(GRACE_MS);
  const invented = load.answered - (provider.served - servedBefore);
  if (invented > 0) load.failures.set("answers without a request to the upstream", invented);
  const serverCpuUs = serverMark === null || serverNow === null ? null : serverNow - serverMark;
  return { answered, seconds: measured, cpuUs, benchCpuUs: user + system, serverCpuUs, failures: load.failures };
}
