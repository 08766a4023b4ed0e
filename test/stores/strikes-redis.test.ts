import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";
import { afterAll, describe, expect, onTestFinished, test } from "vitest";

import { GuardError } from "../../src/core/errors.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { sharedStrikes, type StrikeServer } from "../../src/stores/strikes-redis.ts";
import { testClock } from "../../src/testing/clock.ts";
import { testServer } from "../setup/test-server.ts";
import { ownServer, redisProgram } from "./redis/own-server.ts";
import { log, readyStore } from "./redis/redis-kit.ts";
import { ownTime } from "../helpers/own-time.ts";

const MINUTE = 60_000;
const url = (await testServer("redis")) as string;

describe.skipIf(url === undefined)("strikes in Redis", () => {
  const partition = `strikes-${randomUUID()}`;
  const prefix = `qg:{${partition}}:f:`;
  const redis = new Redis(url, { lazyConnect: true });
  afterAll(async () => {
    const keys = await redis.keys(`qg:{${partition}}:*`);
    await redis.unlink(keys);
    await redis.quit();
  });

  test("run out by the server's time, each with the window of its first strike", async () => {
    const { strikes } = await readyStore(url, { partition });
    expect(await strikes.strike("long", 10 * MINUTE)).toBe(1);
    expect(await strikes.strike("long", MINUTE)).toBe(2);
    expect(await redis.pttl(`${prefix}long`)).toBeGreaterThan(9 * MINUTE);
    // The server counts whole seconds: never a shorter window than asked for, and never one without an end.
    expect(await strikes.strike("odd", 1500)).toBe(1);
    expect(await redis.pttl(`${prefix}odd`)).toBeGreaterThan(1900);
    expect(await strikes.strike("short", 1)).toBe(1);
    expect(await redis.pttl(`${prefix}short`)).toBeGreaterThan(0);
    await redis.pexpire(`${prefix}long`, 1);
    await expect.poll(() => redis.exists(`${prefix}long`)).toBe(0);
    expect(await strikes.strike("long", MINUTE)).toBe(1);
  });

  test("count in this process before the store is ready and after it is closed", async () => {
    const store = redisStore(url, { partition });
    expect(await store.strikes.strike("before", MINUTE)).toBe(1);
    expect(await store.strikes.strike("before", MINUTE)).toBe(2);
    await store.ready();
    expect(await store.strikes.strike("before", MINUTE)).toBe(1);
    await store.close();
    expect(await store.strikes.strike("before", MINUTE)).toBe(3);
  });
});

describe.skipIf(redisProgram === undefined)("a server that is away", () => {
  test("makes each process count by itself, within the deadline, and its count goes on when it is back", async () => {
    const own = await ownServer();
    onTestFinished(() => own.stop());
    const { logger, has } = log();
    const { strikes } = await readyStore(own.url, { logger });
    for (const expected of [1, 2, 3]) expect(await strikes.strike("a", MINUTE)).toBe(expected);
    own.freeze();
    const sinceAsked = ownTime();
    expect(await Promise.all([strikes.strike("b", MINUTE), strikes.strike("b", MINUTE), strikes.strike("b", MINUTE)])).toEqual([1, 2, 3]);
    expect(sinceAsked()).toBeLessThan(400);
    await has("QG_REDIS_LOST");
    const sinceAway = ownTime();
    expect(await strikes.strike("a", MINUTE)).toBe(1);
    expect(sinceAway()).toBeLessThan(50);
    own.thaw();
    await has("QG_REDIS_BACK");
    expect(await strikes.strike("a", MINUTE)).toBe(4);
  });
});

test("are forgiven here too when they are cleared: what was counted while the server was away", async () => {
  let isAway = true;
  const away = (): Promise<never> => Promise.reject(new GuardError("store_unavailable", "away"));
  const server: StrikeServer = {
    prefix: "p:",
    run: () => (isAway ? away() : Promise.resolve([7, 1000])),
    delete: () => (isAway ? away() : Promise.resolve(1)),
  };
  const clock = testClock();
  const strikes = sharedStrikes(server, { clock });
  expect(await strikes.strike("a", MINUTE)).toBe(1);
  expect(await strikes.strike("a", MINUTE)).toBe(2);
  isAway = false;
  expect(await strikes.strike("a", MINUTE)).toBe(7);
  await strikes.clear("a");
  isAway = true;
  expect(await strikes.strike("a", MINUTE)).toBe(1);
  clock.advance(MINUTE);
  expect(await strikes.strike("a", MINUTE)).toBe(1);
  await strikes.clear("a");
  expect(await strikes.strike("a", MINUTE)).toBe(1);
});
