// Answers get lost, operations arrive again and out of order, connections are cut all the time: the counters are exact in the end.
import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import type { Store } from "../../src/core/store.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { chaosTcp, type ChaosTcp } from "./kit/chaos-tcp.ts";
import { figures } from "./kit/figures.ts";
import { untilAnswered } from "./kit/limits-load.ts";
import { openHandles } from "./kit/open-handles.ts";
import { chaosSeed } from "./kit/random.ts";
import { redisProcess, type RedisProcess } from "./kit/redis-process.ts";
import { miscounted, repeatedOperations } from "./kit/repeated-operations.ts";

const OPERATIONS = 1_500;
const AT_ONCE = 64;
const USERS = 50;
const LOST_PART = 0.03;
const TORN_PART = 0.01;
const JITTER_MS = 3;
const CUT_EVERY_MS = 50;
const CUTTING_MS = 10_000;
/** A client that is cut again and again waits longer before it dials: many of the cuts find nothing. */
const LEAST_CUTS = 20;
/** Sockets that may be on their way in or out when handles are counted. */
const HANDLES_SLACK = 4;

let redis: RedisProcess;
beforeAll(async () => {
  redis = await redisProcess();
});
afterAll(() => redis.stop());

async function nodesThrough(wires: readonly ChaosTcp[], partition: string): Promise<readonly Store[]> {
  const nodes = wires.map(({ port }) => redisStore(`redis://127.0.0.1:${port}`, { partition }));
  onTestFinished(async () => void (await Promise.all(nodes.map((node) => node.close()))));
  await Promise.all(nodes.map((node) => node.ready()));
  return nodes;
}

async function wiresTo(count: number, seed: number): Promise<readonly ChaosTcp[]> {
  const wires = await Promise.all(Array.from({ length: count }, (_, index) => chaosTcp(redis, {}, seed + index)));
  onTestFinished(async () => void (await Promise.all(wires.map((wire) => wire.close()))));
  return wires;
}

/** A node whose own connection nobody breaks, to look at the end. */
async function observer(partition: string): Promise<Store> {
  const [node] = await nodesThrough([{ port: redis.port } as ChaosTcp], partition);
  return node as Store;
}

const openHolds = (partition: string): Promise<number> => {
  const client = redis.client();
  return client.zcard(`qg:{${partition}}:x`).finally(() => client.disconnect());
};

describe("a network that loses answers", () => {
  test(`${LOST_PART * 100} % of the replies are lost and every operation is delivered one to five times`, async () => {
    const seed = chaosSeed();
    const partition = randomUUID();
    const wires = await wiresTo(2, seed);
    const nodes = await nodesThrough(wires, partition);
    for (const wire of wires) wire.set({ loseReply: LOST_PART, tearReply: TORN_PART, jitterMs: JITTER_MS });
    const startedAt = performance.now();
    const report = await repeatedOperations(
      nodes.map(({ limits }) => limits),
      { seed, operations: OPERATIONS, atOnce: AT_ONCE, users: USERS },
    );
    figures("lost replies", {
      seed,
      operations: report.operations.length,
      deliveries: report.deliveries,
      unanswered: report.failed,
      lost: wires.map(({ counts }) => counts.lost),
      torn: wires.map(({ counts }) => counts.torn),
      seconds: (performance.now() - startedAt) / 1_000,
    });
    expect(report.problems).toEqual([]);
    expect(wires.every(({ counts }) => counts.lost > 10)).toBe(true);
    expect(await miscounted((await observer(partition)).limits, report)).toEqual([]);
    expect(await openHolds(partition)).toBe(0);
  });

  test(`all connections are cut every ${CUT_EVERY_MS} ms`, async () => {
    const seed = chaosSeed();
    const partition = randomUUID();
    const uncaught: unknown[] = [];
    const note = (error: unknown): void => void uncaught.push(error);
    process.on("unhandledRejection", note);
    onTestFinished(() => void process.off("unhandledRejection", note));
    const wires = await wiresTo(2, seed);
    const nodes = await nodesThrough(wires, partition);
    const before = openHandles();
    let cuts = 0;
    const cutting = setInterval(() => {
      for (const wire of wires) cuts += wire.cut();
    }, CUT_EVERY_MS);
    onTestFinished(() => clearInterval(cutting));
    const working = repeatedOperations(
      nodes.map(({ limits }) => limits),
      { seed, operations: Number.POSITIVE_INFINITY, durationMs: CUTTING_MS, atOnce: AT_ONCE, users: USERS },
    );
    const stopAt = setTimeout(() => clearInterval(cutting), CUTTING_MS);
    onTestFinished(() => clearTimeout(stopAt));
    const report = await working;
    clearInterval(cutting);
    for (const { records } of nodes)
      await untilAnswered(
        () => records.get("chaos/none"),
        () => undefined,
      );
    const after = openHandles();
    figures("connection churn", {
      seed,
      cuts,
      operations: report.operations.length,
      deliveries: report.deliveries,
      unanswered: report.failed,
      handles: [before, after],
    });
    expect(uncaught).toEqual([]);
    expect(report.problems).toEqual([]);
    expect(report.operations.length).toBeGreaterThan(AT_ONCE);
    expect(cuts).toBeGreaterThan(LEAST_CUTS);
    if (before !== null && after !== null) expect(after).toBeLessThanOrEqual(before + HANDLES_SLACK);
    expect(await miscounted((await observer(partition)).limits, report)).toEqual([]);
    expect(await openHolds(partition)).toBe(0);
  });
});
