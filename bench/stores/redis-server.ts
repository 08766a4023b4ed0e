import { Redis } from "ioredis";
import { redisProgram } from "../../test/setup/redis.ts";
import { freePort, serverFolder, startServer } from "../../test/setup/server-process.ts";
import type { Cores } from "../cores.ts";

/** A Redis that nobody else uses, without persistence. */
export interface RedisServer {
  readonly url: string;
  readonly version: string;
  /** CPU time that it has used so far, microseconds. */
  readonly cpuUs: () => Promise<number | null>;
  readonly stop: () => Promise<void>;
}

/** Starts the Redis of this machine, or the one that the tests would download. Throws an error that says how to get one. */
export async function redisServer(place: Cores): Promise<RedisServer> {
  const program = await redisProgram();
  const port = await freePort();
  const folder = serverFolder("redis");
  const settings = ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder];
  const [file, args] = place.server(program.file, settings);
  const url = `redis://127.0.0.1:${port}`;
  const server = await startServer({
    name: "Redis",
    file,
    args,
    url,
    ready: /ready to accept connections/i,
    folder,
    stopSignal: "SIGTERM",
    ...(program.env ? { env: program.env } : {}),
  });
  const client = new Redis(url);
  const version = /^redis_version:(\S+)/m.exec(await client.info("server"))?.[1] ?? "?";
  return {
    url,
    version,
    cpuUs: serverTime(client),
    async stop() {
      client.disconnect();
      await server.stop();
    },
  };
}

/** Reads the CPU time of the server behind a connection, microseconds. */
export function serverTime(client: Redis): () => Promise<number | null> {
  return async () => {
    const info = await client.info("cpu");
    const seconds = ["used_cpu_sys", "used_cpu_user"].map((name) => Number(new RegExp(`^${name}:(\\S+)`, "m").exec(info)?.[1]));
    const total = seconds.reduce((sum, value) => sum + value, 0);
    return Number.isFinite(total) ? total * 1e6 : null;
  };
}
