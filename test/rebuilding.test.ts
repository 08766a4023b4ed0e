import { beforeEach, describe, expect, test } from "vitest";
import type { Logger } from "../src/core/logger.ts";
import type { Charge } from "../src/core/store.ts";
import type { LimitDefinition } from "../src/limits/limit.ts";
import { chargeOf, planner } from "../src/limits/plan.ts";
import { limitRegistry, type LimitRegistry } from "../src/limits/registry.ts";
import { rebuilding, type Rebuilding, type RebuildingOptions } from "../src/rebuilding.ts";
import { memoryRecords } from "../src/stores/memory-records.ts";
import { testClock, type TestClock } from "../src/testing/clock.ts";
import { definition, FACTS } from "./limits/definition-kit.ts";
import { row } from "./limits/replay-kit.ts";
import { lastingLedger, server, settled, type LastingLedger, type Node, type Server } from "./rebuilding-kit.ts";

const T = Date.UTC(2026, 10, 3, 12);
const HOUR = 3_600_000;
const DAY = 24 * HOUR;

const MONEY = definition({ name: "money", unit: "usd", kind: { bucket: { capacity: 1, refillPerSec: 0.000_25 } } });
const RPM = definition({ name: "rpm", unit: "requests", onStoreError: "local", kind: { window: { limit: 100, per: 60_000, timeZone: "UTC" } } });
/** Twice from empty to full. */
const EXPIRY_MS = 8_000_000;
const FROZEN = definition({ name: "frozen", unit: "usd", kind: { bucket: { capacity: 5, refillPerSec: 0 } } });
const TODAY = definition({ name: "today", unit: "usd", kind: { window: { limit: 9, per: "day", timeZone: "UTC" } } });

let clock: TestClock;
let store: Server;
let ledger: LastingLedger;
beforeEach(() => {
  clock = testClock({ now: T });
  store = server(clock);
  ledger = lastingLedger(clock);
});

interface Process extends Node {
  readonly registry: LimitRegistry;
  readonly rebuilding: Rebuilding;
  /** Codes of its lines about counters. */
  readonly lines: string[];
  readonly fields: Record<string, unknown>[];
  /** A request that costs so much; its state, or the code of its refusal. */
  request(usd: number, options?: { readonly names?: readonly string[]; readonly user?: string }): string;
  left(name?: string): number;
}

let requests = 0;

function process(name: string, limits: readonly LimitDefinition[] = [MONEY, RPM], more: Partial<RebuildingOptions> = {}): Process {
  const lines: string[] = [];
  const fields: Record<string, unknown>[] = [];
  const log = (given: object, message: string): void => {
    lines.push((given as { code?: string }).code ?? message);
    fields.push(given as Record<string, unknown>);
  };
  const logger: Logger = { debug: log, info: log, warn: log, error: log };
  const records = memoryRecords(clock.now, logger);
  const registry = limitRegistry({ records, clock, logger });
  for (const limit of limits) registry.add(limit);
  const node = store.node(name);
  const all = limits.map((limit) => limit.name);
  const charges = (names: readonly string[], usd: number, user: string): Charge[] =>
    planner({ registry, names, requiredByDefault: false })
      .plan({ user }, { route: "r", model: null, key: null })
      .map((planned) => chargeOf(planned, planned.limit.definition.unit === "usd" ? usd * 1e9 : 1, FACTS, clock.now()) as Charge);
  return {
    ...node,
    registry,
    lines,
    fields,
    rebuilding: rebuilding({
      continuity: node.continuity,
      registry,
      declared: () => [],
      records,
      resolve: (model) => model,
      ledger,
      isLedgerShared: true,
      nodes: () => 1,
      memo: ledger.records,
      clock,
      logger,
      ...more,
    }),
    request(usd, { names = all, user = "alice" } = {}) {
      const opId = `op${(requests += 1)}`;
      const asked = charges(names, usd, user);
      try {
        const answer = node.limits.reserve(opId, asked, 60_000) as { kind: string };
        if (answer.kind !== "allowed") return answer.kind;
      } catch (error) {
        return (error as { code: string }).code;
      }
      const held = Object.fromEntries(asked.map(({ unit, amount }) => [unit, amount]));
      const open = row({ id: opId, at: clock.now(), scopes: { user }, route: "r", model: null, dialect: null, key: null, held });
      void ledger.intent({ ...open });
      void node.limits.settle(opId, { usd: usd * 1e9 });
      ledger.close({ ...open, billedNanoUsd: usd * 1e9 });
      return "served";
    },
    left: (of = "money") => (store.limits.peek(charges([of], 0, "alice").map(({ key, rule }) => ({ key, rule })))[0]?.available ?? NaN) / 1e9,
  };
}

async function started(name: string, ...rest: readonly [limits?: readonly LimitDefinition[], more?: Partial<RebuildingOptions>]): Promise<Process> {
  const it = process(name, ...rest);
  await it.rebuilding.start();
  await settled();
  return it;
}

/** Empties the server and lets a process notice it. */
function lose(noticedBy: Process): void {
  store.lose();
  expect(noticedBy.request(0.1)).toBe("store_unavailable");
}

const count = (of: Process, code: string): number => of.lines.filter((line) => line === code).length;

describe("a store that comes back empty", () => {
  test("closes what must not be overspent until it stands where it stood; all else goes on", async () => {
    const it = await started("a");
    expect([it.request(0.3), it.request(0.25)]).toEqual(["served", "served"]);
    clock.advance(60_000);
    const before = it.left();
    const open = ledger.hold();
    lose(it);
    await settled();
    expect([it.request(0.1), it.request(0, { names: ["rpm"] }), it.continuity.isWhole]).toEqual(["store_unavailable", "served", false]);
    open();
    await settled();
    expect(it.continuity.isWhole).toBe(true);
    expect(it.left()).toBe(before);
    expect([it.request(0.5), it.request(0.1)]).toEqual(["limited", "served"]);
    expect([it.lines, it.fields[0]?.limits]).toEqual([["QG_COUNTERS_LOST", "QG_COUNTERS_REBUILT"], ["money"]]);
    expect(it.fields[1]).toMatchObject({ counters: 1, rows: 3, byHand: false });
  });

  test("is found out at the start, too", async () => {
    const before = await started("a");
    before.request(0.75);
    before.rebuilding.close();
    store.lose();
    const after = await started("b");
    expect(after.lines).toEqual(["QG_COUNTERS_LOST", "QG_COUNTERS_REBUILT"]);
    expect(after.left()).toBe(0.25);
    const third = await started("c");
    expect([third.lines, store.begun.at(-1)]).toEqual([[], "e2"]);
  });

  test("is a new one where no other was seen before", async () => {
    const it = await started("a", undefined, { memo: null });
    expect([it.lines, it.continuity.isWhole, store.begun]).toEqual([[], true, [null]]);
  });

  test("keeps charged what was on its way, though it ends behind the scan", async () => {
    const it = await started("a");
    const open = row({ at: clock.now(), scopes: { user: "alice" }, held: { usd: 4e8 }, state: "intent" });
    await ledger.intent(open);
    lose(it);
    await settled();
    ledger.close({ ...open, state: "settled", billedNanoUsd: 1 });
    expect([it.continuity.isWhole, it.left()]).toEqual([true, 0.6]);
  });

  test("rebuilds thousands of counters in parts", async () => {
    const it = await started("a");
    for (let i = 0; i < 1_201; i += 1) it.request(0.5, { names: ["money"], user: `u${i}` });
    lose(it);
    await settled();
    expect(store.restored.map(({ keys }) => keys.length)).toEqual([500, 500, 201]);
    expect(it.fields.at(-1)).toMatchObject({ counters: 1_201, rows: 1_201 });
  });

  test("is rebuilt for limits of routes that nobody has called yet", async () => {
    const it = await started("a", [MONEY], { declared: () => [TODAY] });
    const held = { usd: 1e9 };
    ledger.close(row({ at: T, scopes: { user: "alice" }, held, billedNanoUsd: 1e9 }));
    lose(it);
    await settled();
    expect([it.left("today"), it.fields[0]?.limits]).toEqual([8, ["money", "today"]]);
  });

  test("starts from what a bucket must have had where rows are older than what is read", async () => {
    const it = await started("a");
    // As much as it refills, all the time: the rows that are read (eight times as far as it takes to fill up) tell no more than that it never was in debt.
    for (let ms = 40_000_000; ms >= 0; ms -= 1_000_000)
      ledger.close(row({ at: T - ms, scopes: { user: "alice" }, held: { usd: 25e7 }, billedNanoUsd: 25e7 }));
    lose(it);
    await settled();
    expect([ledger.scans, it.left()]).toEqual([[T - 32_000_000], -0.25]);
  });

  test("begins anew when a limit changes meanwhile", async () => {
    const it = await started("a");
    it.request(0.5);
    const open = ledger.hold();
    lose(it);
    await settled();
    await it.registry.set("money", "alice", { limit: 2, until: null });
    open();
    await settled();
    clock.advance(1);
    await settled();
    expect([ledger.scans.length, it.continuity.isWhole, it.left()]).toEqual([2, true, 1.500_000_25]);
  });

  test("begins anew when it is emptied once more", async () => {
    const it = await started("a");
    it.request(0.5);
    const open = ledger.hold();
    lose(it);
    await settled();
    store.lose();
    open();
    await settled();
    clock.advance(1_000);
    await settled();
    expect([it.continuity.isWhole, it.left(), count(it, "QG_COUNTERS_LOST")]).toEqual([true, 0.500_25, 2]);
    lose(it);
    await settled();
    expect([it.continuity.isWhole, count(it, "QG_COUNTERS_LOST"), count(it, "QG_COUNTERS_REBUILT")]).toEqual([true, 3, 2]);
  });
});

describe("two processes", () => {
  test("rebuild once: the other one waits, sees that it is done and overwrites nothing", async () => {
    const [a, b] = [await started("a"), await started("b")];
    a.request(0.4);
    const open = ledger.hold();
    lose(a);
    await settled();
    expect(b.request(0.1)).toBe("store_unavailable");
    await settled();
    expect(store.claims).toEqual(["a", "b"]);
    open();
    await settled();
    expect([a.continuity.isWhole, b.continuity.isWhole]).toEqual([true, false]);
    expect(a.request(0.1)).toBe("served");
    clock.advance(1_000);
    await settled();
    expect([b.continuity.isWhole, b.left() < 0.501, ledger.scans.length]).toEqual([true, true, 1]);
    expect(store.restored.map(({ node }) => node)).toEqual(["a"]);
    expect(a.lines).toEqual(["QG_COUNTERS_LOST", "QG_COUNTERS_REBUILT"]);
    expect(b.lines).toEqual(["QG_COUNTERS_LOST", "QG_COUNTERS_REBUILT"]);
    expect(b.fields[1]).toMatchObject({ by: "another process" });
  });

  test("go on when the one that rebuilds dies in the middle", async () => {
    const [a, b] = [await started("a"), await started("b")];
    a.request(0.4);
    const open = ledger.hold();
    lose(a);
    await settled();
    a.rebuilding.close();
    open();
    expect(b.request(0.1)).toBe("store_unavailable");
    for (let seconds = 0; seconds < 14; seconds += 1) {
      clock.advance(1_000);
      await settled();
    }
    expect([store.restored, b.continuity.isWhole]).toEqual([[], false]);
    clock.advance(1_000);
    await settled();
    expect([store.restored.map(({ node }) => node), b.continuity.isWhole]).toEqual([["b"], true]);
  });

  test("do not write when another one has taken over a rebuild that stood still", async () => {
    const [a, b] = [await started("a"), await started("b")];
    a.request(0.4);
    let stall = true;
    const { claim } = a.continuity;
    Object.assign(a.continuity, { claim: (ttlMs: number) => (stall ? Promise.reject(new Error("stands still")) : claim(ttlMs)) });
    stall = false;
    const open = ledger.hold();
    lose(a);
    await settled();
    stall = true;
    for (let seconds = 0; seconds < 16; seconds += 1) {
      clock.advance(1_000);
      await settled();
    }
    expect(b.request(0.1)).toBe("store_unavailable");
    stall = false;
    open();
    await settled();
    clock.advance(1_000);
    await settled();
    expect(store.restored.map(({ node }) => node)).toEqual(["b"]);
    expect([a.continuity.isWhole, b.continuity.isWhole]).toEqual([true, true]);
  });

  test("prolong the right during a long scan", async () => {
    const [a, b] = [await started("a"), await started("b")];
    const open = ledger.hold();
    lose(a);
    await settled();
    expect(b.request(0.1)).toBe("store_unavailable");
    for (let seconds = 0; seconds < 40; seconds += 1) {
      clock.advance(1_000);
      await settled();
    }
    expect(ledger.scans).toHaveLength(1);
    open();
    await settled();
    expect(a.continuity.isWhole).toBe(true);
  });
});

describe("a ledger that does not know everything", () => {
  test("keeps all strict limits closed until what it does not know has expired, and says so once", async () => {
    ledger.since = T - HOUR;
    const it = await started("a", [MONEY, TODAY, RPM]);
    it.request(0.5, { names: ["money", "today"] });
    lose(it);
    await settled();
    expect(it.lines).toEqual(["QG_COUNTERS_LOST", "QG_REBUILD_INCOMPLETE"]);
    expect(it.fields[1]?.limits).toEqual([
      { limit: "money", opensAt: new Date(T - HOUR + EXPIRY_MS).toISOString() },
      { limit: "today", opensAt: new Date(T + DAY / 2).toISOString() },
    ]);
    expect([it.request(0.1, { names: ["money"] }), it.request(0, { names: ["rpm"] })]).toEqual(["store_unavailable", "served"]);
    for (let minutes = 0; minutes < 12 * 60 - 1; minutes += 10) {
      clock.advance(600_000 - (minutes === 0 ? 1 : 0));
      await settled();
    }
    expect([it.continuity.isWhole, it.lines.length]).toEqual([false, 2]);
    clock.advance(1);
    await settled();
    expect([it.continuity.isWhole, it.lines.at(-1), it.left("today"), it.left()]).toEqual([true, "QG_COUNTERS_REBUILT", 9, 1]);
  });

  test("never opens what does not refill, but an operator does", async () => {
    ledger.since = T - 400 * DAY;
    const it = await started("a", [FROZEN]);
    it.request(2);
    lose(it);
    await settled();
    expect(it.fields.at(-1)).toMatchObject({ code: "QG_REBUILD_INCOMPLETE", limits: [{ limit: "frozen", opensAt: null }] });
    await it.rebuilding.openCounters();
    await settled();
    expect([it.continuity.isWhole, it.left("frozen"), it.lines.at(-1)]).toEqual([true, 3, "QG_COUNTERS_REBUILT"]);
    expect(it.fields.at(-1)).toMatchObject({ byHand: true });
    // Nobody else has done it.
    expect(it.lines.filter((code) => code === "QG_COUNTERS_REBUILT")).toHaveLength(1);
    const before = ledger.scans.length;
    await it.rebuilding.openCounters();
    expect(ledger.scans).toHaveLength(before);
  });

  test("may be opened by nobody while another process rebuilds", async () => {
    const [a, b] = [await started("a"), await started("b")];
    const open = ledger.hold();
    lose(a);
    expect(b.request(0.1)).toBe("store_unavailable");
    await settled();
    await expect(b.rebuilding.openCounters()).rejects.toMatchObject({ code: "store_unavailable", retryAfterMs: 15_000 });
    open();
  });

  test("of one's own is enough while no other process has one", async () => {
    const own: Partial<RebuildingOptions> = { isLedgerShared: false, nodes: () => 1 };
    const it = await started("a", undefined, own);
    clock.advance(10_000);
    it.request(0.5);
    lose(it);
    await settled();
    expect([it.continuity.isWhole, it.left()]).toEqual([true, 0.5]);
  });

  test("of one's own waits at first until other processes would have shown themselves", async () => {
    const it = await started("a", [MONEY], { isLedgerShared: false, nodes: () => 1 });
    lose(it);
    await settled();
    clock.advance(9_999);
    await settled();
    expect([it.lines, it.continuity.isWhole]).toEqual([["QG_COUNTERS_LOST"], false]);
    clock.advance(1);
    await settled();
    expect(it.continuity.isWhole).toBe(true);
  });

  test("of one's own does not tell what others spent who are gone by now", async () => {
    let nodes = 2;
    const it = await started("a", [MONEY], { isLedgerShared: false, nodes: () => nodes });
    clock.advance(60_000);
    await settled();
    nodes = 1;
    clock.advance(60_000);
    it.request(0.5);
    lose(it);
    await settled();
    expect(it.fields.at(-1)).toMatchObject({ code: "QG_REBUILD_INCOMPLETE", limits: [{ opensAt: new Date(T + 60_000 + EXPIRY_MS).toISOString() }] });
    expect([it.request(0.1), it.continuity.isWhole]).toEqual(["store_unavailable", false]);
    clock.advance(EXPIRY_MS - 60_000);
    await settled();
    expect(it.continuity.isWhole).toBe(true);
  });

  test("of one's own is enough where another process only came and went", async () => {
    let nodes = 1;
    const it = await started("a", [MONEY], { isLedgerShared: false, nodes: () => nodes });
    clock.advance(9_000);
    nodes = 2;
    clock.advance(2_000);
    nodes = 1;
    clock.advance(60_000);
    it.request(0.5);
    lose(it);
    await settled();
    expect([it.continuity.isWhole, it.left()]).toEqual([true, 0.5]);
  });

  test("of one's own beside others opens when what they spent has expired, also after a restart", async () => {
    const own: Partial<RebuildingOptions> = { isLedgerShared: false, nodes: () => 2 };
    const it = await started("a", [MONEY], own);
    it.request(0.5);
    lose(it);
    await settled();
    expect(it.fields.at(-1)).toMatchObject({ limits: [{ limit: "money", opensAt: new Date(T + EXPIRY_MS).toISOString() }] });
    it.rebuilding.close();
    clock.advance(HOUR);
    const next = await started("b", [MONEY], own);
    expect(next.fields.at(-1)).toMatchObject({ limits: [{ limit: "money", opensAt: new Date(T + EXPIRY_MS).toISOString() }] });
    for (let minutes = 0; minutes < 75; minutes += 1) {
      clock.advance(60_000);
      await settled();
    }
    expect(next.continuity.isWhole).toBe(true);
  });
});

describe("trouble on the way", () => {
  test("is told once and tried again, from 1 s up to 30 s apart", async () => {
    const it = await started("a");
    ledger.failures = 7;
    lose(it);
    await settled();
    const tries: number[] = [];
    for (let seconds = 1; seconds <= 125; seconds += 1) {
      const before = ledger.failures;
      clock.advance(1_000);
      await settled();
      if (ledger.failures !== before || (it.continuity.isWhole && tries.length < 7)) tries.push(seconds);
    }
    expect(tries).toEqual([1, 3, 7, 15, 31, 61, 91]);
    expect(it.lines).toEqual(["QG_COUNTERS_LOST", "QG_REBUILD_FAILED", "QG_COUNTERS_REBUILT"]);
  });

  test("a server that goes away in the middle leaves the limits closed", async () => {
    const it = await started("a");
    const open = ledger.hold();
    lose(it);
    await settled();
    store.isAway = true;
    open();
    await settled();
    expect([it.continuity.isWhole, it.lines.at(-1)]).toEqual([false, "QG_REBUILD_FAILED"]);
    store.isAway = false;
    clock.advance(1_000);
    await settled();
    expect(it.continuity.isWhole).toBe(true);
  });

  test("a store that is never satisfied is not asked without a pause", async () => {
    const it = await started("a");
    Object.assign(it.continuity, { complete: () => Promise.resolve() });
    lose(it);
    await settled();
    clock.advance(1);
    await settled();
    expect([ledger.scans.length, it.lines]).toEqual([1, ["QG_COUNTERS_LOST", "QG_REBUILD_FAILED"]]);
  });

  test("a record that was not taken is written later", async () => {
    const { put } = ledger.records;
    Object.assign(ledger.records, { put: () => Promise.reject(new Error("locked")) });
    await started("a");
    expect(await ledger.records.get("store/epoch")).toBeUndefined();
    Object.assign(ledger.records, { put });
    clock.advance(5_000);
    await settled();
    expect((await ledger.records.get("store/epoch"))?.value).toEqual({ epoch: "e1", lostAt: null });
  });

  test("closing stops everything and leaves no timer", async () => {
    const it = await started("a", undefined, { isLedgerShared: false, nodes: () => 1 });
    const open = ledger.hold();
    clock.advance(10_000);
    lose(it);
    await settled();
    it.rebuilding.close();
    open();
    await settled();
    expect([clock.pending(), store.restored, it.continuity.isWhole, it.lines]).toEqual([0, [], false, ["QG_COUNTERS_LOST"]]);
  });
});
