// Several processes and one Redis: together they admit what one process would have admitted, to the unit, and waste next to nothing.
import { randomUUID } from "node:crypto";

import type { Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import type { BucketRule } from "../../src/core/store.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { figures, percentile, sum } from "./kit/figures.ts";
import { fleet, STORE } from "./kit/fleet.ts";
import { GLOBAL_KEY, teamKey, userKey, type LoadPlan, type LoadReport } from "./kit/limits-load.ts";
import { chaosSeed } from "./kit/random.ts";
import { redisProcess, type RedisProcess } from "./kit/redis-process.ts";

const PROCESSES = 4;
const WORKERS = 64;
const DURATION_MS = 15_000;
const USERS = 40;
const TEAMS = 4;
/** Part of the calls that are one user's. */
const HOT_PART = 0.3;
/** Part of what was allowed that must have been used, where demand was never short. */
const USED_PART = 0.98;
/** More than the default: what is counted here is units, and a busy machine is no fault. */
const DEADLINE_MS = 1_000;

const bucket = (capacity: number, perMs: number): BucketRule => ({ kind: "bucket", capacity, n: perMs, d: 1 });

let redis: RedisProcess;
let client: Redis;
beforeAll(async () => {
  redis = await redisProcess();
  client = redis.client();
});
afterAll(() => redis.stop());

async function serverTimeMs(): Promise<number> {
  const [seconds, micros] = await client.time();
  return Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000);
}

describe(`${PROCESSES} processes with ${WORKERS} workers on one Redis`, () => {
  test.each([
    ["the global limit is the narrowest", { user: bucket(20_000, 20), team: bucket(30_000, 40), global: bucket(40_000, 50) }, [GLOBAL_KEY]],
    ["one user's limit is the narrowest", { user: bucket(20_000, 15), team: bucket(200_000, 200), global: bucket(500_000, 500) }, [userKey(0)]],
  ] as const)("admit no more than one would have, and waste next to nothing: %s", async (_, rules, scarce) => {
    const partition = randomUUID();
    const seed = chaosSeed();
    const { members, all } = await fleet(PROCESSES, STORE);
    await all("open", { url: redis.url, partition, deadlineMs: DEADLINE_MS });

    const from = await serverTimeMs();
    const plan = { workers: WORKERS, durationMs: DURATION_MS, users: USERS, teams: TEAMS, rules, hotPart: HOT_PART };
    const startedAt = performance.now();
    const reports = await Promise.all(
      members.map((member, index) => member.ask<LoadReport>("load", { ...plan, seed: seed + index } satisfies LoadPlan)),
    );
    const seconds = (performance.now() - startedAt) / 1_000;
    const to = await serverTimeMs();
    expect((await all<string[]>("uncaught")).flat()).toEqual([]);
    await all("close");

    const spent = new Map<string, number>();
    for (const report of reports) for (const [key, amount] of Object.entries(report.spent)) spent.set(key, (spent.get(key) ?? 0) + amount);
    const counters = [
      ...Array.from({ length: USERS }, (_one, user) => ({ key: userKey(user), rule: rules.user })),
      ...Array.from({ length: TEAMS }, (_one, team) => ({ key: teamKey(team), rule: rules.team })),
      { key: GLOBAL_KEY, rule: rules.global },
    ];
    const store = redisStore(redis.url, { partition });
    await store.ready();
    const standings = await store.limits.peek(counters);
    const peekedAt = await serverTimeMs();
    await store.close();

    const over: string[] = [];
    for (const [index, { key, rule }] of counters.entries()) {
      const used = spent.get(key) ?? 0;
      const available = standings[index]?.available ?? Number.NaN;
      const mayHave = rule.capacity + (rule.n / rule.d) * (to - from);
      if (!(used <= mayHave)) over.push(`${key}: ${used} of ${mayHave}`);
      // What is left was never spent: a counter that forgot a charge would show it here.
      if (!(used + available <= rule.capacity + (rule.n / rule.d) * (peekedAt - from)))
        over.push(`${key}: ${used} used, and still ${available} there`);
    }
    const latencies = reports.flatMap(({ latenciesMs }) => latenciesMs);
    // Where nobody asked nothing was wasted: the processes do not begin and end at one moment.
    const demandMs = Math.max(...reports.map(({ elapsedMs }) => elapsedMs));
    const usedParts = scarce.map((key) => {
      const rule = counters.find((counter) => counter.key === key)?.rule as BucketRule;
      return (spent.get(key) ?? 0) / (rule.capacity + (rule.n / rule.d) * demandMs);
    });
    figures("shared limits", {
      seed,
      allowed: sum(reports.map(({ allowed }) => allowed)),
      refused: sum(reports.map(({ refused }) => refused)),
      unanswered: sum(reports.map(({ failed }) => failed)),
      "verbs/s": latencies.length / seconds,
      "p50 ms": percentile(latencies, 0.5),
      "p99 ms": percentile(latencies, 0.99),
      "tokens spent": spent.get(GLOBAL_KEY) ?? 0,
      "used of the scarce": usedParts,
    });
    expect(over).toEqual([]);
    for (const part of usedParts) expect(part).toBeGreaterThanOrEqual(USED_PART);
    expect(await client.zcard(`qg:{${partition}}:x`)).toBe(0);
  });
});
