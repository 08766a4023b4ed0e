import { beforeEach, describe, expect, it } from "vitest";
import { ConfigError, GuardError } from "../../src/core/errors.ts";
import type { Store } from "../../src/core/store.ts";
import { openKey } from "../../src/stores/define-backend.ts";
import { defineStore, type StoreDefinition } from "../../src/stores/define-store.ts";
import { memoryStore } from "../../src/stores/memory.ts";
import { testClock, type TestClock } from "../../src/testing/clock.ts";
import { B, C, charge, DAY, Rows, T } from "../limits/harness.ts";

const TTL = 60_000;
const place = charge("c", C(1), 1, { unit: "concurrent" });

let clock: TestClock;
let rows: Rows;
let rest: Pick<Store, "records" | "strikes" | "ledger">;
beforeEach(() => {
  clock = testClock({ now: T });
  rows = new Rows(clock.now);
  const { records, strikes, ledger } = memoryStore({ clock });
  rest = { records, strikes, ledger };
});

const over = (more: Partial<StoreDefinition> = {}): Store => defineStore({ shared: true, ...rest, transact: rows.transact, ...more });
const unavailable = expect.objectContaining({ code: "store_unavailable", status: 503 }) as Error;

describe("a store that is defined", () => {
  it("passes on what it was given, by the names it was given", () => {
    const store = over({ name: "mine", isBounded: true, nodes: () => 3 });
    expect(store).toMatchObject({ name: "mine", shared: true, isBounded: true, ...rest });
    expect(store.nodes?.()).toBe(3);
    expect(over()).toMatchObject({ name: "custom" });
    expect(Object.keys(over())).not.toContain("isBounded");
  });

  it("may be an object with methods", async () => {
    class Own {
      readonly shared = false;
      readonly records = rest.records;
      readonly strikes = rest.strikes;
      readonly ledger = rest.ledger;
      readonly own = rows;
      calls = 0;
      transact(...[keys, change]: Parameters<StoreDefinition["transact"]>) {
        this.calls += 1;
        return this.own.transact(keys, change);
      }
    }
    const definition = new Own();
    await defineStore(definition).limits.peek([{ key: "b", rule: B(1, 0) }]);
    expect(definition.calls).toBe(1);
  });

  it("names what is missing, unknown or of the wrong sort", () => {
    const wrong = { ...rest, transact: rows.transact, shared: "yes", atomic: true, ledger: undefined };
    expect(() => defineStore(wrong as unknown as StoreDefinition)).toThrow(ConfigError);
    expect(() => defineStore(wrong as unknown as StoreDefinition)).toThrow(
      /no atomic: it knows name, shared.*needs ledger: an object.*shared: true or false/s,
    );
  });

  it("begins once, tries again after a failure, and ends once", async () => {
    const calls: string[] = [];
    let works = false;
    const store = over({
      ready() {
        calls.push("ready");
        if (!works) throw new Error("not there yet");
      },
      close: () => void calls.push("close"),
    });
    await expect(store.ready()).rejects.toThrow("not there yet");
    works = true;
    await Promise.all([store.ready(), store.ready()]);
    await Promise.all([store.close(), store.close()]);
    expect(calls).toEqual(["ready", "ready", "close"]);
  });
});

describe("its transactions", () => {
  it("are one for a reserve, and two for an end that has to learn the keys first", async () => {
    const asked: (readonly string[])[] = [];
    const { limits } = over({
      transact(keys, change) {
        asked.push(keys);
        return rows.transact(keys, change);
      },
    });
    await limits.reserve("a", [charge("b", B(10, 0), 1), place], TTL);
    const list = asked[0]?.[1] as string;
    expect(asked.splice(0)).toEqual([["hold/a", list, "state/b", "state/c"]]);
    await limits.settle("a", { tokens: 0 });
    expect(asked.splice(0)).toEqual([
      ["hold/a", list],
      ["hold/a", list, "state/b", "state/c"],
    ]);
    expect(list).toMatch(/^open\/\d+$/);
  });

  it("write only keys that they read", async () => {
    const { limits } = over({
      transact: (keys, change) =>
        rows.transact(keys, (states, now) => {
          const writes = change(states, now);
          expect(writes.filter(({ key }) => !keys.includes(key))).toEqual([]);
          return writes;
        }),
    });
    for (const opId of ["a", "b", "c"]) await limits.reserve(opId, [charge("b", B(10, 1), 1), charge(`place-${opId}`, C(1), 1)], 1000);
    await limits.settle("a", { tokens: 5 });
    await limits.extend("b", 2000);
    await limits.lapse("b");
    clock.advance(1000);
    expect(await limits.expire(10)).toHaveLength(1);
  });

  it("that fail are unavailable, whatever was thrown, and leave nothing", async () => {
    const failures: readonly (readonly [what: string, fail: StoreDefinition["transact"]])[] = [
      ["an error", () => Promise.reject(new Error("connection to 10.0.0.1 lost"))],
      ["a RangeError of the database's own", () => Promise.reject(new RangeError("offset out of range"))],
      [
        "an error at once",
        () => {
          throw new TypeError("broken");
        },
      ],
      ["a call that decides nothing", () => undefined],
      ["too few texts", (keys, change) => rows.transact(keys, (_states, now) => change([], now))],
      ["no time", (keys, change) => rows.transact(keys, (states) => change(states, NaN))],
    ];
    for (const [what, transact] of failures) {
      const { limits } = over({ transact });
      await expect(limits.reserve("a", [charge("b", B(10, 0), 1)], TTL), what).rejects.toThrow(unavailable);
      await expect(limits.reserve("a", [charge("b", B(10, 0), 1)], TTL), what).rejects.not.toThrow(/10\.0\.0\.1/);
      expect(rows.all.size, what).toBe(0);
    }
    const refusal = new GuardError("store_unavailable", "in its own words");
    await expect(over({ transact: () => Promise.reject(refusal) }).limits.release("a")).rejects.toBe(refusal);
  });

  it("leave mistakes of the caller what they are, and never throw into the author's code", async () => {
    const { limits } = over({
      transact: (keys, change) =>
        rows.transact(keys, (states, now) => {
          expect(() => change(states, now)).not.toThrow();
          return change(states, now);
        }),
    });
    await expect(limits.reserve("a", [charge("b", B(10, 0), NaN)], TTL)).rejects.toThrow(RangeError);
    await expect(limits.reserve("a", [charge("b", B(10, 0), 1), charge("b", B(10, 0), 1)], TTL)).rejects.toThrow(/twice/);
    expect(rows.all.size).toBe(0);
  });

  it("take a text that cannot be read for trouble, never for absence", async () => {
    const { limits } = over();
    await limits.reserve("a", [charge("b", B(10, 0), 10)], TTL);
    for (const key of ["state/b", "hold/a"]) {
      const row = rows.all.get(key) as { value: string; until: number };
      rows.all.set(key, { ...row, value: "damaged" });
      await expect(limits.reserve("a", [charge("b", B(10, 0), 10)], TTL), key).rejects.toThrow(unavailable);
      await expect(limits.settle("a", { tokens: 1 }), key).rejects.toThrow(unavailable);
      rows.all.set(key, row);
    }
    expect(await limits.settle("a", { tokens: 1 })).toBe("applied");
  });
});

describe("two processes on one database", () => {
  it("count as one, and each finishes what the other began", async () => {
    const both = [over().limits, over().limits];
    const b = B(50, 0);
    const results = await Promise.all(
      Array.from({ length: 200 }, async (_, i) => await both[i % 2]?.reserve(`op${i}`, [charge("b", b, 1), charge("c", C(1000), 1)], TTL)),
    );
    expect(results.filter((result) => result?.kind === "allowed")).toHaveLength(50);
    const admitted = results.flatMap((result, i) => (result?.kind === "allowed" ? [i] : []));
    const ends = await Promise.all(admitted.map(async (i) => await both[(i + 1) % 2]?.settle(`op${i}`, { tokens: 0 })));
    expect(new Set(ends)).toEqual(new Set(["applied"]));
    expect(await both[0]?.peek([{ key: "b", rule: b }])).toMatchObject([{ available: 50 }]);
  });

  it("survive a reply that is lost after the commit: the verb is repeated and has one effect", async () => {
    let isLost = false;
    const { limits } = over({
      async transact(keys, change) {
        await rows.transact(keys, change);
        if (isLost) throw new Error("the connection broke");
      },
    });
    const b = B(100, 0);
    const lost = async (verb: () => unknown): Promise<void> => {
      isLost = true;
      await expect((async () => await verb())()).rejects.toThrow(unavailable);
      isLost = false;
    };
    const reserve = () => limits.reserve("a", [charge("b", b, 60)], TTL);
    await lost(reserve);
    expect(await reserve()).toMatchObject({ kind: "allowed", replayed: true });
    await lost(() => limits.release("unheard-of"));
    expect(await limits.release("unheard-of")).toBe("done");
    expect(await limits.settle("a", { tokens: 10 })).toBe("applied");
    expect(await limits.peek([{ key: "b", rule: b }])).toMatchObject([{ available: 90 }]);
  });
});

describe("what it stores", () => {
  const listed = (): string[] =>
    [...rows.all].filter(([key]) => key.startsWith("open/")).flatMap(([, { value }]) => Object.keys(JSON.parse(value) as object));

  it("is gone when it says nothing any more; only what never refills is kept for ever", async () => {
    const { limits } = over();
    for (let i = 0; i < 50; i += 1) {
      await limits.reserve(`op${i}`, [charge(`u${i}`, B(10, 1), 5), charge("places", C(100), 1), charge("frozen", B(1000, 0), 1)], TTL);
      if (i % 2 === 0) await limits.settle(`op${i}`, {});
    }
    // Only what is open is listed.
    expect(listed().every((opId) => Number(opId.slice(2)) % 2 === 1)).toBe(true);
    expect(listed()).toHaveLength(25);
    clock.advance(TTL);
    expect(await limits.expire(1000)).toHaveLength(25);
    expect(listed()).toEqual([]);
    clock.advance(3 * DAY);
    rows.sweep();
    expect([...rows.all.keys()]).toEqual(["state/frozen"]);
  });

  it("lists open holds in lists of bounded length; one that is full is unavailable until the sweep", async () => {
    const { limits } = over();
    const sameList: string[] = [];
    for (let i = 0; sameList.length < 1001; i += 1) if (openKey(`op${i}`) === "open/7") sameList.push(`op${i}`);
    const last = sameList.pop() as string;
    for (const opId of sameList) await limits.reserve(opId, [], 1000);
    await expect(limits.reserve(last, [charge("b", B(1, 0), 1)], 1000)).rejects.toThrow(unavailable);
    expect(rows.read("state/b")).toBeUndefined();
    expect(rows.read("open/7")?.length).toBeLessThan(64 * 1024);
    clock.advance(1000);
    expect(await limits.expire(100)).toHaveLength(100);
    expect(await limits.reserve(last, [charge("b", B(1, 0), 1)], 1000)).toMatchObject({ kind: "allowed" });
  });

  it("spreads holds over the lists evenly", async () => {
    const { limits } = over();
    for (let i = 0; i < 1280; i += 1) await limits.reserve(`01K${i.toString(32).padStart(23, "0").toUpperCase()}.b`, [], TTL);
    const sizes = [...rows.all].filter(([key]) => key.startsWith("open/")).map(([, { value }]) => Object.keys(JSON.parse(value) as object).length);
    expect(sizes).toHaveLength(64);
    expect(Math.max(...sizes)).toBeLessThan(80);
  });

  it("is not lost to a sweep when a list has forgotten less than the holds", async () => {
    const { limits } = over();
    await limits.reserve("a", [place], 1000);
    const [key, row] = [...rows.all].find(([name]) => name.startsWith("open/")) as [string, { value: string; until: number }];
    await limits.settle("a", {});
    rows.all.set(key, row);
    clock.advance(1000);
    expect(await limits.expire(10)).toEqual([]);
    expect(rows.all.has(key)).toBe(false);
  });
});
