import { beforeEach, describe, expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import type { Amounts, Charge, FinishResult, LimitStore, ReserveResult } from "../../src/core/store.ts";
import { isPromise, type MaybePromise } from "../../src/core/time.ts";
import { limitEngine } from "../../src/limits/engine.ts";
import { holds, type Ending, type Holds } from "../../src/limits/holds.ts";
import { MemoryLimits } from "../../src/stores/memory-limits.ts";
import { kit, type Kit } from "../core/context-kit.ts";
import { B, C, charge } from "./harness.ts";

const TTL = 300_000;
const DAY = 86_400_000;
const away = () => new GuardError("store_unavailable", "away");

/** The memory store behind a wire that a test cuts: verbs are lost before they arrive, or their replies are. */
interface Wire extends LimitStore {
  readonly log: string[];
  mode: "up" | "down" | "reply lost";
  isAsync: boolean;
  /** The verbs of this opId fail, whatever the mode. */
  poisoned: string;
  available(key: string): number;
}

function wireTo(from: Kit): Wire {
  const engine = limitEngine(new MemoryLimits(from.clock, 1_000));
  const log: string[] = [];
  const send = <T>(name: string, run: () => T): MaybePromise<T> => {
    log.push(name);
    const { mode } = wire;
    const act = (): T => {
      if (mode === "down" || (wire.poisoned !== "" && name.includes(` ${wire.poisoned}`))) throw away();
      const result = run();
      if (mode === "reply lost") throw away();
      return result;
    };
    // As a promise executor would: what is thrown rejects.
    return wire.isAsync ? Promise.resolve().then(act) : act();
  };
  const wire: Wire = {
    log,
    mode: "up",
    isAsync: false,
    poisoned: "",
    reserve: (opId, charges, ttlMs) => send(`reserve ${opId}`, () => engine.reserve(opId, charges, ttlMs)),
    settle: (opId, actual) => send(`settle ${opId} ${JSON.stringify(actual)}`, () => engine.settle(opId, actual)),
    release: (opId) => send(`release ${opId}`, () => engine.release(opId)),
    extend: (opId, ttlMs) => send(`extend ${opId}`, () => engine.extend(opId, ttlMs)),
    lapse: (opId) => send(`lapse ${opId}`, () => engine.lapse(opId)),
    expire: (most) => engine.expire(most),
    peek: (limits) => engine.peek(limits),
    available: (key) => engine.peek([{ key, rule: RULE }])[0]?.available ?? NaN,
  };
  return wire;
}

const RULE = B(100, 0);
const TEN: readonly Charge[] = [charge("k", RULE, 10)];

let from: Kit;
let wire: Wire;
let kept: Holds;
beforeEach(() => {
  from = kit();
  wire = wireTo(from);
  kept = holds({ clock: from.clock, logger: from.logger, ttlMs: TTL });
});

/** Lets a second pass and everything that waits for promises happen. */
async function second(count = 1): Promise<void> {
  for (let i = 0; i < count; i += 1) {
    from.clock.advance(1_000);
    await new Promise(setImmediate);
  }
}

describe.each([[false], [true]])("with a store that answers later: %s", (isAsync) => {
  beforeEach(() => {
    wire.isAsync = isAsync;
  });

  test("a hold is taken and settled once", async () => {
    const reserved = kept.reserve(wire, "a", TEN);
    expect(isPromise(reserved)).toBe(isAsync);
    expect(await reserved).toMatchObject({ kind: "allowed" });
    expect([kept.open, wire.available("k")]).toEqual([1, 90]);
    const finished = kept.finish(wire, "a", { tokens: 4 });
    expect(finished !== undefined && isPromise(finished)).toBe(isAsync);
    await finished;
    expect([kept.open, kept.waiting, wire.available("k"), wire.log]).toEqual([0, 0, 96, ["reserve a", 'settle a {"tokens":4}']]);
  });

  test.each<[Ending, number]>([
    ["release", 100],
    ["lapse", 90],
    [{ tokens: 25 }, 75],
    [{}, 90],
  ])("an ending by %j leaves %i", async (ending, left) => {
    await kept.reserve(wire, "a", TEN);
    await kept.finish(wire, "a", ending);
    expect(wire.available("k")).toBe(left);
  });

  test("what is held on a counter is what open holds took there", async () => {
    const held = (...keys: readonly string[]) => Object.fromEntries(kept.heldOf(wire, new Set(keys)));
    await kept.reserve(wire, "a", [charge("k", RULE, 10), charge("l", RULE, 3)]);
    await kept.reserve(wire, "b", [charge("k", RULE, 5), { ...charge("s", RULE, 200), enforce: false }]);
    await kept.reserve(wire, "refused", [charge("k", RULE, 99)]);
    // A shadow charge that did not fit took nothing.
    expect(held("k", "l", "s", "none")).toEqual({ k: 15, l: 3 });
    expect(held("l")).toEqual({ l: 3 });
    expect([...kept.heldOf(wireTo(from), new Set(["k"]))]).toEqual([]);
    await kept.finish(wire, "a", { tokens: 4 });
    expect(held("k", "l")).toEqual({ k: 5 });
    await kept.finish(wire, "b", "lapse");
    expect(held("k", "l")).toEqual({});
  });

  test("a refusal holds nothing", async () => {
    expect(await kept.reserve(wire, "a", [charge("k", RULE, 90)])).toMatchObject({ kind: "allowed" });
    expect(await kept.reserve(wire, "b", [charge("k", RULE, 20)])).toMatchObject({ kind: "limited" });
    expect(kept.open).toBe(1);
  });

  test.each([["down"], ["reply lost"]] as const)("a reservation without a reply (%s) is released, and the failure reported", async (mode) => {
    wire.mode = mode;
    await expect((async () => kept.reserve(wire, "a", TEN))()).rejects.toMatchObject({ code: "store_unavailable" });
    expect([kept.open, kept.waiting]).toEqual([0, 1]);
    wire.mode = "up";
    await second();
    expect([kept.waiting, wire.log, wire.available("k")]).toEqual([0, ["reserve a", "release a"], 100]);
    // Should the reservation still arrive, the tombstone stops it.
    expect(await wire.reserve("a", TEN, TTL)).toEqual({ kind: "closed" });
  });

  test.each([["down"], ["reply lost"]] as const)(
    "a settlement without a reply (%s) is repeated under its opId until it has one, and counts once",
    async (mode) => {
      await kept.reserve(wire, "a", TEN);
      wire.mode = mode;
      await kept.finish(wire, "a", { tokens: 4 });
      await second(5);
      expect(kept.waiting).toBe(1);
      wire.mode = "up";
      await second();
      expect([kept.waiting, wire.available("k")]).toEqual([0, 96]);
      expect(new Set(wire.log.slice(1))).toEqual(new Set(['settle a {"tokens":4}']));
      const tries = wire.log.length;
      await second(10);
      expect(wire.log).toHaveLength(tries);
    },
  );

  test("what waits keeps its order, and a flush tries it at once", async () => {
    for (const opId of ["a", "b", "c"]) await kept.reserve(wire, opId, TEN);
    wire.mode = "down";
    for (const opId of ["a", "b", "c"]) await kept.finish(wire, opId, "release");
    wire.mode = "up";
    wire.log.length = 0;
    await kept.flush();
    expect([kept.waiting, wire.log]).toEqual([0, ["release a", "release b", "release c"]]);
  });

  test("one call per round finds out that the store is still away, however many wait", async () => {
    for (let i = 0; i < 50; i += 1) await kept.reserve(wire, `op${i}`, [charge("k", RULE, 1)]);
    wire.mode = "down";
    for (let i = 0; i < 50; i += 1) await kept.finish(wire, `op${i}`, "release");
    wire.log.length = 0;
    await second(20);
    expect([kept.waiting, wire.log.length]).toEqual([50, 20]);
    wire.mode = "up";
    await second();
    expect([kept.waiting, wire.log.length, wire.available("k")]).toEqual([0, 70, 100]);
  });

  test("one that fails by itself does not hold up the others", async () => {
    for (const opId of ["a", "b", "c", "d"]) await kept.reserve(wire, opId, TEN);
    wire.mode = "down";
    for (const opId of ["a", "b", "c", "d"]) await kept.finish(wire, opId, { tokens: 1 });
    wire.mode = "up";
    wire.poisoned = "a";
    await second(2);
    expect([kept.waiting, wire.available("k")]).toEqual([1, 100 - 10 - 3]);
    wire.poisoned = "";
    await second();
    expect([kept.waiting, wire.available("k")]).toEqual([0, 96]);
  });

  test("an outage is one line about holds that cannot be prolonged, and they are prolonged as soon as it is over", async () => {
    for (let i = 0; i < 30; i += 1) await kept.reserve(wire, `op${i}`, [charge(`slot${i}`, C(1), 1)]);
    wire.mode = "down";
    await second(290);
    expect(from.logger.lines.filter(({ level }) => level === "warn")).toHaveLength(1);
    wire.mode = "up";
    wire.log.length = 0;
    await second(2);
    expect(wire.log).toHaveLength(30);
    await second(200);
    expect(wire.expire(100)).toEqual([]);
  });

  test("a hold that is open is prolonged every third of its time, a finished one is not", async () => {
    await kept.reserve(wire, "a", [charge("slots", C(1), 1)]);
    await second(1_000);
    const extended = wire.log.filter((line) => line === "extend a");
    expect(extended.length).toBeGreaterThanOrEqual(9);
    expect(extended.length).toBeLessThanOrEqual(11);
    // 1,000 s after it was taken for 300 s, the place is still its own.
    expect(await wire.reserve("b", [charge("slots", C(1), 1)], TTL)).toMatchObject({ kind: "limited" });
    await kept.finish(wire, "a", "release");
    wire.log.length = 0;
    await second(400);
    expect(wire.log).toEqual([]);
  });

  test("a hold that cannot be prolonged now is prolonged later, in time", async () => {
    await kept.reserve(wire, "a", [charge("slots", C(1), 1)]);
    wire.mode = "down";
    await second(101);
    wire.mode = "up";
    await second(300);
    expect(from.logger.lines.some(({ level, message }) => level === "warn" && message.includes("prolonged"))).toBe(true);
    expect(await wire.reserve("b", [charge("slots", C(1), 1)], TTL)).toMatchObject({ kind: "limited" });
  });
});

test("a hold is never older than its time, whenever it was taken", async () => {
  await kept.reserve(wire, "first", [charge("other", C(9), 1)]);
  for (let i = 0; i < 30; i += 1) {
    await second(11);
    await kept.reserve(wire, `hold-${i}`, [charge("slots", C(30), 1)]);
  }
  await second(600);
  expect(wire.expire(100)).toEqual([]);
});

test("after a day of trying a settlement is given up, and that is said", async () => {
  await kept.reserve(wire, "a", TEN);
  wire.mode = "down";
  await kept.finish(wire, "a", { tokens: 4 });
  from.clock.advance(1_000);
  await new Promise(setImmediate);
  from.clock.advance(DAY - 2_000);
  await new Promise(setImmediate);
  expect(kept.waiting).toBe(1);
  await second(3);
  expect(kept.waiting).toBe(0);
  expect(from.logger.lines.some(({ level, fields }) => level === "error" && fields.opId === "a")).toBe(true);
});

test("a settlement that the store will never take does not hold up the others", async () => {
  await kept.reserve(wire, "bad", TEN);
  await kept.reserve(wire, "good", TEN);
  await kept.finish(wire, "bad", { tokens: NaN });
  wire.mode = "down";
  await kept.finish(wire, "good", "release");
  wire.mode = "up";
  await second(3);
  expect(wire.available("k")).toBe(90);
});

test("what comes to wait while a try is failing is not lost", async () => {
  const gate = Promise.withResolvers<FinishResult>();
  wire.isAsync = true;
  for (const opId of ["a", "b"]) await kept.reserve(wire, opId, TEN);
  wire.mode = "down";
  await kept.finish(wire, "a", "release");
  const slow: LimitStore = { ...wire, release: () => gate.promise };
  await kept.finish({ ...slow, release: () => Promise.reject(away()) }, "hangs", "release");
  Object.assign(wire, { release: slow.release });
  from.clock.advance(1_000);
  await kept.finish(wire, "b", { tokens: 4 });
  gate.reject(away());
  await new Promise(setImmediate);
  expect(kept.waiting).toBe(3);
});

test("settlements that wait are at most 100,000, also while they are being tried", async () => {
  const gate = Promise.withResolvers<FinishResult>();
  const store: LimitStore = { ...wire, release: () => gate.promise, settle: () => Promise.reject(away()) };
  const fill = async (name: string): Promise<void> => {
    const all: MaybePromise<void>[] = [];
    for (let i = 0; i < 100_000; i += 1) all.push(kept.finish(store, `${name}${i}`, i === 0 && name === "a" ? { usd: 1 } : { tokens: i }));
    await Promise.all(all);
  };
  await fill("a");
  expect(kept.waiting).toBe(100_000);
  await kept.finish(store, "one more", { tokens: 1 });
  expect([kept.waiting, from.logger.lines.at(-1)?.level]).toEqual([100_000, "error"]);

  // The first of them hangs now, so all of them are under way while others come.
  let hangs = true;
  const slow: LimitStore = { ...store, settle: () => (hangs ? gate.promise : Promise.reject(away())) };
  Object.assign(store, { settle: slow.settle });
  from.clock.advance(1_000);
  hangs = false;
  await fill("b");
  gate.reject(away());
  await new Promise(setImmediate);
  expect(kept.waiting).toBeLessThanOrEqual(100_000);
});

test("reservations without a reply never push out what was spent", async () => {
  await kept.reserve(wire, "spent", TEN);
  wire.mode = "down";
  for (let i = 0; i < 20_000; i += 1) await expect((async () => kept.reserve(wire, `lost${i}`, TEN))()).rejects.toThrow("away");
  expect(kept.waiting).toBe(10_000);
  await kept.finish(wire, "spent", { tokens: 4 });
  expect(kept.waiting).toBe(10_001);
  expect(from.logger.lines.filter(({ level }) => level === "error")).toHaveLength(1);
  wire.mode = "up";
  await kept.flush();
  expect([kept.waiting, wire.available("k")]).toEqual([0, 96]);
  expect(from.logger.lines.at(-1)?.fields).toEqual({ dropped: 10_000 });
  // Room for the next outage.
  wire.mode = "down";
  await expect((async () => kept.reserve(wire, "again", TEN))()).rejects.toThrow("away");
  expect(kept.waiting).toBe(1);
});

test("a flush ends with the round that was under way, and after it", async () => {
  wire.isAsync = true;
  for (const opId of ["a", "b"]) await kept.reserve(wire, opId, TEN);
  wire.mode = "down";
  await kept.finish(wire, "a", "release");
  wire.mode = "up";
  const gate = Promise.withResolvers<FinishResult>();
  const { release } = wire;
  Object.assign(wire, { release: () => gate.promise });
  from.clock.advance(1_000);
  const fails = [() => Promise.reject(away()), release];
  await kept.finish({ ...wire, release: (opId) => (fails.shift() ?? release)(opId) }, "b", "release");
  let flushed = false;
  const flush = kept.flush().then(() => (flushed = true));
  await new Promise(setImmediate);
  expect([flushed, kept.waiting]).toEqual([false, 2]);
  Object.assign(wire, { release });
  gate.resolve("applied");
  await flush;
  expect(kept.waiting).toBe(0);
});

test("a flush waits five seconds for a store that does not answer, and no longer", async () => {
  wire.mode = "down";
  await kept.finish(wire, "a", "release");
  Object.assign(wire, { release: () => new Promise(() => {}) });
  let flushed = false;
  const flush = kept.flush().then(() => (flushed = true));
  from.clock.advance(4_999);
  await new Promise(setImmediate);
  expect(flushed).toBe(false);
  from.clock.advance(1);
  await flush;
  kept.close();
  expect([kept.waiting, from.clock.pending()]).toEqual([1, 0]);
  expect(from.logger.lines.at(-1)).toMatchObject({ level: "error", fields: { waiting: 1 } });
});

test("a reservation that is made after its time was up is released", async () => {
  const late: (() => void)[] = [];
  const store: LimitStore = {
    ...wire,
    reserve: (...args) =>
      new Promise((_, reject) => {
        late.push(() => void wire.reserve(...args));
        reject(away());
      }),
  };
  for (const opId of ["a", "b"]) await expect((async () => kept.reserve(store, opId, TEN))()).rejects.toThrow("away");
  // One arrives before it is released, one after.
  late[0]?.();
  expect(wire.available("k")).toBe(90);
  await second();
  late[1]?.();
  expect([kept.waiting, kept.open, wire.available("k")]).toEqual([0, 0, 100]);
});

test("a closed keeper starts no timer, and leaves none", async () => {
  await kept.reserve(wire, "a", TEN);
  wire.mode = "down";
  await kept.finish(wire, "a", "release");
  await kept.reserve({ ...wire, reserve: (): ReserveResult => ({ kind: "allowed", replayed: false, skipped: [], standings: [] }) }, "b", TEN);
  kept.close();
  expect(from.clock.pending()).toBe(0);
  await kept.finish(wire, "b", {} satisfies Amounts);
  await kept.flush();
  expect([from.clock.pending(), kept.waiting]).toEqual([0, 2]);
});

test("a flush beside the timer leaves no timer behind", async () => {
  wire.mode = "down";
  await kept.finish(wire, "a", "release");
  wire.mode = "up";
  await kept.flush();
  expect([kept.waiting, from.clock.pending()]).toEqual([0, 0]);
});
