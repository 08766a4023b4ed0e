// A hundred thousand users with five limits each: what a user costs in memory, and that everything goes away by itself.
import { randomUUID } from "node:crypto";

import type { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import type { Charge, Rule } from "../../src/core/store.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { figures } from "./kit/figures.ts";
import { redisProcess, type RedisProcess } from "./kit/redis-process.ts";

const USERS = 100_000;
const AT_ONCE = 256;
/** One of so many keeps its hold open. */
const OPEN_EVERY = 100;
const HOLD_TTL_MS = 300_000;
/** Five counters, their keys and Redis's own bookkeeping. Measured below; this is the alarm, not the figure. */
const MOST_BYTES_PER_USER = 1_800;
const DAY_MS = 86_400_000;
const TEN_YEARS_MS = 3_660 * DAY_MS;
/** Keys outlive what they hold by a little, so that not every write must set their end anew. */
const LINGER_MS = 180_000;
const SCAN_COUNT = 5_000;

let redis: RedisProcess;
let client: Redis;
beforeAll(async () => {
  redis = await redisProcess();
  client = redis.client();
});
afterAll(() => redis.stop());

async function usedMemory(): Promise<number> {
  return Number(/used_memory:(\d+)/.exec(await client.info("memory"))?.[1]);
}

function rules(): Readonly<Record<string, Rule>> {
  const now = Date.now();
  const day = Math.floor(now / DAY_MS) * DAY_MS;
  return {
    "b:tokens": { kind: "bucket", capacity: 5_000, n: 1, d: 40 },
    "b:spend": { kind: "bucket", capacity: 20_000_000_000, n: 0, d: 1 },
    "w60000.60:rpm": { kind: "sliding", limit: 60, perMs: 60_000, cellMs: 1_000 },
    "kday.UTC:day": { kind: "calendar", limit: 1_000_000, bounds: [day - DAY_MS, day, day + DAY_MS, day + 2 * DAY_MS] },
    "c:parallel": { kind: "concurrency", limit: 4 },
  };
}

const UNITS = { "b:tokens": "tokens", "b:spend": "usd", "w60000.60:rpm": "requests", "kday.UTC:day": "tokens", "c:parallel": "concurrent" } as const;
const AMOUNTS = { tokens: 120, usd: 1_000_000, requests: 1, concurrent: 1 } as const;

describe(`${USERS} users with five limits each`, () => {
  test("cost bounded memory, and no key stays for ever that is not meant to", async () => {
    const partition = randomUUID();
    const store = redisStore(redis.url, { partition, deadlineMs: 1_000 });
    onTestFinished(() => store.close());
    await store.ready();
    const before = await usedMemory();
    const shapes = Object.entries(rules());
    const chargesOf = (user: number): Charge[] =>
      shapes.map(([shape, rule]) => {
        const unit = UNITS[shape as keyof typeof UNITS];
        return { key: `${shape}:user${user}`, rule, unit, amount: AMOUNTS[unit], enforce: true };
      });

    let next = 0;
    const startedAt = performance.now();
    const worker = async (): Promise<void> => {
      while (next < USERS) {
        const user = next;
        next += 1;
        const answer = await store.limits.reserve(`op${user}`, chargesOf(user), HOLD_TTL_MS);
        if (answer.kind !== "allowed") throw new Error(`user ${user} was answered ${answer.kind}`);
        if (user % OPEN_EVERY !== 0) await store.limits.settle(`op${user}`, { tokens: 100, usd: 900_000 });
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    const seconds = (performance.now() - startedAt) / 1_000;
    await store.records.put("chaos/lasting", 1);
    await store.records.put("chaos/passing", 1, { ttlMs: 60_000 });
    await store.strikes.strike("somebody", 60_000);
    const after = await usedMemory();

    // The kinds of keys (of counters: their shapes), how many of them have no end, and the longest life.
    const kinds = new Map<string, { keys: number; endless: number; longestMs: number }>();
    const prefix = `qg:{${partition}}:`;
    let cursor = "0";
    do {
      const [following, keys] = await client.scan(cursor, "COUNT", SCAN_COUNT);
      cursor = following;
      const pipeline = client.pipeline();
      for (const key of keys) pipeline.pttl(key);
      const lives = (await pipeline.exec()) ?? [];
      for (const [index, key] of keys.entries()) {
        expect(key.startsWith(prefix)).toBe(true);
        const [first, second] = key.slice(prefix.length).split(":") as [string, string];
        const kind = first === "s" ? `s:${second}` : first;
        const known = kinds.get(kind) ?? { keys: 0, endless: 0, longestMs: 0 };
        const life = Number(lives[index]?.[1]);
        known.keys += 1;
        if (life === -1) known.endless += 1;
        known.longestMs = Math.max(known.longestMs, life);
        kinds.set(kind, known);
      }
    } while (cursor !== "0");

    const perUser = (after - before) / USERS;
    figures("many users", { users: USERS, "bytes per user": perUser, "pairs/s": USERS / seconds, kinds: Object.fromEntries(kinds) });
    expect(perUser).toBeLessThan(MOST_BYTES_PER_USER);

    const endless = [...kinds].filter(([, kind]) => kind.endless > 0).map(([name]) => name);
    // What is known of the counters, the index of open holds, those of the records, a record that shall last, the count of beats: one key each.
    for (const name of endless) {
      expect(["m", "x", "v", "i", "e", "d", "b"]).toContain(name);
      expect(kinds.get(name)?.endless).toBe(1);
    }
    const most = (name: string): number => kinds.get(name)?.longestMs ?? 0;
    expect(kinds.get("s:b")?.keys).toBe(2 * USERS);
    // A bucket that never refills outlives everybody; nothing outlives it.
    expect(most("s:b")).toBeLessThanOrEqual(TEN_YEARS_MS + LINGER_MS);
    expect(most("s:w60000.60")).toBeLessThanOrEqual(60_000 + 2 * 1_000 + LINGER_MS);
    expect(most("s:kday.UTC")).toBeLessThanOrEqual(2 * DAY_MS + LINGER_MS);
    expect(most("s:c")).toBeLessThanOrEqual(HOLD_TTL_MS + LINGER_MS);
    expect(most("r")).toBeLessThanOrEqual(HOLD_TTL_MS + DAY_MS + LINGER_MS);
    // Open holds: the ones that were left open, no more.
    expect(await client.zcard(`${prefix}x`)).toBe(USERS / OPEN_EVERY);
    expect(await store.limits.expire(10)).toEqual([]);
  });
});
