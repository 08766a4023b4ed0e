// A Redis that comes back empty: what must not be overspent is closed until its counters are rebuilt from the ledger.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { GuardOptions } from "quotaguard";
import { redisStore } from "quotaguard/stores/redis";
import { sqliteStore } from "quotaguard/stores/sqlite";
import type { LedgerStore, Rule, Store } from "../../src/core/store.ts";
import { systemClock, type Clock } from "../../src/core/time.ts";
import { calendarBounds } from "../../src/limits/calendar.ts";
import { keptLogger } from "../core/context-kit.ts";
import { chat, KEY, OTHER_KEY, testGateway, type TestGateway } from "../helpers/app.ts";
import { ownServer, redisProgram, type OwnServer } from "../stores/redis/own-server.ts";

/** Alice's money is limited; bob's is not, only his requests are. */
const LIMITS: GuardOptions["limits"] = [
  { name: "money", scope: "user", unit: "usd", bucket: { capacity: 0.01, refillPerSec: 0 }, overrides: { bob: -1 } },
  { name: "today", scope: "user", unit: "usd", window: { limit: 0.02, per: "day" }, overrides: { bob: -1 } },
  { name: "rpm", scope: "user", unit: "requests", window: { limit: 1_000, per: "minute" } },
];
const MONEY: Rule = { kind: "bucket", capacity: 1e7, n: 0, d: 1 };
const SOON = { timeout: 8_000, interval: 20 } as const;

let server: OwnServer;
let folder: string;
let logger: ReturnType<typeof keptLogger>;
let store: Store;
let ledger: LedgerStore;
let gateway: TestGateway;
/** Added to the time that has passed. */
let aheadMs = 0;

const clock: Clock = { ...systemClock, monotonic: () => systemClock.monotonic() + aheadMs };

async function start(isLedgerShared: boolean): Promise<void> {
  store = redisStore(server.url, { logger });
  ledger = { ...sqliteStore(join(folder, "rows.db"), { logger }), shared: isLedgerShared };
  await Promise.all([store.ready(), ledger.ready()]);
  gateway = await testGateway({
    clock,
    logger,
    store,
    ledger,
    limits: LIMITS,
    models: [{ name: "gpt-4o-mini", price: { inputPerMtok: 10, outputPerMtok: 20 } }],
  });
}

async function stop(): Promise<void> {
  await gateway.close();
  await Promise.all([store.close(), ledger.close()]);
}

beforeEach(async () => {
  server = await ownServer();
  folder = mkdtempSync(join(tmpdir(), "quotaguard-rebuild-"));
  logger = keptLogger();
  await start(false);
  // By now other processes would have shown themselves.
  aheadMs += 10_000;
});
afterEach(async () => {
  await stop();
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

const ask = async (key = KEY): Promise<readonly [status: number, code: unknown]> => {
  const response = await chat(gateway.url, { model: "gpt-4o-mini", messages: [], max_tokens: 100 }, { key });
  const { error } = (await response.json()) as { error?: { code: string } };
  return [response.status, error?.code ?? null];
};

async function quiet(): Promise<void> {
  await expect.poll(() => gateway.guard.admin.health().openRequests, SOON).toBe(0);
}

/** What is left of alice's limits. */
async function left(): Promise<readonly number[]> {
  const today: Rule = { kind: "calendar", limit: 2e7, bounds: calendarBounds("day", "UTC", Date.now()) };
  const standings = await store.limits.peek([
    { key: "b:money:alice", rule: MONEY },
    { key: "kday.UTC:today:alice", rule: today },
  ]);
  return standings.map(({ available }) => available);
}

const codes = (): unknown[] => logger.lines.map(({ fields }) => fields["code"]).filter((code) => /COUNTERS|REBUILD/.test(String(code)));

describe.skipIf(redisProgram === undefined)("a Redis that comes back empty", () => {
  test("under a running gateway: money waits, requests do not, and every counter stands where it stood", async () => {
    for (let i = 0; i < 3; i += 1) expect(await ask()).toEqual([200, null]);
    await quiet();
    const before = await left();
    expect(before[0]).toBeLessThan(1e7);

    await server.kill();
    await server.restart();
    const startedAt = performance.now();
    expect([await ask(), await ask(OTHER_KEY)]).toEqual([
      [503, "store_unavailable"],
      [200, null],
    ]);
    // Asked until the gateway is connected again and has found out.
    await expect.poll(async () => (await ask(), codes()), SOON).toEqual(["QG_COUNTERS_LOST", "QG_COUNTERS_REBUILT"]);
    expect(performance.now() - startedAt).toBeLessThan(5_000);
    await quiet();
    const served = (await gateway.guard.ledger.list({ scopes: { user: "alice" }, state: "settled" })).map((row) => row.billedNanoUsd as number);
    const spent = served.reduce((sum, cost) => sum + cost, 0);
    expect(await left()).toEqual([1e7 - spent, 2e7 - spent]);
    expect(before).toEqual([1e7 - 3 * (served[0] as number), 2e7 - 3 * (served[0] as number)]);
    expect(await ask()).toEqual([200, null]);
  });

  test("while no gateway ran: the next one finds out before it serves", async () => {
    for (let i = 0; i < 3; i += 1) await ask();
    await quiet();
    const before = await left();
    await stop();
    await server.kill();
    await server.restart();
    // A file of all processes there are: nobody has to be waited for.
    await start(true);
    await expect.poll(codes, SOON).toEqual(["QG_COUNTERS_LOST", "QG_COUNTERS_REBUILT"]);
    expect(await left()).toEqual(before);
    expect(await ask()).toEqual([200, null]);
  });
});
