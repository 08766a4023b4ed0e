import { beforeEach, describe, expect, test } from "vitest";
import { GuardError } from "../../src/core/errors.ts";
import type { Ledger } from "../../src/core/store.ts";
import { bounded, boundedLedger, boundedStore, type Bounded } from "../../src/limits/bounded.ts";
import { combineStores } from "../../src/stores/combine.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { faultyStore } from "../../src/testing/faulty-store.ts";
import { B, charge } from "./harness.ts";

const AWAY = { code: "store_unavailable", status: 503 };
const never = <T>(): Promise<T> => new Promise(() => {});
const turn = () => new Promise(setImmediate);

let clock: TestClock;
let run: Bounded;
beforeEach(() => {
  clock = testClock();
  run = bounded({ clock, deadlineMs: 1_000 });
});

/** A call, and what has become of it. */
interface Watched {
  readonly end: Promise<unknown>;
  readonly now: () => unknown;
}

function watched(ask: () => unknown): Watched {
  let now: unknown = "pending";
  const end = (async () => ask())();
  end.then(
    (value) => (now = value),
    (error: unknown) => (now = GuardError.is(error) ? error.code : error),
  );
  return { end, now: () => now };
}

/** What became of a call by now. */
async function fate(call: Watched): Promise<unknown> {
  await turn();
  return call.now();
}
const attempt = (call: () => Promise<unknown>): Watched => watched(() => run(call));

describe("a call", () => {
  test("that is answered at once is handed on as it is: no promise, no timer", () => {
    const answer = { kind: "closed" };
    expect(run(() => answer)).toBe(answer);
    expect(() =>
      run(() => {
        throw new RangeError("at once");
      }),
    ).toThrow(RangeError);
    expect(clock.pending()).toBe(0);
  });

  test("that is answered in time is answered, and leaves no timer", async () => {
    const gate = Promise.withResolvers<number>();
    const call = run(() => gate.promise);
    clock.advance(999);
    gate.resolve(7);
    expect(await call).toBe(7);
    expect(clock.pending()).toBe(0);
  });

  test("that fails in time fails as it did", async () => {
    const failure = new Error("no");
    await expect(attempt(() => Promise.reject(failure)).end).rejects.toBe(failure);
  });

  test("that is not answered ends to the ms, each by its own time, with one timer for all", async () => {
    const first = attempt(never);
    clock.advance(400);
    const second = attempt(never);
    expect(clock.pending()).toBe(1);
    clock.advance(599);
    expect([await fate(first), await fate(second)]).toEqual(["pending", "pending"]);
    clock.advance(1);
    expect([await fate(first), await fate(second)]).toEqual(["store_unavailable", "pending"]);
    clock.advance(399);
    expect(await fate(second)).toBe("pending");
    clock.advance(1);
    expect(await fate(second)).toBe("store_unavailable");
    expect(clock.pending()).toBe(0);
    await expect(second.end).rejects.toMatchObject({ ...AWAY, retryAfterMs: 1_000 });
  });

  test("whose answer comes too late, a failure too, is nobody's: it was told as a miss", async () => {
    const gates = [Promise.withResolvers<number>(), Promise.withResolvers<number>()];
    const calls = gates.map(({ promise }) => attempt(() => promise));
    clock.advance(1_000);
    gates[0]?.resolve(1);
    gates[1]?.reject(new Error("late"));
    for (const call of calls) await expect(call.end).rejects.toMatchObject(AWAY);
    await turn();
  });
});

describe("a store that does not answer", () => {
  let asked = 0;
  let answers = false;
  const call = () =>
    attempt(() => {
      asked += 1;
      return answers ? Promise.resolve("here") : never();
    });
  beforeEach(() => {
    asked = 0;
    answers = false;
  });

  async function missThree(): Promise<void> {
    const calls = [call(), call(), call()];
    clock.advance(1_000);
    for (const each of calls) expect(await fate(each)).toBe("store_unavailable");
  }

  test("is left alone after three misses in a row: calls fail at once, for a second at most", async () => {
    await missThree();
    for (let i = 0; i < 100; i += 1) expect(await fate(call())).toBe("store_unavailable");
    clock.advance(999);
    expect(await fate(call())).toBe("store_unavailable");
    expect(asked).toBe(3);
  });

  test("is tried by one call then; while that waits the others fail at once; another miss is another second", async () => {
    await missThree();
    clock.advance(1_000);
    const trial = call();
    expect(await fate(call())).toBe("store_unavailable");
    expect([await fate(trial), asked]).toEqual(["pending", 4]);
    clock.advance(1_000);
    expect(await fate(trial)).toBe("store_unavailable");
    clock.advance(999);
    await fate(call());
    expect(asked).toBe(4);
    clock.advance(1);
    expect([await fate(call()), asked]).toEqual(["pending", 5]);
  });

  test("is asked by all again once the trial was answered", async () => {
    await missThree();
    clock.advance(1_000);
    answers = true;
    expect(await fate(call())).toBe("here");
    expect([await fate(call()), await fate(call()), asked]).toEqual(["here", "here", 6]);
  });

  test("fails with an error as a trial, and that is an answer", async () => {
    await missThree();
    clock.advance(1_000);
    await expect(attempt(() => Promise.reject(new Error("no"))).end).rejects.toThrow("no");
    answers = true;
    expect([await fate(call()), await fate(call())]).toEqual(["here", "here"]);
  });

  test("is back with a late answer, too", async () => {
    const gate = Promise.withResolvers<string>();
    const late = attempt(() => gate.promise);
    const others = [call(), call()];
    clock.advance(1_000);
    for (const each of [late, ...others]) expect(await fate(each)).toBe("store_unavailable");
    gate.resolve("late");
    await turn();
    answers = true;
    expect(await fate(call())).toBe("here");
  });

  test("two misses with an answer between them are no row", async () => {
    for (let i = 0; i < 5; i += 1) {
      const missed = [call(), call()];
      clock.advance(1_000);
      for (const each of missed) expect(await fate(each)).toBe("store_unavailable");
      answers = true;
      expect(await fate(call())).toBe("here");
      answers = false;
    }
  });
});

describe("a store of somebody else", () => {
  const CHARGES = [charge("k", B(100, 0), 10)];
  const asks: readonly (readonly [string, (store: ReturnType<typeof boundedStore>) => unknown, number])[] = [
    ["limits.reserve", ({ limits }) => limits.reserve("a", CHARGES, 1_000), 1_000],
    ["limits.settle", ({ limits }) => limits.settle("a", {}), 1_000],
    ["limits.release", ({ limits }) => limits.release("a"), 1_000],
    ["limits.extend", ({ limits }) => limits.extend("a", 1_000), 1_000],
    ["limits.lapse", ({ limits }) => limits.lapse("a"), 1_000],
    ["limits.peek", ({ limits }) => limits.peek([]), 1_000],
    ["limits.expire", ({ limits }) => limits.expire(10), 30_000],
    ["records.get", ({ records }) => records.get("k"), 1_000],
    ["records.put", ({ records }) => records.put("k", 1), 1_000],
    ["records.delete", ({ records }) => records.delete("k"), 1_000],
    ["records.list", ({ records }) => records.list("k"), 30_000],
    ["strikes.strike", ({ strikes }) => strikes.strike("k", 1_000), 1_000],
    ["strikes.clear", ({ strikes }) => strikes.clear("k"), 1_000],
    ["ledger.intent", ({ ledger }) => ledger.intent({ id: "i" } as never), 1_000],
    ["ledger.flush", ({ ledger }) => ledger.flush(), 30_000],
    ["ledger.get", ({ ledger }) => ledger.get("i"), 30_000],
    ["ledger.list", ({ ledger }) => ledger.list({}), 30_000],
    ["ledger.totals", ({ ledger }) => ledger.totals({}, []), 30_000],
    ["ledger.completeSince", ({ ledger }) => ledger.completeSince(), 30_000],
  ];

  test.each(asks)("%s ends though it is never answered", async (name, ask, deadlineMs) => {
    const real = faultyStore({ clock });
    const store = boundedStore(real, clock);
    real.fail("hangs", "limits", "records", "strikes", "ledger");
    const call = watched(() => ask(store));
    clock.advance(deadlineMs - 1);
    expect([await fate(call), real.asked]).toEqual(["pending", [name]]);
    clock.advance(1);
    expect(await fate(call)).toBe("store_unavailable");
  });

  test("that cannot be counted on the ledger's side is still asked for limits", async () => {
    const real = faultyStore({ clock });
    const store = boundedStore(real, clock);
    real.fail("hangs", "ledger");
    for (let i = 0; i < 3; i += 1) {
      const call = watched(() => store.ledger.intent({ id: "i" } as never));
      clock.advance(1_000);
      expect(await fate(call)).toBe("store_unavailable");
    }
    expect(await store.limits.reserve("a", CHARGES, 1_000)).toMatchObject({ kind: "allowed" });
  });

  test("whose driver throws is unavailable, with the cause for the log alone; a RangeError and our refusals stay", async () => {
    const real = faultyStore({ clock });
    const store = boundedStore(real, clock);
    real.fail("throws", "limits");
    const failure: unknown = await (async () => store.limits.settle("a", {}))().catch((error: unknown) => error);
    expect(failure).toMatchObject({
      ...AWAY,
      message: "the store failed",
      cause: expect.objectContaining({ message: expect.stringContaining("10.0.0.7") }),
    });
    real.recover();
    await expect((async () => store.limits.settle("a", { tokens: -1 }))()).rejects.toThrow(RangeError);
    real.fail("refuses", "limits");
    await expect((async () => store.limits.release("a"))()).rejects.toMatchObject({ ...AWAY, message: "the store is away" });
  });

  test("that answers at once is answered at once", () => {
    const store = boundedStore(memoryStore({ clock }), clock);
    expect(store.limits.reserve("a", CHARGES, 1_000)).toMatchObject({ kind: "allowed" });
    expect(store.records.get("none")).toBeUndefined();
    expect(clock.pending()).toBe(0);
  });

  test("that says that its calls end is left as it is", () => {
    const own = { ...memoryStore({ clock }), isBounded: true };
    expect(boundedStore(own, clock)).toBe(own);
  });

  test("that is combined with a ledger is bounded only if both are", async () => {
    const store = { ...memoryStore({ clock }), isBounded: true };
    const ledger = memoryStore({ clock });
    expect(combineStores({ store, ledger: { ...ledger, isBounded: true } }).isBounded).toBe(true);
    expect(combineStores({ store: ledger, ledger: store }).isBounded).toBeUndefined();
    const both = boundedStore(combineStores({ store, ledger: { ...ledger, ledger: { ...ledger.ledger, intent: () => never() } } }), clock);
    const intent = watched(() => both.ledger.intent({} as never));
    await turn();
    clock.advance(1_000);
    expect(await fate(intent)).toBe("store_unavailable");
  });

  test("has its rows read page by page, and a page that never comes ends the reading", async () => {
    const pages: Ledger["scan"] = async function* () {
      yield [{ id: "one" } as never];
      await never();
    };
    const ledger = boundedLedger({ ...memoryStore({ clock }).ledger, scan: pages }, clock);
    const read: string[] = [];
    const reading = watched(async () => {
      for await (const page of ledger.scan(0)) read.push(...page.map(({ id }) => id));
    });
    await turn();
    clock.advance(30_000);
    expect(await fate(reading)).toBe("store_unavailable");
    expect(read).toEqual(["one"]);
  });
});
