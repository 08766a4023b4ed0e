import { DatabaseSync } from "node:sqlite";

import { describe, expect, it, onTestFinished } from "vitest";

import type { Store } from "../../src/core/store.ts";
import type { Clock } from "../../src/core/time.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { testClock } from "../../src/testing/clock.ts";
import { AT, intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { tempFolder } from "./sqlite-kit.ts";

async function opened(path: string, clock: Clock): Promise<Store> {
  const store = sqliteStore(path, { clock });
  await store.ready();
  onTestFinished(() => store.close());
  return store;
}

const states = async (store: Store): Promise<unknown> => (await store.ledger.list({})).map((row) => [row.id, row.state]);

/** Says of all owners that they ran as this process. */
function pretendPid(path: string, pid: number, host?: string): void {
  const db = new DatabaseSync(path);
  db.prepare("update quotaguard_owner set pid = ?, host = coalesce(?, host)").run(pid, host ?? null);
  db.close();
}

/** Above Linux' largest process id. */
const NO_PROCESS = 2 ** 22 + 1;

describe("two stores on one file", () => {
  it("leave each other's live intents alone and see each other's rows", async () => {
    const path = `${tempFolder()}/shared.db`;
    const clock = testClock({ now: AT });
    const [a, b] = [await opened(path, clock), await opened(path, clock)];
    await a.ledger.intent(intentOf("of-a"));
    await b.ledger.intent(intentOf("of-b"));
    const c = await opened(path, clock);
    clock.advance(10 * 60_000);
    expect(await states(c)).toEqual([
      ["of-b", "intent"],
      ["of-a", "intent"],
    ]);
    a.ledger.close(rowOf("of-a"));
    await a.ledger.flush();
    expect(await states(b)).toEqual([
      ["of-b", "intent"],
      ["of-a", "settled"],
    ]);
  });

  it("closes the intents of an owner whose process is gone when the next one starts", async () => {
    const path = `${tempFolder()}/gone.db`;
    const clock = testClock({ now: AT });
    const dead = await opened(path, testClock({ now: AT }));
    await Promise.all([
      dead.ledger.intent(intentOf("priced", { held: { usd: 77 }, stream: true })),
      dead.ledger.intent(intentOf("unpriced", { held: { requests: 1 } })),
      dead.ledger.intent(intentOf("ended")),
    ]);
    dead.ledger.close(rowOf("ended"));
    await dead.ledger.flush();
    pretendPid(path, NO_PROCESS);

    const next = await opened(path, clock);
    expect(await states(next)).toEqual([
      ["unpriced", "unknown"],
      ["priced", "unknown"],
      ["ended", "settled"],
    ]);
    expect(await next.ledger.get("priced")).toMatchObject({
      ...intentOf("priced", { held: { usd: 77 }, stream: true }),
      provenance: "estimated",
      attempts: 1,
    });
    expect(await next.ledger.get("priced")).toMatchObject({ rawNanoUsd: null, billedNanoUsd: 77, usage: null, code: null });
    expect((await next.ledger.get("unpriced"))?.billedNanoUsd).toBeNull();
    const db = new DatabaseSync(path);
    expect(
      db.prepare("select (select count(*) from quotaguard_intent) as packs, (select count(*) from quotaguard_owner) as owners").get(),
    ).toMatchObject({
      packs: 0,
      owners: 1,
    });
    db.close();
  });

  it("does not trust a process id of another machine, and closes its intents after 30 s without a beat", async () => {
    const path = `${tempFolder()}/elsewhere.db`;
    const [ownClock, clock] = [testClock({ now: AT }), testClock({ now: AT })];
    const elsewhere = await opened(path, ownClock);
    await elsewhere.ledger.intent(intentOf("i"));
    pretendPid(path, NO_PROCESS, "another-machine");
    const here = await opened(path, clock);
    // A wall clock that jumps is no silence.
    clock.set(AT + 48 * 3_600_000);
    clock.advance(20_000);
    expect(await states(here)).toEqual([["i", "intent"]]);
    ownClock.advance(10_000);
    clock.advance(30_000);
    expect(await states(here)).toEqual([["i", "intent"]]);
    clock.advance(10_000);
    expect(await states(here)).toEqual([["i", "unknown"]]);
  });

  it("an owner that was only asleep goes on, and its requests keep the one end they have", async () => {
    const path = `${tempFolder()}/asleep.db`;
    const [sleeper, clock] = [testClock({ now: AT }), testClock({ now: AT })];
    let sleptMs = 0;
    const asleep = await opened(path, { ...sleeper, monotonic: () => sleeper.monotonic() + sleptMs });
    await Promise.all([asleep.ledger.intent(intentOf("old-1")), asleep.ledger.intent(intentOf("old-2"))]);
    // Its pack is empty; the next commit would delete it.
    await asleep.ledger.intent(intentOf("ended"));
    asleep.ledger.close(rowOf("ended"));
    await asleep.ledger.flush();

    const here = await opened(path, clock);
    clock.advance(40_000);
    const unknown = ["old-2", "old-1"].map((id) => [id, "unknown"]);
    expect(await states(here)).toEqual([...unknown, ["ended", "settled"]]);
    // These may get the numbers of the sleeper's packs.
    for (const id of ["here-1", "here-2", "here-3"]) await here.ledger.intent(intentOf(id, { at: AT + 1 }));

    // It wakes in the middle of a request: time has passed, but its timers have not run yet. And everybody else looks silent to it.
    sleptMs = 40_000;
    await asleep.ledger.intent(intentOf("new", { at: AT + 2 }));
    asleep.ledger.close(rowOf("old-1"));
    asleep.ledger.close(rowOf("old-2"));
    await asleep.ledger.flush();
    await asleep.ledger.intent(intentOf("newer", { at: AT + 3 }));
    const open = ["newer", "new", "here-3", "here-2", "here-1"].map((id) => [id, "intent"]);
    for (let look = 0; look < 5; look += 1) {
      expect(await states(here)).toEqual([...open, ...unknown, ["ended", "settled"]]);
      clock.advance(10_000);
      sleeper.advance(10_000);
    }
  });

  it("closes a long list of intents in several transactions", async () => {
    const path = `${tempFolder()}/many.db`;
    const dead = await opened(path, testClock({ now: AT }));
    for (let n = 0; n < 450; n += 1) await dead.ledger.intent(intentOf(`i${n}`));
    pretendPid(path, NO_PROCESS);
    const next = await opened(path, testClock({ now: AT }));
    expect((await next.ledger.list({ state: "unknown" })).length).toBe(450);
  });
});

describe("records of two stores on one file", () => {
  it("a change, a deletion and an expiry by another connection reach a watcher within a second", async () => {
    const path = `${tempFolder()}/records.db`;
    const clock = testClock({ now: AT });
    const [a, b] = [await opened(path, clock), await opened(path, clock)];
    await a.records.put("w/old", "old");
    const seen: unknown[] = [];
    const stop = b.records.watch("w/", (key, record) => void seen.push([key, record?.value]));
    await a.records.put("w/new", "new", { ttlMs: 5000 });
    await a.records.put("x/other", 1);
    expect(seen).toEqual([]);
    clock.advance(1000);
    expect(seen.splice(0)).toEqual([["w/new", "new"]]);
    await a.records.delete("w/old");
    await b.records.put("w/own", 1);
    clock.advance(1000);
    expect(seen.splice(0)).toEqual([
      ["w/own", 1],
      ["w/old", undefined],
    ]);
    clock.advance(4000);
    expect(seen.splice(0)).toEqual([["w/new", undefined]]);
    const timers = clock.pending();
    stop();
    await a.records.put("w/later", 1);
    clock.advance(2000);
    expect(seen).toEqual([]);
    // Only while someone watches.
    expect(clock.pending()).toBe(timers - 1);
  });

  it("a conditional write is decided by the file, not by what one store remembers", async () => {
    const path = `${tempFolder()}/race.db`;
    const clock = testClock({ now: AT });
    const [a, b] = [await opened(path, clock), await opened(path, clock)];
    const version = (await a.records.put("k", 1)) as number;
    expect(await b.records.put("k", 2, { ifAbsent: true })).toBeUndefined();
    expect(await b.records.put("k", 2, { ifVersion: version })).toBeGreaterThan(version);
    expect(await a.records.put("k", 3, { ifVersion: version })).toBeUndefined();
  });

  it("expired records leave the file", async () => {
    const path = `${tempFolder()}/expired.db`;
    const clock = testClock({ now: AT });
    const store = await opened(path, clock);
    for (let n = 0; n < 20; n += 1) await store.records.put(`idempotency/${n}`, { n }, { ttlMs: 1000 });
    clock.advance(11_000);
    const db = new DatabaseSync(path);
    expect(db.prepare("select count(*) as n from quotaguard_record").get()?.n).toBe(0);
    db.close();
  });

  it("watching may begin before the store is ready", async () => {
    const store = sqliteStore(`${tempFolder()}/early.db`, { clock: testClock() });
    const seen: string[] = [];
    const stop = store.records.watch("", (key) => void seen.push(key));
    store.records.watch("", () => {})();
    await store.ready();
    onTestFinished(() => store.close());
    await store.records.put("a", 1);
    stop();
    await store.records.put("b", 1);
    expect(seen).toEqual(["a"]);
  });
});
