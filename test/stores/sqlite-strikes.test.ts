import { DatabaseSync } from "node:sqlite";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { Store, StrikeStore } from "../../src/core/store.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { sqliteStrikes } from "../../src/stores/strikes-sqlite.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { tempFolder } from "./sqlite-kit.ts";

const MINUTE = 60_000;
const DAY = 86_400_000;

let clock: TestClock;
let path: string;
let stores: Store[];
beforeEach(() => {
  clock = testClock();
  path = `${tempFolder()}/quota.db`;
  stores = [];
});
afterEach(async () => {
  for (const store of stores) await store.close();
});

async function opened(): Promise<Store> {
  const store = sqliteStore(path, { clock });
  await store.ready();
  stores.push(store);
  return store;
}

const strike = async ({ strikes }: { readonly strikes: StrikeStore }, key = "a"): Promise<number> => await strikes.strike(key, MINUTE);

describe("strikes in a SQLite file", () => {
  it("outlive the process", async () => {
    const first = await opened();
    await strike(first);
    await strike(first);
    await first.close();
    clock.jump(MINUTE - 1);
    expect(await strike(await opened())).toBe(3);
    clock.jump(1);
    expect(await strike(await opened())).toBe(1);
  });

  it("are the same for all who have the file, and no two of them get one number", async () => {
    const both = [await opened(), await opened()];
    const counts = await Promise.all(Array.from({ length: 40 }, (_, i) => strike(both[i % 2] as Store)));
    expect(counts.sort((a, b) => a - b)).toEqual(Array.from({ length: 40 }, (_, i) => i + 1));
    await both[0]?.strikes.clear("a");
    expect(await strike(both[1] as Store)).toBe(1);
  });

  it("agree with a plain count, whatever happens in whatever order", async () => {
    const store = await opened();
    const key = fc.constantFrom("a", "b", "c");
    const act = fc.oneof(
      fc.record({ kind: fc.constant("strike" as const), key, windowMs: fc.integer({ min: 1, max: 50 }) }),
      fc.record({ kind: fc.constant("clear" as const), key }),
      fc.record({ kind: fc.constant("wait" as const), ms: fc.integer({ min: 0, max: 40 }) }),
    );
    let runs = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(act, { maxLength: 60 }), async (acts) => {
        const run = (runs += 1);
        const model = new Map<string, { count: number; endsAt: number }>();
        for (const each of acts) {
          if (each.kind === "wait") clock.jump(each.ms);
          else if (each.kind === "clear") {
            await store.strikes.clear(`${run}:${each.key}`);
            model.delete(each.key);
          } else {
            const known = model.get(each.key);
            const next = known && known.endsAt > clock.now() ? known : { count: 0, endsAt: clock.now() + each.windowMs };
            next.count += 1;
            model.set(each.key, next);
            expect(await store.strikes.strike(`${run}:${each.key}`, each.windowMs)).toBe(next.count);
          }
        }
      }),
    );
  });

  it("end one window after a clock was put back, at the latest", async () => {
    const store = await opened();
    await strike(store);
    clock.set(clock.now() - DAY);
    expect(await strike(store)).toBe(2);
    clock.jump(MINUTE - 1);
    expect(await strike(store)).toBe(3);
    clock.jump(1);
    expect(await strike(store)).toBe(1);
  });

  it("count in this process before the file is open and after it is closed, and are cleared there too", async () => {
    const store = sqliteStore(path, { clock });
    for (const key of ["a", "a", "b", "b"]) await strike(store, key);
    await store.ready();
    clock.jump(2000);
    expect([await strike(store, "a"), await strike(store, "b")]).toEqual([1, 1]);
    await store.strikes.clear("a");
    await store.close();
    expect([await strike(store, "a"), await strike(store, "b")]).toEqual([1, 3]);
  });

  it("count in this process while the file is locked, try it again a second later, and never fail", async () => {
    const store = await opened();
    expect(await strike(store)).toBe(1);
    const other = new DatabaseSync(path);
    other.exec("begin immediate");
    const startMs = performance.now();
    expect(await strike(store)).toBe(1);
    expect(await strike(store)).toBe(2);
    await store.strikes.clear("a");
    expect(await strike(store)).toBe(1);
    // It waited for the lock once, not with each strike.
    expect(performance.now() - startMs).toBeLessThan(1000);
    other.exec("rollback");
    other.close();
    clock.jump(999);
    expect(await strike(store)).toBe(2);
    clock.jump(1);
    expect(await strike(store)).toBe(2);
  });

  it("count in this process when the table is damaged", async () => {
    const store = await opened();
    const other = new DatabaseSync(path);
    other.exec("drop table quotaguard_strike");
    other.close();
    expect([await strike(store), await strike(store)]).toEqual([1, 2]);
  });
});

describe("more keys than are kept", () => {
  const TABLE = "create table quotaguard_strike (key text primary key not null, points integer, ends_at integer, window_ms integer) without rowid";
  let db: DatabaseSync;
  beforeEach(() => {
    db = new DatabaseSync(":memory:");
    db.exec(TABLE);
  });
  afterEach(() => db.close());

  const rows = (): number => Number(db.prepare("select count(*) as n from quotaguard_strike").get()?.["n"]);

  it("push out those that end first", async () => {
    const strikes = sqliteStrikes({ clock, database: () => db, maxKeys: 2000 });
    for (let i = 0; i < 10_000; i += 1) {
      clock.jump(1);
      await strikes.strike(`stranger-${i}`, MINUTE);
      expect(rows()).toBeLessThanOrEqual(3000);
    }
    expect(await strikes.strike("stranger-9999", MINUTE)).toBe(2);
    expect(await strikes.strike("stranger-10", MINUTE)).toBe(1);
  });

  it("go when they have ended", async () => {
    const strikes = sqliteStrikes({ clock, database: () => db });
    for (let i = 0; i < 5000; i += 1) await strikes.strike(`early-${i}`, MINUTE);
    clock.jump(MINUTE);
    for (let i = 0; i < 5000; i += 1) await strikes.strike(`late-${i}`, MINUTE);
    expect(rows()).toBe(5000);
  });

  it("are counted in a new database from then on", async () => {
    let current = db;
    const strikes = sqliteStrikes({ clock, database: () => current });
    await strikes.strike("a", MINUTE);
    current = new DatabaseSync(":memory:");
    current.exec(TABLE);
    expect(await strikes.strike("a", MINUTE)).toBe(1);
    current.close();
  });
});
