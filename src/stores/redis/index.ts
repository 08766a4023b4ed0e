import { GuardError } from "../../core/errors.ts";
import { LIMIT_NUMBERS, type Store } from "../../core/store.ts";
import { memoryLedger } from "../memory-ledger.ts";
import { type StrikeServer, sharedStrikes } from "../strikes-redis.ts";
import { RedisConnection } from "./connection.ts";
import { redisLimits } from "./limits.ts";
import { redisScript } from "./lua/script.ts";
import { nodes } from "./nodes.ts";
import { rollbackWatch } from "./rollback.ts";
import { redisSettings, type RedisStoreOptions, type RedisStoreSource } from "./options.ts";
import { newWriter, redisRecords } from "./records.ts";
import { checkServer } from "./startup.ts";
import { subscriber } from "./subscriber.ts";
import { alarms, startProblem, troubleOf } from "./trouble.ts";
import { recordWatchers } from "./watchers.ts";

export type { RedisStoreOptions, RedisStoreSource } from "./options.ts";

/** Rows of the ledger that stays in this process. */
const MAX_LEDGER_ROWS = 10_000;

/**
 * Limits, strikes and records in one Redis (or Valkey) server from version 7.0 on, shared by all processes. Every call ends within the deadline: while
 * the server is away, calls are `store_unavailable` at once, and the connection comes back by itself. Strikes then count in each process alone.
 *
 * Redis keeps no ledger. The last 10,000 rows stay in this process and end with it: take a ledger from sqliteStore or postgresStore for rows that last.
 *
 * @param source a URL (`redis://user:password@host:6379/0`, `rediss://` with TLS), `{ url, …options }`, `{ client, …options }`, or a `Redis` or
 *   `Cluster` of ioredis 5 or 6. A client is duplicated with our own settings and never closed here.
 * @throws ConfigError for unknown or unusable options. `ready()` rejects with a ConfigError that names the server and what to do about it.
 * @example const store = redisStore("redis://localhost:6379", { partition: "shop" });
 */
export function redisStore(source: RedisStoreSource, options: RedisStoreOptions = {}): Store {
  const settings = redisSettings(source, options);
  const { dial, server, isCluster, clock, logger, prefix } = settings;
  const connection = new RedisConnection({ ...settings, onBack: () => self.beat() });
  const alarm = alarms(server, clock, logger);
  const id = newWriter();
  const watchers = recordWatchers({ records: () => records, writer: id, logger });
  const records = redisRecords(connection, id, watchers);
  const channel = subscriber({
    dial,
    clock,
    random: Math.random,
    channel: `${prefix}c`,
    onMessage: (message) => watchers.heard(message),
    onOpen: () => watchers.missed(),
    onRefused: (error) => alarm(error, troubleOf(error)),
  });
  const limits = redisLimits(connection, { catchUp: () => watchers.catchUp(LIMIT_NUMBERS), logger });
  const heardBeat = rollbackWatch({
    clock,
    async onRollback(oldest, latest) {
      await limits.continuity.rolledBack(oldest, latest);
      logger.error(
        { code: "QG_REDIS_ROLLED_BACK", server },
        "the Redis server has come back in an older state, without what was counted since: set appendonly yes (appendfsync everysec) on it",
      );
    },
  });
  const self = nodes(connection, id, clock, (version, beats) => {
    if (watchers.beat(version)) channel.renew();
    heardBeat(beats);
  });
  const ledger = memoryLedger(MAX_LEDGER_ROWS, clock.now());
  let isReady = false;
  let starting: Promise<void> | undefined;
  let closing: Promise<void> | undefined;

  async function start(): Promise<void> {
    try {
      await connection.start();
      await checkServer(connection, { server, isCluster, logger });
      await channel.start();
      await self.start();
      isReady = true;
    } catch (error) {
      channel.stop();
      connection.abandon();
      throw startProblem(GuardError.is(error) ? error.cause : error, server);
    }
  }

  async function stop(): Promise<void> {
    // Nobody waits for a server that is not there.
    if (!isReady) connection.abandon();
    await starting?.catch(() => {});
    watchers.stop();
    channel.stop();
    await self.leave();
    await connection.close();
  }

  return {
    name: "redis",
    shared: true,
    isBounded: true,
    limits,
    strikes: sharedStrikes(strikeServer(connection), { clock }),
    records: {
      get: (key) => records.get(key),
      put: (key, value, how) => records.put(key, value, how),
      delete: (key) => records.delete(key),
      list: (below) => records.list(below),
      watch: (below, fn) => watchers.watch(below, fn),
    },
    ledger,
    nodes: () => self.count(),
    ready() {
      if (closing !== undefined) throw new GuardError("store_unavailable", "the Redis store is closed");
      starting ??= start().catch((error: unknown) => {
        // The next call tries again: the server may be up, the setting may be mended.
        starting = undefined;
        throw error;
      });
      return starting;
    },
    close() {
      return (closing ??= stop());
    },
  };
}

/** A store that is not ready yet, or closed, counts in this process. */
function strikeServer(connection: RedisConnection): StrikeServer {
  const scripts = new Map<string, ReturnType<typeof redisScript>>();
  return {
    prefix: connection.prefix,
    run(lua, key, args) {
      let script = scripts.get(lua);
      if (script === undefined) scripts.set(lua, (script = redisScript("strike", lua)));
      return connection.run(script, [key], args, false);
    },
    delete: (key) => connection.call("DEL", key),
  };
}
