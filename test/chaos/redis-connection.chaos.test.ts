// The Redis store's connection under faults that take their time: long freezes, black holes, a server that dies again and again. By hand.
import { describe, expect, it, onTestFinished } from "vitest";

import type { Store } from "../../src/core/store.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { ownServer, proxyTo, redisProgram } from "../stores/redis/own-server.ts";
import { eventually, failureOf, log, readyStore } from "../stores/redis/redis-kit.ts";
import { ownTime } from "../helpers/own-time.ts";

const DEADLINE_MS = 250;
const pause = (ms: number): Promise<void> => new Promise((resolve) => void setTimeout(resolve, ms));

/** Calls without a pause until told to stop; says how long the longest one took, and what came of them. */
function traffic(store: Store): { stop(): Promise<{ readonly longestMs: number; readonly good: number; readonly refused: number }> } {
  const life = { isOver: false };
  let [longestMs, good, refused] = [0, 0, 0];
  const worker = async (id: number): Promise<void> => {
    for (let i = 0; !life.isOver; i += 1) {
      const sinceAsked = ownTime();
      try {
        await store.records.put(`w/${id}`, i);
        good += 1;
      } catch {
        refused += 1;
        await pause(1);
      }
      longestMs = Math.max(longestMs, sinceAsked());
    }
  };
  const workers = Promise.all(Array.from({ length: 16 }, (_, id) => worker(id)));
  return {
    async stop() {
      life.isOver = true;
      await workers;
      return { longestMs, good, refused };
    },
  };
}

describe.skipIf(redisProgram === undefined)("the Redis connection", () => {
  it("ends every call and comes back within five seconds of every thaw, from 0.1 s to 12 s of frost", { timeout: 120_000 }, async () => {
    const own = await ownServer();
    onTestFinished(() => own.stop());
    const { logger, codes } = log();
    const store = await readyStore(own.url, { logger });
    const load = traffic(store);
    for (const frostMs of [100, 300, 1000, 3000, 12_000]) {
      own.freeze();
      await pause(frostMs);
      own.thaw();
      const { ms } = await eventually(() => store.records.get("k"));
      expect(ms).toBeLessThan(5000);
      await pause(200);
    }
    const { longestMs, good } = await load.stop();
    expect(longestMs).toBeLessThan(DEADLINE_MS + 150);
    expect(good).toBeGreaterThan(100);
    const [lost, back] = ["QG_REDIS_LOST", "QG_REDIS_BACK"].map((code) => codes().filter((each) => each === code).length);
    expect(lost).toBe(back);
    expect(lost).toBeLessThanOrEqual(5);
  });

  it("finds its way out of a network that swallows everything, and does not storm it", { timeout: 60_000 }, async () => {
    const own = await ownServer();
    onTestFinished(() => own.stop());
    const proxy = await proxyTo(own.port);
    const store = await readyStore(proxy.url);
    const before = proxy.made();
    const load = traffic(store);
    proxy.hole(true);
    await pause(10_000);
    // Two connections, each tried anew every two to three seconds.
    expect(proxy.made() - before).toBeLessThan(14);
    proxy.hole(false);
    expect((await eventually(() => store.records.get("k"))).ms).toBeLessThan(5000);
    expect((await load.stop()).longestMs).toBeLessThan(DEADLINE_MS + 150);
  });

  it("survives a server that is killed and started ten times, and each watcher sees what stands there in the end", { timeout: 60_000 }, async () => {
    const own = await ownServer("--appendonly", "yes", "--appendfsync", "always");
    onTestFinished(() => own.stop());
    const [a, b] = [await readyStore(own.url), await readyStore(own.url)];
    const view = new Map<string, unknown>();
    b.records.watch("w/", (key, record) => void (record === undefined ? view.delete(key) : view.set(key, record.value)));
    const load = traffic(a);
    for (let round = 0; round < 10; round += 1) {
      await own.kill();
      await pause(100 * round);
      await own.restart();
      expect((await eventually(() => a.records.get("k"))).ms).toBeLessThan(5000);
      await pause(100);
    }
    expect((await load.stop()).longestMs).toBeLessThan(DEADLINE_MS + 150);
    const truth = (await a.records.list("w/")).map(({ key, value }) => [key, value]);
    await expect.poll(() => [...view].sort(([one], [two]) => (one < two ? -1 : 1)), { timeout: 12_000 }).toEqual(truth);
  });

  it("dials a dead server at growing pauses", { timeout: 20_000 }, async () => {
    const own = await ownServer();
    onTestFinished(() => own.stop());
    const proxy = await proxyTo(own.port);
    const store = await readyStore(proxy.url);
    await own.kill();
    const before = proxy.made();
    await pause(8000);
    // While it is down the proxy takes connections and drops them: two lines, at last one attempt a second each.
    expect(proxy.made() - before).toBeLessThan(40);
    expect((await failureOf(() => store.records.get("k"))).ownMs).toBeLessThan(20);
    await own.restart();
    expect((await eventually(() => store.records.get("k"))).ms).toBeLessThan(2500);
  });

  it("waits for a server that loads its data, at the start and later", { timeout: 120_000 }, async () => {
    const own = await ownServer("--save", "900 1", "--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024");
    onTestFinished(() => own.stop());
    await own.admin.eval("for i = 1, 2000 do redis.call('SET', 'key:' .. i, string.rep('x', 100)) end", 0);
    await own.admin.call("SAVE");
    await own.kill();
    await own.restart();
    const { logger, has } = log();
    const store = redisStore(own.url, { logger });
    onTestFinished(() => store.close());
    for (let isReady = false; !isReady;) {
      // One start waits two seconds; how long the loading takes is the machine's matter.
      isReady = await Promise.resolve(store.ready()).then(
        () => true,
        (error: unknown) => {
          expect(String(error)).toContain("it is not ready yet (LOADING");
          return false;
        },
      );
    }
    expect(await own.admin.dbsize()).toBeGreaterThan(2000);
    await own.admin.call("SAVE");
    await own.kill();
    await own.restart();
    await has("QG_REDIS_BACK");
    expect(await own.admin.dbsize()).toBeGreaterThan(2000);
    expect(await store.records.put("k", 1)).toBeTypeOf("number");
  });
});
