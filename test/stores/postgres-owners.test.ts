import pg from "pg";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";

import type { LedgerStore } from "../../src/core/store.ts";
import type { Clock } from "../../src/core/time.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { AT, intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { testServer } from "../setup/test-server.ts";
import { countOf, openedStore, ownSchema, sqlOn } from "./postgres-kit.ts";
import { recordingLogger } from "./sqlite-kit.ts";

const server = (await testServer("postgres")) as string;

/** Above Linux' largest process id. */
const NO_PROCESS = 2 ** 22 + 1;
const LOOK_MS = 10_000;

let schema: string;

const opened = (clock: Clock, logger = recordingLogger().logger): Promise<LedgerStore> => openedStore(server, { schema, clock, logger });

const states = async (store: LedgerStore): Promise<unknown> => (await store.ledger.list({})).map((row) => [row.id, row.state]);

const pretend = (host?: string): Promise<unknown> =>
  sqlOn(server, `update ${schema}.quotaguard_owner set pid = $1, host = coalesce($2, host)`, [NO_PROCESS, host ?? null]);

const beatOf = async (): Promise<number> => Number((await sqlOn(server, `select sum(beat) as sum from ${schema}.quotaguard_owner`))[0]?.["sum"]);

/** Lets the clock's owner beat and look once, and waits until it has. */
async function look(clock: TestClock, store: LedgerStore): Promise<void> {
  const before = await beatOf();
  clock.advance(LOOK_MS);
  await expect.poll(beatOf).not.toBe(before);
  // Recovering follows the beat; the upkeep's timer starts anew when both are done.
  await expect.poll(() => clock.pending()).toBe(timers.get(store));
}
const timers = new Map<LedgerStore, number>();

describe.skipIf(server === undefined)("several Postgres stores on one schema", () => {
  beforeEach(() => {
    schema = ownSchema(server);
  });

  it("leave each other's live intents alone and see each other's rows", async () => {
    const clocks = [testClock({ now: AT }), testClock({ now: AT })] as const;
    const [a, b] = [await opened(clocks[0]), await opened(clocks[1])];
    timers.set(a, clocks[0].pending()).set(b, clocks[1].pending());
    await a.ledger.intent(intentOf("of-a"));
    await b.ledger.intent(intentOf("of-b"));
    for (let n = 0; n < 6; n += 1) {
      await look(clocks[0], a);
      await look(clocks[1], b);
    }
    expect(await states(b)).toEqual([
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

  it("close the intents of an owner whose process is gone when the next one starts", async () => {
    const dead = await opened(testClock({ now: AT }));
    await Promise.all([
      dead.ledger.intent(intentOf("priced", { held: { usd: 77 }, stream: true, credential: "first" })),
      dead.ledger.intent(intentOf("unpriced", { held: { requests: 1 } })),
      dead.ledger.intent(intentOf("ended")),
    ]);
    await dead.ledger.intent(intentOf("priced", { held: { usd: 77 }, stream: true }));
    dead.ledger.close(rowOf("ended"));
    await dead.ledger.flush();
    await pretend();

    const { logger, lines } = recordingLogger();
    const next = await opened(testClock({ now: AT }), logger);
    expect(await states(next)).toEqual([
      ["unpriced", "unknown"],
      ["priced", "unknown"],
      ["ended", "settled"],
    ]);
    expect(await next.ledger.get("priced")).toMatchObject({
      ...intentOf("priced", { held: { usd: 77 }, stream: true }),
      provenance: "estimated",
      attempts: 1,
      rawNanoUsd: null,
      billedNanoUsd: 77,
      usage: null,
      code: null,
    });
    expect((await next.ledger.get("unpriced"))?.billedNanoUsd).toBeNull();
    expect([await countOf(server, schema, "intent"), await countOf(server, schema, "owner")]).toEqual([0, 1]);
    expect(lines).toEqual([
      { level: "warn", fields: { requests: 2 }, message: "closed the open requests of a process that died: state unknown, charged as held" },
    ]);
  });

  it("do not trust a process id of another machine, and close its intents after 30 s without a beat", async () => {
    const [ownClock, clock] = [testClock({ now: AT }), testClock({ now: AT })];
    const elsewhere = await opened(ownClock);
    timers.set(elsewhere, ownClock.pending());
    await elsewhere.ledger.intent(intentOf("i"));
    await pretend("another-machine");
    const here = await opened(clock);
    timers.set(here, clock.pending());
    // A wall clock that jumps is no silence.
    clock.set(AT + 48 * 3_600_000);
    for (let n = 0; n < 2; n += 1) await look(clock, here);
    expect(await states(here)).toEqual([["i", "intent"]]);
    await look(ownClock, elsewhere);
    for (let n = 0; n < 3; n += 1) await look(clock, here);
    expect(await states(here)).toEqual([["i", "intent"]]);
    await look(clock, here);
    expect(await states(here)).toEqual([["i", "unknown"]]);
  });

  it("one that was only asleep goes on, and its requests keep the one end they have", async () => {
    const [sleeper, clock] = [testClock({ now: AT }), testClock({ now: AT })];
    let sleptMs = 0;
    const { logger, lines } = recordingLogger();
    const asleep = await opened({ ...sleeper, monotonic: () => sleeper.monotonic() + sleptMs }, logger);
    timers.set(asleep, sleeper.pending());
    await Promise.all([asleep.ledger.intent(intentOf("old-1")), asleep.ledger.intent(intentOf("old-2"))]);
    await pretend("another-machine");
    const here = await opened(clock);
    timers.set(here, clock.pending());
    for (let n = 0; n < 4; n += 1) await look(clock, here);
    const unknown = ["old-2", "old-1"].map((id) => [id, "unknown"]);
    expect(await states(here)).toEqual(unknown);

    // It wakes in the middle of a request: time has passed, but its timers have not run yet.
    sleptMs = 40_000;
    await asleep.ledger.intent(intentOf("new", { at: AT + 2 }));
    expect(await countOf(server, schema, "owner")).toBe(2);
    asleep.ledger.close(rowOf("old-1"));
    asleep.ledger.close(rowOf("old-2"));
    await asleep.ledger.flush();
    await asleep.ledger.intent(intentOf("newer", { at: AT + 3 }));
    for (let n = 0; n < 5; n += 1) {
      expect(await states(here)).toEqual([...["newer", "new"].map((id) => [id, "intent"]), ...unknown]);
      await look(clock, here);
      await look(sleeper, asleep);
    }
    expect(lines.map((line) => line.message)).toEqual([
      "another process took this one for dead: the requests that were open stand as unknown, charged as held",
    ]);
  });

  it("close a long list of intents in several transactions, two of them at the same time, each request once", async () => {
    const dead = await opened(testClock({ now: AT }));
    for (let n = 0; n < 450; n += 1) await dead.ledger.intent(intentOf(`i${n}`));
    await pretend();
    const logs = [recordingLogger(), recordingLogger(), recordingLogger()];
    const [next] = await Promise.all(logs.map(({ logger }) => opened(testClock({ now: AT }), logger)));
    expect((await next?.ledger.list({ state: "unknown" }))?.length).toBe(450);
    expect(await countOf(server, schema, "intent")).toBe(0);
    const closed = logs.flatMap(({ lines }) => lines.map((line) => Number(line.fields["requests"])));
    expect(closed.reduce((sum, one) => sum + one, 0)).toBe(450);
  });

  it("show an owner's life against a verdict that was reached before it", async () => {
    const [ownClock, clock] = [testClock({ now: AT }), testClock({ now: AT })];
    const elsewhere = await opened(ownClock);
    timers.set(elsewhere, ownClock.pending());
    await elsewhere.ledger.intent(intentOf("i"));
    await pretend("another-machine");
    const here = await opened(clock);
    timers.set(here, clock.pending());
    for (let n = 0; n < 2; n += 1) await look(clock, here);
    // Its beat is on its way at the moment of the verdict.
    const beating = new pg.Client({ connectionString: server });
    await beating.connect();
    onTestFinished(() => beating.end());
    await beating.query(`begin; update ${schema}.quotaguard_owner set beat = beat + 1 where host = 'another-machine'`);
    clock.advance(LOOK_MS);
    const waiting = "select count(*)::int as n from pg_stat_activity where wait_event_type = 'Lock' and query like $1";
    await expect.poll(async () => (await sqlOn(server, waiting, [`delete from "${schema}".%`]))[0]?.["n"]).toBe(1);
    await beating.query("commit");
    await expect.poll(() => clock.pending()).toBe(timers.get(here));
    expect(await states(here)).toEqual([["i", "intent"]]);
    expect(await countOf(server, schema, "owner")).toBe(2);
  });
});
