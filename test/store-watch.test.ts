import { beforeEach, describe, expect, onTestFinished, test } from "vitest";
import { GuardError } from "../src/core/errors.ts";
import { storeWatch, type StoreWatch } from "../src/store-watch.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { redisStore } from "../src/stores/redis/index.ts";
import { testClock, type TestClock } from "../src/testing/clock.ts";
import { keptLogger } from "./core/context-kit.ts";
import { DRIVER_ERROR, faultyStore, type FaultyStore } from "../src/testing/faulty-store.ts";
import { B, charge } from "./limits/harness.ts";
import { ownServer, redisProgram } from "./stores/redis/own-server.ts";

const TEN = [charge("k", B(1_000_000, 0), 10)];
const STRICT = TEN.map((each) => ({ ...each, strict: true }));
const OK = { state: "ok", since: null, reason: null };

let clock: TestClock;
let logger: ReturnType<typeof keptLogger>;
let real: FaultyStore;
let counted: string[];
let watch: StoreWatch;
beforeEach(() => {
  clock = testClock();
  logger = keptLogger();
  real = faultyStore({ clock });
  counted = [];
  watch = storeWatch({ store: real, ledger: real.ledger, clock, logger, failed: (op, mode) => void counted.push(`${op} ${mode}`) });
});

let ids = 0;
const reserve = (charges = TEN) => (async () => watch.store.limits.reserve(`op-${(ids += 1)}`, charges, 1_000))();
const lines = (): string[] => logger.lines.filter(({ level }) => level !== "debug").map(({ level, fields }) => `${level} ${String(fields["code"])}`);

/** Lets time pass, second by second, with all that follows from it. */
async function seconds(count: number): Promise<void> {
  for (let i = 0; i < count; i += 1) {
    clock.advance(1_000);
    await new Promise(setImmediate);
  }
}

async function failing(times = 1): Promise<void> {
  for (let i = 0; i < times; i += 1) await expect(reserve()).rejects.toMatchObject({ code: "store_unavailable" });
}

test("a store that answers is ok, costs no timer, and answers as it is", async () => {
  expect(await reserve()).toMatchObject({ kind: "allowed" });
  expect([watch.state(), watch.outageMs(), watch.isLedgerAway(), clock.pending(), lines()]).toEqual([OK, 0, false, 0, []]);
  const direct = memoryStore({ clock });
  const near = storeWatch({ store: direct, ledger: direct.ledger, clock, logger, failed: () => {} });
  expect(near.store.limits.reserve("a", TEN, 1_000)).toMatchObject({ kind: "allowed" });
});

test("an outage is said once when it begins and once when it is over, with how long it was and what was decided without it", async () => {
  await seconds(10);
  real.fail("refuses", "limits", "records");
  const since = clock.now();
  await failing(50);
  expect(watch.state()).toEqual({ state: "degraded", since, reason: "the store is away" });
  await seconds(30);
  expect([watch.state().since, watch.outageMs()]).toEqual([since, 30_000]);
  real.recover();
  await seconds(1);
  expect([watch.state(), watch.outageMs(), clock.pending()]).toEqual([OK, 0, 0]);
  expect(lines()).toEqual(["error QG_STORE_DEGRADED", "info QG_STORE_BACK"]);
  expect(logger.lines.at(-1)?.fields).toMatchObject({ part: "store", seconds: 31, decisions: 50 });
});

test("the way back needs no traffic, and takes two seconds at most with any", async () => {
  real.fail("refuses", "limits", "records");
  await failing();
  await seconds(20);
  const backAt = clock.monotonic() + 300;
  for (let at = clock.monotonic(); at < backAt; at += 100) {
    clock.advance(100);
    await failing();
  }
  real.recover();
  while (watch.state().state !== "ok" && clock.monotonic() < backAt + 10_000) {
    clock.advance(100);
    await reserve();
  }
  expect(clock.monotonic() - backAt).toBeLessThanOrEqual(2_000);
});

test("a store that answers probes is not back while calls fail", async () => {
  real.fail("refuses", "limits");
  for (let i = 0; i < 100; i += 1) {
    await failing();
    clock.advance(200);
    await new Promise(setImmediate);
  }
  expect([watch.state().state, lines()]).toEqual(["degraded", ["error QG_STORE_DEGRADED"]]);
});

test("a call that fails now and then does not fill the log", async () => {
  real.fail("refuses", "limits.settle");
  for (let i = 0; i < 600; i += 1) {
    if (i % 3 === 0) await expect((async () => watch.store.limits.settle("a", {}))()).rejects.toBeInstanceOf(GuardError);
    expect(await reserve()).toMatchObject({ kind: "allowed" });
    await seconds(1);
  }
  expect(lines().length).toBeLessThan(10);
  // Once it is over, it is over.
  await seconds(40);
  expect(watch.state()).toEqual(OK);
});

test("a store that can only be read is not back, though nobody asks", async () => {
  real.fail("refuses", "limits", "records.put", "records.delete");
  await failing();
  await seconds(60);
  expect([watch.state().state, lines()]).toEqual(["degraded", ["error QG_STORE_DEGRADED"]]);
  real.recover();
  await seconds(1);
  expect(watch.state()).toEqual(OK);
});

test.skipIf(redisProgram === undefined)("a Redis that has no memory left is not back, though it deletes", async () => {
  const server = await ownServer();
  onTestFinished(() => server.stop());
  const store = redisStore(server.url);
  onTestFinished(async () => store.close());
  await store.ready();
  await store.limits.continuity?.begin(null);
  const away = storeWatch({ store, ledger: store.ledger, clock, logger, failed: () => {} });
  await server.admin.config("SET", "maxmemory", "1");
  await expect((async () => away.store.limits.reserve("a", TEN, 1_000))()).rejects.toMatchObject({ code: "store_unavailable" });
  const probed = async (): Promise<void> => {
    await seconds(1);
    // Behind the probe, on the same connection.
    await store.records.get("none");
    await new Promise(setImmediate);
  };
  for (let i = 0; i < 5; i += 1) await probed();
  expect([away.state().state, away.outageMs()]).toEqual(["degraded", 5_000]);
  await server.admin.config("SET", "maxmemory", "0");
  await probed();
  expect(away.state()).toEqual(OK);
});

test("a store in this process is only read: a write would wait for its file, and everybody with it", async () => {
  const near: FaultyStore = Object.assign(faultyStore({ clock }), { shared: false });
  const other = storeWatch({ store: near, ledger: near.ledger, clock, logger, failed: () => {} });
  near.fail("refuses", "limits");
  await expect((async () => other.store.limits.release("a"))()).rejects.toBeInstanceOf(GuardError);
  await seconds(1);
  expect([near.asked, other.state()]).toEqual([["limits.release", "records.get"], OK]);
});

test("a probe that never ends does not make more of them", async () => {
  real.fail("hangs", "limits", "records");
  void reserve().catch(() => {});
  real.fail("refuses", "limits");
  await failing();
  real.fail("hangs", "records");
  await seconds(60);
  expect(real.asked.filter((name) => name === "records.put")).toHaveLength(1);
  expect(watch.state().state).toBe("degraded");
});

test("a ledger that cannot be written is away by itself, and back when it has written what waits", async () => {
  real.fail("refuses", "ledger");
  await expect((async () => watch.ledger.intent({ id: "i" } as never))()).rejects.toMatchObject({ code: "store_unavailable" });
  expect(await reserve()).toMatchObject({ kind: "allowed" });
  expect([watch.isLedgerAway(), watch.outageMs(), watch.state().state]).toEqual([true, 0, "degraded"]);
  expect(logger.lines.find(({ level }) => level === "error")?.fields).toMatchObject({ code: "QG_STORE_DEGRADED", part: "ledger", op: "intent" });
  await seconds(5);
  expect(watch.isLedgerAway()).toBe(true);
  real.recover();
  await seconds(1);
  expect([watch.isLedgerAway(), watch.state()]).toEqual([false, OK]);
});

test("a row that cannot be closed is counted, and nobody's fault", async () => {
  real.fail("throws", "ledger.close");
  expect(() => watch.ledger.close({ id: "i" } as never)).not.toThrow();
  expect([counted, watch.isLedgerAway()]).toEqual([["close told"], true]);
});

describe("what failed is counted", () => {
  test.each<readonly [string, (store: StoreWatch) => unknown]>([
    ["settle retry", ({ store }) => store.limits.settle("a", {})],
    ["release retry", ({ store }) => store.limits.release("a")],
    ["extend retry", ({ store }) => store.limits.extend("a", 1_000)],
    ["lapse retry", ({ store }) => store.limits.lapse("a")],
    ["expire retry", ({ store }) => store.limits.expire(1)],
    ["peek told", ({ store }) => store.limits.peek([])],
    ["records told", ({ store }) => store.records.get("k")],
    ["records told", ({ store }) => store.records.put("k", 1)],
    ["records told", ({ store }) => store.records.delete("k")],
    ["records told", ({ store }) => store.records.list("k")],
    ["strikes told", ({ store }) => store.strikes.strike("k", 1_000)],
    ["strikes told", ({ store }) => store.strikes.clear("k")],
    ["intent deny", ({ ledger }) => ledger.intent({ id: "i" } as never)],
  ])("as %s", async (name, call) => {
    real.fail("refuses", "limits", "records", "strikes", "ledger");
    await expect((async () => call(watch))()).rejects.toMatchObject({ code: "store_unavailable" });
    expect([counted, watch.state().state]).toEqual([[name], "degraded"]);
  });

  test("but a reserve by who asked, and a wrong amount not at all", async () => {
    real.fail("refuses", "limits");
    await failing();
    expect(counted).toEqual([]);
    real.recover();
    await seconds(2);
    await expect((async () => watch.store.limits.settle("a", { tokens: -1 }))()).rejects.toThrow(RangeError);
    expect([counted, watch.state()]).toEqual([[], OK]);
  });
});

test("nothing that a driver says is shown, and a client learns when to come again; the log has it", async () => {
  real.fail("throws", "limits");
  await expect(reserve()).rejects.toThrow(DRIVER_ERROR);
  expect(watch.state().reason).toBe("the store failed");
  expect(logger.lines[1]?.fields["err"]).toMatchObject({ message: DRIVER_ERROR });
  real.fail("refuses", "limits");
  const error: unknown = await reserve().catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "store_unavailable", message: "the store is away", retryAfterMs: 1_000 });
  expect((error as Error).cause).toBeUndefined();
});

describe("lost counters", () => {
  test("are being rebuilt, which is no outage: what is strict is refused, the rest goes on", async () => {
    real.loseCounters();
    const since = clock.now();
    await expect(reserve(STRICT)).rejects.toMatchObject({ code: "store_unavailable", retryAfterMs: 1_000 });
    expect(await reserve()).toMatchObject({ kind: "allowed" });
    await seconds(3);
    expect(watch.state()).toEqual({ state: "rebuilding", since, reason: expect.stringContaining("rebuilt") });
    expect([watch.outageMs(), lines()]).toEqual([0, []]);
    real.findCounters();
    expect(watch.state()).toEqual(OK);
    expect(await reserve(STRICT)).toMatchObject({ kind: "allowed" });
  });

  test("may be away as well", async () => {
    real.loseCounters();
    real.fail("refuses", "limits");
    await failing();
    expect(watch.state().state).toBe("degraded");
  });
});

test("after the end nothing is probed, and nothing said", async () => {
  real.fail("refuses", "limits");
  await failing();
  watch.stop();
  expect(clock.pending()).toBe(0);
  await failing();
  expect([clock.pending(), lines()]).toEqual([0, ["error QG_STORE_DEGRADED"]]);
});
