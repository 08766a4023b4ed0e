import { readdirSync, readFileSync } from "node:fs";

/**
 * CPU time of another process, in microseconds since `mark`.
 *
 * `/proc/<pid>/task/<thread>/schedstat` counts nanoseconds of run time per thread and is brought up to date at every scheduler tick (1 to 4 ms), for any
 * program and without asking it; `utime + stime` in `/proc/<pid>/stat` are rounded to 10 ms. Null = this system has no such files.
 */
export function cpuTime(pid: number): (() => number) | null {
  const mark = threadTimes(pid);
  if (mark === null) return null;
  return () => {
    let nanoseconds = 0;
    for (const [thread, time] of threadTimes(pid) ?? []) nanoseconds += time - (mark.get(thread) ?? 0);
    return nanoseconds / 1000;
  };
}

function threadTimes(pid: number): Map<string, number> | null {
  try {
    const folder = `/proc/${pid}/task`;
    return new Map(readdirSync(folder).map((thread) => [thread, Number(readFileSync(`${folder}/${thread}/schedstat`, "utf8").split(" ", 1)[0])]));
  } catch {
    return null;
  }
}

/** How the machine's cores were used since the call, in core-seconds; null where the kernel does not say. */
export function machineTime(): () => MachineTime | null {
  const mark = readMachine();
  return () => {
    const now = readMachine();
    return mark && now && { total: now.total - mark.total, used: now.used - mark.used, stolen: now.stolen - mark.stolen };
  };
}

export interface MachineTime {
  /** Of all cores together. */
  readonly total: number;
  /** By the processes of this machine. */
  readonly used: number;
  /** By the host, for others. */
  readonly stolen: number;
}

const TICKS_PER_SECOND = 100;

function readMachine(): MachineTime | null {
  try {
    const line = readFileSync("/proc/stat", "utf8").split("\n", 1)[0] ?? "";
    const [user = 0, nice = 0, system = 0, idle = 0, waiting = 0, irq = 0, softIrq = 0, steal = 0] = line
      .trim()
      .split(/\s+/)
      .slice(1)
      .map((ticks) => Number(ticks) / TICKS_PER_SECOND);
    const used = user + nice + system + irq + softIrq;
    return { total: used + idle + waiting + steal, used, stolen: steal };
  } catch {
    return null;
  }
}
