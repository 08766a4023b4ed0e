import { describe, expect, test } from "vitest";
import { memoryRecords } from "../../../src/stores/memory-records.ts";
import { claims, type Claim, type Claims, type Ending, type Taken } from "../../../src/middleware/idempotency/claims.ts";
import { testClock, type TestClock } from "../../../src/testing/clock.ts";
import type { RecordStore } from "../../../src/core/store.ts";
import { keptLogger } from "../../core/context-kit.ts";

const DAY_MS = 86_400_000;
const ANSWER: Ending = { state: "answered", answer: { status: 200, headers: ["content-type", "application/json"], body: "e30=" } };

interface Kit {
  readonly clock: TestClock;
  readonly records: RecordStore;
  readonly node: (owner: string, over?: RecordStore) => Claims;
}

function kit(): Kit {
  const clock = testClock();
  const logger = keptLogger();
  const records = memoryRecords(clock.now, logger);
  return { clock, records, node: (owner, over = records) => claims({ records: over, clock, logger, ttlMs: DAY_MS, owner }) };
}

const about = (id: string, digest = "d") => ({ id, digest, requestId: `request ${id}` });

function claimOf(taken: Taken): Claim {
  if (taken.state !== "taken") throw new Error(`it was ${taken.state}`);
  return taken.claim;
}

describe("a key", () => {
  test("has one holder, also among processes, and then its answer", async () => {
    const { node } = kit();
    const [a, b] = [node("a"), node("b")];
    const both = await Promise.all([a.take("k", about("1")), b.take("k", about("2"))]);
    expect(both.map(({ state }) => state).toSorted()).toEqual(["open", "taken"]);
    const winner = both[0].state === "taken" ? a : b;
    await winner.end(claimOf(both.find(({ state }) => state === "taken") as Taken), ANSWER);
    for (const each of [a, b]) expect(await each.take("k", about("3"))).toMatchObject(ANSWER);
    expect(await a.take("k", about("4", "other"))).toEqual({ state: "mismatch" });
  });

  test("of a request that cost nothing is free at once, for something else, too", async () => {
    const { node } = kit();
    const [a, b] = [node("a"), node("b")];
    await a.end(claimOf(await a.take("k", about("1"))), null);
    expect((await b.take("k", about("2", "other"))).state).toBe("taken");
  });

  test("tells whoever watches of each change", async () => {
    const { node } = kit();
    const [a, b] = [node("a"), node("b")];
    let changes = 0;
    const stop = b.watch("k", () => void (changes += 1));
    const claim = claimOf(await a.take("k", about("1")));
    await a.end(claim, ANSWER);
    expect(changes).toBe(2);
    stop();
    await a.take("other", about("2"));
    expect(changes).toBe(2);
  });

  test("is forgotten after its time", async () => {
    const { node, clock } = kit();
    const a = node("a");
    await a.end(claimOf(await a.take("k", about("1"))), ANSWER);
    clock.advance(DAY_MS - 1);
    expect((await a.take("k", about("2"))).state).toBe("answered");
    clock.advance(1);
    expect((await a.take("k", about("3"))).state).toBe("taken");
  });
});

describe("a process", () => {
  test("that lives keeps its keys for as long as it likes", async () => {
    const { node, clock } = kit();
    const [a, b] = [node("a"), node("b")];
    const claim = claimOf(await a.take("k", about("1")));
    for (let i = 0; i < 100; i += 1) {
      clock.advance(10_000);
      expect((await b.take("k", about("2"))).state).toBe("open");
    }
    await a.end(claim, ANSWER);
    expect((await b.take("k", about("3"))).state).toBe("answered");
  });

  test("that was killed leaves keys that nobody sends again: unknown, for good", async () => {
    const { node, clock, records } = kit();
    const dead: TestClock = testClock();
    const a = claims({ records, clock: dead, logger: keptLogger(), ttlMs: DAY_MS, owner: "a" });
    const claim = claimOf(await a.take("k", about("1")));
    const b = node("b");
    clock.advance(29_999);
    expect((await b.take("k", about("2"))).state).toBe("open");
    clock.advance(1);
    expect(await b.take("k", about("2"))).toMatchObject({ state: "lost", why: "crashed" });
    // It was only slow. What it says now comes too late.
    await a.end(claim, ANSWER);
    expect(await b.take("k", about("3"))).toMatchObject({ state: "lost", why: "crashed" });
    expect(await a.take("k", about("4"))).toMatchObject({ state: "lost", why: "crashed" });
  });

  test("that was only late in showing that it lives never takes its own for a dead one's", async () => {
    const { node, clock, records } = kit();
    const a = node("a");
    await a.take("k", about("1"));
    await records.delete("idempotency/owner/a");
    expect((await a.take("k", about("2"))).state).toBe("open");
    // Nor does anybody else once it has.
    clock.advance(10_000);
    expect((await node("b").take("k", about("3"))).state).toBe("open");
  });

  test("that ends in order says so: what it still had is known to be lost at once", async () => {
    const { node } = kit();
    const [a, b] = [node("a"), node("b")];
    await a.take("k", about("1"));
    await a.close();
    expect(await b.take("k", about("2"))).toMatchObject({ state: "lost", why: "crashed" });
  });

  test("has no timer when it has nothing to do", async () => {
    const { node, clock } = kit();
    const a = node("a");
    await a.end(claimOf(await a.take("k", about("1"))), ANSWER);
    clock.advance(10_000);
    expect(clock.pending()).toBe(0);
  });
});

describe("a store that is away", () => {
  test("gets the endings when it is back, and whoever asks meanwhile is told to wait", async () => {
    const { node, clock, records } = kit();
    let isAway = false;
    const flaky: RecordStore = {
      ...records,
      put: (...args) => {
        if (isAway) throw new Error("away");
        return records.put(...args);
      },
    };
    const a = node("a", flaky);
    const charged = claimOf(await a.take("charged", about("1")));
    const refused = claimOf(await a.take("refused", about("2")));
    isAway = true;
    await Promise.all([a.end(charged, ANSWER), a.end(refused, null)]);
    await expect(a.take("new", about("3"))).rejects.toThrow("away");
    // Its client tries again, in vain: what became of the first is not forgotten by that.
    await expect(a.take("refused", about("2 again"))).resolves.toEqual({ state: "open" });
    for (const key of ["charged", "refused"]) expect((await node("b").take(key, about("4"))).state).toBe("open");
    clock.advance(1_000);
    isAway = false;
    const aSecondLater = async (): Promise<string> => {
      clock.advance(1_000);
      return (await node("c").take("charged", about("5"))).state;
    };
    await expect.poll(aSecondLater, { interval: 1 }).toBe("lost");
    expect((await node("d").take("refused", about("6"))).state).toBe("taken");
    expect((await node("e").take("new", about("7"))).state).toBe("taken");
  });
});
