// The tools of this tier must break what they say they break, and find what is broken.
import { connect } from "node:net";

import { Redis } from "ioredis";
import pg from "pg";
import { memoryStore } from "quotaguard";
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import type { LimitStore } from "../../src/core/store.ts";
import { rowOf } from "../contracts/ledger-rows.ts";
import { chaosTcp } from "./kit/chaos-tcp.ts";
import { contradictions } from "./kit/checker.ts";
import { postgresProcess } from "./kit/postgres-process.ts";
import { random } from "./kit/random.ts";
import { redisCluster } from "./kit/redis-cluster.ts";
import { redisProcess, type RedisProcess } from "./kit/redis-process.ts";
import { miscounted, repeatedOperations, type RepeatReport } from "./kit/repeated-operations.ts";
import type { Seen } from "./kit/requests.ts";

describe("redisProcess", () => {
  let redis: RedisProcess;
  beforeAll(async () => {
    redis = await redisProcess(["--appendonly", "yes", "--appendfsync", "always"]);
  });
  afterAll(() => redis.stop());

  test("freezes and thaws", async () => {
    const client = redis.client();
    await client.set("frozen", "no");
    redis.freeze();
    let answered = false;
    const asked = client.get("frozen").then((value) => {
      answered = true;
      return value;
    });
    await new Promise((resolve) => void setTimeout(resolve, 100));
    expect(answered).toBe(false);
    redis.thaw();
    expect(await asked).toBe("no");
  });

  test("remembers over a kill, and forgets when it is told to", async () => {
    const client = redis.client();
    await client.set("kept", "yes");
    await redis.kill();
    await redis.restart();
    expect(await client.get("kept")).toBe("yes");
    await redis.restart({ empty: true });
    expect(await client.get("kept")).toBeNull();
  });
});

test("postgresProcess keeps over a crash what it acknowledged", async () => {
  const postgres = await postgresProcess();
  onTestFinished(() => postgres.stop());
  const asked = async (text: string): Promise<unknown[]> => {
    const client = new pg.Client(postgres.url);
    await client.connect();
    const { rows } = await client.query(text);
    await client.end();
    return rows as unknown[];
  };
  await asked("create table kept (id int)");
  await asked("insert into kept values (7)");
  await postgres.restart();
  expect(await asked("select id from kept")).toEqual([{ id: 7 }]);
});

test("redisCluster serves every slot", async () => {
  const cluster = await redisCluster(3);
  onTestFinished(() => cluster.stop());
  const { Cluster } = await import("ioredis");
  const client = new Cluster([...cluster.nodes]);
  onTestFinished(() => client.disconnect());
  for (const key of ["a", "b", "c", "d", "e", "f"]) expect(await client.set(key, key)).toBe("OK");
});

describe("chaosTcp", () => {
  let redis: RedisProcess;
  beforeAll(async () => {
    redis = await redisProcess();
  });
  afterAll(() => redis.stop());

  const impatient = { maxRetriesPerRequest: 0, retryStrategy: () => 5, autoResendUnfulfilledCommands: false };

  test("loses replies of what was done", async () => {
    const wire = await chaosTcp(redis, { loseReply: 0.2 }, 7);
    const client = new Redis({ ...impatient, port: wire.port, host: "127.0.0.1", lazyConnect: true, enableReadyCheck: false });
    client.on("error", () => undefined);
    onTestFinished(async () => {
      client.disconnect();
      await wire.close();
    });
    let acknowledged = 0;
    for (let turn = 0; turn < 200; turn += 1) {
      await client.incr("lossy").then(
        () => (acknowledged += 1),
        () => undefined,
      );
    }
    const done = Number(await redis.client().get("lossy"));
    expect(wire.counts.lost).toBeGreaterThan(10);
    expect(done).toBeGreaterThan(acknowledged);
  });

  test("delays replies and keeps their order", async () => {
    const wire = await chaosTcp(redis, { delayMs: 5, jitterMs: 5 }, 7);
    const client = new Redis({ port: wire.port, host: "127.0.0.1", enableReadyCheck: false });
    onTestFinished(async () => {
      client.disconnect();
      await wire.close();
    });
    const echoed = await Promise.all(
      Array.from({ length: 200 }, async (_, turn) => {
        if (turn % 3 === 0) await new Promise((resolve) => void setTimeout(resolve, turn % 7));
        return [turn, Number(await client.echo(String(turn)))];
      }),
    );
    for (const [asked, answered] of echoed) expect(answered).toBe(asked);
  });

  test("swallows everything, refuses, and cuts", async () => {
    const wire = await chaosTcp(redis);
    onTestFinished(() => wire.close());
    const socket = connect(wire.port, "127.0.0.1");
    const next = (): Promise<string> => new Promise((resolve) => void socket.once("data", (bytes) => resolve(bytes.toString())));
    socket.write("PING\r\n");
    expect(await next()).toBe("+PONG\r\n");
    wire.set({ blackHole: true });
    let heard = false;
    socket.once("data", () => (heard = true));
    socket.write("PING\r\n");
    await new Promise((resolve) => void setTimeout(resolve, 50));
    expect(heard).toBe(false);
    const ended = new Promise((resolve) => void socket.once("error", resolve));
    expect(wire.cut()).toBe(1);
    expect(await ended).toMatchObject({ code: "ECONNRESET" });
    wire.set({ blackHole: false, refuse: true });
    const refused = connect(wire.port, "127.0.0.1");
    expect(await new Promise((resolve) => void refused.once("error", resolve))).toMatchObject({ code: "ECONNRESET" });
  });
});

test("random repeats itself by its seed", () => {
  const draw = (seed: number): number[] => {
    const chance = random(seed);
    return Array.from({ length: 5 }, () => chance.between(1, 1_000));
  };
  expect(draw(5)).toEqual(draw(5));
  expect(draw(5)).not.toEqual(draw(6));
});

describe("repeatedOperations", () => {
  const plan = { seed: 3, operations: 400, atOnce: 16, users: 5 };
  const findings = async (change: (limits: LimitStore) => Partial<LimitStore>): Promise<{ report: RepeatReport; wrong: string[] }> => {
    const { limits } = memoryStore();
    const report = await repeatedOperations([{ ...limits, ...change(limits) }], plan);
    return { report, wrong: await miscounted(limits, report) };
  };

  test("finds nothing in a store that counts", async () => {
    const { report, wrong } = await findings(() => ({}));
    expect([...report.problems, ...wrong]).toEqual([]);
    expect(report.operations).toHaveLength(plan.operations);
    expect(report.deliveries).toBeGreaterThan(plan.operations * 4);
  });

  test.each<[string, (limits: LimitStore) => Partial<LimitStore>]>([
    [
      "a repeated reserve is charged again",
      (limits) => {
        let times = 0;
        return { reserve: (opId, charges, ttlMs) => limits.reserve((times += 1) % 50 === 0 ? `${opId}.again` : opId, charges, ttlMs) };
      },
    ],
    ["a settlement is forgotten", (limits) => ({ settle: (opId, actual) => (opId.endsWith("7") ? "applied" : limits.settle(opId, actual)) })],
    ["a release forgets the tombstone", (limits) => ({ release: async (opId) => (opId.endsWith("3") ? "done" : limits.release(opId)) })],
    ["a settlement charges what was held", (limits) => ({ settle: (opId, actual) => limits.settle(opId, opId.endsWith("5") ? {} : actual) })],
  ])("finds that %s", async (_, change) => {
    const { report, wrong } = await findings(change);
    expect([...report.problems, ...wrong]).not.toEqual([]);
  });
});

describe("contradictions", () => {
  const seen: Seen = { requestId: "r1", scopes: { user: "u" }, stream: false, status: 200, code: null, retryAfter: null, finished: true, ms: 1 };
  const usage = { inputTokens: 3, cacheReadTokens: 0, cacheWriteTokens: 0, outputTokens: 4, reasoningTokens: 0 };
  const row = { ...rowOf("r1"), requestId: "r1", state: "settled" as const, usage };
  const books = { history: [seen], rows: [row] };

  test("finds none in honest books", () => {
    expect(contradictions(books)).toEqual([]);
  });

  test.each([
    ["an answer without a row", /there is no row/, { ...books, rows: [] }],
    ["a doubled row", /2 rows/, { ...books, rows: [row, { ...row, id: "other" }] }],
    ["an answer that was not charged", /the row says released/, { ...books, rows: [{ ...row, state: "released" as const }] }],
  ])("finds %s", (_, finding, wrong) => {
    expect(contradictions(wrong).some((text) => finding.test(text))).toBe(true);
  });
});
