import { describe, expect, it, onTestFinished } from "vitest";
import type { Charge, Store } from "../../../src/core/store.ts";
import { rollbackWatch } from "../../../src/stores/redis/rollback.ts";
import { testClock } from "../../../src/testing/clock.ts";
import { B, charge } from "../../limits/harness.ts";
import { ownServer, redisProgram } from "./own-server.ts";
import { log, readyStore } from "./redis-kit.ts";

const SNAPSHOTS = ["--save", "3600 1 300 100 60 10000"];

describe("the count of beats", () => {
  const noticed = async (beats: readonly (readonly [atMs: number, count: number])[]): Promise<readonly (readonly number[])[]> => {
    const clock = testClock();
    const told: number[][] = [];
    const heard = rollbackWatch({ clock, onRollback: async (...what) => void told.push(what) });
    let nowMs = 0;
    for (const [atMs, count] of beats) {
      clock.advance(atMs - nowMs);
      nowMs = atMs;
      heard(count);
      await new Promise(setImmediate);
    }
    return told;
  };

  it("tells of a step back by more than a few seconds, once", async () => {
    const before = [
      [0, 7],
      [5000, 9],
      [10_000, 11],
    ] as const;
    expect(await noticed([...before, [10_500, 12], [11_000, 13]])).toEqual([]);
    // The last second may be lost.
    expect(await noticed([...before, [10_500, 10], [15_500, 11]])).toEqual([]);
    expect(await noticed([...before, [10_500, 9], [15_500, 10], [20_500, 11]])).toEqual([[9, 11]]);
    expect(await noticed([...before, [10_500, 1]])).toEqual([[9, 11]]);
    // Beats out of turn bring no mark closer.
    expect(
      await noticed([
        [0, 7],
        [100, 8],
        [200, 9],
        [300, 8],
        [400, 7],
      ]),
    ).toEqual([]);
  });

  it("is told again until somebody has heard", async () => {
    const clock = testClock();
    let asked = 0;
    const heard = rollbackWatch({ clock, onRollback: () => ((asked += 1) < 3 ? Promise.reject(new Error("away")) : Promise.resolve()) });
    for (const count of [1, 2, 3, 1, 2, 3, 4, 5]) {
      heard(count);
      await new Promise(setImmediate);
      clock.advance(5000);
    }
    expect(asked).toBe(3);
  });
});

describe.skipIf(redisProgram === undefined)("a Redis that crashes and restarts from a snapshot", () => {
  const strict: Charge[] = [{ ...charge("money", B(100, 0), 10, { unit: "usd" }), strict: true }];
  const plain: Charge[] = [charge("plain", B(100, 0), 10)];

  it("is not taken for whole, once for all processes; a restart that loses nothing is", async () => {
    const server = await ownServer(...SNAPSHOTS);
    onTestFinished(() => server.stop());
    const clock = testClock();
    const logs = [log(), log()];
    const stores: Store[] = [];
    for (const { logger } of logs) stores.push(await readyStore(server.url, { logger, clock, deadlineMs: 1000 }));
    const [a, b] = stores as [Store, Store];
    for (const store of stores) await store.limits.continuity?.begin(null);
    const beats = async (): Promise<number> => Number(await server.admin.get("qg:{qg}:b"));
    const pass = async (): Promise<void> => {
      const before = await beats();
      clock.advance(5000);
      await expect.poll(beats).toBe(before + stores.length);
    };
    const spend = async (opId: string): Promise<string> => {
      const { kind } = await a.limits.reserve(opId, strict, 60_000);
      await a.limits.settle(opId, {});
      return kind;
    };
    // A pause between two dials; each call has its deadline on the same clock.
    const back = async (times: number): Promise<void> => {
      await expect
        .poll(() => {
          clock.advance(100);
          return logs.map(({ codes }) => codes().filter((code) => code === "QG_REDIS_BACK").length);
        })
        .toEqual([times, times]);
    };

    await pass();
    expect(await spend("a0")).toBe("allowed");
    await server.admin.save();
    await server.kill();
    await server.restart();
    await back(1);
    await pass();
    expect([a.limits.continuity?.isWhole, b.limits.continuity?.isWhole]).toEqual([true, true]);
    expect(await spend("a1")).toBe("allowed");

    expect(await a.limits.reserve("open", strict, 60_000)).toMatchObject({ kind: "allowed" });
    await server.admin.save();
    await pass();
    await pass();
    await pass();
    for (let i = 2; i < 9; i += 1) expect(await spend(`a${i}`)).toBe("allowed");
    expect(await spend("full")).toBe("limited");
    await server.kill();
    await server.restart();
    await back(2);
    // Noticed by the beat that each process makes when the server is back, or by the next one.
    await expect.poll(() => stores.map(({ limits }) => limits.continuity?.isWhole)).toEqual([false, false]);
    for (const store of stores) await expect(store.limits.reserve("strict", strict, 60_000)).rejects.toMatchObject({ code: "store_unavailable" });
    expect(await b.limits.reserve("plain", plain, 60_000)).toMatchObject({ kind: "allowed" });
    // The ledger says what became of it: were it settled once more, it would be given back twice.
    expect(await b.limits.settle("open", { usd: 0 })).toBe("unknown");
    expect(await a.limits.continuity?.claim(60_000)).toBe(true);
    await a.limits.continuity?.complete();
    const { epoch } = a.limits.continuity ?? {};
    await pass();
    await pass();
    expect(stores.map(({ limits }) => limits.continuity?.epoch)).toEqual([epoch, epoch]);
    expect(await b.limits.reserve("again", strict, 60_000)).toMatchObject({ kind: "allowed" });
    expect(logs.flatMap(({ codes }) => codes()).filter((code) => code === "QG_REDIS_ROLLED_BACK").length).toBeGreaterThan(0);
  });
});
