import type { Logger } from "../../core/logger.ts";
import type { RedisConnection } from "./connection.ts";
import { configProblem } from "./trouble.ts";

const OLDEST_VERSION = 7;

export interface StartupOptions {
  readonly server: string;
  readonly isCluster: boolean;
  readonly logger: Logger;
}

/**
 * Refuses a server that cannot do what the scripts need, and warns of one that will lose what it is told. What may not be asked (INFO, CONFIG) is
 * taken to be right.
 *
 * @throws ConfigError that names the server and the way out.
 */
export async function checkServer(connection: RedisConnection, { server, isCluster, logger }: StartupOptions): Promise<void> {
  const facts = (await factsOfInfo(connection)) ?? (await factsOfHello(connection));
  const version = facts.get("redis_version");
  if (version !== undefined && Number.parseInt(version, 10) < OLDEST_VERSION) {
    throw configProblem(
      server,
      `it runs Redis ${version}, and quotaguard needs ${OLDEST_VERSION}.0 or later (Valkey too): update it, or name another server`,
    );
  }
  if (facts.get("redis_mode") === "cluster" && !isCluster) {
    throw configProblem(
      server,
      "it is a node of a cluster: pass redisStore an ioredis Cluster as client, because a single connection reaches only a part of the keys",
    );
  }
  const policy = facts.get("maxmemory_policy");
  if (policy !== undefined && policy !== "noeviction") {
    logger.warn(
      { code: "QG_REDIS_EVICTION", server, policy },
      `the Redis server drops keys when memory is short (maxmemory-policy ${policy}): budgets would begin anew and bans end; set maxmemory-policy noeviction`,
    );
  }
  if (facts.get("aof_enabled") === "0" && (await savePoints(connection)) === "") {
    logger.warn(
      { code: "QG_REDIS_NO_PERSISTENCE", server },
      "the Redis server keeps nothing on disk: its restart loses all counters, bans and settings; set appendonly yes (appendfsync everysec) on it",
    );
  }
}

async function factsOfInfo(connection: RedisConnection): Promise<Map<string, string> | undefined> {
  const reply = (await connection.ask("INFO")) as Buffer | undefined;
  if (reply === undefined) return undefined;
  const facts = new Map<string, string>();
  for (const line of reply.toString().split("\r\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) facts.set(line.slice(0, colon), line.slice(colon + 1));
  }
  return facts;
}

/** Permitted where INFO is not, and says less. */
async function factsOfHello(connection: RedisConnection): Promise<Map<string, string>> {
  const facts = new Map<string, string>();
  const reply = await connection.ask("HELLO", 2);
  if (!Array.isArray(reply)) return facts;
  for (let i = 0; i + 1 < reply.length; i += 2) facts.set(`redis_${String(reply[i])}`, String(reply[i + 1]));
  return facts;
}

/** Undefined = it may not be asked. */
async function savePoints(connection: RedisConnection): Promise<string | undefined> {
  const reply = await connection.ask("CONFIG", "GET", "save");
  return Array.isArray(reply) && reply.length === 2 ? String(reply[1]) : undefined;
}
