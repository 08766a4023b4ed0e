// The ground for the Redis and Postgres stores that come later: their tests may rely on real servers, so that these are real is tested first.
import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { testServer } from "./test-server.ts";

const [redisUrl, postgresUrl] = await Promise.all([testServer("redis"), testServer("postgres")]);

describe.skipIf(redisUrl === undefined)("the Redis test server", () => {
  let redis: Redis;
  beforeAll(() => {
    redis = new Redis(redisUrl as string, { enableOfflineQueue: true, maxRetriesPerRequest: 1 });
  });
  afterAll(() => redis.quit());

  it("keeps a value", async () => {
    const key = `quotaguard-test:${randomUUID()}`;
    expect(await redis.set(key, "42", "PX", 60_000)).toBe("OK");
    expect(await redis.get(key)).toBe("42");
    expect(await redis.del(key)).toBe(1);
    expect(await redis.get(key)).toBeNull();
  });

  it("tells its time in seconds and microseconds, and does not go back", async () => {
    const micros = async (): Promise<number> => {
      const [seconds, microseconds] = await redis.time();
      return Number(seconds) * 1e6 + Number(microseconds);
    };
    const first = await micros();
    expect(first).toBeGreaterThan(1.7e15);
    expect(await micros()).toBeGreaterThanOrEqual(first);
  });

  it("is version 7 or later, and runs Lua", async () => {
    const version = /redis_version:(\d+)/.exec(await redis.info("server"))?.[1];
    expect(Number(version)).toBeGreaterThanOrEqual(7);
    expect(await redis.eval("return tonumber(ARGV[1]) + 1", 0, "41")).toBe(42);
  });
});

describe.skipIf(postgresUrl === undefined)("the Postgres test server", () => {
  let pool: pg.Pool;
  beforeAll(() => {
    pool = new pg.Pool({ connectionString: postgresUrl, max: 2 });
  });
  afterAll(() => pool.end());

  it("answers a query with its version", async () => {
    const { rows } = await pool.query<{ version: string }>("select version()");
    expect(rows[0]?.version).toMatch(/^PostgreSQL \d+/);
  });

  it("gives each client its own session, so locks exclude", async () => {
    const [one, two] = await Promise.all([pool.connect(), pool.connect()]);
    try {
      const lock = "select pg_try_advisory_lock(hashtext($1)) as got";
      const name = randomUUID();
      expect((await one.query<{ got: boolean }>(lock, [name])).rows[0]?.got).toBe(true);
      expect((await two.query<{ got: boolean }>(lock, [name])).rows[0]?.got).toBe(false);
      await one.query("select pg_advisory_unlock_all()");
      expect((await two.query<{ got: boolean }>(lock, [name])).rows[0]?.got).toBe(true);
    } finally {
      await two.query("select pg_advisory_unlock_all()");
      one.release();
      two.release();
    }
  });
});
