import { DatabaseSync } from "node:sqlite";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { Store } from "../../src/core/store.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { QUEUE_ROWS } from "../../src/stores/sql/row-queue.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { AT, intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { type LogLine, recordingLogger } from "./sqlite-kit.ts";

/** The host's own connection, so that a test can look at the tables and make the database fail. */
let db: DatabaseSync;
let store: Store;
let clock: TestClock;
let logged: LogLine[];

const count = (table: string): number => Number(db.prepare(`select count(*) as n from ${table}`).get()?.n);
const messages = (): string[] => logged.map((line) => `${line.level}: ${line.message}`);

beforeEach(async () => {
  db = new DatabaseSync(":memory:");
  clock = testClock({ now: AT });
  const { logger, lines } = recordingLogger();
  logged = lines;
  store = sqliteStore(db, { clock, logger });
  await store.ready();
});
afterEach(async () => {
  await store.close();
  db.close();
});

/** Lets nothing new be stored until it is undone: SQLITE_FULL, as on a full disk. */
function fillDisk(): () => void {
  db.exec("create table if not exists ballast (x)");
  db.exec(`pragma max_page_count = ${Number(db.prepare("pragma page_count").get()?.page_count)}`);
  // Whatever is free inside the pages is used up as well.
  const grow = db.prepare("insert into ballast values (zeroblob(?))");
  for (const bytes of [65_536, 4096, 1024, 256, 64, 16]) {
    try {
      for (;;) grow.run(bytes);
    } catch {
      // Full at this size; the next one is smaller.
    }
  }
  return () => {
    db.exec("pragma max_page_count = 1000000");
  };
}

/** Enough to need a new page wherever it goes. */
const bigIntent = (id: string) => intentOf(id, { model: "m".repeat(10_000) });

describe("the ledger's writes", () => {
  it("commits all intents of a tick as one row with one promise", async () => {
    const promises = Array.from({ length: 40 }, (_, n) => store.ledger.intent(intentOf(`i${n}`)));
    expect(new Set(promises).size).toBe(1);
    expect(count("quotaguard_intent")).toBe(0);
    await promises[0];
    expect(count("quotaguard_intent")).toBe(1);
    expect(await store.ledger.list({ state: "intent" })).toHaveLength(40);
  });

  it("commits a terminal row within 50 ms by itself", async () => {
    store.ledger.close(rowOf("a"));
    clock.advance(20);
    store.ledger.close(rowOf("b"));
    expect(count("quotaguard_ledger")).toBe(0);
    clock.advance(30);
    expect(count("quotaguard_ledger")).toBe(2);
    store.ledger.close(rowOf("c"));
    clock.advance(50);
    expect(count("quotaguard_ledger")).toBe(3);
  });

  it("takes many waiting rows along with the next intent", async () => {
    for (let n = 0; n < 64; n += 1) store.ledger.close(rowOf(`r${n}`));
    await store.ledger.intent(intentOf("i"));
    expect(count("quotaguard_ledger")).toBe(64);
  });

  it("writes what is due in turns, so that nobody waits for all of it", async () => {
    for (let n = 0; n < 60; n += 1) {
      await store.ledger.intent(intentOf(`r${n}`));
      store.ledger.close(rowOf(`r${n}`));
    }
    expect(count("quotaguard_ledger")).toBe(0);
    clock.advance(50);
    const written: number[] = [];
    for (let turn = 0; turn < 5; turn += 1) {
      written.push(count("quotaguard_ledger"));
      await new Promise(setImmediate);
    }
    expect(written).toEqual([16, 32, 48, 60, 60]);
  });

  it("writes twice what comes meanwhile, so that a queue becomes shorter at any pace", async () => {
    for (let n = 0; n < 1_000; n += 1) store.ledger.close(rowOf(`r${n}`));
    db.exec("begin immediate");
    clock.advance(50);
    db.exec("rollback");
    expect(count("quotaguard_ledger")).toBe(0);
    clock.advance(100);
    let closed = 1_000;
    for (let turn = 0; turn < 60 && count("quotaguard_ledger") < closed; turn += 1) {
      for (let n = 0; n < 40; n += 1) store.ledger.close(rowOf(`r${closed++}`));
      await store.ledger.intent(intentOf(`i${turn}`));
    }
    expect(count("quotaguard_ledger")).toBe(closed);
  });

  it("keeps a row as it was when it was closed", async () => {
    const row = { ...rowOf("a") };
    store.ledger.close(row);
    row.model = "another";
    await store.ledger.flush();
    expect(await store.ledger.get("a")).toEqual(rowOf("a"));
  });

  it("deletes the packs of requests that have ended", async () => {
    for (let n = 0; n < 5; n += 1) {
      await Promise.all([store.ledger.intent(intentOf(`a${n}`)), store.ledger.intent(intentOf(`b${n}`))]);
      store.ledger.close(rowOf(`a${n}`));
      store.ledger.close(rowOf(`b${n}`));
      await store.ledger.flush();
    }
    await store.ledger.intent(intentOf("last"));
    expect(count("quotaguard_intent")).toBe(1);
  });

  it("deletes the pack of an attempt that another one followed", async () => {
    await Promise.all([store.ledger.intent(intentOf("i")), store.ledger.intent(intentOf("beside-it"))]);
    await store.ledger.intent(intentOf("i"));
    expect(count("quotaguard_intent")).toBe(2);
    store.ledger.close(rowOf("beside-it"));
    await Promise.all([store.ledger.intent(intentOf("i")), store.ledger.intent(intentOf("i"))]);
    store.ledger.close(rowOf("i"));
    await store.ledger.flush();
    await store.ledger.intent(intentOf("next"));
    expect(count("quotaguard_intent")).toBe(1);
  });

  it("closes what is still open as unknown when the store is closed", async () => {
    await store.ledger.intent(intentOf("left", { credential: "first" }));
    await store.ledger.intent(intentOf("left"));
    store.ledger.close(rowOf("ended"));
    await store.close();
    const states = db.prepare("select id, state, credential, billed_nano_usd as billed from quotaguard_ledger order by id").all();
    expect(states.map((row) => ({ ...row }))).toEqual([
      { id: "ended", state: "settled", credential: "openai_main", billed: 1_100_002 },
      { id: "left", state: "unknown", credential: "openai_main", billed: 12_000_000 },
    ]);
    expect([count("quotaguard_intent"), count("quotaguard_owner")]).toEqual([0, 0]);
    expect(() => store.ledger.intent(intentOf("late"))).toThrow("is closed");
    store.ledger.close(rowOf("left"));
    expect(messages()).toEqual([
      "warn: the store was closed before these requests ended: state unknown, charged as held",
      "error: a request ended after the store was closed: its row stays as it was closed then",
    ]);
  });

  it("leaves out one row that cannot be stored, and keeps the others", async () => {
    store.ledger.close(rowOf("good-1"));
    store.ledger.close(rowOf("bad", { at: Number.NaN }));
    store.ledger.close(rowOf("worse", { latencyMs: undefined as unknown as number, status: undefined as unknown as number }));
    store.ledger.close(rowOf("good-2"));
    await store.ledger.flush();
    expect((await store.ledger.list({})).map((row) => row.id)).toEqual(["good-2", "good-1"]);
    expect(messages()).toEqual(Array(2).fill("error: a ledger row cannot be stored and was left out"));
    expect(logged.map((line) => line.fields["id"])).toEqual(["bad", "worse"]);
    // One of them has no time of its own; what the rows add up to is known from now on.
    expect(await store.ledger.completeSince()).toBe(AT + 1);
    await store.ledger.intent(intentOf("next"));
    expect(db.prepare("select value from quotaguard_meta where key = 'complete_since'").get()).toEqual({ value: AT + 1 });
  });
});

describe("sums", () => {
  it("beyond what a double holds exactly are the nearest double, not an error", async () => {
    for (const id of ["a", "b", "c"]) store.ledger.close(rowOf(id, { billedNanoUsd: 9_000_000_000_000_000 }));
    expect(await store.ledger.totals({}, [])).toMatchObject([{ billedNanoUsd: 27_000_000_000_000_000n }]);
  });
});

describe("when the database fails", () => {
  it("refuses intents with a retry hint, keeps terminal rows and writes them once it is back", async () => {
    await store.ledger.intent(intentOf("before"));
    const free = fillDisk();
    store.ledger.close(rowOf("before", bigIntent("before")));
    await expect(store.ledger.intent(bigIntent("during"))).rejects.toMatchObject({ code: "store_unavailable", status: 503, retryAfterMs: 100 });
    // Until the next attempt nobody waits for the disk.
    expect(() => store.ledger.intent(intentOf("at-once"))).toThrow(expect.objectContaining({ code: "store_unavailable", retryAfterMs: 100 }));
    const flushed = store.ledger.flush();
    let done = false;
    void Promise.resolve(flushed).then(() => (done = true));
    clock.advance(60_000);
    await Promise.resolve();
    expect(done).toBe(false);
    expect(count("quotaguard_ledger")).toBe(0);

    free();
    clock.advance(5000);
    await flushed;
    expect((await store.ledger.list({})).map((row) => [row.id, row.state])).toEqual([["before", "settled"]]);
    await store.ledger.intent(bigIntent("after"));
    expect(messages()).toEqual(["error: the ledger cannot be written: requests are refused until it can", "info: the ledger has caught up"]);
  });

  it("a file that becomes read-only: everything that writes is refused, reading goes on, and it is said once", async () => {
    await store.ledger.intent(intentOf("before"));
    await store.records.put("k", 1);
    db.exec("pragma query_only = on");
    store.ledger.close(rowOf("before"));
    await expect(store.ledger.intent(intentOf("during"))).rejects.toMatchObject({ code: "store_unavailable", status: 503 });
    clock.advance(100);
    expect(() => store.ledger.intent(intentOf("again"))).toThrow(expect.objectContaining({ code: "store_unavailable" }));
    expect(() => store.records.put("k", 2)).toThrow(expect.objectContaining({ code: "store_unavailable" }));
    expect(() => store.records.delete("k")).toThrow(expect.objectContaining({ code: "store_unavailable" }));
    expect((await store.records.get("k"))?.value).toBe(1);
    expect((await store.ledger.get("before"))?.state).toBe("intent");
    await expect(store.ledger.scan(0)[Symbol.asyncIterator]().next()).rejects.toMatchObject({ code: "store_unavailable" });
    db.exec("pragma query_only = off");
    clock.advance(5000);
    await store.ledger.flush();
    expect((await store.ledger.get("before"))?.state).toBe("settled");
    expect(messages()).toEqual(["error: the ledger cannot be written: requests are refused until it can", "info: the ledger has caught up"]);
  });

  it("notices by itself that the database is back, with nothing to write", async () => {
    db.exec("begin");
    await expect(store.ledger.intent(intentOf("a"))).rejects.toMatchObject({ code: "store_unavailable" });
    db.exec("rollback");
    clock.advance(100);
    await store.ledger.intent(intentOf("b"));
    expect((await store.ledger.list({})).map((row) => row.id)).toEqual(["b"]);
  });

  it("never writes inside a transaction of the host, which could be rolled back", async () => {
    await store.ledger.intent(intentOf("a"));
    db.exec("begin; create table hosts_own (x)");
    store.ledger.close(rowOf("a"));
    clock.advance(50);
    db.exec("rollback");
    clock.advance(100);
    expect((await store.ledger.get("a"))?.state).toBe("settled");
  });

  it("backs off up to 5 s between attempts", async () => {
    db.exec("begin");
    store.ledger.close(rowOf("a"));
    clock.advance(40);
    const waits: (number | undefined)[] = [];
    for (const wait of [100, 200, 400, 800, 1600, 3200, 5000, 5000]) {
      try {
        await store.ledger.intent(intentOf("x"));
      } catch (error) {
        waits.push((error as { retryAfterMs?: number }).retryAfterMs);
      }
      clock.advance(wait);
    }
    expect(waits).toEqual([100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    db.exec("rollback");
    clock.advance(5000);
    expect(count("quotaguard_ledger")).toBe(1);
  });

  it("bounds the queue: refused rows go first and are counted, charged rows stay", async () => {
    db.exec("begin");
    const refused = rowOf("refused", { state: "refused" });
    for (let n = 0; n < QUEUE_ROWS - 1; n += 1) store.ledger.close({ ...refused, id: `refused-${n}` });
    store.ledger.close(rowOf("charged-1"));
    store.ledger.close({ ...refused, id: "one-too-many" });
    expect(() => store.ledger.intent(intentOf("i"))).toThrow(expect.objectContaining({ code: "store_unavailable" }));
    store.ledger.close(rowOf("charged-2"));
    store.ledger.close({ ...refused, id: "fits-again" });
    db.exec("rollback");
    await store.ledger.flush();
    expect((await store.ledger.list({})).map((row) => row.id)).toEqual(["fits-again", "charged-2", "charged-1"]);
    expect(messages()).toEqual([
      "warn: the ledger's queue is full: rows of refused requests are dropped and counted",
      "info: the ledger has caught up",
    ]);
    expect(logged[1]?.fields).toEqual({ droppedRefusals: QUEUE_ROWS });
    // Refusals charged nothing: whoever adds up what was charged misses none of them.
    expect(await store.ledger.completeSince()).toBe(0);
  });

  it("says on close how many rows are lost, and a flush that waits fails", async () => {
    const host = new DatabaseSync(":memory:");
    const failing = sqliteStore(host, { clock });
    await failing.ready();
    host.exec("begin");
    failing.ledger.close(rowOf("a"));
    failing.ledger.close(rowOf("b"));
    const [flushed, closed] = await Promise.allSettled([failing.ledger.flush(), failing.close()]);
    expect(flushed).toMatchObject({ status: "rejected", reason: { code: "store_unavailable" } });
    expect(closed).toMatchObject({ status: "rejected", reason: { message: expect.stringContaining("2 ledger rows are lost") } });
    host.close();
  });
});
