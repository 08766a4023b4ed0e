import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import type { Clock } from "../../src/core/time.ts";
import { LIMIT_TABLES, sqliteLimits } from "../../src/stores/sqlite/limits.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { B, C, charge, DAY, T, W } from "./harness.ts";

describe("limits in a SQLite file", () => {
  let folder: string;
  let clock: TestClock;
  const open: DatabaseSync[] = [];

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "quotaguard-limits-"));
    clock = testClock({ now: T });
  });
  afterEach(() => {
    for (const db of open.splice(0)) if (db.isOpen) db.close();
    rmSync(folder, { recursive: true });
  });

  function connect(): DatabaseSync {
    const db = new DatabaseSync(join(folder, "limits.db"));
    open.push(db);
    db.exec("pragma busy_timeout = 50");
    db.exec(LIMIT_TABLES);
    return db;
  }

  const rows = (db: DatabaseSync, table: string): number => Number(db.prepare(`select count(*) as n from ${table}`).get()?.n);

  it("survive the process: levels, cells, places and open holds", () => {
    const before = connect();
    const limits = sqliteLimits(before, clock);
    const charges = [charge("b", B(100, 0), 60), charge("w", W(100, 60_000, 1000), 60), charge("c", C(1), 1, { unit: "concurrent" })];
    limits.reserve("a", charges, 60_000);
    before.close();
    clock.advance(500);

    const after = sqliteLimits(connect(), clock);
    expect(after.reserve("b", charges, 60_000)).toMatchObject({ kind: "limited", failing: [{ available: 40 }, { available: 40 }, { available: 0 }] });
    expect(after.reserve("a", charges, 60_000)).toMatchObject({ kind: "allowed", replayed: true });
    expect(after.settle("a", { tokens: 10 })).toBe("applied");
    expect(after.reserve("b", [...charges.slice(0, 2).map((one) => ({ ...one, amount: 90 })), ...charges.slice(2)], 60_000)).toMatchObject({
      kind: "allowed",
    });
  });

  it("are the same for two connections", () => {
    const [one, two] = [sqliteLimits(connect(), clock), sqliteLimits(connect(), clock)];
    const results = [];
    for (let i = 0; i < 40; i += 1) results.push((i % 2 === 0 ? one : two).reserve(`op${i}`, [charge("b", B(25, 0), 1)], 60_000));
    expect(results.filter(({ kind }) => kind === "allowed")).toHaveLength(25);
    expect(one.release("op1")).toBe("applied");
    expect(two.release("op1")).toBe("done");
  });

  it("may be made before their tables", () => {
    const db = new DatabaseSync(":memory:");
    open.push(db);
    const limits = sqliteLimits(db, clock);
    expect(() => limits.release("a")).toThrow(GuardError);
    db.exec(LIMIT_TABLES);
    expect(limits.release("a")).toBe("unknown");
  });

  it("that cannot be reached are unavailable, not exhausted, and work again afterwards", () => {
    const limits = sqliteLimits(connect(), clock);
    limits.peek([]);
    const other = connect();
    other.exec("begin immediate");
    const refusal = (): unknown => limits.reserve("a", [charge("b", B(1, 0), 1)], 1000);
    expect(refusal).toThrow(expect.objectContaining({ code: "store_unavailable", status: 503 }));
    other.exec("rollback");
    expect(refusal()).toMatchObject({ kind: "allowed" });
  });

  it("take back a verb that fails half-way", () => {
    const db = connect();
    const limits = sqliteLimits(db, clock);
    limits.reserve("first", [charge("a", B(10, 0), 1)], 1000);
    db.exec("create trigger broken before insert on quotaguard_reservation begin select raise(abort, 'disk full'); end");
    expect(() => limits.reserve("a", [charge("a", B(10, 0), 5), charge("new", B(10, 0), 5)], 1000)).toThrow(
      expect.objectContaining({ code: "store_unavailable" }),
    );
    expect(() => limits.settle("first", { tokens: 0 })).toThrow(GuardError);
    db.exec("drop trigger broken");
    expect(limits.peek([{ key: "a", rule: B(10, 0) }])).toMatchObject([{ available: 9 }]);
    expect(rows(db, "quotaguard_limit_state")).toBe(1);
    expect(limits.settle("first", { tokens: 0 })).toBe("applied");
  });

  it("report a state that cannot be read as unavailable, never as absent", () => {
    const db = connect();
    const limits = sqliteLimits(db, clock);
    limits.reserve("a", [charge("b", B(10, 0), 10)], 1000);
    db.exec("update quotaguard_limit_state set state = 'damaged'");
    expect(() => limits.reserve("b", [charge("b", B(10, 0), 1)], 1000)).toThrow(expect.objectContaining({ code: "store_unavailable" }));
  });

  it("leave mistakes of the caller what they are", () => {
    const limits = sqliteLimits(connect(), clock);
    expect(() => limits.reserve("a", [charge("b", B(10, 0), NaN)], 1000)).toThrow(RangeError);
    expect(() => limits.reserve("a", [charge("b", B(10, 0), 1), charge("b", B(10, 0), 1)], 1000)).toThrow(RangeError);
    expect(limits.reserve("a", [charge("b", B(10, 0), 1)], 1000)).toMatchObject({ kind: "allowed" });
  });

  it("are swept: what says nothing any more goes, what refills never stays", () => {
    const db = connect();
    const limits = sqliteLimits(db, clock);
    for (let i = 0; i < 10; i += 1)
      limits.reserve(`op${i}`, [charge(`u${i}`, B(10, 1), 5), charge(`w${i}`, W(10, 1000, 100), 5), charge("frozen", B(100, 0), 5)], 1000);
    for (let i = 0; i < 5; i += 1) limits.settle(`op${i}`, {});
    clock.advance(120_000);
    expect(limits.expire(100)).toHaveLength(5);
    expect(rows(db, "quotaguard_reservation")).toBe(5);
    clock.advance(3 * DAY);
    expect(limits.expire(100)).toEqual([]);
    expect(rows(db, "quotaguard_reservation")).toBe(0);
    expect(rows(db, "quotaguard_limit_state")).toBe(1);
    expect(limits.peek([{ key: "frozen", rule: B(100, 0) }])).toMatchObject([{ available: 50 }]);
  });

  it("read the clock while they hold the write lock", () => {
    const db = connect();
    const seen: boolean[] = [];
    const watched: Clock = {
      ...clock,
      now() {
        seen.push(db.isTransaction);
        return clock.now();
      },
    };
    const limits = sqliteLimits(db, watched);
    limits.reserve("a", [charge("b", B(10, 1), 5)], 1000);
    limits.settle("a", {});
    expect(seen).toEqual([true, true]);
  });
});
