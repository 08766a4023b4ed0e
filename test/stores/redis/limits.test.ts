import { Redis } from "ioredis";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { GuardError } from "../../../src/core/errors.ts";
import type { Logger } from "../../../src/core/logger.ts";
import type { Charge, Rule } from "../../../src/core/store.ts";
import type { MaybePromise } from "../../../src/core/time.ts";
import { exactKinds } from "../../../src/limits/engine.ts";
import type { Kind, LimitState } from "../../../src/limits/kind.ts";
import type { RedisLink } from "../../../src/stores/redis/link.ts";
import { B, C, charge, DAY, K, T, W } from "../../limits/harness.ts";
import { startRedis } from "../../setup/redis.ts";
import { testServer } from "../../setup/test-server.ts";
import { forget, imageOf, keysOf, limitsOn, ownPrefix, plainLink, type RedisLimits } from "./limits-kit.ts";

const url = await testServer("redis");
const TTL = 300_000;

describe.skipIf(url === undefined)("limits in Redis", () => {
  const client = new Redis(url ?? "", { lazyConnect: true });
  let prefix = "";
  let ms = 0;
  let store: RedisLimits;

  beforeEach(() => {
    prefix = ownPrefix();
    ms = 0;
    store = limitsOn(link());
  });
  afterEach(() => forget(client, prefix));
  afterAll(() => client.disconnect());

  const now = (): number => T + ms;
  const link = (): RedisLink => plainLink(client, prefix, now);
  const left = async (key: string, rule: Charge["rule"]): Promise<number | undefined> => (await store.peek([{ key, rule }]))[0]?.available;

  /** One charge of each kind, the same key and unit for each. */
  const four = (amount: number): Charge[] => [
    charge("b", B(100, 1, 1000), amount, { unit: "tokens" }),
    charge("w", W(100, 60_000, 1000), amount, { unit: "input_tokens" }),
    charge("k", K(100), amount, { unit: "output_tokens" }),
    charge("c", C(3), 1, { unit: "concurrent" }),
  ];
  const standing = async (): Promise<readonly number[]> => (await store.peek(four(0))).map(({ available }) => available);

  async function expectUnavailable(verb: MaybePromise<unknown>): Promise<GuardError> {
    const error = await Promise.resolve(verb).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(GuardError);
    expect(error).toMatchObject({ code: "store_unavailable" });
    return error as GuardError;
  }

  it("a refusal leaves every byte and every time to live as it was", async () => {
    await store.reserve("held", four(60), TTL);
    ms = 1500;
    const before = await imageOf(client, prefix);
    expect(before.size).toBe(7);
    for (const shadow of [[], [1], [0, 3]]) {
      const charges = four(60).map((each, i) => ({ ...each, enforce: !shadow.includes(i) }));
      expect(await store.reserve("refused", charges, TTL)).toMatchObject({ kind: "limited" });
    }
    await store.peek(four(0));
    expect(await store.reserve("held", four(1), TTL)).toEqual({ kind: "conflict" });
    expect(await imageOf(client, prefix)).toEqual(before);
  });

  it("looks at any number of limits at once", async () => {
    await store.reserve("op", [charge("k2999", B(100, 0), 10)], TTL);
    for (const count of [3000, 70_000]) {
      const found = await store.peek(Array.from({ length: count }, (_, i) => ({ key: `k${i}`, rule: B(100, 0) })));
      expect([found.length, found[0]?.available, found[2999]?.available]).toEqual([count, 100, 90]);
    }
    await expect(
      store.peek([...Array.from({ length: 1500 }, (_, i) => ({ key: `k${i}`, rule: B(100, 0) })), { key: "k2999", rule: K(100) }]),
    ).rejects.toThrow(/limit k2999 is a bucket and cannot be charged as a calendar/);
  });

  it("every key but m and x goes by itself", async () => {
    for (let i = 0; i < 40; i += 1) {
      ms += 700;
      const charges = four(i % 7).map((each, j) => ({ ...each, key: `${each.key}${i % 3}`, enforce: (i + j) % 2 === 0 }));
      await store.reserve(`op${i}`, [...charges, charge(`frozen${i % 2}`, B(1000, 0), 1, { unit: "usd" })], 1000 + 50 * i);
      if (i % 3 === 0) await store.settle(`op${i - 2}`, { tokens: i, usd: 5 });
      if (i % 5 === 0) await store.extend(`op${i}`, TTL);
      if (i % 7 === 0) await store.lapse(`op${i - 1}`);
      if (i % 9 === 0) await store.release(`never${i}`);
      if (i % 11 === 0) await store.expire(100);
    }
    const keys = await keysOf(client, prefix);
    const ttls = await Promise.all(keys.map(async (key) => [key.slice(prefix.length), await client.pttl(key)] as const));
    expect(ttls.filter(([, ttl]) => ttl < 0).map(([key]) => key)).toEqual(["m", "x"]);
    // A bucket that never refills would be full again without its state.
    for (const [, ttl] of ttls.filter(([key]) => key.startsWith("s:frozen"))) expect(ttl).toBeGreaterThan(3000 * DAY);
    expect(keys.every((key) => key.startsWith(prefix))).toBe(true);
  });

  it("a key lives at least as long as its state says something, and knows until when", async () => {
    const rules: Rule[] = [B(100, 1, 1000), W(100, 60_000, 1000), K(100)];
    for (const [i, rule] of rules.entries()) {
      const kind = exactKinds[rule.kind] as Kind<Rule, LimitState>;
      let state: LimitState | undefined;
      for (const at of [0, 30_000, 59_000, 61_000, 150_000, 300_000]) {
        ms = at;
        await store.reserve(`${rule.kind}${at}`, [charge(`key${i}`, rule, 3)], TTL);
        state ??= kind.fresh("", rule, now());
        kind.advance(state, rule, now());
        kind.take(state, 3, now(), "", 0);
        const lasts = (await client.getBuffer(`${prefix}s:key${i}`))?.readDoubleBE(1) ?? 0;
        expect(lasts).toBeGreaterThanOrEqual(kind.lapsesAt(state));
        expect(lasts - kind.lapsesAt(state)).toBeLessThanOrEqual(60_000);
        // In the test's time some of it has passed, in the server's next to nothing.
        const ttl = await client.pttl(`${prefix}s:key${i}`);
        expect(ttl).toBeGreaterThanOrEqual(lasts - now() - 5000);
        expect(ttl).toBeLessThanOrEqual(lasts - T);
      }
    }
  });

  it("a refund for the window before changes its report, and nothing else", async () => {
    const used = async (): Promise<unknown> => {
      const bytes = await client.getBuffer(`${prefix}s:k`);
      return bytes && { used: bytes.readDoubleBE(33), prevStart: bytes.readDoubleBE(41), prevUsed: bytes.readDoubleBE(49) };
    };
    await store.reserve("a", [charge("k", K(100), 60)], 2 * DAY);
    ms = DAY;
    await store.reserve("b", [charge("k", K(100, ms), 10)], TTL);
    expect(await used()).toEqual({ used: 10, prevStart: T, prevUsed: 60 });
    expect(await store.settle("a", { tokens: 20 })).toBe("applied");
    expect(await used()).toEqual({ used: 10, prevStart: T, prevUsed: 20 });
  });

  it("what was charged to a counter that is gone is not taken from another kind in its place", async () => {
    for (const [actual, i] of [
      [0, 1],
      [50, 2],
    ] as const) {
      await store.reserve(`a${i}`, [charge(`k${i}`, B(100, 0), 10)], TTL);
      await client.del(`${prefix}s:k${i}`);
      await store.reserve(`b${i}`, [charge(`k${i}`, W(100, 60_000, 1000), 5)], TTL);
      const before = await client.dumpBuffer(`${prefix}s:k${i}`);
      expect(await store.settle(`a${i}`, { tokens: actual })).toBe("applied");
      expect(await client.dumpBuffer(`${prefix}s:k${i}`)).toEqual(before);
    }
  });

  it("a value that nobody here has written is trouble, not absence and not a refusal", async () => {
    const lines: object[] = [];
    const logger: Logger = { debug: () => {}, info: () => {}, warn: () => {}, error: (fields) => void lines.push(fields) };
    store = limitsOn(link(), { logger });
    await store.reserve("a", four(10), TTL);
    const broken: [key: string, breakIt: (key: string) => Promise<unknown>][] = [
      ["s:b", (key) => client.set(key, "12")],
      ["s:b", (key) => client.set(key, `b${"x".repeat(55)}`)],
      ["s:w", (key) => client.append(key, "half a cell")],
      ["s:k", (key) => client.setrange(key, 0, "?")],
      ["s:b", (key) => client.hset(key, "a", "b")],
      ["s:w", (key) => client.lpush(key, "a")],
      ["s:c", (key) => client.set(key, "neither")],
      ["s:c", (key) => client.hset(key, "a", "b")],
      ["r:a", (key) => client.set(key, "h123")],
      ["r:a", (key) => client.sadd(key, "a")],
      ["x", (key) => client.set(key, "a")],
    ];
    for (const [key, breakIt] of broken) {
      const whole = await client.dumpBuffer(prefix + key);
      await client.del(prefix + key);
      await breakIt(prefix + key);
      const before = await imageOf(client, prefix);
      if (!key.startsWith("r:")) await expectUnavailable(store.reserve("b", four(10), TTL));
      await expectUnavailable(store.settle("a", { tokens: 1, input_tokens: 20, output_tokens: 3 }));
      await expectUnavailable(store.reserve("a", four(10), TTL));
      if (!key.startsWith("r:")) await expectUnavailable(store.peek(four(0)));
      expect(await imageOf(client, prefix)).toEqual(before);
      await client.restore(prefix + key, 0, whole, "REPLACE");
    }
    expect(lines).toContainEqual({ code: "QG_REDIS_CORRUPT", key: `${prefix}s:b` });
    expect(lines.length).toBeLessThan(6);
    expect(await store.settle("a", { tokens: 1, input_tokens: 20, output_tokens: 3 })).toBe("applied");
    expect(await standing()).toEqual([99, 80, 97, 3]);
  });

  it("one operation's trouble is not its neighbours': each of a call has its own answer", async () => {
    await store.reserve("a", [charge("good", B(100, 0), 1)], TTL);
    await client.set(`${prefix}s:bad`, "12");
    const good = store.reserve("b", [charge("good", B(100, 0), 10)], TTL);
    const bad = store.reserve("c", [charge("good", B(100, 0), 10), charge("bad", B(100, 0), 1)], TTL);
    const other = store.reserve("d", [charge("good", C(1), 1)], TTL);
    const last = store.settle("a", { tokens: 5 });
    expect(await good).toMatchObject({ kind: "allowed" });
    await expectUnavailable(bad);
    await expect(other).rejects.toThrow(
      new RangeError("limit good is a bucket and cannot be charged as a concurrency: the kind belongs into the key"),
    );
    expect(await last).toBe("applied");
    expect(await left("good", B(100, 0))).toBe(85);
  });

  it("a key that two operations of one turn use for different kinds belongs to the first", async () => {
    const results = await Promise.allSettled([
      store.reserve("a", [charge("key", B(100, 0), 10)], TTL),
      store.reserve("b", [charge("key", C(1), 1)], TTL),
      store.reserve("c", [charge("slots", C(1), 1)], TTL),
      store.reserve("d", [charge("slots", B(100, 0), 1)], TTL),
      store.reserve("e", [charge("key", B(100, 0), 10)], TTL),
    ]);
    expect(results.map((result) => (result.status === "fulfilled" ? result.value.kind : (result.reason as Error).name))).toEqual([
      "allowed",
      "RangeError",
      "allowed",
      "RangeError",
      "allowed",
    ]);
    expect(await left("key", B(100, 0))).toBe(80);
    expect(await left("slots", C(1))).toBe(0);
  });

  it("keys of any name stay apart from the store's own", async () => {
    for (const key of ["m", "x", "r:a", "s:m", "rebuild", "ключ {a}:b", ""]) {
      expect(await store.reserve(`op ${key}`, [charge(key, B(10, 0), 4)], TTL)).toMatchObject({ kind: "allowed", standings: [{ available: 6 }] });
      expect(await limitsOn(link()).settle(`op ${key}`, { tokens: 1 })).toBe("applied");
      expect(await left(key, B(10, 0))).toBe(9);
    }
  });

  it("any process can finish what another one has reserved", async () => {
    const other = limitsOn(link());
    await store.reserve("a", four(10), TTL);
    expect(await standing()).toEqual([90, 90, 90, 2]);
    expect(await other.extend("a", 2 * TTL)).toBe(true);
    expect(await other.settle("a", { tokens: 4, input_tokens: 30, output_tokens: 10 })).toBe("applied");
    expect(await standing()).toEqual([96, 70, 90, 3]);
    expect(await store.settle("a", { tokens: 0 })).toBe("done");
    await other.reserve("b", four(10), TTL);
    expect(await store.release("b")).toBe("applied");
    await other.reserve("c", four(10), TTL);
    expect(await store.lapse("c")).toBe("applied");
    expect(await other.settle("c", { tokens: 1 })).toBe("late");
    expect(await other.release("d")).toBe("unknown");
    expect(await store.reserve("d", four(10), TTL)).toEqual({ kind: "closed" });
    expect(await standing()).toEqual([95, 60, 80, 3]);
  });

  it("an expiry is reported once, with what was charged, and again only if the first report was lost", async () => {
    const other = limitsOn(link());
    const charges = [charge("c", C(5), 1, { unit: "concurrent" }), charge("s", B(1, 0), 5, { unit: "usd", enforce: false }), charge("b", B(9, 0), 2)];
    await store.reserve("a", charges, 1000);
    ms = 1000;
    const report = [
      {
        opId: "a",
        charges: [
          { key: "c", unit: "concurrent", amount: 1 },
          { key: "b", unit: "tokens", amount: 2 },
        ],
      },
    ];
    expect(await other.expire(10)).toEqual(report);
    expect(await store.expire(10)).toEqual([]);
    expect(await left("c", C(5))).toBe(5);
    // The process that heard of it has died before it could say so.
    ms = 61_000;
    expect(await store.expire(10)).toEqual(report);
    ms = 130_000;
    expect(await store.expire(10)).toEqual([]);
    expect(await client.zcard(`${prefix}x`)).toBe(0);
    expect(await other.settle("a", { tokens: 7 })).toBe("late");
    expect(await left("b", B(9, 0))).toBe(2);
  });

  it("a call that was carried out though its reply was lost may be repeated", async () => {
    const plain = link();
    const twice = limitsOn({
      ...plain,
      async run(...call) {
        await plain.run(...call);
        return plain.run(...call);
      },
    });
    expect(await twice.reserve("a", four(10), TTL)).toMatchObject({ kind: "allowed", replayed: true });
    expect(await standing()).toEqual([90, 90, 90, 2]);
    expect(await twice.settle("a", { tokens: 5, input_tokens: 15 })).toBe("done");
    expect(await standing()).toEqual([95, 85, 90, 3]);
    expect(await twice.release("b")).toBe("done");
    await twice.reserve("c", four(10), 1000);
    expect(await twice.extend("c", 2000)).toBe(true);
    ms = 2000;
    await twice.expire(10);
    expect(await twice.settle("c", { tokens: 0 })).toBe("done");
    expect(await standing()).toEqual([97, 75, 80, 3]);
  });

  it(
    "1000 reservations, each call of them delivered one to five times from three processes, are counted once each",
    { timeout: 60_000 },
    async () => {
      const plain = link();
      let seed = 12_345;
      const random = (below: number): number => {
        seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648;
        return Math.floor((seed / 2_147_483_648) * below);
      };
      const stormy: RedisLink = {
        ...plain,
        async run(...call) {
          const replies = await Promise.all(Array.from({ length: 1 + random(5) }, () => plain.run(...call)));
          return replies[random(replies.length)];
        },
      };
      const nodes = [limitsOn(stormy), limitsOn(stormy), limitsOn(stormy)];
      const node = (): RedisLimits => nodes[random(3)] as RedisLimits;
      const users = 20;
      const spent: number[] = Array.from({ length: users }, () => 0);
      const charges = (user: number, amount: number): Charge[] => [
        charge("all", B(1_000_000, 0), amount),
        charge(`user${user}`, B(1_000_000, 0), amount),
        charge("window", W(1_000_000, 60_000, 1000), amount, { unit: "input_tokens" }),
        charge("day", K(1_000_000), amount, { unit: "output_tokens" }),
        charge("slots", C(5000), 1, { unit: "concurrent" }),
      ];
      async function one(i: number): Promise<void> {
        const user = random(users);
        const amount = random(50);
        const opId = `op${i}`;
        const result = await node().reserve(opId, charges(user, amount), TTL);
        expect(result.kind).toBe("allowed");
        const actual = random(80);
        const [end, used] = [random(3), { tokens: actual, input_tokens: actual, output_tokens: actual }];
        if (end === 0) await node().release(opId);
        else if (end === 1) await Promise.all([node().settle(opId, used), node().settle(opId, used)]);
        else await node().lapse(opId);
        spent[user] = (spent[user] as number) + ([0, actual, amount][end] as number);
      }
      await Promise.all(Array.from({ length: 1000 }, (_, i) => one(i)));
      const total = spent.reduce((sum, each) => sum + each, 0);
      expect(await store.peek(charges(0, 0).filter(({ key }) => !key.startsWith("user")))).toMatchObject([
        { available: 1_000_000 - total },
        { available: 1_000_000 - total },
        { available: 1_000_000 - total },
        { available: 5000 },
      ]);
      for (let user = 0; user < users; user += 1) expect(await left(`user${user}`, B(1_000_000, 0))).toBe(1_000_000 - (spent[user] as number));
      expect(await client.zcard(`${prefix}x`)).toBe(0);
    },
  );

  it("all keys of a call are declared and lie in one slot", async () => {
    const plain = link();
    const tag = prefix.slice(0, prefix.indexOf("}") + 1);
    const calls: (readonly string[])[] = [];
    store = limitsOn({
      ...plain,
      run(script, keys, args, idempotent) {
        calls.push(keys);
        return plain.run(script, keys, args, idempotent);
      },
    });
    await store.reserve("a}{b", [charge("b:{x}", B(9, 0), 1), charge("c:}y{", C(2), 1, { unit: "concurrent" })], 1000);
    await limitsOn(plain).settle("a}{b", { tokens: 3 });
    await store.reserve("e", four(1), 1000);
    ms = 5000;
    await store.expire(10);
    await client.del(`${prefix}m`);
    await store.continuity.begin("seen before");
    await store.continuity.claim(60_000);
    await store.continuity.restore([{ key: "a}{", state: JSON.stringify(["c", T, { z: T + DAY }]) }]);
    await store.continuity.complete();
    expect(calls.length).toBeGreaterThan(6);
    for (const key of calls.flat()) expect(key.startsWith(tag) && key.startsWith(prefix)).toBe(true);
  });

  it("mistakes of the caller are told before anything is sent", async () => {
    const calls: unknown[] = [];
    store = limitsOn({ ...link(), run: (...call) => Promise.reject(new Error(`sent ${calls.push(call)}`)) });
    await expect(store.reserve("", [], TTL)).rejects.toThrow(RangeError);
    await expect(store.reserve("a", [charge("b", B(1, 0), 1), charge("b", B(1, 0), 1)], TTL)).rejects.toThrow(/occurs twice/);
    await expect(store.reserve("a", [charge("b".repeat(20_000), B(1, 0), 1)], TTL)).rejects.toThrow(/at most/);
    await expect(
      store.reserve(
        "a",
        Array.from({ length: 1001 }, (_, i) => charge(`b${i}`, B(1, 0), 1)),
        TTL,
      ),
    ).rejects.toThrow(/at most 1000/);
    await expect(store.reserve("a", [charge("b", B(1, 0), 1.5)], TTL)).rejects.toThrow(RangeError);
    await expect(store.settle("a", { tokens: -1 })).rejects.toThrow(RangeError);
    await expect(store.extend("a", 0)).rejects.toThrow(RangeError);
    await expect(store.peek([{ key: "b", rule: B(-1, 0) }])).rejects.toThrow(RangeError);
    expect(await store.peek([])).toEqual([]);
    expect(calls).toEqual([]);
  });

  it("as many charges as are allowed fit into one reservation", async () => {
    const charges = Array.from({ length: 1000 }, (_, i) => charge(`b${i}`, W(10, 1000, 100), 1, { enforce: i % 2 === 0 }));
    expect(await store.reserve("a", charges, TTL)).toMatchObject({ kind: "allowed" });
    expect(await store.reserve("a", charges, TTL)).toMatchObject({ kind: "allowed", replayed: true });
    expect(await limitsOn(link()).settle("a", { tokens: 3 })).toBe("applied");
    expect((await store.peek(charges)).every(({ available }) => available === 7)).toBe(true);
  });

  it("a failed call is told to each of its operations by an error of its own", async () => {
    const cause = new Error("cut");
    const plain = link();
    await store.reserve("first", [], TTL);
    let isCut = false;
    const cut = limitsOn({
      ...plain,
      run: (...call) => (isCut ? Promise.reject(new GuardError("store_unavailable", "gone", { cause, retryAfterMs: 7 })) : plain.run(...call)),
    });
    await cut.reserve("second", [], TTL);
    isCut = true;
    const errors = await Promise.all([
      expectUnavailable(cut.reserve("a", [], TTL)),
      expectUnavailable(cut.settle("b", {})),
      expectUnavailable(cut.expire(1)),
    ]);
    for (const error of errors) expect(error).toMatchObject({ message: "gone", retryAfterMs: 7, cause });
    expect(new Set(errors).size).toBe(3);
  });

  it("goes by the server's clock when it is given none", async () => {
    const real = limitsOn(plainLink(client, prefix));
    const [seconds] = await client.time();
    const day = Math.floor(Number(seconds) / 86_400) * DAY;
    const rule = { kind: "calendar", limit: 5, bounds: [day - DAY, day, day + DAY, day + 2 * DAY] } as const;
    expect(await real.reserve("a", [charge("k", rule, 2), charge("c", C(1), 1, { unit: "concurrent" })], TTL)).toMatchObject({ kind: "allowed" });
    const result = await real.reserve("b", [charge("k", { ...rule, bounds: [1, 2, 3, 4] }, 1)], TTL);
    expect(result).toMatchObject({ kind: "skew" });
    expect(Math.abs((result as { readonly now: number }).now - Number(seconds) * 1000)).toBeLessThan(60_000);
    expect(await real.expire(10)).toEqual([]);
    expect(Number(await client.zscore(`${prefix}x`, "a")) - Number(seconds) * 1000).toBeGreaterThanOrEqual(TTL);
  });
});

describe.skipIf(url === undefined)("limits in a Redis of its own", () => {
  it("go on when the server forgets its scripts", async () => {
    const server = await startRedis();
    const client = new Redis(server.url);
    try {
      const store = limitsOn(plainLink(client, ownPrefix()));
      await store.reserve("a", [charge("b", B(100, 0), 10)], TTL);
      await client.script("FLUSH");
      expect(await store.settle("a", { tokens: 4 })).toBe("applied");
      await client.script("FLUSH");
      expect(await store.reserve("b", [charge("b", B(100, 0), 10)], TTL)).toMatchObject({ standings: [{ available: 86 }] });
      await client.script("FLUSH");
      expect(await store.expire(1)).toEqual([]);
    } finally {
      client.disconnect();
      await server.stop();
    }
  });
});
