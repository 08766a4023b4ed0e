import { DatabaseSync } from "node:sqlite";

import { describe, expect, it } from "vitest";

import type { LedgerRow } from "../../src/core/ledger.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { tempFolder, writer } from "./sqlite-kit.ts";

const ROUNDS = 30;
const AT_ONCE = 3;

const acknowledged = (lines: readonly string[], what: string): string[] =>
  lines.filter((line) => line.startsWith(`${what} `)).map((line) => line.slice(what.length + 1));

/** Opens the file as the next process would and takes out all rows. */
async function recovered(path: string): Promise<readonly LedgerRow[]> {
  const store = sqliteStore(path);
  await store.ready();
  const rows = await store.ledger.list({});
  await store.close();
  const db = new DatabaseSync(path);
  expect(db.prepare("pragma integrity_check").get()?.["integrity_check"]).toBe("ok");
  expect(db.prepare("select count(*) as n from quotaguard_intent").get()?.["n"]).toBe(0);
  db.close();
  return rows;
}

describe("kill -9", () => {
  it(`loses no acknowledged row and doubles none, ${ROUNDS} times`, { timeout: 120_000 }, async () => {
    const path = `${tempFolder()}/crash.db`;
    const intents: string[] = [];
    const ended: string[] = [];
    for (let round = 0; round < ROUNDS; round += AT_ONCE) {
      // Several processes on one file, each killed at another moment: after its n-th line, in the middle of whatever it does then.
      await Promise.all(
        Array.from({ length: AT_ONCE }, async (_, n) => {
          const one = writer([path, `round${round + n}`, (round + n) % 3 === 0 ? "intents" : "rows", "1000000"]);
          await one.printed(2 + (((round + n) * 37) % 400));
          one.child.kill("SIGKILL");
          await one.ended;
          expect(one.child.signalCode).toBe("SIGKILL");
          intents.push(...acknowledged(one.lines, "intent"));
          ended.push(...acknowledged(one.lines, "row"));
        }),
      );
    }
    const rows = await recovered(path);
    const states = new Map(rows.map((row) => [row.id, row.state]));
    expect(states.size).toBe(rows.length);
    expect(intents.length).toBeGreaterThan(ROUNDS * 20);
    expect(intents.filter((id) => !states.has(id))).toEqual([]);
    expect(ended.filter((id) => states.get(id) !== "settled")).toEqual([]);
    const orphans = rows.filter((row) => row.state !== "settled");
    expect(orphans.length).toBeGreaterThan(ROUNDS);
    for (const row of orphans) expect(row).toMatchObject({ state: "unknown", provenance: "estimated", billedNanoUsd: 12_000_000 });
  });

  it("does not touch the open requests of a process that lives", async () => {
    const path = `${tempFolder()}/alive.db`;
    const alive = writer([path, "alive", "idle", "5"]);
    await alive.printed(24);
    const killed = writer([path, "killed", "intents", "1000000"]);
    await killed.printed(50);
    killed.child.kill("SIGKILL");
    await killed.ended;

    const store = sqliteStore(path);
    await store.ready();
    const rows = await store.ledger.list({});
    await store.close();
    const open = rows.filter((row) => row.state === "intent").map((row) => row.id);
    const left = acknowledged(alive.lines, "intent").filter((id) => !acknowledged(alive.lines, "row").includes(id));
    expect(open.sort()).toEqual(left.sort());
    expect(open.length).toBeGreaterThan(0);
    for (const id of acknowledged(killed.lines, "intent")) expect(rows.find((row) => row.id === id)?.state).toBe("unknown");
  });
});

describe("several processes", () => {
  it("start on a new file at the same time and all their rows are there", { timeout: 60_000 }, async () => {
    const path = `${tempFolder()}/together.db`;
    const writers = Array.from({ length: 4 }, (_, n) => writer([path, `p${n}`, "records", "200"]));
    expect(await Promise.all(writers.map((one) => one.ended))).toEqual([0, 0, 0, 0]);
    const rows = await recovered(path);
    const states = new Map(rows.map((row) => [row.id, row.state]));
    expect(states.size).toBe(rows.length);
    for (const one of writers) {
      expect(acknowledged(one.lines, "intent")).toHaveLength(600);
      for (const id of acknowledged(one.lines, "row")) expect(states.get(id)).toBe("settled");
    }
    // Each closed its own rest when it ended.
    expect(rows).toHaveLength(4 * 600);
    expect(rows.filter((row) => row.state === "intent")).toEqual([]);
    const store = sqliteStore(path);
    await store.ready();
    const versions = (await store.records.list("p")).map((record) => record.version);
    expect(new Set(versions).size).toBe(4 * 200);
    await store.close();
  });
});
