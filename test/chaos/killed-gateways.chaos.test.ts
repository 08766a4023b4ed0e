// kill -9 under load, again and again: whatever a client was answered has its row, once, and what nobody can know any more stays charged.
import { join } from "node:path";

import { expectConserved, fakeUpstream, type FakeUpstream } from "quotaguard/testing";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import type { BucketView } from "../../src/core/admin.ts";
import type { LedgerRow } from "../../src/core/ledger.ts";
import type { LedgerStore } from "../../src/core/store.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { folder } from "../helpers/child.ts";
import { contradictions, requestOf, tokensOf, truthOf } from "./kit/checker.ts";
import { figures, percentile, sum } from "./kit/figures.ts";
import { member, GATEWAY, type Member } from "./kit/fleet.ts";
import type { GatewayPlan } from "./kit/gateway.ts";
import { pause } from "./kit/limits-load.ts";
import { postgresProcess } from "./kit/postgres-process.ts";
import { chaosSeed, random } from "./kit/random.ts";
import { redisProcess, type RedisProcess } from "./kit/redis-process.ts";
import { ask, steadyRequests } from "./kit/requests.ts";

const KILLS = 10;
const PER_SECOND = 50;
/** How long a gateway lives under load: by chance, between these. */
const LIFE_MS = [600, 2_000] as const;
const SERVING_WITHIN_MS = 3_000;
const USERS = 10;
const CAPACITY = 1_000_000_000;
const PARALLEL = 1_000;
/** Holds of the dead end after so long. */
const HOLD_TTL_MS = 2_000;
/** Of a stream's events, so that kills meet open streams. */
const EVENT_MS = 20;

let redis: RedisProcess;
let upstream: FakeUpstream;
beforeAll(async () => {
  [redis, upstream] = await Promise.all([redisProcess(), fakeUpstream({ logLimit: 100_000, delayMs: EVENT_MS })]);
});
afterAll(async () => {
  await redis.stop();
  await upstream.close();
});

interface Place {
  readonly url: string;
  /** Opens it as the next process would. */
  store(): LedgerStore;
}

async function sqlitePlace(): Promise<Place> {
  const files = folder();
  onTestFinished(() => files.remove());
  const path = join(files.path, "ledger.db");
  return { url: `sqlite:${path}`, store: () => sqliteStore(path) };
}

async function postgresPlace(): Promise<Place> {
  const postgres = await postgresProcess();
  onTestFinished(() => postgres.stop());
  return { url: postgres.url, store: () => postgresStore(postgres.url) };
}

describe(`${KILLS} times kill -9 of a gateway under ${PER_SECOND} requests a second`, () => {
  test.each([
    ["SQLite", sqlitePlace],
    ["Postgres", postgresPlace],
  ])("%s ledger: no row is lost or doubled, and orphans stay charged", async (name, placed) => {
    const place = await placed();
    upstream.reset();
    await redis.restart({ empty: true });
    const tokens = { unit: "tokens", bucket: { capacity: CAPACITY, refillPerSec: 0 }, estimate: "ceiling", onStoreError: "deny" } as const;
    const plan: GatewayPlan = {
      upstream: upstream.url,
      options: {
        store: { url: redis.url },
        ledger: { url: place.url },
        router: { reservation: { ttl: HOLD_TTL_MS } },
        limits: [
          { name: "user-tokens", scope: "user", ...tokens },
          { name: "all-tokens", scope: "global", ...tokens },
          { name: "user-parallel", scope: "global", unit: "concurrent", concurrency: { limit: PARALLEL }, onStoreError: "deny" },
        ],
      },
    };
    const seed = chaosSeed();
    const chance = random(seed);
    const startsMs: number[] = [];
    /** The part of it that Node needs to load the sources, before anything of ours is asked to do anything. */
    const bootsMs: number[] = [];
    let url = "";
    const open = async (): Promise<Member> => {
      const from = performance.now();
      const started = await member(GATEWAY);
      bootsMs.push(performance.now() - from);
      url = await started.ask<string>("open", plan);
      while ((await ask({ url, scopes: { user: "first" } })).status !== 200) expect(performance.now() - from).toBeLessThan(10 * SERVING_WITHIN_MS);
      startsMs.push(performance.now() - from);
      return started;
    };

    /** Slots that the dead held when they died. */
    let leftTaken = 0;
    let gateway = await open();
    const load = steadyRequests(PER_SECOND, () => {
      const stream = chance.chance(0.5);
      return ask({
        url,
        scopes: { user: `u${chance.between(0, USERS - 1)}` },
        stream,
        words: chance.between(1, 8),
        maxTokens: chance.between(5, 40),
      });
    });
    for (let kill = 0; kill < KILLS; kill += 1) {
      await pause(chance.between(...LIFE_MS));
      await gateway.kill();
      leftTaken += await slotsTaken();
      gateway = await open();
    }
    await pause(LIFE_MS[0]);
    await load.stop();
    expect(await gateway.ask<string[]>("uncaught")).toEqual([]);
    // Slots of the dead are free once their time has run out, whether a sweeper has come by or not.
    await expect.poll(() => slotsTaken(), { timeout: HOLD_TTL_MS + 5_000 }).toBe(0);
    const { tokens: left } = await gateway.ask<BucketView>("bucket", { scope: "global" });
    await gateway.ask("close");

    const last = place.store();
    await last.ready();
    const rows = await last.ledger.list({ limit: load.history.length * 2 + 1_000 });
    await last.close();
    const truth = truthOf(upstream.log);
    const { history } = load;
    const byRequest = new Map(rows.map((row) => [row.requestId, row]));
    const orphans = rows.filter(({ state }) => state === "unknown");
    // Between what the provider bills and what was held for it: a process that dies between Redis and the ledger leaves them one step apart.
    const bounds = rows.map((row) => chargedBetween(row, tokensOf(truth.get(row.requestId))));
    const charged = CAPACITY - left;
    figures(`killed gateways, ${name}`, {
      seed,
      requests: history.length,
      statuses: Object.fromEntries([...Map.groupBy(history, ({ status }) => status)].map(([status, some]) => [status, some.length])),
      rows: rows.length,
      unknown: orphans.length,
      "slots left taken": leftTaken,
      "reached the upstream": truth.size,
      charged,
      "serving again ms": [percentile(startsMs, 0.5), Math.max(...startsMs)].map(Math.round),
      "of that loading ms": [percentile(bootsMs, 0.5), Math.max(...bootsMs)].map(Math.round),
    });
    // The first requests of each process are not in the load's history, but they have rows and truth.
    expect(contradictions({ history, rows })).toEqual([]);
    await expectConserved({ rows, upstreams: [{ log: upstream.log, forgotten: 0 }], requestOf });
    expect(history.filter(({ status, finished, requestId }) => status === 200 && finished && !byRequest.has(requestId))).toEqual([]);
    for (const row of orphans) expect(row).toMatchObject({ state: "unknown", provenance: "estimated" });
    for (const row of orphans) expect(row.held.tokens).toBeGreaterThan(0);
    expect(orphans.length).toBeGreaterThan(0);
    expect(leftTaken).toBeGreaterThan(0);
    expect(charged).toBeGreaterThanOrEqual(sum(bounds.map(([least]) => least)));
    expect(charged).toBeLessThanOrEqual(sum(bounds.map(([, most]) => most)));
    expect(percentile(startsMs, 0.5)).toBeLessThan(SERVING_WITHIN_MS);
    expect(Math.max(...startsMs.map((ms, index) => ms - (bootsMs[index] ?? 0)))).toBeLessThan(SERVING_WITHIN_MS);
    expect(history.filter(({ status, finished }) => status === 200 && finished).length).toBeGreaterThan(history.length * 0.3);
  });
});

/** Least and most that one row's request may have left in the counters. */
function chargedBetween({ state, held }: LedgerRow, billed: number): readonly [least: number, most: number] {
  const wasHeld = held.tokens ?? 0;
  if (state === "refused" || state === "released") return [0, wasHeld];
  return [Math.min(billed, wasHeld), Math.max(billed, wasHeld)];
}

async function slotsTaken(): Promise<number> {
  const client = redis.client();
  try {
    const [seconds] = await client.time();
    const keys = (await client.keys("*:c:*")).filter((key) => key.includes("user-parallel"));
    const live = await Promise.all(keys.map((key) => client.zcount(key, Number(seconds) * 1_000, "+inf")));
    return sum(live);
  } finally {
    client.disconnect();
  }
}
