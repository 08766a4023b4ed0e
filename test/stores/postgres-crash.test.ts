import { describe, expect, it } from "vitest";

import type { LedgerRow } from "../../src/core/ledger.ts";
import { testServer } from "../setup/test-server.ts";
import { countOf, openedStore, ownSchema } from "./postgres-kit.ts";
import { writer } from "./sqlite-kit.ts";

const server = (await testServer("postgres")) as string;

const ROUNDS = 3;
const AT_ONCE = 3;

const acknowledged = (lines: readonly string[], what: string): string[] =>
  lines.filter((line) => line.startsWith(`${what} `)).map((line) => line.slice(what.length + 1));

function inSchema(schema: string): string {
  const url = new URL(server);
  url.searchParams.set("schema", schema);
  return url.href;
}

/** Opens the ledger as the next process would, which closes what dead ones left open. */
async function recovered(schema: string): Promise<readonly LedgerRow[]> {
  return (await openedStore(server, { schema })).ledger.list({});
}

describe.skipIf(server === undefined)("kill -9 of processes that write to Postgres", () => {
  it(`loses no acknowledged row and doubles none, ${ROUNDS} times`, { timeout: 60_000 }, async () => {
    const schema = ownSchema(server);
    const intents: string[] = [];
    const ended: string[] = [];
    for (let round = 0; round < ROUNDS; round += AT_ONCE) {
      // Several processes on one schema, the first ones on a new one; each is killed at another moment, in the middle of whatever it does then.
      await Promise.all(
        Array.from({ length: AT_ONCE }, async (_, n) => {
          const one = writer([inSchema(schema), `round${round + n}`, (round + n) % 3 === 0 ? "intents" : "records", "1000000"]);
          await one.printed(2 + (((round + n) * 37) % 400));
          one.child.kill("SIGKILL");
          await one.ended;
          expect(one.child.signalCode).toBe("SIGKILL");
          intents.push(...acknowledged(one.lines, "intent"));
          ended.push(...acknowledged(one.lines, "row"));
        }),
      );
    }
    const rows = await recovered(schema);
    const states = new Map(rows.map((row) => [row.id, row.state]));
    expect(states.size).toBe(rows.length);
    expect(intents.length).toBeGreaterThan(ROUNDS * 20);
    expect(intents.filter((id) => !states.has(id))).toEqual([]);
    expect(ended.filter((id) => states.get(id) !== "settled")).toEqual([]);
    const orphans = rows.filter((row) => row.state !== "settled");
    expect(orphans.length).toBeGreaterThan(ROUNDS);
    for (const row of orphans) expect(row).toMatchObject({ state: "unknown", provenance: "estimated", billedNanoUsd: 12_000_000 });
    // Its own entry and no pack.
    expect([await countOf(server, schema, "intent"), await countOf(server, schema, "owner")]).toEqual([0, 1]);
  });

  it("a process that forgets to close its store ends by itself, and the next one closes its requests", async () => {
    const schema = ownSchema(server);
    const forgetful = writer([inSchema(schema), "left", "left", "3"]);
    expect(await forgetful.ended).toBe(0);
    const rows = await recovered(schema);
    for (const id of acknowledged(forgetful.lines, "intent")) expect(rows.find((row) => row.id === id)?.state).not.toBe("intent");
    expect(rows.map((row) => row.state)).toContain("unknown");
  });

  it("does not touch the open requests of a process that lives", { timeout: 30_000 }, async () => {
    const schema = ownSchema(server);
    const alive = writer([inSchema(schema), "alive", "idle", "5"]);
    await alive.printed(24);
    const killed = writer([inSchema(schema), "killed", "intents", "1000000"]);
    await killed.printed(50);
    killed.child.kill("SIGKILL");
    await killed.ended;

    const rows = await recovered(schema);
    const open = rows.filter((row) => row.state === "intent").map((row) => row.id);
    const left = acknowledged(alive.lines, "intent").filter((id) => !acknowledged(alive.lines, "row").includes(id));
    expect(open.sort()).toEqual(left.sort());
    expect(open.length).toBeGreaterThan(0);
    for (const id of acknowledged(killed.lines, "intent")) expect(rows.find((row) => row.id === id)?.state).toBe("unknown");
  });
});
