import { spawn, type ChildProcess, type StdioOptions } from "node:child_process";
import { once } from "node:events";
import { connect } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { cpuTime } from "./cpu-time.ts";

/** A target that answers on a port, in a process of its own. */
export interface TargetProcess {
  readonly port: number;
  /** Why it is no longer there; null while it runs. */
  readonly ended: string | null;
  /** Starts to count its CPU time; the returned function tells the microseconds since, null when they cannot be known. */
  measureCpu(): Promise<() => Promise<number | null>>;
  /** Asks it to end, and ends it. */
  stop(): Promise<void>;
}

const START_MS = 20_000;
const STOP_MS = 5_000;
const ANSWER_MS = 1_000;
const KEEP_OUTPUT = 8_192;
const running = new Set<ChildProcess>();

/** For every way out of the bench: nothing that it started outlives it. */
export function killTargets(): void {
  for (const child of running) child.kill("SIGKILL");
}

/** Starts a program that reports its port over the channel to its parent (`port` null), or that listens on a known one. Rejects with its own words. */
export async function targetProcess([command, args]: readonly [string, readonly string[]], cwd: string, port: number | null): Promise<TargetProcess> {
  const stdio: StdioOptions = port === null ? ["ignore", "pipe", "pipe", "ipc"] : ["ignore", "pipe", "pipe"];
  const child = spawn(command, args, { cwd, stdio });
  const exited = once(child, "exit").catch(() => undefined);
  let output = "";
  let ended: string | null = null;
  const listen = (chunk: Buffer): void => void (output = (output + chunk.toString()).slice(-KEEP_OUTPUT));
  child.stdout?.on("data", listen);
  child.stderr?.on("data", listen);
  child.on("error", (error) => {
    ended ??= error.message;
    running.delete(child);
  });
  child.on("close", (code, signal) => {
    ended = `ended by itself (${signal ?? `code ${code}`}): ${lastWords(output)}`;
    running.delete(child);
  });
  running.add(child);
  const why = (): string | null => ended;
  const found = port === null ? await reportedPort(child, why) : await answeringPort(port, why);
  if (found === null) {
    child.kill("SIGKILL");
    throw new Error(why() ?? `it did not answer within ${START_MS / 1000} s: ${lastWords(output)}`);
  }

  return {
    port: found,
    get ended() {
      return ended;
    },
    async measureCpu() {
      const fromKernel = child.pid === undefined ? null : cpuTime(child.pid);
      if (fromKernel) return async () => fromKernel();
      const mark = await askForCpu(child);
      return async () => {
        const now = await askForCpu(child);
        return mark === null || now === null ? null : now - mark;
      };
    },
    async stop() {
      if (child.connected) child.send("stop", () => undefined);
      else child.kill("SIGTERM");
      await Promise.race([exited, sleep(STOP_MS, undefined, { ref: false })]);
      child.kill("SIGKILL");
    },
  };
}

async function reportedPort(child: ChildProcess, why: () => string | null): Promise<number | null> {
  const message = await answer(child, "port", START_MS, why);
  return message;
}

async function answeringPort(port: number, why: () => string | null): Promise<number | null> {
  for (let waited = 0; waited < START_MS && why() === null; waited += 50) {
    if (await accepts(port)) return port;
    await sleep(50);
  }
  return null;
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    socket.once("connect", () => resolve(true));
    socket.once("error", () => resolve(false));
    socket.once("connect", () => socket.destroy());
  });
}

function askForCpu(child: ChildProcess): Promise<number | null> {
  if (!child.connected) return Promise.resolve(null);
  const time = answer(child, "cpuUs", ANSWER_MS, () => null);
  child.send("cpu", () => undefined);
  return time;
}

/** The number of that name in the child's next message which has one; null when it ends or the time is over. */
function answer(child: ChildProcess, name: string, withinMs: number, why: () => string | null): Promise<number | null> {
  return new Promise((resolve) => {
    const done = (value: number | null): void => {
      clearTimeout(timer);
      child.off("message", hear);
      child.off("close", gone);
      child.off("error", gone);
      resolve(value);
    };
    const hear = (message: unknown): void => {
      const value = typeof message === "object" && message !== null ? (message as Record<string, unknown>)[name] : undefined;
      if (typeof value === "number") done(value);
    };
    const gone = (): void => done(null);
    const timer = setTimeout(gone, withinMs);
    child.on("message", hear);
    child.on("close", gone);
    child.on("error", gone);
    if (why() !== null) gone();
  });
}

/** The line that tells most: the error's own, else the last one. */
function lastWords(output: string): string {
  const lines = output
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
  return lines.find((line) => /^\w*Error\b|\[emerg\]/.test(line)) ?? lines.at(-1) ?? "without a word";
}
