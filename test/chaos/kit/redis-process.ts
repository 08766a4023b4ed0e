// A redis-server of one's own: to kill, to freeze, to empty, to fill.
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";

import { Redis, type RedisOptions } from "ioredis";

import { redisProgram } from "../../setup/redis.ts";
import { freePort, serverFolder, type ServerProcess, startServer } from "../../setup/server-process.ts";

export interface RedisProcess {
  readonly url: string;
  readonly port: number;
  readonly folder: string;
  /** A client for the test itself. It waits for a server that is away, and its errors are nobody's. */
  client(options?: RedisOptions): Redis;
  /** SIGKILL: no goodbye, nothing saved. Resolves when the process is gone. */
  kill(): Promise<void>;
  /** SIGSTOP: connections stay open, nothing is answered. */
  freeze(): void;
  thaw(): void;
  /** Starts it again on the same port, killing it first when it runs. */
  restart(how?: RestartOptions): Promise<void>;
  stop(): Promise<void>;
}

export interface RestartOptions {
  /** Without its data. */
  readonly empty?: boolean;
  /** In place of those it was started with. */
  readonly flags?: readonly string[];
  /** Resolves while it still loads its data. */
  readonly loading?: boolean;
}

/** Starts one. `flags` come after ours, which keep nothing on disk: `--appendonly yes` for one that remembers. */
export async function redisProcess(flags: readonly string[] = []): Promise<RedisProcess> {
  const program = await redisProgram();
  const port = await freePort();
  const folder = serverFolder("redis");
  const clients = new Set<Redis>();
  const start = (wanted: readonly string[], ready: RegExp): Promise<ServerProcess> =>
    startServer({
      name: "Redis",
      file: program.file,
      args: ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder, ...wanted],
      url: `redis://127.0.0.1:${port}`,
      ready,
      folder,
      keepFolder: true,
      stopSignal: "SIGKILL",
      ...(program.env ? { env: program.env } : {}),
    });
  const READY = /ready to accept connections/i;
  let running = await start(flags, READY);

  const one: RedisProcess = {
    url: running.url,
    port,
    folder,
    client(options = {}) {
      const client = new Redis({ port, host: "127.0.0.1", maxRetriesPerRequest: null, retryStrategy: () => 50, ...options });
      client.on("error", () => undefined);
      clients.add(client);
      return client;
    },
    async kill() {
      // A frozen process dies too, but only a running one frees its port at once.
      running.signal("SIGKILL");
      await running.stop();
    },
    freeze: () => running.signal("SIGSTOP"),
    thaw: () => running.signal("SIGCONT"),
    async restart({ empty = false, flags: wanted = flags, loading = false } = {}) {
      await one.kill();
      if (empty) for (const name of readdirSync(folder)) rmSync(join(folder, name), { recursive: true, force: true });
      running = await start(wanted, loading ? /server initialized/i : READY);
    },
    async stop() {
      for (const client of clients) client.disconnect();
      await running.stop();
      rmSync(folder, { recursive: true, force: true });
    },
  };
  return one;
}
