import { chmodSync, chownSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { DatabaseSync } from "node:sqlite";

import { describe, expect, it, onTestFinished } from "vitest";

import { ConfigError } from "../../src/core/errors.ts";
import { silentLogger } from "../../src/core/logger.ts";
import { transactor } from "../../src/stores/sqlite/dialect.ts";
import { sqliteStore, type SqliteStoreOptions } from "../../src/stores/sqlite/index.ts";
import { hasWalResetBug, openDatabase, startServing } from "../../src/stores/sqlite/open.ts";
import { intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { tempFolder, writer } from "./sqlite-kit.ts";
import { SINCE_0003 } from "./migration-columns.ts";

async function problemOf(path: string): Promise<string> {
  const store = sqliteStore(path);
  onTestFinished(() => store.close());
  const error: unknown = await Promise.resolve(store.ready()).then(
    () => new Error("it started"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(ConfigError);
  const { message } = error as ConfigError;
  expect(message).toContain(path);
  expect(message).toContain("store.url");
  return message;
}

describe("opening", () => {
  it("creates the folder and a file that only its owner can read", async () => {
    const path = `${tempFolder()}/a/b/quota.db`;
    const store = sqliteStore(`sqlite:${path}`);
    await store.ready();
    onTestFinished(() => store.close());
    await store.ledger.intent(intentOf("i"));
    for (const file of [path, `${path}-wal`, `${path}-shm`]) expect((statSync(file).mode & 0o777).toString(8)).toBe("600");
    expect((statSync(`${path}/../..`.replace("/quota.db", "")).mode & 0o077).toString(8)).toBe("0");
  });

  it("sets WAL, a busy timeout, foreign keys, and synchronous as asked", () => {
    for (const [synchronous, level] of [
      ["normal", 1],
      ["full", 2],
    ] as const) {
      const db = openDatabase(`${tempFolder()}/quota.db`, { synchronous, logger: silentLogger });
      const pragmas = ["journal_mode", "synchronous", "busy_timeout", "foreign_keys"];
      expect(pragmas.map((name) => Object.values(db.prepare(`pragma ${name}`).get() ?? {})[0])).toEqual(["wal", level, 2000, 1]);
      startServing(db);
      expect(db.prepare("pragma busy_timeout").get()).toMatchObject({ timeout: 500 });
      db.close();
    }
  });

  it("keeps limits in the same file: two stores count as one, and a restart forgets nothing", async () => {
    const path = `${tempFolder()}/limits.db`;
    const rule = { kind: "bucket", capacity: 10, n: 0, d: 1 } as const;
    const charge = { key: "k", rule, unit: "requests", amount: 4, enforce: true } as const;
    const [a, b] = [sqliteStore(path), sqliteStore(path)];
    await Promise.all([a.ready(), b.ready()]);
    expect(await a.limits.reserve("op-a", [charge], 60_000)).toMatchObject({ kind: "allowed" });
    expect(await b.limits.reserve("op-b", [charge], 60_000)).toMatchObject({ kind: "allowed", standings: [{ available: 2 }] });
    await Promise.all([a.close(), b.close()]);
    const c = sqliteStore(path);
    await c.ready();
    expect(await c.limits.reserve("op-c", [charge], 60_000)).toMatchObject({ kind: "limited", worst: { available: 2 } });
    expect(await c.limits.release("op-b")).toBe("applied");
    await c.close();
  });

  it("opens the same file again and again, keeping what is in it", async () => {
    const path = `${tempFolder()}/quota.db`;
    for (let round = 1; round <= 3; round += 1) {
      const store = sqliteStore(path);
      await Promise.all([store.ready(), store.ready()]);
      await store.records.put(`round/${round}`, round);
      expect(await store.records.list("round/")).toHaveLength(round);
      await store.close();
      await store.close();
      expect(() => store.ready()).toThrow("is closed");
    }
  });

  it("lives beside the tables of a host, on its own connection, and leaves the host's handle open", async () => {
    const path = `${tempFolder()}/host.db`;
    const host = new DatabaseSync(path);
    host.exec("create table ledger (mine); create table record (mine); insert into ledger values (1)");
    const store = sqliteStore(host);
    await store.ready();
    // A transaction of the host is neither joined nor in the way of reading.
    host.exec("begin; insert into ledger values (2)");
    expect(await store.ledger.list({})).toEqual([]);
    host.exec("rollback");
    await store.ledger.intent(intentOf("i"));
    await store.close();
    expect(host.prepare("select count(*) as n from ledger").get()?.["n"]).toBe(1);
    host.close();
  });

  it("a transaction that fails leaves nothing behind, and the next one works", () => {
    const db = openDatabase(":memory:", { synchronous: "normal", logger: silentLogger });
    db.exec("create table t (x)");
    const transact = transactor(db);
    const failing = (): never => {
      db.exec("insert into t values (1)");
      throw new Error("half-way");
    };
    expect(() => transact(failing)).toThrow("half-way");
    expect(transact(() => db.prepare("select count(*) as n from t").get())).toEqual({ n: 0 });
    db.close();
  });

  it("says what to do when it is used before it is ready", () => {
    const store = sqliteStore(":memory:");
    expect(() => store.ledger.intent(intentOf("i"))).toThrow("await store.ready() first");
    expect(() => store.records.get("k")).toThrow(expect.objectContaining({ code: "store_unavailable" }));
  });

  it("brings the schema of an older version up to date: its rows stay, and say nothing of what it did not know", async () => {
    const path = `${tempFolder()}/older.db`;
    const first = sqliteStore(path);
    await first.ready();
    first.ledger.close(rowOf("old"));
    await first.close();
    const db = new DatabaseSync(path);
    for (const column of SINCE_0003) db.exec(`alter table quotaguard_ledger drop column ${column}`);
    db.exec("drop table quotaguard_rollup; delete from quotaguard_migration where name >= '0003'");
    db.close();
    const store = sqliteStore(path);
    await store.ready();
    store.ledger.close(rowOf("new"));
    await store.ledger.flush();
    expect(await Promise.all(["old", "new"].map((id) => store.ledger.get(id)))).toEqual([
      rowOf("old", { priceVersion: null, tag: null }),
      rowOf("new"),
    ]);
    await store.close();
  });

  it("refuses options it does not know", () => {
    expect(() => sqliteStore("x.db", { sync: "full" } as SqliteStoreOptions)).toThrow("no option sync: it knows path, synchronous, clock, logger");
    expect(() => sqliteStore("x.db", { synchronous: "off" as "full" })).toThrow("normal or full, not off");
    expect(() => sqliteStore("")).toThrow("needs a path");
    expect(() => sqliteStore({} as { path: string })).toThrow("needs a path");
  });

  it("knows which SQLite versions can damage a shared WAL file", () => {
    const bad = ["3.7.0", "3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51.0", "3.51.2"];
    const good = ["3.6.23", "3.44.6", "3.50.7", "3.51.3", "3.52.0", "3.53.4", "4.0.0"];
    expect(bad.filter((version) => !hasWalResetBug(version))).toEqual([]);
    expect(good.filter(hasWalResetBug)).toEqual([]);
  });
});

describe("what keeps it from starting names the path and the way out", () => {
  it("a folder as the path", async () => {
    const path = tempFolder();
    expect(await problemOf(path)).toContain("it is a folder: name a file inside it");
  });

  it("a file that is not a database, which stays as it was", async () => {
    const path = `${tempFolder()}/notes.txt`;
    writeFileSync(path, "these are my notes, not a database. ".repeat(100));
    expect(await problemOf(path)).toContain("not a SQLite database");
    expect(readFileSync(path, "utf8")).toBe("these are my notes, not a database. ".repeat(100));
  });

  it("a file where a folder should be", async () => {
    const file = `${tempFolder()}/file`;
    writeFileSync(file, "");
    expect(await problemOf(`${file}/quota.db`)).toContain("is a file, not a folder");
    expect(await problemOf(`${file}/deeper/quota.db`)).toContain("is a file, not a folder");
  });

  it("a folder that cannot be created", async () => {
    expect(await problemOf("/proc/quotaguard/quota.db")).toMatch(/cannot be created|may not write there/);
  });

  it("a damaged file", async () => {
    const path = `${tempFolder()}/damaged.db`;
    const store = sqliteStore(path);
    await store.ready();
    await store.close();
    const bytes = readFileSync(path);
    bytes.fill(0xee, 4096, 3 * 4096);
    bytes.fill(0xee, 100, 4096);
    writeFileSync(path, bytes);
    expect(await problemOf(path)).toContain("the file is damaged: restore a backup");
  });

  it("a schema of a newer version, which stays as it was", async () => {
    const path = `${tempFolder()}/newer.db`;
    const store = sqliteStore(path);
    await store.ready();
    await store.close();
    const db = new DatabaseSync(path);
    db.exec("insert into quotaguard_migration values ('9999_from_the_future', '2030-01-01T00:00:00.000Z'); create table quotaguard_future (x)");
    expect(await problemOf(path)).toContain("written by a newer version of quotaguard (migration 9999_from_the_future): install that version");
    expect(db.prepare("select count(*) as n from quotaguard_owner").get()?.["n"]).toBe(0);
    db.close();
  });

  it("a full disk; and it starts once there is space", async () => {
    const host = new DatabaseSync(":memory:");
    host.exec("pragma max_page_count = 5");
    const store = sqliteStore(host);
    await expect(store.ready()).rejects.toThrow("the disk is full: free space");
    expect(host.prepare("select count(*) as n from sqlite_schema").get()).toEqual({ n: 0 });
    host.exec("pragma max_page_count = 100000");
    await store.ready();
    await store.ledger.intent(intentOf("i"));
    await store.close();
    host.close();
  });

  it("a lock that another process keeps; and it starts once that is gone", async () => {
    const path = `${tempFolder()}/locked.db`;
    const other = new DatabaseSync(path);
    other.exec("pragma journal_mode = wal; begin immediate; create table theirs (x)");
    const store = sqliteStore(path);
    await expect(store.ready()).rejects.toThrow("another process holds the file locked");
    other.exec("rollback");
    other.close();
    await store.ready();
    await store.ledger.intent(intentOf("i"));
    await store.close();
  });

  // Root may write everywhere, so these run in a process of a user who may not.
  describe.runIf(process.getuid?.() === 0)("as a user without rights", () => {
    const NOBODY = { uid: 65_534, gid: 65_534 };

    it("a read-only folder", async () => {
      const folder = tempFolder();
      chmodSync(folder, 0o755);
      const { lines, ended } = writer([`${folder}/quota.db`, "w", "rows", "1"], NOBODY);
      expect(await ended).toBe(1);
      expect(lines.join("\n")).toContain(`"${folder}/quota.db"`);
      expect(lines.join("\n")).toContain("the process may not write there");
      expect(existsSync(`${folder}/quota.db`)).toBe(false);
    });

    it("a read-only file", async () => {
      const folder = tempFolder();
      const path = `${folder}/quota.db`;
      const store = sqliteStore(path);
      await store.ready();
      await store.close();
      chmodSync(path, 0o444);
      chmodSync(folder, 0o777);
      const { lines, ended } = writer([path, "w", "rows", "1"], NOBODY);
      expect(await ended).toBe(1);
      expect(lines.join("\n")).toContain("the process may not write there");
    });

    it("works in a folder of its own", async () => {
      const folder = `${tempFolder()}/own`;
      mkdirSync(folder);
      chmodSync(`${folder}/..`, 0o755);
      chownSync(folder, NOBODY.uid, NOBODY.gid);
      const { lines, ended } = writer([`${folder}/quota.db`, "w", "rows", "3"], NOBODY);
      expect(await ended).toBe(0);
      expect(lines.filter((line) => line.startsWith("row")).length).toBeGreaterThan(0);
    });
  });
});
