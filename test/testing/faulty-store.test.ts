import { describe, expect, it, test } from "vitest";
import type { Charge } from "../../src/core/store.ts";
import { sqliteStore } from "../../src/stores/sqlite/index.ts";
import { faultyStore, recordingStore, storeContract, testClock } from "../../src/testing/index.ts";

storeContract({ describe, it }, (clock) => faultyStore({ clock }), { name: "a faulty store without a fault" });
storeContract({ describe, it }, (clock) => recordingStore({ clock }), { name: "a recording store" });

const CHARGES: readonly Charge[] = [
  { key: "b:t:alice", rule: { kind: "bucket", capacity: 100, n: 0, d: 1 }, unit: "tokens", amount: 30, enforce: true },
];
const PLACES = CHARGES.map(({ key, rule }) => ({ key, rule }));

async function left(store: ReturnType<typeof faultyStore>): Promise<number | undefined> {
  return (await store.limits.peek(PLACES))[0]?.available;
}

const failureOf = async (call: unknown): Promise<unknown> =>
  Promise.resolve(call).then(
    () => "answered",
    (error: unknown) => error,
  );

describe("a fault", () => {
  test("refuses: fails as our stores do, and nothing is done", async () => {
    const store = faultyStore();
    store.fail("refuses", "limits.reserve");
    expect(await failureOf(store.limits.reserve("a", CHARGES, 1_000))).toMatchObject({ code: "store_unavailable" });
    expect([await left(store), store.asked]).toEqual([100, ["limits.reserve", "limits.peek"]]);
  });

  test("throws: a driver's own words, which no client may see", async () => {
    const store = faultyStore();
    store.fail("throws", "records");
    expect(String(await failureOf(store.records.get("k")))).toContain("ECONNREFUSED redis://:hunter2@");
    expect((await store.limits.reserve("a", CHARGES, 1_000)).kind).toBe("allowed");
  });

  test("reply lost: it fails and is done; the same opId may be asked for again", async () => {
    const store = faultyStore();
    store.fail("reply lost", "limits.reserve");
    expect(await failureOf(store.limits.reserve("a", CHARGES, 1_000))).toMatchObject({ code: "store_unavailable" });
    store.recover();
    expect(await store.limits.reserve("a", CHARGES, 1_000)).toMatchObject({ kind: "allowed", replayed: true });
    expect(await left(store)).toBe(70);
  });

  test("hangs: no answer, and nothing is done, also after the recovery", async () => {
    const store = faultyStore();
    store.fail("hangs", "limits.reserve");
    const call = failureOf(store.limits.reserve("a", CHARGES, 1_000));
    store.recover();
    await store.deliver();
    expect(await Promise.race([call, Promise.resolve("still open")])).toBe("still open");
    expect(await left(store)).toBe(100);
  });

  test("late: done and answered when the test delivers it", async () => {
    const store = faultyStore();
    store.fail("late", "limits");
    const call = store.limits.reserve("a", CHARGES, 1_000);
    store.recover();
    expect(await left(store)).toBe(100);
    await store.deliver();
    expect([(await call).kind, await left(store)]).toEqual(["allowed", 70]);
  });

  test("slow: done and answered after its time on the clock", async () => {
    const clock = testClock();
    const store = faultyStore({ clock });
    store.fail({ fault: "slow", delayMs: 250 }, "limits.reserve");
    const call = store.limits.reserve("a", CHARGES, 1_000);
    clock.advance(249);
    expect(await left(store)).toBe(100);
    clock.advance(1);
    expect([(await call).kind, await left(store)]).toEqual(["allowed", 70]);
    expect(() => store.fail("slow", "limits")).not.toThrow();
    expect(() => store.fail({ fault: "slow" }, "limits")).toThrow("delayMs");
    expect(() => store.fail({ fault: "hangs", delayMs: 5 }, "limits")).toThrow("delayMs");
  });

  test("of rows that are closed: thrown, lost or late", async () => {
    const row = { id: "i", requestId: "r", at: 1, state: "settled" } as never;
    const store = faultyStore();
    store.fail("throws", "ledger.close");
    expect(() => store.ledger.close(row)).toThrow("ECONNREFUSED");
    store.recover();
    store.fail("late", "ledger.close");
    store.ledger.close(row);
    expect(store.recording.closed).toEqual([]);
    await store.deliver();
    expect(store.recording.closed).toEqual([row]);
  });

  test("may strike one call only, or some by chance, the same ones for the same seed", async () => {
    const store = faultyStore();
    store.fail({ fault: "refuses", call: 3 }, "records.get");
    const fates: unknown[] = [];
    for (let i = 0; i < 4; i += 1) fates.push(await failureOf(store.records.get("k")));
    expect(fates.map((fate) => fate === "answered")).toEqual([true, true, false, true]);

    async function struck(seed: number): Promise<string> {
      const some = faultyStore({ seed });
      some.fail({ fault: "throws", probability: 0.3 }, "records");
      let marks = "";
      for (let i = 0; i < 200; i += 1) marks += (await failureOf(some.records.get("k"))) === "answered" ? "." : "x";
      return marks;
    }
    const marks = await struck(7);
    expect(await struck(7)).toBe(marks);
    expect(await struck(8)).not.toBe(marks);
    const share = marks.split("x").length - 1;
    expect(share).toBeGreaterThan(40);
    expect(share).toBeLessThan(80);
    expect(() => store.fail({ fault: "throws", call: 0 }, "records")).toThrow("counted from 1");
    expect(() => store.fail({ fault: "throws", probability: 2 }, "records")).toThrow("0 to 1");
  });

  test("the newest rule decides; places recover alone or together", async () => {
    const store = faultyStore();
    store.fail("hangs", "limits");
    store.fail("refuses", "limits.peek");
    expect(await failureOf(store.limits.peek(PLACES))).toMatchObject({ code: "store_unavailable" });
    store.recover("limits");
    expect(await failureOf(store.limits.release("a"))).toBe("answered");
    expect(await failureOf(store.limits.peek(PLACES))).not.toBe("answered");
    store.recover();
    expect(await failureOf(store.limits.peek(PLACES))).toBe("answered");
  });

  test("counters that are lost: what must not be guessed is refused, everybody is told, nobody may rebuild", async () => {
    const store = faultyStore();
    const { continuity } = store.limits;
    let told = 0;
    const stop = continuity?.watch(() => (told += 1));
    store.loseCounters();
    const strict = CHARGES.map((charge) => ({ ...charge, strict: true }));
    expect(await failureOf(store.limits.reserve("a", strict, 1_000))).toMatchObject({ code: "store_unavailable" });
    expect((await store.limits.reserve("b", CHARGES, 1_000)).kind).toBe("allowed");
    expect([continuity?.isWhole, await continuity?.claim(1_000)]).toEqual([false, false]);
    store.findCounters();
    expect((await store.limits.reserve("c", strict, 1_000)).kind).toBe("allowed");
    expect([continuity?.isWhole, told]).toEqual([true, 2]);
    stop?.();
    store.loseCounters();
    expect(told).toBe(2);
  });
});

test("a recording says what the store behind the faults did", async () => {
  const store = faultyStore();
  store.fail("reply lost", "limits.reserve");
  await failureOf(store.limits.reserve("a", CHARGES, 1_000));
  store.fail("refuses", "limits.settle");
  await failureOf(store.limits.settle("a", { tokens: 10 }));
  store.recover();
  await store.limits.settle("a", { tokens: 10 });
  expect(
    store.recording.verbs.map(({ verb, result }) => [verb, typeof result === "object" && result && "kind" in result ? result.kind : result]),
  ).toEqual([
    ["reserve", "allowed"],
    ["settle", "applied"],
  ]);
  expect([store.recording.unrecorded, store.recording.pending]).toEqual([0, 0]);
});

test.each<[string, readonly unknown[], RegExp]>([
  ["a fault that there is not", ["refuse", "limits"], /there is no fault refuse; did you mean refuses\?/],
  ["a place that there is not", ["refuses", "limits.reserv"], /a store has no limits\.reserv; did you mean limits\.reserve\?/],
  ["no place", ["refuses"], /say where/],
])("%s is told at once: it would never strike", (_what, given, message) => {
  const fail = faultyStore().fail as (...given: readonly unknown[]) => void;
  expect(() => fail(...given)).toThrow(message);
});

test("a recording has an end, and says so", () => {
  const store = recordingStore({ limit: 2 });
  for (const opId of ["a", "b", "c"]) void store.limits.release(opId);
  expect([store.recording.verbs.length, store.recording.unrecorded]).toEqual([2, 1]);
});

test("any store may be inside", async () => {
  const inner = sqliteStore(":memory:");
  await inner.ready();
  const store = faultyStore({ store: inner });
  expect((await store.limits.reserve("a", CHARGES, 1_000)).kind).toBe("allowed");
  expect((await inner.limits.peek(PLACES))[0]?.available).toBe(70);
  await store.close();
});
