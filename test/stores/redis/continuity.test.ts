import { Redis } from "ioredis";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import { encodeState } from "../../../src/limits/codec.ts";
import { exactKinds } from "../../../src/limits/engine.ts";
import type { Charge, CounterState, Rule } from "../../../src/core/store.ts";
import type { Kind, LimitState } from "../../../src/limits/kind.ts";
import { B, C, charge, DAY, K, T, W } from "../../limits/harness.ts";
import { testServer } from "../../setup/test-server.ts";
import { forget, imageOf, keysOf, limitsOn, ownPrefix, plainLink, type RedisLimits } from "./limits-kit.ts";

const url = await testServer("redis");
const TTL = 300_000;
const LOST = /the counters of the limits were lost and are being rebuilt/;

describe.skipIf(url === undefined)("the history of counters in Redis", () => {
  const client = new Redis(url ?? "", { lazyConnect: true });
  let prefix = "";
  let ms = 0;
  let a: RedisLimits;
  let b: RedisLimits;

  beforeEach(() => {
    prefix = ownPrefix();
    ms = 0;
    a = node();
    b = node();
  });
  afterEach(() => forget(client, prefix));
  afterAll(() => client.disconnect());

  const node = (catchUp?: (version: number) => Promise<void>): RedisLimits =>
    limitsOn(
      plainLink(client, prefix, () => T + ms),
      catchUp ? { catchUp } : {},
    );
  const plain: Charge[] = [charge("plain", B(100, 0), 10)];
  const strict: Charge[] = [{ ...charge("strict", B(100, 0), 10, { unit: "usd" }), strict: true }];
  let ops = 0;
  const reserve = (store: RedisLimits, charges: readonly Charge[]) => store.reserve(`op${(ops += 1)}`, charges, TTL);
  const meta = (): Promise<string | null> => client.get(`${prefix}m`);
  const claimed = async ({ continuity }: RedisLimits): Promise<void> => expect(await continuity.claim(60_000)).toBe(true);
  const bump = async (): Promise<void> => {
    const [epoch, version, mark] = ((await meta()) ?? "").split(":");
    await client.set(`${prefix}m`, `${epoch}:${Number(version) + 1}:${mark}`);
  };

  it("begins whole where nothing was ever seen, and goes on from there", async () => {
    expect([a.continuity.epoch, a.continuity.isWhole]).toEqual(["", false]);
    await a.continuity.begin(null);
    expect(a.continuity.isWhole).toBe(true);
    expect(a.continuity.epoch).not.toBe("");
    await b.continuity.begin(a.continuity.epoch);
    expect([b.continuity.epoch, b.continuity.isWhole]).toEqual([a.continuity.epoch, true]);
    const c = node();
    await c.continuity.begin(null);
    expect([c.continuity.epoch, c.continuity.isWhole]).toEqual([a.continuity.epoch, true]);
  });

  it("begins by itself with the first reservation", async () => {
    expect(await a.settle("none", {})).toBe("unknown");
    expect(await a.peek([{ key: "plain", rule: B(100, 0) }])).toEqual([{ available: 100, resetMs: 0 }]);
    expect(await meta()).toBeNull();
    const results = await Promise.all([reserve(a, strict), reserve(a, plain), reserve(b, strict)]);
    expect(results.map(({ kind }) => kind)).toEqual(["allowed", "allowed", "allowed"]);
    expect(a.continuity.epoch).toBe(b.continuity.epoch);
    expect(await meta()).toBe(`${a.continuity.epoch}:0:w`);
  });

  it("is closed where something was seen and nothing is left", async () => {
    await a.continuity.begin("seen-before");
    expect(a.continuity.isWhole).toBe(false);
    expect(a.continuity.epoch).not.toBe("seen-before");
    // For a process that knows of nothing, too.
    await b.continuity.begin(null);
    expect([b.continuity.epoch, b.continuity.isWhole]).toEqual([a.continuity.epoch, false]);
    for (const store of [a, b]) {
      await expect(reserve(store, strict)).rejects.toThrow(LOST);
      expect(await reserve(store, plain)).toMatchObject({ kind: "allowed" });
    }
    await claimed(a);
    await a.continuity.complete();
    expect(await reserve(b, strict)).toMatchObject({ kind: "allowed" });
    expect(b.continuity.epoch).toBe(a.continuity.epoch);
    await expect.poll(() => b.continuity.isWhole).toBe(true);
  });

  it("takes over another history that is whole", async () => {
    await a.continuity.begin(null);
    await b.continuity.begin("another");
    expect([b.continuity.epoch, b.continuity.isWhole]).toEqual([a.continuity.epoch, true]);
  });

  it("a process that knows of nothing does not open an emptied server for those that know better", async () => {
    await a.continuity.begin(null);
    await b.continuity.begin(null);
    expect(await reserve(a, strict)).toMatchObject({ kind: "allowed" });
    await forget(client, prefix);
    const fresh = node();
    await fresh.continuity.begin(null);
    expect(fresh.continuity.isWhole).toBe(true);
    for (const each of await Promise.allSettled([reserve(a, strict), reserve(b, strict)]))
      expect(String((each as PromiseRejectedResult).reason)).toMatch(LOST);
    expect([a.continuity.isWhole, b.continuity.isWhole, b.continuity.epoch]).toEqual([false, false, a.continuity.epoch]);
    await expect(reserve(fresh, strict)).rejects.toThrow(LOST);
    await claimed(b);
    await b.continuity.complete();
    for (const store of [a, b, fresh]) expect(await reserve(store, strict)).toMatchObject({ kind: "allowed" });
    await expect.poll(() => [a, b, fresh].map(({ continuity }) => continuity.isWhole)).toEqual([true, true, true]);
  });

  it("a server that comes back empty closes strict limits for all processes, until one has rebuilt them", async () => {
    await a.continuity.begin(null);
    await b.continuity.begin(null);
    const before = a.continuity.epoch;
    expect(await reserve(a, strict)).toMatchObject({ kind: "allowed" });
    await b.reserve("open", [...strict, ...plain], TTL);
    const told: string[] = [];
    a.continuity.watch(() => void told.push(`a ${a.continuity.isWhole}`));
    const stop = b.continuity.watch(() => void told.push(`b ${b.continuity.isWhole}`));

    await forget(client, prefix);
    // Both notice at once, and only one new history begins.
    const errors = await Promise.allSettled([reserve(a, strict), reserve(b, strict), reserve(a, strict)]);
    for (const each of errors) {
      expect(each).toMatchObject({ status: "rejected", reason: { code: "store_unavailable" } });
      expect(String((each as PromiseRejectedResult).reason)).toMatch(LOST);
    }
    expect(told.sort()).toEqual(["a false", "b false"]);
    expect(a.continuity.epoch).toBe(b.continuity.epoch);
    expect(a.continuity.epoch).not.toBe(before);
    expect(await meta()).toBe(`${a.continuity.epoch}:0:c`);

    // All else is decided, on counters that began anew.
    expect(await reserve(a, plain)).toMatchObject({ kind: "allowed", standings: [{ available: 90 }] });
    expect(await b.settle("open", { usd: 1 })).toBe("unknown");
    await expect(reserve(b, [...plain, ...strict])).rejects.toBeInstanceOf(GuardError);
    expect(await a.peek([{ key: "plain", rule: B(100, 0) }])).toMatchObject([{ available: 90 }]);

    expect(await a.continuity.claim(60_000)).toBe(true);
    expect(await a.continuity.claim(60_000)).toBe(true);
    expect(await b.continuity.claim(60_000)).toBe(false);
    await a.continuity.restore([
      { key: "strict", state: encodeState({ kind: "bucket", key: "strict", level: 30, carry: 0, t: T, capacity: 100, n: 0, d: 1 }) },
    ]);
    stop();
    await a.continuity.complete();
    expect(told.sort()).toEqual(["a false", "a true", "b false"]);
    expect(a.continuity.isWhole).toBe(true);
    expect(await b.continuity.claim(60_000)).toBe(true);
    expect(await reserve(b, strict)).toMatchObject({ kind: "allowed", standings: [{ available: 20 }] });
    await expect.poll(() => b.continuity.isWhole).toBe(true);
  });

  it("the first reservation after a loss is told that it is stale, if nothing in it is strict", async () => {
    const caughtUp: number[] = [];
    a = node((version) => Promise.resolve(void caughtUp.push(version)));
    await a.continuity.begin(null);
    await forget(client, prefix);
    expect(await a.reserve("x", plain, TTL)).toEqual({ kind: "stale" });
    expect(await a.reserve("x", plain, TTL)).toMatchObject({ kind: "allowed" });
    // At the beginning, and because the numbers of limits are lost as well.
    expect(caughtUp).toEqual([0, 0]);
  });

  it("a second loss while the counters are rebuilt is not taken for whole", async () => {
    await a.continuity.begin("seen-before");
    await forget(client, prefix);
    await expect(a.continuity.complete()).rejects.toThrow(/once more/);
    expect(a.continuity.isWhole).toBe(false);
    expect(await meta()).toBe(`${a.continuity.epoch}:0:c`);
    await expect(reserve(b, strict)).rejects.toThrow(LOST);
    await claimed(a);
    await a.continuity.complete();
    expect(await reserve(b, strict)).toMatchObject({ kind: "allowed" });
  });

  it("who has rebuilt one history cannot open another", async () => {
    await a.continuity.begin("seen-before");
    await b.continuity.begin(null);
    await forget(client, prefix);
    await expect(reserve(b, strict)).rejects.toThrow(LOST);
    await expect(a.continuity.complete()).rejects.toThrow(/once more/);
    expect(a.continuity.epoch).toBe(b.continuity.epoch);
    expect(await meta()).toBe(`${b.continuity.epoch}:0:c`);
  });

  it("a process that was away while all was lost and rebuilt goes on with the new counters", async () => {
    await a.continuity.begin(null);
    await b.continuity.begin(null);
    await forget(client, prefix);
    await expect(reserve(a, strict)).rejects.toThrow(LOST);
    await claimed(a);
    await a.continuity.complete();
    const told: boolean[] = [];
    b.continuity.watch(() => void told.push(b.continuity.isWhole));
    expect(await reserve(b, strict)).toEqual({ kind: "stale" });
    expect(await reserve(b, strict)).toMatchObject({ kind: "allowed" });
    expect(told).toEqual([true]);
    expect(b.continuity.epoch).toBe(a.continuity.epoch);
  });

  it("nobody decides by numbers of limits that were changed elsewhere", async () => {
    const events: string[] = [];
    let arrive: () => void = () => undefined;
    a = node(async (version) => {
      events.push(`asked for ${version}`);
      if (version === 1) await new Promise<void>((resolve) => (arrive = resolve));
      events.push(`have ${version}`);
    });
    await a.continuity.begin(null);
    await a.reserve("held", plain, TTL);
    await bump();
    const before = await imageOf(client, prefix);
    const stale = [reserve(a, plain), reserve(a, strict), a.reserve("held", plain, TTL)].map(async (each) => {
      const result = await each;
      events.push(result.kind);
    });
    await expect.poll(() => events.at(-1)).toBe("asked for 1");
    expect(await imageOf(client, prefix)).toEqual(before);
    // Who begins now has the old numbers, too; finishing needs none.
    expect(await a.extend("held", TTL)).toBe(true);
    arrive();
    await Promise.all(stale);
    expect(events).toEqual(["asked for 0", "have 0", "asked for 1", "have 1", "stale", "stale", "stale"]);
    expect(await a.reserve("held", plain, TTL)).toMatchObject({ kind: "allowed", replayed: true });
    await bump();
    expect(await a.settle("held", { tokens: 1 })).toBe("applied");
    expect(a.continuity.isWhole).toBe(true);
  });

  it("numbers that cannot be read are trouble, and are asked for again", async () => {
    let works = true;
    a = node(() => (works ? Promise.resolve() : Promise.reject(new Error("away"))));
    await a.continuity.begin(null);
    await bump();
    works = false;
    await expect(reserve(a, plain)).rejects.toMatchObject({ code: "store_unavailable" });
    await expect(reserve(a, plain)).rejects.toMatchObject({ code: "store_unavailable" });
    works = true;
    expect(await reserve(a, plain)).toEqual({ kind: "stale" });
    expect(await reserve(a, plain)).toMatchObject({ kind: "allowed", standings: [{ available: 90 }] });
  });

  it("something else in the place of the epoch is trouble", async () => {
    await a.continuity.begin(null);
    for (const text of ["", "nonsense", "a:b:w", `${a.continuity.epoch}:0:x`]) {
      await client.set(`${prefix}m`, text);
      await expect(reserve(a, plain)).rejects.toMatchObject({ code: "store_unavailable" });
      await expect(b.continuity.begin(null)).rejects.toMatchObject({ code: "store_unavailable" });
    }
    await client.del(`${prefix}m`);
    await client.hset(`${prefix}m`, "a", "b");
    await expect(reserve(a, plain)).rejects.toMatchObject({ code: "store_unavailable" });
    expect(await a.peek([{ key: "plain", rule: B(100, 0) }])).toMatchObject([{ available: 100 }]);
  });

  it("the right to rebuild ends by itself", async () => {
    await a.continuity.begin("seen-before");
    expect(await a.continuity.claim(5000)).toBe(true);
    expect(await client.pttl(`${prefix}rebuild`)).toBeGreaterThan(4000);
    expect(await client.pttl(`${prefix}rebuild`)).toBeLessThanOrEqual(5000);
    // What the end of its time does.
    await client.del(`${prefix}rebuild`);
    expect(await b.continuity.claim(5000)).toBe(true);
    expect(await a.continuity.claim(5000)).toBe(false);
    // Whoever has lost the right does not take it from another one.
    await a.continuity.complete();
    expect(a.continuity.isWhole).toBe(false);
    expect(await a.continuity.claim(5000)).toBe(false);
  });

  it("without the right to rebuild nothing is put back or opened: what stands there may be live", async () => {
    const counters = [{ key: "plain", state: encodeState({ kind: "bucket", key: "plain", level: 3, carry: 0, t: T, capacity: 100, n: 0, d: 1 }) }];
    await a.continuity.begin("seen-before");
    await b.continuity.begin("seen-before");
    const refused = (): Promise<void> => expect(a.continuity.restore(counters)).rejects.toMatchObject({ code: "store_unavailable" });
    await refused();
    await claimed(a);
    await client.del(`${prefix}rebuild`);
    await claimed(b);
    await refused();
    await b.continuity.complete();
    expect(await reserve(b, plain)).toMatchObject({ standings: [{ available: 90 }] });
    await client.del(`${prefix}rebuild`);
    // Even the right is none where all is whole.
    await claimed(a);
    await refused();
    expect(await b.peek([{ key: "plain", rule: B(100, 0) }])).toMatchObject([{ available: 90 }]);
  });

  it("counters of every kind are put back as they were, many at once", async () => {
    await a.continuity.begin("seen-before");
    await b.continuity.begin("seen-before");
    await claimed(b);
    const rules: Rule[] = [B(100, 1, 1000), B(100, 0), W(100, 60_000, 1000), K(100), C(100)];
    const states = new Map<string, LimitState>();
    const limits: { readonly key: string; readonly rule: Rule }[] = [];
    ms = 70_000;
    for (let i = 0; i < 450; i += 1) {
      const rule = rules[i % rules.length] as Rule;
      const key = `${rule.kind}${i}`;
      const kind = exactKinds[rule.kind] as Kind<Rule, LimitState>;
      const state = kind.fresh(key, rule, T + 5000);
      kind.take(state, rule.kind === "concurrency" ? 1 : 20, T + 5000, "x", T + TTL);
      kind.advance(state, rule, T + 30_000);
      kind.take(state, rule.kind === "concurrency" ? 1 : i % 50, T + 30_000, "y", T + 60_000);
      states.set(key, state);
      limits.push({ key, rule });
    }
    await reserve(
      b,
      limits.slice(0, 20).map(({ key, rule }) => charge(key, rule, 1)),
    );
    const counters: CounterState[] = [...states].map(([key, state]) => ({ key, state: encodeState(state) }));
    await b.continuity.restore(counters);
    const expected = limits.map(({ key, rule }) => {
      const kind = exactKinds[rule.kind] as Kind<Rule, LimitState>;
      const state = states.get(key) as LimitState;
      return { available: kind.available(state, rule, T + ms), resetMs: kind.reset(state, rule, T + ms) };
    });
    expect(await a.peek(limits)).toEqual(expected);
    expect(expected.slice(0, 5)).toMatchObject([{ available: 100 }, { available: 79 }, { available: 98 }, { available: 77 }, { available: 99 }]);
    const ttls = await Promise.all((await keysOf(client, prefix)).map((key) => client.pttl(key)));
    expect(ttls.filter((ttl) => ttl < 0).length).toBe(2);
    await b.continuity.complete();
    // What they hold can be charged and finished as ever.
    expect(await a.reserve("more", [charge("sliding2", W(100, 60_000, 1000), 98)], TTL)).toMatchObject({ kind: "allowed" });
    expect(await b.settle("more", { tokens: 90 })).toBe("applied");
    expect(await a.settle("more", { tokens: 0 })).toBe("done");
    expect(await a.peek([{ key: "sliding2", rule: W(100, 60_000, 1000) }])).toMatchObject([{ available: 8 }]);
  });

  it("what has lapsed is not put back, and what is no state is refused", async () => {
    await a.continuity.begin("seen-before");
    await claimed(a);
    ms = 5 * DAY;
    await reserve(a, [charge("k", K(100, ms), 5)]);
    await a.continuity.restore([
      { key: "k", state: encodeState({ kind: "calendar", key: "k", t: T, start: T, end: T + DAY, used: 9, prevStart: -1, prevUsed: 0 }) },
    ]);
    expect(await a.peek([{ key: "k", rule: K(100, ms) }])).toMatchObject([{ available: 100 }]);
    await expect(a.continuity.restore([{ key: "k", state: "[]" }])).rejects.toThrow(Error);
  });
});
