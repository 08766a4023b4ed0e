// A Postgres that crashes, freezes and throws us out, under 64 requests at a time: what was acknowledged is there, once.
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import type { LedgerRow } from "../../src/core/ledger.ts";
import type { LedgerStore } from "../../src/core/store.ts";
import { postgresStore } from "../../src/stores/postgres/index.ts";
import { intentOf, rowOf } from "../contracts/ledger-rows.ts";
import { type LogLine, recordingLogger, writer } from "../stores/sqlite-kit.ts";
import { sqlOn } from "../stores/postgres-kit.ts";
import { ServerMissing } from "../setup/server-process.ts";
import { postgresProcess, type PostgresProcess } from "./kit/postgres-process.ts";
import { ownTime } from "../helpers/own-time.ts";

const WORKERS = 64;
const DEADLINE_MS = 1000;
/** What the machine may add to a deadline under this load. */
const SLACK_MS = 1000;
/** How soon requests must be served again, without help. */
const RECOVERY_MS = 8000;

const server: PostgresProcess | undefined = await postgresProcess().catch((error: unknown) => {
  if (error instanceof ServerMissing) return undefined;
  throw error;
});

interface Load {
  readonly intents: string[];
  readonly rows: string[];
  refused: number;
  slowestMs: number;
  /** Whether a request was served since the last time it was set to false. */
  served: boolean;
  stop(): Promise<void>;
}

/** Keeps {@link WORKERS} requests going: an intent, then its row; a third of them never end. */
function load(store: LedgerStore, name: string): Load {
  const state = { intents: [] as string[], rows: [] as string[], refused: 0, slowestMs: 0, served: false, runs: true };
  let count = 0;
  const work = async (): Promise<void> => {
    while (state.runs) {
      const n = (count += 1);
      const id = `${name}-${n}`;
      const sinceAsked = ownTime();
      try {
        await store.ledger.intent(intentOf(id, { at: n }));
        state.intents.push(id);
        state.served = true;
        if (n % 3 !== 0) {
          store.ledger.close(rowOf(id, { at: n }));
          state.rows.push(id);
        }
      } catch {
        state.refused += 1;
        // As a client would that was told to come back.
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      state.slowestMs = Math.max(state.slowestMs, sinceAsked());
    }
  };
  const workers = Array.from({ length: WORKERS }, work);
  return Object.assign(state, {
    async stop() {
      state.runs = false;
      await Promise.all(workers);
    },
  });
}

async function allRows(store: LedgerStore): Promise<readonly LedgerRow[]> {
  const rows: LedgerRow[] = [];
  for await (const page of store.ledger.scan(0)) rows.push(...page);
  return rows;
}

/** Every acknowledged intent and every row is there, once, in the state it must have. */
async function check(store: LedgerStore, { intents, rows }: Load): Promise<void> {
  await store.ledger.flush();
  const found = await allRows(store);
  const states = new Map(found.map((row) => [row.id, row.state]));
  expect(states.size).toBe(found.length);
  expect(intents.filter((id) => !states.has(id))).toEqual([]);
  expect(rows.filter((id) => states.get(id) !== "settled")).toEqual([]);
  const settled = new Set(rows);
  expect(intents.filter((id) => !settled.has(id) && states.get(id) !== "intent")).toEqual([]);
}

const outages = (lines: readonly LogLine[]): string[] => lines.filter((line) => line.message.includes("the ledger")).map((line) => line.level);

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function servedAgain(requests: Load): Promise<number> {
  requests.served = false;
  const startedMs = performance.now();
  await expect.poll(() => requests.served, { timeout: RECOVERY_MS }).toBe(true);
  return performance.now() - startedMs;
}

describe.skipIf(server === undefined)("a Postgres that fails under load", () => {
  const own = server as PostgresProcess;
  let n = 0;
  let schema: string;
  let store: LedgerStore;
  let lines: LogLine[];

  async function open(): Promise<void> {
    schema = `chaos_${(n += 1)}`;
    const recording = recordingLogger();
    lines = recording.lines;
    store = postgresStore(own.url, { schema, deadlineMs: DEADLINE_MS, logger: recording.logger });
    await store.ready();
  }

  const unhandled: unknown[] = [];
  const note = (error: unknown): void => void unhandled.push(error);
  beforeAll(() => void process.on("unhandledRejection", note));
  afterAll(async () => {
    process.off("unhandledRejection", note);
    await own.stop();
    if (unhandled.length > 0) throw new AggregateError(unhandled, "promises were rejected and nobody heard it");
  });

  it("crashes and comes back, five times", async () => {
    await open();
    const requests = load(store, "crash");
    const recoveries: number[] = [];
    for (let round = 0; round < 5; round += 1) {
      await pause(700);
      await own.crash();
      await pause(300);
      await own.restart();
      recoveries.push(await servedAgain(requests));
    }
    await requests.stop();
    await check(store, requests);
    const { intents, rows, refused, slowestMs } = requests;
    console.log(
      `crashes: ${intents.length} intents, ${rows.length} rows, ${refused} refused, slowest ${slowestMs.toFixed(0)} ms, back after ${recoveries.map((ms) => ms.toFixed(0)).join(", ")} ms`,
    );
    expect(slowestMs).toBeLessThan(DEADLINE_MS + SLACK_MS);
    // One line when it goes and one when it is back.
    expect(outages(lines).filter((level) => level === "error").length).toBeLessThanOrEqual(6);
    expect(outages(lines).filter((level) => level === "error").length).toBe(outages(lines).filter((level) => level === "info").length);
    await store.close();
  });

  it("freezes, with all its processes, and thaws", async () => {
    await open();
    const requests = load(store, "freeze");
    for (let round = 0; round < 3; round += 1) {
      await pause(500);
      const pids = (await sqlOn(own.url, "select pid from pg_stat_activity where pid <> pg_backend_pid()")).map((row) => Number(row["pid"]));
      own.freeze();
      for (const pid of pids) process.kill(pid, "SIGSTOP");
      requests.slowestMs = 0;
      await pause(2500);
      expect(requests.slowestMs).toBeLessThan(DEADLINE_MS + SLACK_MS);
      for (const pid of pids) process.kill(pid, "SIGCONT");
      own.thaw();
      await servedAgain(requests);
    }
    await requests.stop();
    await check(store, requests);
    console.log(`freezes: ${requests.intents.length} intents, ${requests.rows.length} rows, ${requests.refused} refused`);
    // What went through while nobody heard it does not stay behind.
    const open_ = requests.intents.length - requests.rows.length;
    await store.ledger.intent(intentOf("last"));
    const [packs] = await sqlOn(own.url, `select count(*)::int as n from ${schema}.quotaguard_intent`);
    expect(packs?.["n"]).toBeLessThanOrEqual(open_ + 1);
    await store.close();
  });

  it("throws all connections out, ten times a second", async () => {
    await open();
    const requests = load(store, "thrown-out");
    let thrown = 0;
    for (let round = 0; round < 40; round += 1) {
      await pause(100);
      const rows = await sqlOn(
        own.url,
        "select pg_terminate_backend(pid) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
      );
      thrown += rows.length;
    }
    await requests.stop();
    await check(store, requests);
    console.log(`thrown out: ${thrown} connections, ${requests.intents.length} intents, ${requests.refused} refused`);
    expect(thrown).toBeGreaterThan(40);
    // They are repeated on another connection before anybody notices; only the one that is thrown out twice in a row is not.
    expect(requests.refused).toBeLessThan(requests.intents.length / 100);
    await store.close();
  });

  it("crashes while processes that write to it are killed: what they acknowledged is there, and their open requests are closed once", async () => {
    schema = `chaos_${(n += 1)}`;
    const url = `${own.url}?schema=${schema}`;
    const acknowledged = { intent: [] as string[], row: [] as string[] };
    for (let round = 0; round < 5; round += 1) {
      const writers = [0, 1].map((one) => writer([url, `r${round}-${one}`, one === 0 ? "intents" : "rows", "1000000"]));
      await Promise.all(writers.map((one) => one.printed(100)));
      await own.crash();
      for (const one of writers) one.child.kill("SIGKILL");
      await Promise.all(writers.map((one) => one.ended));
      for (const line of writers.flatMap((one) => one.lines)) {
        const [what, id] = line.split(" ");
        if (id !== undefined && (what === "intent" || what === "row")) acknowledged[what].push(id);
      }
      await own.restart();
    }
    const recording = recordingLogger();
    store = postgresStore(url, { logger: recording.logger });
    await store.ready();
    const rows = await allRows(store);
    const states = new Map(rows.map((row) => [row.id, row.state]));
    expect(states.size).toBe(rows.length);
    expect(acknowledged.intent.filter((id) => !states.has(id))).toEqual([]);
    expect(acknowledged.row.filter((id) => states.get(id) !== "settled")).toEqual([]);
    expect(rows.filter((row) => row.state === "intent")).toEqual([]);
    const orphans = rows.filter((row) => row.state === "unknown");
    for (const row of orphans) expect(row).toMatchObject({ provenance: "estimated", billedNanoUsd: 12_000_000 });
    console.log(`killed: ${acknowledged.intent.length} intents and ${acknowledged.row.length} rows acknowledged, ${orphans.length} orphans closed`);
    expect(orphans.length).toBeGreaterThan(5);
    await store.close();
  });
});
