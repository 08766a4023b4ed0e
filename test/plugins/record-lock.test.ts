import { randomUUID } from "node:crypto";
import { Redis } from "ioredis";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PluginLock } from "../../src/core/plugin.ts";
import { silentLogger } from "../../src/core/logger.ts";
import type { RecordStore, Store } from "../../src/core/store.ts";
import { systemClock } from "../../src/core/time.ts";
import { recordLock } from "../../src/record-lock.ts";
import { memoryRecords } from "../../src/stores/memory-records.ts";
import { redisStore } from "../../src/stores/redis/index.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { folder, type Folder } from "../helpers/child.ts";
import { testServer } from "../setup/test-server.ts";
import { forget } from "../stores/redis/limits-kit.ts";

const redisUrl = await testServer("redis");
const family = `record-lock-${randomUUID()}`;
let partitions = 0;

interface Place {
  readonly clock: TestClock;
  /** Of two processes, as far as the store can tell. */
  readonly both: readonly [RecordStore, RecordStore];
  close(): Promise<void>;
}

let temporary: Folder;
beforeEach(() => {
  temporary = folder();
});
afterEach(() => temporary.remove());

async function placeOf(open: (clock: TestClock) => Store): Promise<Place> {
  const clock = testClock();
  const stores = [open(clock), open(clock)] as const;
  await Promise.all(stores.map((store) => store.ready()));
  return {
    clock,
    both: [stores[0].records, stores[1].records],
    async close() {
      await Promise.all(stores.map((store) => store.close()));
    },
  };
}

const places: readonly { readonly name: string; readonly skip?: boolean; readonly open: () => Promise<Place> }[] = [
  {
    name: "memory",
    async open() {
      const clock = testClock();
      const records = memoryRecords(clock.now, silentLogger);
      return { clock, both: [records, records], close: () => Promise.resolve() };
    },
  },
  { name: "one SQLite file", open: () => placeOf((clock) => sqliteStore(join(temporary.path, "lock.db"), { clock })) },
  {
    name: "one Redis",
    skip: redisUrl === undefined,
    open() {
      const partition = `${family}-${(partitions += 1)}`;
      return placeOf((clock) => redisStore(redisUrl ?? "", { partition, clock: { ...systemClock, now: clock.now }, serverTime: clock.now }));
    },
  },
];

afterAll(async () => {
  if (redisUrl === undefined) return;
  const client = new Redis(redisUrl);
  await forget(client, `qg:{${family}-`);
  client.disconnect();
});

const held = (lock: PluginLock | null): PluginLock => lock ?? expect.unreachable("the lock was not free");

for (const { name, skip = false, open } of places) {
  describe.skipIf(skip)(`a lock on ${name}`, () => {
    let place: Place;
    beforeEach(async () => {
      place = await open();
    });
    afterEach(() => place.close());
    const locks = () =>
      place.both.map((records) => recordLock({ records, clock: place.clock })) as [ReturnType<typeof recordLock>, ReturnType<typeof recordLock>];

    test("has one holder, whoever asks", async () => {
      const [one, two] = locks();
      const lock = held(await one.take("job", 1_000));
      expect(await two.take("job", 1_000)).toBeNull();
      expect(await one.take("job", 1_000)).toBeNull();
      held(await two.take("another job", 1_000));
      await lock.release();
      const next = held(await two.take("job", 1_000));
      // A second release is not the next holder's.
      await lock.release();
      expect(await lock.extend()).toBe(false);
      expect(await one.take("job", 1_000)).toBeNull();
      expect(await next.extend()).toBe(true);
    });

    test("ends by itself, and then is somebody else's", async () => {
      const [one, two] = locks();
      const lock = held(await one.take("job", 1_000));
      place.clock.advance(999);
      expect(await two.take("job", 1_000)).toBeNull();
      expect(await lock.extend()).toBe(true);
      place.clock.advance(999);
      expect(await two.take("job", 1_000)).toBeNull();
      place.clock.advance(1);
      const next = held(await two.take("job", 5_000));
      expect(await lock.extend()).toBe(false);
      await lock.release();
      expect(await one.take("job", 1_000)).toBeNull();
      expect(await next.extend()).toBe(true);
    });

    test("of fifty contenders at one time exactly one gets it, again and again", async () => {
      const [one, two] = locks();
      for (let round = 0; round < 10; round += 1) {
        const contend = (): Promise<(PluginLock | null)[]> =>
          Promise.all(Array.from({ length: 50 }, (_, i) => (i % 2 === 0 ? one : two).take("job", 60_000)));
        const [lock, ...others] = (await contend()).filter((taken) => taken !== null);
        expect([lock !== undefined, others]).toEqual([true, []]);
        // Released while others ask: one of them may have it, or none.
        const asking = contend();
        await lock?.release();
        const next = (await asking).filter((taken) => taken !== null);
        expect(next.length).toBeLessThan(2);
        await next[0]?.release();
      }
    });
  });
}

describe("a lock whose store answers badly", () => {
  const clock = testClock();

  function kit() {
    const records = memoryRecords(clock.now, silentLogger);
    let lose = false;
    const lossy: RecordStore = {
      ...records,
      async put(...args) {
        const version = await records.put(...args);
        if (!lose) return version;
        lose = false;
        throw new Error("the reply was lost");
      },
    };
    return { records, lossy, loseNext: () => void (lose = true) };
  }

  test("knows its own writes when their answer was lost", async () => {
    const { records, lossy, loseNext } = kit();
    const lock = held(await recordLock({ records: lossy, clock }).take("job", 1_000));
    loseNext();
    await expect(lock.extend()).rejects.toThrow("the reply was lost");
    expect(await lock.extend()).toBe(true);
    await lock.release();
    held(await recordLock({ records, clock }).take("job", 1_000));
  });

  test("is nobody's when taking it took longer than it lasts", async () => {
    const { records } = kit();
    const slow: RecordStore = {
      ...records,
      put(...args) {
        const version = records.put(...args);
        clock.advance(600);
        return version;
      },
    };
    held(await recordLock({ records: slow, clock }).take("job", 601));
    expect(await recordLock({ records: slow, clock }).take("other", 600)).toBeNull();
  });

  test("is not extended when the answer took longer than it lasts", async () => {
    const { records } = kit();
    let delayMs = 0;
    const slow: RecordStore = {
      ...records,
      put(...args) {
        const version = records.put(...args);
        clock.advance(delayMs);
        return version;
      },
    };
    const lock = held(await recordLock({ records: slow, clock }).take("job", 600));
    delayMs = 599;
    expect(await lock.extend()).toBe(true);
    delayMs = 600;
    expect(await lock.extend()).toBe(false);
    // By now it is somebody else's.
    held(await recordLock({ records, clock }).take("job", 1_000));
  });

  test("is not taken by a store's failure", async () => {
    const { lossy, loseNext } = kit();
    loseNext();
    await expect(recordLock({ records: lossy, clock }).take("job", 1_000)).rejects.toThrow("the reply was lost");
  });

  test.each([0, -1, 1.5, Number.NaN, 86_400_001])("takes no ttl of %d ms", async (ttlMs) => {
    await expect(recordLock({ records: kit().records, clock }).take("job", ttlMs)).rejects.toThrow("ttlMs must be a whole number from 1 to 86400000");
  });
});
