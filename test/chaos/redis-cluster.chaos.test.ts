// Three masters: everything a call touches lies in one slot, so a cluster counts as exactly as a single server.
import { randomUUID } from "node:crypto";

import { Cluster } from "ioredis";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import { redisStore } from "../../src/stores/redis/index.ts";
import { figures, sum } from "./kit/figures.ts";
import { pause } from "./kit/limits-load.ts";
import { chaosSeed } from "./kit/random.ts";
import { redisCluster, type RedisCluster } from "./kit/redis-cluster.ts";
import { miscounted, repeatedOperations } from "./kit/repeated-operations.ts";

const OPERATIONS = 2_000;
const AT_ONCE = 64;
const USERS = 50;
const MOVING_MS = 6_000;
const MOVES = 3;
/** So many deployments, so that each master serves one at least. */
const PARTITIONS = 9;

let cluster: RedisCluster;
beforeAll(async () => {
  cluster = await redisCluster(3);
});
afterAll(() => cluster.stop());

describe("Redis Cluster", () => {
  test("mixed load over many partitions: no CROSSSLOT, exact counters", async () => {
    const seed = chaosSeed();
    const client = new Cluster([...cluster.nodes]);
    client.on("error", () => undefined);
    onTestFinished(() => client.disconnect());
    const stores = Array.from({ length: PARTITIONS }, (_, index) => redisStore({ client, partition: `shop${index}` }));
    onTestFinished(async () => void (await Promise.all(stores.map((store) => store.close()))));
    await Promise.all(stores.map((store) => store.ready()));

    const startedAt = performance.now();
    const reports = await Promise.all(
      stores.map(async (store, index) => {
        const report = await repeatedOperations([store.limits], {
          seed: seed + index,
          operations: Math.ceil(OPERATIONS / PARTITIONS),
          atOnce: Math.ceil(AT_ONCE / PARTITIONS),
          users: USERS,
        });
        await store.records.put(`chaos/${index}`, index);
        await store.strikes.strike(`chaos${index}`, 60_000);
        return report;
      }),
    );
    const seconds = (performance.now() - startedAt) / 1_000;

    const looks = cluster.masters.map((master) => master.client());
    const stats = await Promise.all(looks.map((look) => look.info("errorstats")));
    const keys = await Promise.all(looks.map((look) => look.dbsize()));
    figures("cluster", {
      seed,
      operations: sum(reports.map(({ operations }) => operations.length)),
      deliveries: sum(reports.map(({ deliveries }) => deliveries)),
      unanswered: sum(reports.map(({ failed }) => failed)),
      "keys by master": keys,
      errors: stats.map((text) => [...text.matchAll(/errorstat_(\w+):count=(\d+)/g)].map(([, name, count]) => `${name}=${count}`).join(" ")),
      seconds,
    });
    expect(stats.join("\n")).not.toContain("CROSSSLOT");
    for (const count of keys) expect(count).toBeGreaterThan(0);
    expect(reports.flatMap(({ problems }) => problems)).toEqual([]);
    expect(sum(reports.map(({ failed }) => failed))).toBe(0);
    for (const [index, store] of stores.entries()) {
      expect(await miscounted(store.limits, reports[index] as (typeof reports)[number])).toEqual([]);
      expect(await store.records.get(`chaos/${index}`)).toMatchObject({ value: index });
    }
  });

  test("a slot moves to another master and back under load: exact counters", async () => {
    const seed = chaosSeed();
    const partition = randomUUID();
    const client = new Cluster([...cluster.nodes]);
    client.on("error", () => undefined);
    onTestFinished(() => client.disconnect());
    const stores = [redisStore({ client, partition }), redisStore({ client, partition })];
    onTestFinished(async () => void (await Promise.all(stores.map((store) => store.close()))));
    await Promise.all(stores.map((store) => store.ready()));
    const working = repeatedOperations(
      stores.map(({ limits }) => limits),
      { seed, operations: Number.POSITIVE_INFINITY, durationMs: MOVING_MS, atOnce: AT_ONCE, users: USERS },
    );
    const moved: number[] = [];
    for (let move = 0; move < MOVES; move += 1) {
      await pause(MOVING_MS / (MOVES + 1));
      moved.push(await cluster.moveSlotOf(`qg:{${partition}}:m`));
    }
    const report = await working;
    figures("moving slots", { seed, moved, operations: report.operations.length, deliveries: report.deliveries, unanswered: report.failed });
    expect(Math.min(...moved)).toBeGreaterThan(AT_ONCE);
    expect(report.problems).toEqual([]);
    expect(await miscounted((stores[0] as (typeof stores)[number]).limits, report)).toEqual([]);
  });
});
