// Watchers without anybody who passes messages on: what they find out by themselves, and what they make of messages that come in any order.
import { randomUUID } from "node:crypto";

import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { silentLogger } from "../../../src/core/logger.ts";
import { LIMIT_NUMBERS, type StoredRecord } from "../../../src/core/store.ts";
import { RedisConnection } from "../../../src/stores/redis/connection.ts";
import { redisSettings } from "../../../src/stores/redis/options.ts";
import { newWriter, redisRecords, type RedisRecords } from "../../../src/stores/redis/records.ts";
import { recordWatchers, type RecordWatchers } from "../../../src/stores/redis/watchers.ts";
import { testServer } from "../../setup/test-server.ts";

const url = (await testServer("redis")) as string;

describe.skipIf(url === undefined)("watchers of records", () => {
  let connection: RedisConnection;
  beforeAll(async () => {
    connection = new RedisConnection(redisSettings(url, { partition: `watchers-${randomUUID()}` }));
    await connection.start();
  });
  afterAll(async () => {
    const keys = (await connection.call("KEYS", `${connection.prefix}*`)) as readonly Buffer[];
    await connection.call("UNLINK", ...keys);
    await connection.close();
  });

  interface Node {
    readonly writer: string;
    readonly records: RedisRecords;
    readonly watchers: RecordWatchers;
  }

  function node(): Node {
    const writer = newWriter();
    const watchers = recordWatchers({ records: () => records, writer, logger: silentLogger });
    const records = redisRecords(connection, writer, watchers);
    return { writer, records, watchers };
  }

  /** What a watcher is told, once it knows what was there before. */
  async function told({ watchers }: Node, prefix: string): Promise<unknown[]> {
    const seen: unknown[] = [];
    watchers.watch(prefix, (key: string, record: StoredRecord | undefined) => void seen.push([key, record?.value]));
    // In turn behind the first look.
    await watchers.catchUp("nothing that is watched");
    return seen;
  }

  const version = async (): Promise<number> => Number(await connection.call("GET", `${connection.prefix}v`));

  it("hear of a change on a server that has gone back to an older state", async () => {
    const [mine, other] = [node(), node()];
    const key = "limit/rolled-back";
    const kept = `${connection.prefix}d:${key}`;
    const first = await other.records.put(key, "first");
    const before = [await connection.call("GET", kept), await connection.call("GET", `${connection.prefix}v`)] as Buffer[];
    await other.records.put(key, "second");
    const seen = await told(mine, key);
    await connection.call("SET", kept, before[0] as Buffer);
    await connection.call("SET", `${connection.prefix}v`, before[1] as Buffer);
    expect((await mine.records.get(key))?.version).toBe(first);
    await other.records.put(key, "third");
    await mine.watchers.catchUp(LIMIT_NUMBERS);
    expect(seen).toEqual([[key, "third"]]);
    await other.records.delete(key);
  });

  it("are brought up to date by catchUp: new ones, changed ones, gone ones", async () => {
    const [mine, other] = [node(), node()];
    await other.records.put("limit/kept", 1);
    await other.records.put("limit/changed", 1);
    await other.records.put("limit/gone", 1);
    const seen = await told(mine, LIMIT_NUMBERS);
    const all = await told(mine, "");
    await told(mine, "limit/ch");
    const elsewhere = await told(mine, "ban/");
    expect([seen, all, elsewhere]).toEqual([[], [], []]);
    await other.records.put("limit/changed", 2);
    await other.records.put("limit/new", 2);
    await other.records.delete("limit/gone");
    await other.records.put("ban/x", 1);
    await mine.watchers.catchUp(LIMIT_NUMBERS);
    for (const each of [seen, all])
      expect(each).toEqual(
        expect.arrayContaining([
          ["limit/changed", 2],
          ["limit/new", 2],
          ["limit/gone", undefined],
        ]),
      );
    expect(elsewhere).toEqual([]);
    const before = seen.length;
    await mine.watchers.catchUp(LIMIT_NUMBERS);
    expect(seen).toHaveLength(before);
  });

  it("are told by a message of what was written between the watching and the first look", async () => {
    const [mine, other] = [node(), node()];
    const seen: unknown[] = [];
    mine.watchers.watch("between/", (key, record) => void seen.push([key, record?.value]));
    const written = (await other.records.put("between/a", 1)) as number;
    await mine.watchers.catchUp("nothing that is watched");
    mine.watchers.heard(`${written}:${other.writer}.1:between/a`);
    await expect.poll(() => seen).toEqual([["between/a", 1]]);
  });

  it("share one look when many catch up at once, and a call that came later has its own", async () => {
    const [mine, other] = [node(), node()];
    const seen = await told(mine, "limit/shared");
    await other.records.put("limit/shared", 1);
    const first = mine.watchers.catchUp(LIMIT_NUMBERS);
    expect(mine.watchers.catchUp(LIMIT_NUMBERS)).toBe(first);
    await first;
    await other.records.put("limit/shared", 2);
    await mine.watchers.catchUp(LIMIT_NUMBERS);
    expect(seen).toEqual([
      ["limit/shared", 1],
      ["limit/shared", 2],
    ]);
  });

  it("find by the beat's version what no message told of, and nothing else", async () => {
    const [mine, other] = [node(), node()];
    const seen = await told(mine, "beat/");
    expect(mine.watchers.beat(await version())).toBe(false);
    await other.records.put("beat/lost", 1);
    // A message may still be on its way.
    expect(mine.watchers.beat(await version())).toBe(false);
    expect(mine.watchers.beat(await version())).toBe(true);
    await expect.poll(() => seen).toEqual([["beat/lost", 1]]);
    expect(mine.watchers.beat(await version())).toBe(false);
    await mine.records.put("beat/own", 1);
    expect(mine.watchers.beat(await version())).toBe(false);
    expect(mine.watchers.beat(await version())).toBe(false);
    // A server that was emptied begins anew, or has no version at all.
    expect(mine.watchers.beat(0)).toBe(true);
  });

  it("are told once of what they wrote themselves, whenever the message comes, and of others' writes that came between", async () => {
    const [mine, other] = [node(), node()];
    const seen = await told(mine, "own/");
    const own = (await mine.records.put("own/a", 1)) as number;
    mine.watchers.heard(`${own}:${mine.writer}.1:own/a`);
    const theirs = (await other.records.put("own/a", 2)) as number;
    mine.watchers.heard(`${theirs}:${other.writer}.1:own/a`);
    await expect.poll(() => seen).toHaveLength(2);
    // A message from before is no news.
    mine.watchers.heard(`${own}:${other.writer}.0:own/a`);
    mine.watchers.heard(`${theirs}:${other.writer}.1:own/a`);
    await mine.watchers.catchUp("nothing that is watched");
    expect(seen).toEqual([
      ["own/a", 1],
      ["own/a", 2],
    ]);
  });

  it("never see a record again that this process has just deleted, while an older look is under way", async () => {
    const [mine, other] = [node(), node()];
    const seen = (await told(mine, "race/")) as [string, number | undefined][];
    for (let i = 0; i < 50; i += 1) {
      const written = (await other.records.put("race/a", i)) as number;
      mine.watchers.heard(`${written}:${other.writer}.${i}:race/a`);
      await mine.records.delete("race/a");
      seen.push(["deleted", i]);
    }
    await mine.watchers.catchUp("nothing that is watched");
    let deleted = -1;
    for (const [what, i] of seen) {
      if (what === "deleted") deleted = i as number;
      else expect(i ?? Infinity).toBeGreaterThan(deleted);
    }
    expect(seen.filter(([what]) => what === "race/a").at(-1)).toEqual(["race/a", undefined]);
  });
});

describe("a look whose answer is older than what this process has written meanwhile", () => {
  const record = (version: number): StoredRecord => ({ key: "k", value: version, version });

  /** What the server says to each look, in order; the first answer comes when it is let through. */
  function scene(...answers: readonly (StoredRecord | undefined)[]): { readonly watchers: RecordWatchers; readonly seen: unknown[]; answer(): void } {
    const seen: unknown[] = [];
    let answer = (): void => {};
    const gate = new Promise<void>((resolve) => (answer = resolve));
    const left = [...answers];
    const records: RedisRecords = {
      async read() {
        const found = left.shift();
        if (left.length === answers.length - 1) await gate;
        return new Map(found === undefined ? [] : [["k", found]]);
      },
      get: () => undefined,
      put: () => undefined,
      delete: () => false,
      list: () => [],
    };
    const watchers = recordWatchers({ records: () => records, writer: "me", logger: silentLogger });
    watchers.watch("", (_key, found) => void seen.push(found?.version));
    return { watchers, seen, answer };
  }

  const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

  it("brings nothing back that was deleted", async () => {
    const { watchers, seen, answer } = scene(record(5), undefined, undefined);
    watchers.heard("5:other.1:k");
    await turn();
    watchers.deleted("k", 6);
    answer();
    await turn();
    expect(seen).toEqual([undefined]);
  });

  it("takes nothing away that was written, and tells nothing older", async () => {
    for (const older of [undefined, record(4)]) {
      const { watchers, seen, answer } = scene(older, record(5));
      watchers.heard("4:other.1:k");
      await turn();
      watchers.written(record(5));
      answer();
      await turn();
      expect(seen).toEqual([5]);
    }
  });

  it("is told when it is newer all the same", async () => {
    const { watchers, seen, answer } = scene(record(6));
    watchers.heard("6:other.1:k");
    await turn();
    watchers.written(record(5));
    answer();
    await turn();
    expect(seen).toEqual([5, 6]);
  });
});
