// Redis servers that a test may break, and a TCP proxy before one.
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";

import { Redis } from "ioredis";
import { onTestFinished } from "vitest";

import { findExecutable, freePort, pathFolders, serverFolder } from "../../setup/server-process.ts";

const UNPACKED = fileURLToPath(new URL(`../../../node_modules/.cache/redis-${process.arch}`, import.meta.url));

/** Undefined = this machine has no program of its own (only REDIS_URL): then skip. */
export const redisProgram =
  findExecutable(["redis-server", "valkey-server"], [...pathFolders(), "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"]) ??
  findExecutable(["redis-server"], [join(UNPACKED, "usr/bin")]);

function environment(): NodeJS.ProcessEnv {
  if (redisProgram?.startsWith(UNPACKED) !== true) return process.env;
  const libraries = ["lib", "usr/lib"]
    .map((folder) => join(UNPACKED, folder))
    .filter((folder) => existsSync(folder))
    .flatMap((folder) => readdirSync(folder).map((name) => join(folder, name)));
  return { ...process.env, LD_LIBRARY_PATH: libraries.join(delimiter) };
}

export interface OwnServer {
  readonly port: number;
  readonly url: string;
  /** A client of the test, which may do anything. */
  readonly admin: Redis;
  freeze(): void;
  thaw(): void;
  /** SIGKILL. */
  kill(): Promise<void>;
  /** The same port and folder. */
  restart(...more: readonly string[]): Promise<void>;
  stop(): Promise<void>;
}

/** A server of the test's own, stopped when the test (or file, in a hook) is over. */
export async function ownServer(...options: readonly string[]): Promise<OwnServer> {
  const port = await freePort();
  const folder = serverFolder("own-redis");
  let child: ChildProcess;
  let isOver = false;

  async function start(more: readonly string[]): Promise<void> {
    const args = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder, ...options, ...more];
    child = spawn(redisProgram as string, args, { env: environment(), stdio: ["ignore", "pipe", "pipe"] });
    const ended = once(child, "exit");
    await new Promise<void>((resolve, reject) => {
      let said = "";
      child.stdout?.on("data", (chunk: Buffer) => {
        said += chunk.toString();
        // A server that loads its data takes connections already.
        if (/ready to accept connections|Server initialized/i.test(said)) resolve();
      });
      void ended.then(() => reject(new Error(`the server did not start\n${said}`)));
    });
  }

  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  };
  // A test that fails halfway stops nothing; the exit event is all that is left then.
  const killNow = (): void => {
    child.kill("SIGKILL");
    rmSync(folder, { recursive: true, force: true });
  };
  process.once("exit", killNow);
  await start([]);
  const admin = new Redis({ port, host: "127.0.0.1", protocol: 2, retryStrategy: () => 20, maxRetriesPerRequest: null });
  admin.on("error", () => {});
  return {
    port,
    url: `redis://127.0.0.1:${port}`,
    admin,
    freeze: () => void child.kill("SIGSTOP"),
    thaw: () => void child.kill("SIGCONT"),
    kill: () => end("SIGKILL"),
    restart: (...more) => start(more),
    async stop() {
      if (isOver) return;
      isOver = true;
      admin.disconnect();
      await end("SIGKILL");
      process.off("exit", killNow);
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

export interface Proxy {
  readonly url: string;
  /** Connections that were made. */
  readonly made: () => number;
  /** Ends the connection of whoever is answered next, before the answer arrives. */
  cutNextReply(): void;
  /** Ends all connections now. */
  cut(): void;
  /** Lets nothing through any more, in neither direction, and takes new connections all the same. */
  hole(isHole: boolean): void;
}

/** Passes bytes to a server until told otherwise. */
export async function proxyTo(port: number): Promise<Proxy> {
  const pairs = new Set<readonly [Socket, Socket]>();
  let isCutting = false;
  let isHole = false;
  let made = 0;
  const server = createServer((near) => {
    made += 1;
    const far = connect(port, "127.0.0.1");
    const pair = [near, far] as const;
    pairs.add(pair);
    const drop = (): void => {
      pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    for (const socket of pair) socket.on("error", drop).on("close", drop);
    near.on("data", (chunk) => !isHole && far.write(chunk));
    far.on("data", (chunk) => {
      if (isCutting) {
        isCutting = false;
        drop();
      } else if (!isHole) near.write(chunk);
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const cut = (): void => {
    for (const [near, far] of pairs) {
      near.destroy();
      far.destroy();
    }
  };
  onTestFinished(() => {
    server.close();
    cut();
  });
  const address = server.address() as { port: number };
  return {
    url: `redis://127.0.0.1:${address.port}`,
    made: () => made,
    cutNextReply: () => void (isCutting = true),
    cut,
    hole: (is) => void (isHole = is),
  };
}
