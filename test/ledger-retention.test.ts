// Rows that are older than the ledger keeps become sums by day: in the background, by one process, and without a report noticing.
import { DatabaseSync } from "node:sqlite";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { Ledger, Store } from "../src/core/store.ts";
import { createGuard, type QuotaGuard } from "../src/guard.ts";
import type { GuardOptions } from "../src/options.ts";
import { memoryStore } from "../src/stores/memory.ts";
import { sqliteStore } from "../src/stores/sqlite/index.ts";
import { testClock, type TestClock } from "../src/testing/clock.ts";
import { AT, rowOf } from "./contracts/ledger-rows.ts";
import { recordingLogger, tempFolder, type LogLine } from "./stores/sqlite-kit.ts";

const DAY_MS = 86_400_000;
const HOUR_MS = 3_600_000;

let path: string;
let clock: TestClock;
let lines: LogLine[];
let open: { close(): unknown }[];

beforeEach(() => {
  path = `${tempFolder()}/quota.db`;
  clock = testClock({ now: AT });
  open = [];
});
afterEach(async () => {
  for (const one of open.toReversed()) await one.close();
});

function guardOn(options: GuardOptions): QuotaGuard {
  const log = recordingLogger();
  lines = log.lines;
  const guard = createGuard({ clock, logger: log.logger, limits: [], ...options });
  open.push(guard);
  return guard;
}

const keeping = (retention: string | number | null): GuardOptions => ({ store: { url: `sqlite:${path}` }, ledger: { retention } });

/** What a gateway without any retention left: a row every six hours of the last `days` days. */
async function filled(days: number): Promise<void> {
  const store = sqliteStore(path, { clock });
  await store.ready();
  for (let n = 0; n < days * 4; n += 1) store.ledger.close(rowOf(`r${n}`, { at: AT - n * (DAY_MS / 4), billedNanoUsd: 1_000_000_007 + n }));
  await store.ledger.flush();
  await store.close();
}

function rowsLeft(): number {
  const db = new DatabaseSync(path);
  try {
    return Number(db.prepare("select count(*) as n from quotaguard_ledger").get()?.["n"]);
  } finally {
    db.close();
  }
}

/** Lets it go on until it is as wanted: what it does between its pauses takes turns of the event loop, not time. */
async function until(isSo: () => boolean, stepMs = 20): Promise<void> {
  await vi.waitUntil(
    () => {
      clock.advance(stepMs);
      return isSo();
    },
    { interval: 1, timeout: 10_000 },
  );
}

const said = (): boolean => lines.some(({ message }) => message.includes("sums by day now"));

test("old rows are summed up at the start and once an hour, whole days only, and no report changes", async () => {
  await filled(100);
  const plain = guardOn(keeping(null));
  await plain.ready();
  const byDay = await plain.admin.usage({ from: "2026-01-01", groupBy: ["day", "model"] });
  expect(byDay).toHaveLength(101);
  await plain.close();
  expect(rowsLeft()).toBe(400);

  const guard = guardOn(keeping("30d"));
  await guard.ready();
  await until(said);
  // The thirtieth day from now began at noon; all of it is kept.
  expect(rowsLeft()).toBe(30 * 4 + 3);
  expect(await guard.admin.usage({ from: "2026-01-01", groupBy: ["day", "model"] })).toEqual(byDay);
  clock.advance(DAY_MS - HOUR_MS);
  await until(() => rowsLeft() < 30 * 4 + 3, HOUR_MS);
  expect(await guard.admin.usage({ from: "2026-01-01", groupBy: ["day", "model"] })).toEqual(byDay);
});

test("a guard without it touches no row", async () => {
  await filled(10);
  for (const options of [keeping(null), { store: { url: `sqlite:${path}` as const } }]) {
    const guard = guardOn(options);
    await guard.ready();
    clock.advance(3 * HOUR_MS);
    await guard.close();
  }
  expect(rowsLeft()).toBe(40);
});

test("a guard that is closed stops in the middle, and the next one goes on", async () => {
  await filled(200);
  const guard = guardOn(keeping("1d"));
  await guard.ready();
  await vi.waitUntil(() => rowsLeft() < 800, { interval: 1 });
  await guard.close();
  expect(rowsLeft()).toBe(600);
  const next = guardOn(keeping("1d"));
  await next.ready();
  await until(said);
  expect([rowsLeft(), await next.admin.usage()]).toMatchObject([
    7,
    [{ requests: 800, billedNanoUsd: String(800n * 1_000_000_007n + (799n * 800n) / 2n) }],
  ]);
});

test("while one process does it another one waits for the next hour", async () => {
  await filled(200);
  const [first, second] = [guardOn(keeping("1d")), guardOn(keeping("1d"))];
  await first.ready();
  await vi.waitUntil(() => rowsLeft() === 600, { interval: 1 });
  await second.ready();
  // Its own round is over at once: the clock stands, so only the first could go on.
  await new Promise((resolve) => setImmediate(resolve));
  await new Promise((resolve) => setImmediate(resolve));
  expect(rowsLeft()).toBe(600);
  await first.close();
  await until(() => rowsLeft() <= 7, HOUR_MS / 10);
  expect(await second.admin.usage()).toMatchObject([{ requests: 800 }]);
});

test("trouble is said once, and it is tried again", async () => {
  await filled(10);
  const store = sqliteStore(path, { clock });
  open.push(store);
  let isBroken = true;
  const ledger: Ledger = {
    ...store.ledger,
    fold(beforeMs, most) {
      if (isBroken) throw new Error("out of order");
      return (store.ledger.fold as NonNullable<Ledger["fold"]>)(beforeMs, most);
    },
  };
  const given: Store = { ...store, ledger };
  const guard = guardOn({ store: given, ledger: { retention: "1d" } });
  await guard.ready();
  await until(() => lines.length > 0);
  await until(() => clock.monotonic() > 3 * HOUR_MS, HOUR_MS / 4);
  isBroken = false;
  await until(() => rowsLeft() === 7, HOUR_MS / 4);
  expect(lines.filter(({ level }) => level === "warn").length).toBeLessThan(2);
});

describe("is refused at the start", () => {
  test("by a ledger that cannot do it", async () => {
    for (const options of [{ ledger: { retention: "7d" } }, { store: memoryStore(), ledger: { retention: "7d" } }] as const)
      await expect(guardOn(options).ready()).rejects.toThrow(
        /ledger\.retention: the ledger \(memory\) cannot do it: .*name a sqlite: or postgres:\/\/ database in ledger\.url/,
      );
  });

  /** Counters that may get lost are rebuilt from the rows. */
  function losing(): Store {
    const store = sqliteStore(path, { clock });
    open.push(store);
    const done = async (): Promise<void> => {};
    const continuity = { epoch: "e", isWhole: true, begin: done, watch: () => () => {}, claim: async () => true, restore: done, complete: done };
    return { ...store, limits: { ...store.limits, continuity } };
  }

  const month = { name: "org-month", scope: "org", unit: "usd", window: { limit: 20, per: "month" } } as const;
  const credit = { name: "credit", scope: "user", unit: "usd", bucket: { capacity: 20, refillPerSec: 0 } } as const;

  test.each([
    ["30d", [month], /ledger\.retention: 30d is too short for limit org-month, .* give at least 31d, or give the limit another on_store_error/],
    ["31d", [month], null],
    ["1d", [{ ...month, onStoreError: "local" as const }], null],
    ["1d", [{ name: "hour", scope: "org", unit: "usd", window: { limit: 1, per: "36h" } }], /give at least 2d/],
    ["3650d", [credit], /limit credit, .* it may need all of them, so leave retention out/],
  ] as const)("%s where limits need rows to be rebuilt from: %#", async (retention, limits, problem) => {
    const ready = guardOn({ store: losing(), ledger: { retention }, limits }).ready();
    if (problem === null) await ready;
    else await expect(ready).rejects.toThrow(problem);
  });

  test("but not where counters are never rebuilt", async () => {
    await guardOn({ ...keeping("1d"), limits: [month, credit] }).ready();
  });

  test("and numbers that are set later keep the rows that they may need", async () => {
    await filled(20);
    const guard = guardOn({
      store: losing(),
      ledger: { retention: "2d" },
      limits: [{ name: "bucket", scope: "user", unit: "usd", bucket: { capacity: 1, refillPerSec: 1 } }],
    });
    await guard.ready();
    await until(said);
    const left = rowsLeft();
    // Five days from empty to full: what was used ten days ago may still be owed.
    await guard.admin.limits.set("bucket", "alice", { capacity: 1, refillPerSec: 1 / (5 * 86_400) });
    clock.advance(3 * DAY_MS);
    await until(() => lines.some(({ message }) => message.startsWith("rows are kept for longer than ledger.retention")), HOUR_MS);
    const later = clock.monotonic() + 5 * HOUR_MS;
    await until(() => clock.monotonic() > later, HOUR_MS / 10);
    expect(rowsLeft()).toBe(left);
  });
});

test.each([
  ["23h", "ledger.retention: must be between 1d and 36500d"],
  ["for ever", "ledger.retention: expected a duration"],
])("%s is no retention", (retention, problem) => {
  expect(() => guardOn({ ledger: { retention } })).toThrow(problem);
});
