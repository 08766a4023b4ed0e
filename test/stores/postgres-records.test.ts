import { beforeEach, describe, expect, it } from "vitest";

import type { LedgerStore } from "../../src/core/store.ts";
import { systemClock } from "../../src/core/time.ts";
import { newsFrom } from "../../src/stores/postgres/records.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { AT } from "../contracts/ledger-rows.ts";
import { testServer } from "../setup/test-server.ts";
import { countOf, openedStore, ownSchema, sqlOn, wired } from "./postgres-kit.ts";
import { recordingLogger } from "./sqlite-kit.ts";

const server = (await testServer("postgres")) as string;

const POLL_MS = 1000;

let schema: string;
let clock: TestClock;

const opened = (url = server, logger = recordingLogger().logger): Promise<LedgerStore> =>
  openedStore(url, { schema, clock, logger, deadlineMs: 500 });

function watched(store: LedgerStore, prefix = ""): unknown[] {
  const seen: unknown[] = [];
  store.records.watch(prefix, (key, record) => void seen.push(record === undefined ? [key] : [key, record.value]));
  return seen;
}

/** `listener` has heard of all that `writer` did before. */
async function heardAll(writer: LedgerStore, listener: LedgerStore): Promise<void> {
  const seen = watched(listener, "sync/");
  await writer.records.put("sync/x", 1);
  await expect.poll(() => seen.length).toBeGreaterThan(0);
}

const LISTENERS = "select count(*)::int as n from pg_stat_activity where query = $1";

describe.skipIf(server === undefined)("records of two Postgres stores on one schema", () => {
  beforeEach(() => {
    schema = ownSchema(server);
    clock = testClock({ now: AT });
  });

  it("a change and a deletion by one reach a watcher of the other at once, own changes once, what was there before never", async () => {
    const [a, b] = [await opened(), await opened()];
    await a.records.put("w/old", "old");
    await heardAll(a, b);
    const seen = watched(b, "w/");
    await a.records.put("w/new", "new");
    await expect.poll(() => seen).toEqual([["w/new", "new"]]);
    await b.records.put("w/own", 1);
    expect(seen[1]).toEqual(["w/own", 1]);
    await a.records.delete("w/old");
    await a.records.put("x/other", 1);
    await expect.poll(() => seen).toHaveLength(3);
    await b.records.delete("w/own");
    await a.records.put("w/end", 1);
    await expect.poll(() => seen).toEqual([["w/new", "new"], ["w/own", 1], ["w/old"], ["w/own"], ["w/end", 1]]);
  });

  it("a change that comes while a watcher still reads what is there is told", async () => {
    const [a, b] = [await opened(), await opened()];
    for (let n = 0; n < 20; n += 1) {
      const seen = watched(b, `race/${n}/`);
      await a.records.put(`race/${n}/k`, n);
      await expect.poll(() => seen).toEqual([[`race/${n}/k`, n]]);
    }
  });

  it("watching may begin before the store is ready, and ends when it is told to", async () => {
    const { postgresStore } = await import("../../src/stores/postgres/index.ts");
    const a = await opened();
    await a.records.put("a", "before");
    const store = postgresStore(server, { schema, clock });
    const seen: string[] = [];
    const stop = store.records.watch("", (key) => void seen.push(key));
    store.records.watch("", () => {})();
    await store.ready();
    await a.records.put("b", 1);
    await expect.poll(() => seen).toEqual(["b"]);
    stop();
    await store.records.put("c", 1);
    await a.records.put("d", 1);
    await store.close();
    expect(seen).toEqual(["b"]);
  });

  it("a key or a value of any size is told", async () => {
    const [a, b] = [await opened(), await opened()];
    const seen = watched(b, "");
    const value = "v".repeat(1_000_000);
    await a.records.put("big", value);
    await expect.poll(() => seen.length).toBe(1);
    expect(JSON.stringify(seen.pop())).toHaveLength(value.length + '["big",""]'.length);
    // Postgres compresses it into its index; a notification takes 8,000 bytes.
    const key = "long/".repeat(2000);
    await a.records.put(key, 1);
    await expect.poll(() => seen).toHaveLength(1);
    await a.records.delete(key);
    await expect.poll(() => seen).toEqual([[key, 1], [key]]);
  });

  it("an expiry is told to all, and leaves the table", async () => {
    const [a, b] = [await opened(), await opened()];
    const [seenA, seenB] = [watched(a, "t/"), watched(b, "t/")];
    await a.records.put("t/1", 1, { ttlMs: 1000 });
    await a.records.put("t/2", 2, { ttlMs: 60_000 });
    await expect.poll(() => seenB).toHaveLength(2);
    clock.advance(POLL_MS);
    for (const seen of [seenA, seenB]) await expect.poll(() => seen).toEqual([["t/1", 1], ["t/2", 2], ["t/1"]]);
    expect((await sqlOn(server, `select key from ${schema}.quotaguard_record where key like 't/%'`)).map((row) => row["key"])).toEqual(["t/2"]);
  });

  it("what happens while the connection for notifications is gone is found when it is back, and said once", async () => {
    const { logger, lines } = recordingLogger();
    const { wire, url } = await wired(server);
    const [a, b] = [await opened(), await opened(url, logger)];
    await a.records.put("w/gone", 1);
    await a.records.put("w/kept", 1);
    await heardAll(a, b);
    const seen = watched(b, "w/");
    await a.records.put("w/gone", 2);
    await expect.poll(() => seen).toEqual([["w/gone", 2]]);
    wire.set({ refuse: true });
    wire.cut();
    await a.records.put("w/new", 2);
    await a.records.delete("w/gone");
    for (let n = 0; n < 3; n += 1) {
      const timers = clock.pending();
      clock.advance(POLL_MS);
      await expect.poll(() => clock.pending()).toBe(timers);
    }
    expect(seen).toHaveLength(1);
    wire.set({ refuse: false });
    clock.advance(POLL_MS);
    await expect.poll(() => seen).toEqual([["w/gone", 2], ["w/new", 2], ["w/gone"]]);
    await a.records.put("w/after", 3);
    await expect.poll(() => seen).toHaveLength(4);
    expect(lines.map((line) => line.message)).toEqual([
      "changes of records by other processes cannot be read; trying again",
      "changes of records by other processes are read again",
    ]);
  });

  it("a frozen connection for notifications is noticed and replaced", async () => {
    const { wire, url } = await wired(server);
    const [a, b] = [await opened(), await openedStore(url, { schema, clock, deadlineMs: 500 })];
    await a.close();
    const listening = async (): Promise<unknown> =>
      (await sqlOn(server, "select pid from pg_stat_activity where query = $1", [`listen "quotaguard_${schema}"`]))[0]?.["pid"];
    const first = await listening();
    expect(first).toBeDefined();
    wire.set({ blackHole: true });
    const timers = clock.pending();
    clock.advance(POLL_MS);
    await expect.poll(() => clock.pending()).toBe(timers);
    wire.set({ blackHole: false });
    clock.advance(POLL_MS);
    await expect.poll(listening).not.toBe(first);
    const seen = watched(b, "w/");
    await (await opened()).records.put("w/1", 1);
    await expect.poll(() => seen).toEqual([["w/1", 1]]);
  });

  it("without any notification, as behind a pooler, changes are found by the poll", async () => {
    const [a, b] = [await opened(), await opened()];
    await heardAll(a, b);
    const seen = watched(b, "w/");
    // As if somebody had written whose news never arrived.
    await sqlOn(
      server,
      `with next as (update ${schema}.quotaguard_meta set value = value + 1 where key = 'record_version' returning value)
       insert into ${schema}.quotaguard_record (key, value, version) select 'w/quiet', '7', value from next`,
    );
    await b.records.put("w/own", 1);
    expect(seen).toEqual([["w/own", 1]]);
    clock.advance(POLL_MS);
    await expect
      .poll(() => seen)
      .toEqual([
        ["w/own", 1],
        ["w/quiet", 7],
      ]);
    await a.records.put("w/then", 1);
    await expect.poll(() => seen).toHaveLength(3);
  });

  it("a condition is decided by the database: of many that write at once exactly one wins", async () => {
    const stores = await Promise.all([opened(), opened(), opened()]);
    for (let round = 0; round < 10; round += 1) {
      const key = `race/${round}`;
      const first = await Promise.all(stores.flatMap(({ records }, n) => [0, 1, 2].map((m) => records.put(key, [n, m], { ifAbsent: true }))));
      const version = first.find((one) => one !== undefined) as number;
      expect(first.filter((one) => one !== undefined)).toHaveLength(1);
      const second = await Promise.all(stores.flatMap(({ records }, n) => [0, 1, 2].map((m) => records.put(key, [n, m], { ifVersion: version }))));
      expect(second.filter((one) => one !== undefined)).toHaveLength(1);
      expect(second.find((one) => one !== undefined)).toBeGreaterThan(version);
    }
  });

  it("versions of a key only grow, whoever writes it", async () => {
    const stores = await Promise.all([opened(), opened(), opened()]);
    const versions = await Promise.all(Array.from({ length: 150 }, (_, n) => stores[n % 3]?.records.put("k", n)));
    expect(new Set(versions).size).toBe(150);
    expect((await stores[0].records.get("k"))?.version).toBe(Math.max(...(versions as number[])));
  });

  it("the time of the database counts for what runs out, where no test gives another", async () => {
    const store = await openedStore(server, { schema, clock: systemClock });
    const [before] = await sqlOn(server, "select (extract(epoch from clock_timestamp()) * 1000)::bigint as now");
    await store.records.put("k", 1, { ttlMs: 3_600_000 });
    const [row] = await sqlOn(server, `select expires_at from ${schema}.quotaguard_record`);
    expect(Number(row?.["expires_at"]) - Number(before?.["now"])).toBeGreaterThanOrEqual(3_600_000);
    expect(Number(row?.["expires_at"]) - Number(before?.["now"])).toBeLessThan(3_660_000);
    expect((await store.records.get("k"))?.value).toBe(1);
    expect(await store.records.put("k", 2, { ifAbsent: true })).toBeUndefined();
  });

  it("keys sort by their bytes in a database of any language", async () => {
    await opened();
    const columns = await sqlOn(
      server,
      `select table_name, column_name, collation_name from information_schema.columns
       where table_schema = $1 and collation_name is not null order by table_name, column_name`,
      [schema],
    );
    expect(columns.map((row) => [row["table_name"], row["column_name"], row["collation_name"]])).toEqual([
      ["quotaguard_ledger", "id", "C"],
      ["quotaguard_record", "key", "C"],
    ]);
  });

  it("a store that is closed leaves no connection behind", async () => {
    const store = await opened();
    const listen = `listen "quotaguard_${schema}"`;
    expect((await sqlOn(server, LISTENERS, [listen]))[0]?.["n"]).toBe(1);
    await store.close();
    await expect.poll(async () => (await sqlOn(server, LISTENERS, [listen]))[0]?.["n"]).toBe(0);
    expect(await countOf(server, schema, "owner")).toBe(0);
  });
});

describe("news of records", () => {
  it("are read only if they are ours", () => {
    expect(newsFrom("abc_-9 12 put a key\nof two lines")).toEqual({ by: "abc_-9", version: 12, isDeleted: false, key: "a key\nof two lines" });
    expect(newsFrom(" 3 delete k")).toEqual({ by: "", version: 3, isDeleted: true, key: "k" });
    expect(newsFrom("abc 4 long")).toMatchObject({ key: undefined, isDeleted: false });
    for (const foreign of ["", "hello", "a b c", "x -1 put k", "x 1 drop k"]) expect(newsFrom(foreign)).toBeUndefined();
  });
});
