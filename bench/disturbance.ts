import { machineTime } from "./cpu-time.ts";
import type { TargetProcess } from "./target-process.ts";

/**
 * What else goes on from now until the returned function is called, in one line: a run on a busy machine is not worth much, and its reader should know.
 * `serverTime` reads the CPU time (microseconds) of a server that belongs to the bench.
 */
export async function disturbance(
  targets: readonly TargetProcess[],
  serverTime: () => Promise<number | null> = async () => null,
): Promise<() => Promise<string>> {
  const machine = machineTime();
  const own = process.cpuUsage();
  const serverMark = (await serverTime()) ?? 0;
  const used = await Promise.all(targets.map((target) => target.measureCpu()));
  return async () => {
    const time = machine();
    if (time === null) return "What other processes and the host took from this machine is not known";
    const { user, system } = process.cpuUsage(own);
    let oursUs = user + system + ((await serverTime()) ?? 0) - serverMark;
    for (const cpu of used) oursUs += (await cpu()) ?? 0;
    const share = (seconds: number): string => `${((Math.max(0, seconds) / time.total) * 100).toFixed(1)} %`;
    return `Disturbance during the rounds: other processes used ${share(time.used - oursUs / 1e6)} of this machine's cores, its host took ${share(time.stolen)}`;
  };
}
