// What was acknowledged while the database was away is in it once it is back: all of it, once.
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
  appendFileSync,
  renameSync,
} from "node:fs";
import { basename, join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import type { LedgerRow } from "../../../src/core/ledger.ts";
import { spoolFolder } from "../../../src/stores/spool/spool-folder.ts";
import { intentLine, rowLine } from "../../../src/stores/spool/spool-lines.ts";
import { intentOf, rowOf } from "../../contracts/ledger-rows.ts";
import { tempFolder } from "../sqlite-kit.ts";
import { awayLedger, diskError, faultyDisk, refusal, spoolKit, type SpoolKit } from "./spool-kit.ts";

const spools = (folder: string): string[] => (existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".spool")) : []);
const states = ({ store }: SpoolKit): Record<string, string> => Object.fromEntries([...store.rows].map(([id, { state }]) => [id, state]));
const isDone = ({ spool, store, folder }: SpoolKit): boolean => !store.isAway && spool.state().since === null && spools(folder).length === 0;

/** A file as a process left it that is gone. */
async function leftBehind(lines: readonly string[], name = "test"): Promise<string> {
  const path = tempFolder();
  const folder = spoolFolder({ path, ledger: name });
  const file = await folder.create();
  await file.append(lines.join(""));
  await file.close();
  await folder.release(file.path);
  return path;
}

test("while the database is there nothing is written, and no folder is made", async () => {
  const kit = await spoolKit();
  await kit.spool.ledger.intent(intentOf("a"));
  kit.spool.ledger.close(rowOf("a"));
  await kit.spool.ledger.flush();
  expect([existsSync(kit.folder), states(kit), kit.codes()]).toEqual([false, { a: "settled" }, []]);
  expect(kit.spool.state()).toEqual({ rows: 0, bytes: 0, since: null, reason: null });
});

test("rows of an outage are on the disk before they are acknowledged, and in the database once it is back", async () => {
  const kit = await spoolKit();
  const { spool, store, folder } = kit;
  await spool.ledger.intent(intentOf("before"));
  store.isAway = true;
  await spool.ledger.intent(intentOf("a"));
  expect(readFileSync(join(folder, spools(folder)[0] as string), "utf8")).toContain('"a"');
  await spool.ledger.intent(intentOf("open"));
  spool.ledger.close(rowOf("before"));
  spool.ledger.close(rowOf("a"));
  await spool.ledger.flush();
  expect(states(kit)).toEqual({});
  expect(spool.state()).toMatchObject({ rows: 4, reason: expect.stringContaining("4 rows are kept in a file") as string });
  expect(spool.state().bytes).toBe(statSync(join(folder, spools(folder)[0] as string)).size);
  await expect((async () => spool.ledger.completeSince())()).rejects.toMatchObject({ code: "store_unavailable" });
  store.isAway = false;
  await kit.until(() => isDone(kit));
  // What still runs is open in the database, and nowhere else.
  expect([states(kit), [...store.intents.keys()]]).toEqual([{ before: "settled", a: "settled" }, ["open"]]);
  // Other nodes may not be that far yet.
  await expect((async () => spool.ledger.completeSince())()).rejects.toMatchObject({ code: "store_unavailable" });
  kit.clock.advance(10_000);
  expect(await spool.ledger.completeSince()).toBe(0);
  spool.ledger.close(rowOf("open"));
  await spool.ledger.flush();
  expect(states(kit)).toMatchObject({ open: "settled" });
  expect(kit.codes()).toEqual(["QG_LEDGER_SPOOLING", "QG_LEDGER_REPLAYED"]);
  expect(kit.logger.lines.at(-1)?.fields).toMatchObject({ rows: 2, orphans: 0 });
});

test("rows that the database had taken and not committed go to the disk, too", async () => {
  const kit = await spoolKit();
  const { spool, store } = kit;
  store.isAway = true;
  spool.ledger.close(rowOf("ended just now"));
  await spool.ledger.intent(intentOf("a"));
  await spool.ledger.flush();
  expect(readFileSync(join(kit.folder, spools(kit.folder)[0] as string), "utf8")).toContain("ended just now");
});

test("an outage is noticed by finished rows alone", async () => {
  const kit = await spoolKit();
  kit.store.isAway = true;
  kit.spool.ledger.close(rowOf("a"));
  await kit.until(() => kit.codes().includes("QG_LEDGER_SPOOLING"));
  await kit.spool.ledger.flush();
  expect(spools(kit.folder)).toHaveLength(1);
});

test("who waits for the last rows to be written does not wait for a database that goes away meanwhile", async () => {
  const kit = await spoolKit();
  kit.store.isAway = true;
  kit.spool.ledger.close(rowOf("a"));
  const written = kit.spool.ledger.flush();
  await kit.until(() => kit.codes().includes("QG_LEDGER_SPOOLING"));
  await written;
  expect(readFileSync(join(kit.folder, spools(kit.folder)[0] as string), "utf8")).toContain('"id":"a"');
});

test("a request that ends while its rows are on their way, or tries again, is counted once", async () => {
  const kit = await spoolKit();
  const { spool, store } = kit;
  store.isAway = true;
  await Promise.all(["a", "b", "c"].map(async (id) => spool.ledger.intent(intentOf(id))));
  spool.ledger.close(rowOf("a"));
  store.isAway = false;
  // The end of b comes while the outage is being made good, another attempt of c as well.
  const replay = store.replay.bind(store);
  let isTold = false;
  store.replay = async (...given) => {
    await replay(...given);
    if (given[0].length === 0 || isTold) return;
    isTold = true;
    spool.ledger.close(rowOf("b"));
    await spool.ledger.intent(intentOf("c", { credential: "second" }));
  };
  await kit.until(() => isDone(kit));
  await spool.ledger.flush();
  expect(states(kit)).toEqual({ a: "settled", b: "settled" });
  expect([...store.intents].map(([id, { credential }]) => [id, credential])).toEqual([["c", "second"]]);
});

test("a database that goes away again in the middle changes nothing about that", async () => {
  const kit = await spoolKit({ maxBytes: 10_000_000 });
  const { spool, store } = kit;
  const ids = Array.from({ length: 1_800 }, (_, i) => `r${i}`);
  const replay = store.replay.bind(store);
  let calls = 0;
  for (const part of [ids.slice(0, 900), ids.slice(900)]) {
    store.isAway = true;
    await Promise.all(part.map(async (id) => spool.ledger.intent(intentOf(id))));
    for (const id of part) spool.ledger.close(rowOf(id));
    await spool.ledger.flush();
    store.isAway = false;
    store.replay = async (...given) => {
      calls += 1;
      if (calls % 3 === 0) throw refusal();
      await replay(...given);
    };
  }
  store.replay = replay;
  await kit.until(() => isDone(kit));
  expect([...store.rows.keys()].toSorted()).toEqual(ids.toSorted());
});

test("what another process closed as unknown meanwhile gives way to the end that is known", async () => {
  const kit = await spoolKit();
  const { spool, store } = kit;
  await spool.ledger.intent(intentOf("a"));
  store.isAway = true;
  await spool.ledger.intent(intentOf("b"));
  spool.ledger.close(rowOf("a"));
  store.rows.set("a", rowOf("a", { state: "unknown" }));
  store.isAway = false;
  await kit.until(() => isDone(kit));
  expect(states(kit)).toEqual({ a: "settled" });
});

test("refusals fill no disk: they wait in memory", async () => {
  const kit = await spoolKit();
  const { spool, store } = kit;
  store.isAway = true;
  await spool.ledger.intent(intentOf("a"));
  const { bytes } = spool.state();
  for (let i = 0; i < 100; i += 1) spool.ledger.close(rowOf(`refused ${i}`, { state: "refused" }));
  expect([spool.state().bytes, store.queued.length]).toEqual([bytes, 100]);
});

describe("a spool that takes nothing more refuses requests, and lets end what runs", () => {
  async function full(kit: SpoolKit): Promise<void> {
    await expect((async () => kit.spool.ledger.intent(intentOf("late")))()).rejects.toMatchObject({ code: "store_unavailable", retryAfterMs: 5_000 });
    expect(kit.codes().filter((code) => code === "QG_LEDGER_SPOOL_CLOSED")).toHaveLength(1);
    kit.spool.ledger.close(rowOf("first"));
    kit.store.isAway = false;
    await kit.until(() => isDone(kit));
    expect(states(kit)).toMatchObject({ first: "settled" });
    expect(states(kit)["late"]).toBeUndefined();
    await kit.spool.ledger.intent(intentOf("after"));
    expect(kit.store.intents.has("after")).toBe(true);
  }

  test("by its size", async () => {
    const kit = await spoolKit({ maxBytes: 20_000 });
    kit.store.isAway = true;
    await kit.spool.ledger.intent(intentOf("first"));
    const fill = async (): Promise<void> => {
      for (let i = 0; i < 1_000; i += 1) await kit.spool.ledger.intent(intentOf(`i${i}`));
    };
    await expect(fill()).rejects.toMatchObject({ code: "store_unavailable" });
    expect(kit.spool.state().bytes).toBeLessThanOrEqual(20_000);
    // Hosts' own routes have no intent: their rows do not go beyond a quarter more either.
    for (let i = 0; i < 100; i += 1) kit.spool.ledger.close(rowOf(`h${i}`));
    expect(kit.spool.state().bytes).toBeLessThanOrEqual(25_000);
    await full(kit);
    expect(states(kit)).toMatchObject({ h0: "settled", h99: "settled" });
  });

  test("by its time", async () => {
    const kit = await spoolKit({ maxTimeMs: 60_000 });
    kit.store.isAway = true;
    await kit.spool.ledger.intent(intentOf("first"));
    kit.clock.advance(59_000);
    await kit.spool.ledger.intent(intentOf("second"));
    kit.clock.advance(1_000);
    await full(kit);
  });

  test.each(Array.from({ length: 20 }, (_, i) => i + 1))(
    "by an EIO at flush %i: what was acknowledged is kept, what was not is refused",
    async (n) => {
      const disk = faultyDisk({
        onSync: (number) => {
          if (number === n) throw diskError("EIO");
        },
      });
      const kit = await spoolKit({ disk });
      const { spool, store } = kit;
      store.isAway = true;
      const acknowledged: string[] = [];
      for (let i = 1; i <= n + 3; i += 1) {
        const ids = [`${i}a`, `${i}b`];
        const answers = await Promise.allSettled(ids.map(async (id) => spool.ledger.intent(intentOf(id))));
        acknowledged.push(...ids.filter((_, at) => answers[at]?.status === "fulfilled"));
        // Two at a time share one flush; those of the failed one and all after it are refused.
        expect(answers.map(({ status }) => status)).toEqual(Array(2).fill(i < n ? "fulfilled" : "rejected"));
      }
      expect([disk.syncs, spools(kit.folder).length]).toEqual([n, 1]);
      for (const id of acknowledged) spool.ledger.close(rowOf(id));
      expect((await spool.close()) || acknowledged.length === 0).toBe(acknowledged.length === 0);
      // The process is gone, and with it what was only in its memory.
      const next = await spoolKit({ path: kit.folder });
      await next.until(() => isDone(next));
      expect(Object.keys(states(next)).toSorted()).toEqual(expect.arrayContaining(acknowledged.toSorted()));
    },
  );

  test("by a disk without room, in the middle of a line", async () => {
    let writes = 0;
    const disk = faultyDisk({
      async onWrite(text, handle) {
        if ((writes += 1) < 3) return;
        await handle.appendFile(text.slice(0, 10));
        throw diskError("ENOSPC");
      },
    });
    const kit = await spoolKit({ disk });
    kit.store.isAway = true;
    await kit.spool.ledger.intent(intentOf("first"));
    await kit.spool.ledger.intent(intentOf("second"));
    await expect((async () => kit.spool.ledger.intent(intentOf("third")))()).rejects.toMatchObject({ code: "store_unavailable" });
    await full(kit);
    expect(kit.codes()).not.toContain("QG_LEDGER_SPOOL_BROKEN");
  });

  test("by a disk that does not answer", async () => {
    let answer = (): void => {};
    onTestFinished(() => answer());
    const disk = faultyDisk({ onSync: () => new Promise((resolve) => (answer = resolve)) });
    const kit = await spoolKit({ disk });
    kit.store.isAway = true;
    let failure: unknown;
    void Promise.resolve(kit.spool.ledger.intent(intentOf("first"))).catch((error: unknown) => (failure = error));
    await kit.until(() => failure !== undefined);
    expect(failure).toMatchObject({ code: "store_unavailable" });
    await full(kit);
  });
});

test("intents of one moment share one flush, and none is acknowledged before it", async () => {
  let release = (): void => {};
  let isHeld = false;
  const disk = faultyDisk({
    onSync: () => (isHeld ? new Promise((resolve) => (release = resolve)) : undefined),
  });
  const kit = await spoolKit({ disk });
  kit.store.isAway = true;
  await kit.spool.ledger.intent(intentOf("first"));
  const before = disk.syncs;
  isHeld = true;
  let acknowledged = 0;
  const all = Array.from({ length: 500 }, async (_, i) => {
    await kit.spool.ledger.intent(intentOf(`i${i}`));
    acknowledged += 1;
  });
  await expect.poll(() => disk.syncs).toBe(before + 1);
  expect(acknowledged).toBe(0);
  isHeld = false;
  release();
  await Promise.all(all);
  expect([acknowledged, disk.syncs]).toEqual([500, before + 1]);
});

test("what waits behind a flush that fails is not written to that file any more", async () => {
  let fail = (): void => {};
  const disk = faultyDisk({
    onSync: (number) => (number === 1 ? new Promise((_, reject) => (fail = () => reject(diskError("EIO")))) : undefined),
  });
  const kit = await spoolKit({ disk });
  kit.store.isAway = true;
  const ask = async (id: string): Promise<void> => kit.spool.ledger.intent(intentOf(id));
  const first = ask("first");
  await expect.poll(() => disk.syncs).toBe(1);
  const second = ask("second");
  await new Promise(setImmediate);
  fail();
  const answers = await Promise.allSettled([first, second]);
  expect(answers.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  expect([disk.syncs, readFileSync(join(kit.folder, spools(kit.folder)[0] as string), "utf8").includes("second")]).toEqual([1, false]);
});

describe("what a dead process left behind", () => {
  test("is written by the next start, its open requests as unknown, charged as held; a second start finds nothing", async () => {
    const path = await leftBehind([
      intentLine(intentOf("ended")),
      intentLine(intentOf("open", { held: { usd: 7 } })),
      rowLine(rowOf("ended")),
      rowLine(rowOf("only its end")),
    ]);
    const kit = await spoolKit({ path });
    expect(kit.spool.state().since).not.toBeNull();
    await kit.until(() => isDone(kit));
    expect(states(kit)).toEqual({ ended: "settled", "only its end": "settled", open: "unknown" });
    expect(kit.store.rows.get("open")).toMatchObject({ billedNanoUsd: 7, provenance: "estimated", attempts: 1 });
    expect(kit.logger.lines.at(-1)?.fields).toMatchObject({ code: "QG_LEDGER_REPLAYED", rows: 3, orphans: 1 });
    const next = await spoolKit({ path });
    expect([next.spool.state().since, next.codes()]).toEqual([null, []]);
  });

  test("is taken by one of two that start at the same time", async () => {
    const path = await leftBehind([intentLine(intentOf("open"))]);
    const kits = await Promise.all([spoolKit({ path }), spoolKit({ path }), spoolKit({ path })]);
    expect(kits.filter(({ spool }) => spool.state().since !== null)).toHaveLength(1);
    for (const kit of kits) await kit.until(() => isDone(kit));
    expect(kits.map((kit) => Object.keys(states(kit)).length).toSorted((a, b) => a - b)).toEqual([0, 0, 1]);
  });

  test("is left alone when it is another ledger's, or its process lives", async () => {
    const path = await leftBehind([intentLine(intentOf("open"))], "another database");
    const living = spoolFolder({ path, ledger: "test" });
    const file = await living.create();
    await file.append(intentLine(intentOf("living")));
    await file.close();
    const kit = await spoolKit({ path });
    expect([kit.spool.state().since, spools(path).length]).toEqual([null, 2]);
  });

  test("is taken from a process that nobody can see once it has shown no life for half a minute", async () => {
    const path = tempFolder();
    const folder = spoolFolder({ path, ledger: "test" });
    const file = await folder.create();
    await file.append(intentLine(intentOf("open")));
    const kit = await spoolKit({ path });
    const look = async (): Promise<void> => {
      kit.clock.advance(10_000);
      await expect.poll(() => kit.clock.pending()).toBe(1);
    };
    for (let i = 0; i < 5; i += 1) {
      await look();
      await folder.beat([file.path], kit.clock.now());
    }
    expect(spools(path)).toEqual([basename(file.path)]);
    for (let i = 0; i < 4; i += 1) await look();
    await kit.until(() => states(kit)["open"] === "unknown");
    // Should it live after all: what it writes from now on nobody would read, so it is not acknowledged.
    await expect(file.append(intentLine(intentOf("too late")))).rejects.toThrow();
    await file.close();
  });

  test("ends where its last line is torn, and nothing else is lost", async () => {
    const [first, second, last] = [intentLine(intentOf("a")), rowLine(rowOf("a")), rowLine(rowOf("ü-torn"))];
    const bytes = Buffer.from(last);
    for (const length of [0, 1, 8, 9, 20, bytes.indexOf("ü") + 1, bytes.length - 1]) {
      const path = await leftBehind([first, second]);
      appendFileSync(join(path, spools(path)[0] as string), bytes.subarray(0, length));
      const kit = await spoolKit({ path });
      await kit.until(() => isDone(kit));
      expect([length, states(kit), kit.store.gaps, kit.codes()]).toEqual([length, { a: "settled" }, [], ["QG_LEDGER_REPLAYED"]]);
    }
  });

  test("is kept aside when a line in the middle is broken; all others are in the ledger, and it is told that rows are missing", async () => {
    const broken = rowLine(rowOf("broken")).replace("broken", "br0ken");
    const path = await leftBehind([rowLine(rowOf("a")), broken, rowLine(rowOf("b"))]);
    const kit = await spoolKit({ path });
    await kit.until(() => isDone(kit));
    expect(states(kit)).toEqual({ a: "settled", b: "settled" });
    expect(kit.codes()).toEqual(["QG_LEDGER_SPOOL_BROKEN", "QG_LEDGER_REPLAYED"]);
    expect(kit.store.gaps).toHaveLength(1);
    const [aside] = readdirSync(path);
    expect(aside).toMatch(/\.spool\.broken$/);
    expect(readFileSync(join(path, aside as string), "utf8")).toContain("br0ken");
    const next = await spoolKit({ path });
    expect(next.spool.state().since).toBeNull();
  });

  test("is put down again when the database stays away to the end, and told", async () => {
    const kit = await spoolKit();
    kit.store.isAway = true;
    await kit.spool.ledger.intent(intentOf("open"));
    await kit.spool.ledger.intent(intentOf("ended"));
    kit.spool.ledger.close(rowOf("ended"));
    expect(await kit.spool.close()).toBe(true);
    expect(kit.codes()).toEqual(["QG_LEDGER_SPOOLING", "QG_LEDGER_SPOOL_LEFT"]);
    // At once, and not only when its owner has been silent for long.
    expect(spools(kit.folder)).toEqual([expect.stringContaining(".free.")]);
    const next = await spoolKit({ path: kit.folder });
    await next.until(() => isDone(next));
    expect(states(next)).toEqual({ open: "unknown", ended: "settled" });
  });
});

describe.skipIf(process.platform === "win32")("whose files", () => {
  test("are their owner's alone", async () => {
    const kit = await spoolKit();
    kit.store.isAway = true;
    await kit.spool.ledger.intent(intentOf("a"));
    expect(lstatSync(kit.folder).mode & 0o777).toBe(0o700);
    expect(lstatSync(join(kit.folder, spools(kit.folder)[0] as string)).mode & 0o777).toBe(0o600);
  });

  test("lie in a folder, not behind a link, and in none that others may write to", async () => {
    const elsewhere = tempFolder();
    const link = join(tempFolder(), "link");
    symlinkSync(elsewhere, link);
    const open = join(tempFolder(), "open");
    mkdirSync(open);
    const { chmodSync } = await import("node:fs");
    chmodSync(open, 0o777);
    for (const path of [link, open]) {
      const kit = await spoolKit({ path });
      kit.store.isAway = true;
      await expect((async () => kit.spool.ledger.intent(intentOf("a")))()).rejects.toMatchObject({ code: "store_unavailable" });
      expect(kit.codes()).toEqual(["QG_LEDGER_SPOOLING", "QG_LEDGER_SPOOL_CLOSED"]);
    }
    expect(readdirSync(elsewhere)).toEqual([]);
  });

  test("are read through no link", async () => {
    const path = await leftBehind([rowLine(rowOf("a"))]);
    const [name] = spools(path);
    const elsewhere = join(tempFolder(), "file");
    writeFileSync(elsewhere, rowLine(rowOf("b")));
    renameSync(join(path, name as string), join(path, "kept"));
    symlinkSync(elsewhere, join(path, name as string));
    const kit = await spoolKit({ path });
    expect(kit.spool.state().since).toBeNull();
  });
});

test("a row of an older version, which lacks what came later, is read", async () => {
  const { tag: _tag, tried: _tried, ...old } = rowOf("old");
  const path = await leftBehind([rowLine(old as LedgerRow)]);
  const kit = await spoolKit({ path, store: awayLedger((await spoolKit()).clock) });
  await kit.until(() => isDone(kit));
  expect(kit.store.rows.get("old")).toMatchObject({ tried: null, state: "settled" });
});
