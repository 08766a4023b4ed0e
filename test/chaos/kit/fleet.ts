// Processes of their own that do what a test tells them, until they are killed.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";

import { onTestFinished } from "vitest";

export interface Member {
  readonly pid: number;
  /** Has the process do one of its commands; rejects with its error, or when it dies before it answered. */
  ask<T>(command: string, about?: unknown): Promise<T>;
  signal(signal: NodeJS.Signals): void;
  /** SIGKILL. Resolves when it is gone. */
  kill(): Promise<void>;
  /** Everything it wrote to stderr. */
  readonly complaints: () => string;
}

interface Answer {
  readonly id: number;
  readonly value?: unknown;
  readonly error?: string;
}

/** Programs for it; each calls `commanded()`. */
export const GATEWAY = fileURLToPath(new URL("gateway-process.ts", import.meta.url));
export const STORE = fileURLToPath(new URL("store-process.ts", import.meta.url));

/** Starts one, and resolves when it takes commands. It ends with the test at the latest. */
export async function member(program: string): Promise<Member> {
  const name = basename(program);
  const child = fork(program, [], { execArgv: ["--conditions=@quotaguard/source", "--no-warnings"], stdio: ["ignore", "inherit", "pipe", "ipc"] });
  onTestFinished(() => void child.kill("SIGKILL"));
  const waiting = new Map<number, { resolve: (value: unknown) => void; reject: (error: Error) => void }>();
  let asked = 0;
  let stderr = "";
  child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
  const gone = once(child, "close");
  const fail = (): void => {
    const error = new Error(`${name} (${child.pid}) ended with ${child.signalCode ?? child.exitCode}\n${stderr}`);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  };
  child.once("close", fail);
  child.on("message", ({ id, value, error }: Answer) => {
    const asker = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) asker?.resolve(value);
    else asker?.reject(new Error(`${name} (${child.pid}): ${error}`));
  });

  const one: Member = {
    pid: child.pid as number,
    ask: <T>(command: string, about?: unknown) =>
      new Promise<T>((resolve, reject) => {
        asked += 1;
        waiting.set(asked, { resolve: resolve as (value: unknown) => void, reject });
        if (hasEnded(child)) fail();
        else child.send({ id: asked, command, about }, (error) => void (error && fail()));
      }),
    signal: (signal) => void child.kill(signal),
    async kill() {
      child.kill("SIGKILL");
      await gone;
    },
    complaints: () => stderr,
  };
  await one.ask("hello");
  return one;
}

const hasEnded = (child: ChildProcess): boolean => child.exitCode !== null || child.signalCode !== null || !child.connected;

/** Several of one program, and each does the command at the same time. */
export async function fleet(
  size: number,
  program: string,
): Promise<{ readonly members: readonly Member[]; all<T>(command: string, about?: unknown): Promise<T[]> }> {
  const members = await Promise.all(Array.from({ length: size }, () => member(program)));
  return { members, all: <T>(command: string, about?: unknown) => Promise.all(members.map((one) => one.ask<T>(command, about))) };
}
