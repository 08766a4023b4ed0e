import { randomUUID } from "node:crypto";

import { Redis } from "ioredis";
import { afterAll, describe, expect, it, onTestFinished } from "vitest";

import type { Store, StoredRecord } from "../../../src/core/store.ts";
import { redisStore } from "../../../src/stores/redis/index.ts";
import { gathered } from "../../../src/testing/store-contract/contract-case.ts";
import { storeContract } from "../../../src/testing/store-contract/store-contract.ts";
import { testClock } from "../../../src/testing/clock.ts";
import { testServer } from "../../setup/test-server.ts";
import { proxyTo } from "./own-server.ts";
import { failureOf, readyStore } from "./redis-kit.ts";
import { ownTime } from "../../helpers/own-time.ts";

const url = (await testServer("redis")) as string;
/** Begins every partition of this file, so that it can take its keys away again. */
const run = `test-${randomUUID().slice(0, 8)}`;
const partition = (): string => `${run}-${randomUUID().slice(0, 8)}`;

describe.skipIf(url === undefined)("redisStore", () => {
  let client: Redis | undefined;
  const redis = (): Redis => (client ??= new Redis(url));

  afterAll(async () => {
    for await (const keys of redis().scanStream({ match: `qg:{${run}-*`, count: 1000 })) {
      if ((keys as string[]).length > 0) await redis().unlink(keys as string[]);
    }
    await redis().quit();
  });

  storeContract({ describe, it }, (clock) => redisStore(url, { partition: partition(), clock, serverTime: () => clock.now(), deadlineMs: 1000 }), {
    name: "redis",
    strikesOnServerClock: true,
  });

  /** Two processes, as far as the server can tell. */
  async function pair(): Promise<{ readonly a: Store; readonly b: Store; readonly name: string }> {
    const name = partition();
    return { a: await readyStore(url, { partition: name }), b: await readyStore(url, { partition: name }), name };
  }

  describe("two processes", () => {
    it("see each other's records, and hear of their changes well within a second, once each and with what stands there", async () => {
      const { a, b } = await pair();
      const heard = gathered<readonly [string, unknown, number | undefined]>();
      b.records.watch("ban/", (key, record) => heard.add([key, record?.value, record?.version]));
      const sincePut = ownTime();
      const version = await a.records.put("ban/x:y\nz", { reason: "a:b" });
      await heard.count(1);
      await a.records.put("elsewhere", 1);
      await a.records.delete("ban/x:y\nz");
      await heard.count(2);
      expect(sincePut()).toBeLessThan(500);
      expect(heard.all).toEqual([
        ["ban/x:y\nz", { reason: "a:b" }, version],
        ["ban/x:y\nz", undefined, undefined],
      ]);
      expect(await b.records.put("ban/x:y\nz", 2, { ifVersion: version as number })).toBeUndefined();
    });

    it("end with the same view after a storm of writes on both sides, and no watcher goes back in time", async () => {
      const { a, b } = await pair();
      const views = [a, b].map((store) => {
        const view = new Map<string, StoredRecord>();
        const newest = new Map<string, number>();
        store.records.watch("s/", (key, record) => {
          if (record === undefined) return void view.delete(key);
          expect(record.version).toBeGreaterThan(newest.get(key) ?? 0);
          newest.set(key, record.version);
          view.set(key, record);
        });
        return view;
      });
      // The watching of what is there has begun on both sides.
      await Promise.all([a.records.list("s/"), b.records.list("s/")]);
      await Promise.all(
        Array.from({ length: 400 }, (_, i) => {
          const { records } = i % 2 === 0 ? a : b;
          return i % 7 === 0 ? records.delete(`s/${i % 5}`) : records.put(`s/${i % 5}`, i);
        }),
      );
      const truth = await a.records.list("s/");
      for (const view of views) await expect.poll(() => [...view.values()].sort((one, two) => (one.key < two.key ? -1 : 1))).toEqual(truth);
    });

    it("exclude each other: of many who want to be first one is", async () => {
      const { a, b } = await pair();
      const versions = await Promise.all(Array.from({ length: 40 }, (_, i) => (i % 2 === 0 ? a : b).records.put("leader", i, { ifAbsent: true })));
      expect(versions.filter((version) => version !== undefined)).toHaveLength(1);
    });

    it("learn of what was written while nobody could tell them, deletions too", async () => {
      const name = partition();
      const proxy = await proxyTo(Number(new URL(url).port || 6379));
      const a = await readyStore(url, { partition: name });
      await a.records.put("w/gone", 1);
      await a.records.put("w/kept", 1);
      const b = await readyStore(proxy.url, { partition: name });
      const heard = gathered<readonly [string, unknown]>();
      b.records.watch("w/", (key, record) => heard.add([key, record?.value]));
      // It has seen what there is.
      expect(await b.records.list("w/")).toHaveLength(2);
      await b.records.list("w/");
      proxy.hole(true);
      await a.records.delete("w/gone");
      await a.records.put("w/new", 2);
      proxy.hole(false);
      proxy.cut();
      await expect
        .poll(() => heard.all)
        .toEqual(
          expect.arrayContaining([
            ["w/gone", undefined],
            ["w/new", 2],
          ]),
        );
    });

    it("are counted, from the first beat to the last, also by a server that was emptied", async () => {
      const name = partition();
      const clock = testClock();
      const options = { partition: name, clock, serverTime: () => clock.now() };
      const a = await readyStore(url, options);
      expect(a.nodes?.()).toBe(1);
      const b = await readyStore(url, options);
      expect(b.nodes?.()).toBe(2);
      const c = await readyStore(url, options);
      expect([a.nodes?.(), c.nodes?.()]).toEqual([1, 3]);
      clock.advance(5000);
      await expect.poll(() => [a, b, c].map((store) => store.nodes?.())).toEqual([3, 3, 3]);
      await redis().del(`qg:{${name}}:n`);
      clock.advance(5000);
      await expect.poll(() => redis().zcard(`qg:{${name}}:n`)).toBe(3);
      await c.close();
      clock.advance(5000);
      await expect.poll(() => [a, b].map((store) => store.nodes?.())).toEqual([2, 2]);
    });

    it("of which one has gone silent count it no longer after 15 s", async () => {
      const name = partition();
      const [mine, theirs] = [testClock(), testClock()];
      const a = await readyStore(url, { partition: name, clock: mine, serverTime: () => mine.now() });
      const b = await readyStore(url, { partition: name, clock: theirs, serverTime: () => theirs.now() });
      expect(b.nodes?.()).toBe(2);
      mine.advance(10_000);
      const last = String(mine.now());
      await expect.poll(async () => String(await redis().call("ZRANGE", `qg:{${name}}:n`, -1, -1, "WITHSCORES"))).toContain(last);
      expect(await redis().zcard(`qg:{${name}}:n`)).toBe(2);
      mine.advance(5000);
      await expect.poll(() => a.nodes?.()).toBe(1);
    });

    it("count strikes together", async () => {
      const { a, b } = await pair();
      const counts: number[] = [];
      for (const store of [a, b, a, b]) counts.push(await store.strikes.strike("1.2.3.4", 60_000));
      expect(counts).toEqual([1, 2, 3, 4]);
      await a.strikes.clear("1.2.3.4");
      expect(await b.strikes.strike("1.2.3.4", 60_000)).toBe(1);
    });

    it("know new numbers of limits before they decide by them", async () => {
      const { a, b } = await pair();
      const rule = { kind: "bucket", capacity: 10, n: 0, d: 1 } as const;
      const charge = { key: "b:k", rule, unit: "requests", amount: 1, enforce: true } as const;
      const numbers: unknown[] = [];
      b.records.watch("limit/", (key, record) => void numbers.push([key, record?.value]));
      await b.records.list("limit/");
      expect(await b.limits.reserve("op-1", [charge], 60_000)).toMatchObject({ kind: "allowed" });
      await a.records.put("limit/day", { limit: 5 });
      expect(await b.limits.reserve("op-2", [charge], 60_000)).toMatchObject({ kind: "stale" });
      expect(numbers).toEqual([["limit/day", { limit: 5 }]]);
      expect(await b.limits.reserve("op-2", [charge], 60_000)).toMatchObject({ kind: "allowed" });
      await a.records.put("other/day", 1);
      expect(await b.limits.reserve("op-3", [charge], 60_000)).toMatchObject({ kind: "allowed" });
    });
  });

  describe("records in the server", () => {
    it("run out by the server's time, and leave nothing behind in its indexes", async () => {
      const name = partition();
      const store = await readyStore(url, { partition: name });
      for (let i = 0; i < 15; i += 1) await store.records.put(`short/${i}`, i, { ttlMs: 20 });
      await store.records.put("long", 1, { ttlMs: 60_000 });
      await store.records.put("kept", 1);
      await expect.poll(() => store.records.list("short/")).toEqual([]);
      // Once by reading, and once more by writing, without anybody reading.
      expect(await redis().zcard(`qg:{${name}}:i`)).toBe(2);
      expect(await redis().zcard(`qg:{${name}}:e`)).toBe(1);
      for (let i = 0; i < 15; i += 1) await store.records.put(`idempotency/${i}`, i, { ttlMs: 20 });
      await expect.poll(() => store.records.get("idempotency/14")).toBeUndefined();
      for (let i = 0; i < 2; i += 1) await store.records.put("kept", 2);
      expect(await redis().zcard(`qg:{${name}}:i`)).toBe(2);
      expect(await redis().pttl(`qg:{${name}}:d:long`)).toBeGreaterThan(50_000);
    });

    it("are found again by versions that grow, also by a server that was emptied", async () => {
      const name = partition();
      const store = await readyStore(url, { partition: name });
      const before = (await store.records.put("k", 1)) as number;
      await redis().del(`qg:{${name}}:v`, `qg:{${name}}:d:k`, `qg:{${name}}:i`);
      expect(await store.records.put("k", 2, { ifVersion: before })).toBeUndefined();
      expect(await store.records.put("k", 2)).toBeGreaterThan(before);
    });

    it("are more than one page", async () => {
      const store = await readyStore(url, { partition: partition() });
      const keys = Array.from({ length: 450 }, (_, i) => `p/${String(i).padStart(3, "0")}`);
      await Promise.all(keys.map((key) => store.records.put(key, key)));
      expect((await store.records.list("p/")).map(({ key }) => key)).toEqual(keys);
    });

    it("that somebody else wrote over are trouble, not absence", async () => {
      const name = partition();
      const store = await readyStore(url, { partition: name });
      await redis().set(`qg:{${name}}:d:k`, "not a record");
      expect((await failureOf(() => store.records.get("k"))).error.code).toBe("store_unavailable");
      expect((await failureOf(() => store.records.put("k", 1))).error.code).toBe("store_unavailable");
      expect(await redis().get(`qg:{${name}}:d:k`)).toBe("not a record");
    });

    it("lie with all else under one hash tag", async () => {
      const name = partition();
      const store = await readyStore(url, { partition: name });
      await store.records.put("limit/{a}", 1);
      await store.strikes.strike("{b}", 60_000);
      const keys = await redis().keys(`*${name}*`);
      expect(keys.length).toBeGreaterThan(4);
      for (const key of keys) expect(key).toMatch(new RegExp(`^qg:\\{${name}\\}:`));
    });
  });

  it("tells watchers from before ready() of what changes after it, and not of what was there", async () => {
    const name = partition();
    const a = await readyStore(url, { partition: name });
    await a.records.put("early/old", 1);
    const b = redisStore(url, { partition: name });
    onTestFinished(() => b.close());
    const heard = gathered<string>();
    const stopped = gathered<string>();
    b.records.watch("early/", (key) => heard.add(key));
    b.records.watch("early/", (key) => stopped.add(key))();
    await b.ready();
    await b.records.list("early/");
    await a.records.put("early/new", 1);
    await heard.count(1);
    expect(heard.all).toEqual(["early/new"]);
    expect(stopped.all).toEqual([]);
  });
});
