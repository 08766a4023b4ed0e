import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

/** Where the processes run. `taskset` decides; without it, or with one core only, nothing is pinned and the report says so. */
export interface Cores {
  /** For the report. */
  readonly text: string;
  readonly pinned: boolean;
  /** A command line that runs on the target's core. */
  target(command: string, args: readonly string[]): readonly [string, readonly string[]];
  /** One that runs beside it: on a third core, or else on that of the load generator. */
  server(command: string, args: readonly string[]): readonly [string, readonly string[]];
  /** The core of {@link Cores.server}, for the report. */
  readonly serverText: string;
}

/** Moves this process (load generator and upstream) to one core and keeps another for the target. */
export function cores(): Cores {
  const allowed = allowedCores();
  const targetCore = allowed.at(-1);
  const siblings = targetCore === undefined ? [] : siblingsOf(targetCore);
  const others = allowed.filter((core) => core !== targetCore);
  // Two threads of one physical core would slow each other down.
  const loadCore = others.find((core) => !siblings.includes(core)) ?? others[0];
  if (targetCore === undefined || loadCore === undefined) return unpinned(allowed.length === 0 ? "taskset is not there" : "only one core");
  if (!moved(loadCore)) return unpinned("taskset failed");
  const busy = [targetCore, loadCore].flatMap((core) => [core, ...siblingsOf(core)]);
  const serverCore = others.find((core) => !busy.includes(core)) ?? loadCore;
  const shared = siblings.includes(loadCore) ? ", two threads of one physical core" : "";
  return {
    text: `pinned: target alone on core ${targetCore}, load generator and upstream on core ${loadCore}${shared}`,
    pinned: true,
    target: (command, args) => ["taskset", ["-c", String(targetCore), command, ...args]],
    server: (command, args) => ["taskset", ["-c", String(serverCore), command, ...args]],
    serverText: `on core ${serverCore}${serverCore === loadCore ? ", which the load generator and the upstream use too" : ""}`,
  };
}

/** A thread that ends while taskset goes through them makes it fail, so it has more than one try. */
function moved(core: number): boolean {
  const isDone = (): boolean => spawnSync("taskset", ["-acp", String(core), String(process.pid)]).status === 0;
  return isDone() || isDone() || isDone();
}

function unpinned(why: string): Cores {
  return {
    text: `not pinned (${why}): the processes move between cores and disturb each other`,
    pinned: false,
    target: (command, args) => [command, args],
    server: (command, args) => [command, args],
    serverText: "not pinned",
  };
}

/** Empty when taskset cannot tell. */
function allowedCores(): readonly number[] {
  const shown = spawnSync("taskset", ["-cp", String(process.pid)], { encoding: "utf8" });
  return shown.status === 0 ? coreList(shown.stdout.slice(shown.stdout.lastIndexOf(":") + 1)) : [];
}

function siblingsOf(core: number): readonly number[] {
  try {
    return coreList(readFileSync(`/sys/devices/system/cpu/cpu${core}/topology/thread_siblings_list`, "utf8"));
  } catch {
    return [core];
  }
}

/** `0,2-4` → 0, 2, 3, 4. */
function coreList(text: string): readonly number[] {
  return text
    .trim()
    .split(",")
    .flatMap((part) => {
      const [first, last] = part.split("-").map(Number);
      if (first === undefined || Number.isNaN(first)) return [];
      return Array.from({ length: (last ?? first) - first + 1 }, (_, index) => first + index);
    });
}
