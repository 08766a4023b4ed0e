// What the test servers have in common: a free port, a child process that is ready when it says so, and no way to outlive the test run.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

export interface RunningServer {
  readonly url: string;
  /** Resolves when the process has ended and its folder is gone. */
  stop(): Promise<void>;
}

/** A server that this process has started itself, and may therefore break. */
export interface ServerProcess extends RunningServer {
  readonly pid: number;
  /** Resolves when the process has ended, for whatever reason. */
  readonly gone: Promise<void>;
  /** Ends it like a crash, or freezes it. Its folder stays until {@link RunningServer.stop}. */
  signal(signal: NodeJS.Signals): void;
}

/** No server can be had on this machine. The message says how to get one. */
export class ServerMissing extends Error {}

export interface ServerCommand {
  readonly name: string;
  readonly file: string;
  readonly args: readonly string[];
  readonly url: string;
  /** What it prints, on either stream, once it takes connections. */
  readonly ready: RegExp;
  /** Removed after the end, unless it is kept. */
  readonly folder: string;
  readonly keepFolder?: boolean;
  readonly stopSignal: NodeJS.Signals;
  readonly env?: NodeJS.ProcessEnv;
  /** Runs it as this user and group. */
  readonly uid?: number;
}

const START_TIMEOUT_MS = 30_000;

/** A new folder for a server's data. */
export const serverFolder = (name: string): string => mkdtempSync(join(tmpdir(), `quotaguard-${name}-`));

/** The first of the names that is executable in one of the folders; by folder, so that PATH keeps its order. */
export function findExecutable(names: readonly string[], folders: readonly string[]): string | undefined {
  for (const folder of folders) {
    for (const name of names) {
      const file = join(folder, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {
        continue;
      }
    }
  }
  return undefined;
}

export const pathFolders = (): string[] => (process.env["PATH"] ?? "").split(delimiter).filter((folder) => folder !== "");

/** A port of 127.0.0.1 that nobody listens on right now. */
export async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const address = probe.address();
  probe.close();
  await once(probe, "close");
  if (address === null || typeof address === "string") throw new Error("the probe socket has no port");
  return address.port;
}

export async function startServer(command: ServerCommand): Promise<ServerProcess> {
  const identity = command.uid === undefined ? {} : { uid: command.uid, gid: command.uid };
  const child = spawn(command.file, command.args, { ...identity, cwd: command.folder, env: command.env, stdio: ["ignore", "pipe", "pipe"] });
  const removeFolder = (): void => {
    if (command.keepFolder !== true) rmSync(command.folder, { recursive: true, force: true });
  };
  // A run that fails elsewhere skips the teardown; the exit event is all that is left then.
  const killNow = (): void => {
    child.kill("SIGKILL");
    removeFolder();
  };
  process.once("exit", killNow);
  const gone = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    child.once("error", () => resolve());
  });

  try {
    await new Promise<void>((resolve, reject) => {
      let said = "";
      const fail = (why: string): void => reject(new Error(`${command.name} (${command.file}) ${why}\n${said}`));
      const timeout = setTimeout(() => fail(`was not ready within ${START_TIMEOUT_MS} ms`), START_TIMEOUT_MS);
      const listen = (chunk: Buffer): void => {
        said += chunk.toString();
        if (command.ready.test(said)) resolve();
      };
      child.stdout.on("data", listen);
      child.stderr.on("data", listen);
      child.once("error", (error) => fail(`did not start: ${error.message}`));
      child.once("exit", (code, signal) => fail(`ended with ${code ?? signal} before it was ready`));
      gone.finally(() => clearTimeout(timeout)).catch(() => undefined);
    });
  } catch (error) {
    killNow();
    process.off("exit", killNow);
    throw error;
  }
  // From here on nobody reads: keep the pipes flowing without collecting what they carry.
  for (const stream of [child.stdout, child.stderr]) stream.removeAllListeners("data").resume();

  return {
    url: command.url,
    pid: child.pid as number,
    gone,
    signal: (signal) => void child.kill(signal),
    async stop() {
      child.kill(command.stopSignal);
      await gone;
      process.off("exit", killNow);
      removeFolder();
    },
  };
}
