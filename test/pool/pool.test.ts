import { describe, expect, test } from "vitest";
import type { AttemptOutcome, Choice, Lease } from "../../src/core/credential.ts";
import { GuardError } from "../../src/core/errors.ts";
import type { Pool } from "../../src/pool/pool.ts";
import { refusalOf, rejectionOf } from "../core/context-kit.ts";
import { block, choice, credential, lend, NEVER_SENT, numbered, offersOf, poolKit, poolOf, SERVED } from "./pool-kit.ts";

/** The credential of each of `count` requests that succeed at once. */
const served = (pool: Pool, count: number, model = "m"): string[] =>
  Array.from({ length: count }, () => {
    const lease = lend(choice(pool, model));
    lease?.release(SERVED);
    return lease?.credential.name ?? "none";
  });

/** All credentials that one request may try, in order. */
function attempts(pool: Pool, model = "m"): string[] {
  const from = choice(pool, model);
  const names: string[] = [];
  for (let lease = lend(from); lease; lease = lend(from)) names.push(lease.credential.name);
  return names;
}

describe("round robin", () => {
  test("takes three in turn", () => {
    expect(served(poolOf(numbered(3)), 6)).toEqual(["1", "2", "3", "1", "2", "3"]);
  });

  test("goes round those that offer the model", () => {
    const pool = poolOf(numbered(4).map((item) => (item.name === "2" || item.name === "4" ? item : { ...item, models: ["other"] })));
    expect(served(pool, 3)).toEqual(["2", "4", "2"]);
  });

  test("goes round those that are well", () => {
    const { pool, health } = poolKit(offersOf(numbered(4)));
    for (const name of ["1", "3"]) health.blocked.set(`${name}/m`, block("cooling", 1_000));
    expect(served(pool, 3)).toEqual(["2", "4", "2"]);
  });

  test("is not skewed by models that have other candidates", () => {
    const openai = numbered(3, { models: ["gpt"] });
    const vertex = ["a", "b", "c", "d"].map((name) => credential(name, { provider: "vertex", models: ["gemini"] }));
    const pool = poolOf([...openai, ...vertex]);
    const seen: string[] = [];
    for (let i = 0; i < 8; i += 1) {
      served(pool, 10, "gpt");
      seen.push(...served(pool, 1, "gemini"));
    }
    expect(seen).toEqual(["a", "b", "c", "d", "a", "b", "c", "d"]);
  });

  test("is fair to every one of them", () => {
    const counts = new Map<string, number>();
    for (const name of served(poolOf(numbered(7)), 700)) counts.set(name, (counts.get(name) ?? 0) + 1);
    expect([...counts.values()]).toEqual([100, 100, 100, 100, 100, 100, 100]);
  });

  test("of fallbacks begins when nothing else is left, and rotates too", () => {
    const { pool, health } = poolKit(offersOf([credential("f1", { isFallback: true }), credential("1"), credential("f2", { isFallback: true })]));
    expect(served(pool, 3)).toEqual(["1", "1", "1"]);
    expect(attempts(pool)).toEqual(["1", "f1", "f2"]);
    health.blocked.set("1/m", block("cooling", 1_000));
    expect(served(pool, 3)).toEqual(["f1", "f2", "f1"]);
  });

  test("goes on where it was after thousands of names that clients made up", () => {
    const many = poolOf(numbered(2));
    for (let i = 0; i < 5_001; i += 1) void choice(many, `made-up-${i}`).next();
    expect(served(many, 2).toSorted()).toEqual(["1", "2"]);
  });
});

describe("the attempts of one request", () => {
  test("never repeat a credential, and end", () => {
    const from = choice(poolOf(numbered(4)));
    const names = Array.from({ length: 6 }, () => lend(from)?.credential.name ?? null);
    expect(new Set(names.slice(0, 4)).size).toBe(4);
    expect(names.slice(4)).toEqual([null, null]);
  });

  test("go down the priorities, fallbacks last whatever theirs is", () => {
    const pool = poolOf([
      credential("fallback", { isFallback: true, priority: 100 }),
      credential("low", { priority: -1 }),
      credential("normal"),
      credential("high", { priority: 10 }),
      credential("last fallback", { isFallback: true }),
    ]);
    expect(attempts(pool)).toEqual(["high", "normal", "low", "fallback", "last fallback"]);
  });

  test("rotate within a tier only", () => {
    const pool = poolOf([credential("a", { priority: 1 }), credential("b", { priority: 1 }), credential("c")]);
    expect(served(pool, 4)).toEqual(["a", "b", "a", "b"]);
    expect(attempts(pool)[2]).toBe("c");
  });

  test("go to a lower tier when the higher one is kept out or has no room", () => {
    const { pool, health, slots, rejected } = poolKit(
      offersOf([credential("a", { priority: 1 }), credential("b"), credential("f", { isFallback: true })]),
    );
    health.blocked.set("a/m", block("banned", null));
    slots.short.set("b/m", { waitMs: 100 });
    expect(attempts(pool)).toEqual(["f"]);
    // Each of them once, however often the request looks for another.
    expect(rejected.toSorted()).toEqual(["banned", "limited"]);
  });

  test("pass over a candidate whose only probe is under way", () => {
    const { pool, health, rejected } = poolKit(offersOf(numbered(2)));
    health.probing.add("1/m");
    expect(attempts(pool)).toEqual(["2"]);
    expect(rejected).toEqual(["breaker"]);
  });

  test("are counted while they are open, and given back once", () => {
    const { pool, slots, health } = poolKit(offersOf(numbered(1)));
    const leases = [lend(choice(pool, "m", "op1")), lend(choice(pool, "m", "op2"))];
    expect(pool.inFlight("1")).toBe(2);
    leases[0]?.release(NEVER_SENT);
    leases[0]?.release(SERVED);
    expect(pool.inFlight("1")).toBe(1);
    leases[1]?.release(SERVED);
    expect([pool.inFlight("1"), pool.inFlight("unknown")]).toEqual([0, 0]);
    expect(slots.finished).toEqual([
      { opId: "op1.a1", tokens: null },
      { opId: "op2.a1", tokens: 7 },
    ]);
    expect(health.left.map(({ outcome }) => outcome.kind)).toEqual(["abandoned", "served"]);
  });

  test.each<[string, AttemptOutcome, number | null]>([
    ["a refusal gives the room back", { kind: "refused", status: 429, fault: "capacity", isAccountWide: false, waitMs: null }, null],
    ["a failure before the answer gives it back", { kind: "failed", error: new GuardError("upstream_unreachable", "x"), tokens: null }, null],
    ["a break in mid-answer keeps what was used", { kind: "failed", error: new GuardError("upstream_protocol", "x"), tokens: 5 }, 5],
    ["a client that left keeps what was used", { kind: "abandoned", tokens: 3 }, 3],
    ["nothing used is nothing", { kind: "served", status: 200, tokens: 0 }, 0],
  ])("%s", (_name, outcome, tokens) => {
    const { pool, slots } = poolKit(offersOf(numbered(1)));
    lend(choice(pool))?.release(outcome);
    expect(slots.finished).toEqual([{ opId: "op.a1", tokens }]);
  });

  const fail: AttemptOutcome = { kind: "failed", error: new GuardError("upstream_unreachable", "x"), tokens: null };

  test("tell health that nobody else could when all others are without room", () => {
    const { pool, health, slots } = poolKit(offersOf(numbered(2)));
    slots.short.set("2/m", { waitMs: 5_000 });
    lend(choice(pool))?.release(fail);
    expect(health.left).toMatchObject([{ key: "1/m", hasOthers: false }]);
  });

  test("tell health whether somebody else could serve the model", () => {
    const { pool, health } = poolKit(offersOf(numbered(2)));
    lend(choice(pool))?.release(fail);
    health.blocked.set("1/m", block("cooling", 1_000));
    lend(choice(pool))?.release(fail);
    expect(health.left.map(({ key, hasOthers }) => [key, hasOthers])).toEqual([
      ["1/m", true],
      ["2/m", false],
    ]);
  });

  test("work the same on a store that answers later", async () => {
    const { pool, slots } = poolKit(offersOf(numbered(3)), true);
    slots.short.set("1/m", { waitMs: 5 });
    const from = choice(pool);
    const names: string[] = [];
    for (let lease = await from.next(); lease; lease = await from.next()) names.push(lease.credential.name);
    expect(names).toEqual(["2", "3"]);
  });

  test("leave nothing behind when the store throws", async () => {
    for (const later of [false, true]) {
      const { pool, slots, health } = poolKit(offersOf(numbered(1)));
      const error = new GuardError("store_unavailable", "away");
      slots.take = () => {
        if (later) return Promise.reject(error);
        throw error;
      };
      const thrown = later ? await rejectionOf(choice(pool).next() as Promise<Lease>) : refusalOf(() => choice(pool).next());
      expect(thrown.code).toBe("store_unavailable");
      expect(pool.inFlight("1")).toBe(0);
      expect(health.left.map(({ outcome }) => outcome)).toEqual([NEVER_SENT]);
    }
  });
});

describe("when nothing is left", () => {
  const first = (from: Choice): GuardError => refusalOf(() => from.next());

  test("all limited or cooling is 429 with the earliest time", () => {
    const { pool, health, slots } = poolKit(offersOf(numbered(3)));
    health.blocked.set("1/m", block("cooling", 9_000));
    health.blocked.set("2/m", block("cooling", 4_000));
    slots.short.set("3/m", { waitMs: 6_000 });
    expect(first(choice(pool))).toMatchObject({ code: "all_credentials_limited", status: 429, retryAfterMs: 4_000 });
  });

  test("a ban that ends sooner is the time to come back, too", () => {
    const { pool, health, slots } = poolKit(offersOf(numbered(2)));
    health.blocked.set("1/m", block("banned", 1_500));
    slots.short.set("2/m", { waitMs: 6_000 });
    expect(first(choice(pool))).toMatchObject({ code: "all_credentials_limited", retryAfterMs: 1_500 });
  });

  test("no time is named where none is known", () => {
    const { pool, slots } = poolKit(offersOf(numbered(1)));
    slots.short.set("1/m", { waitMs: null });
    const refused = first(choice(pool));
    expect(refused).toMatchObject({ code: "all_credentials_limited", status: 429 });
    expect(refused.retryAfterMs).toBeUndefined();
    expect(refused.headers).toEqual({ "x-should-retry": "false" });
  });

  test("all banned or failing is 503", () => {
    const { pool, health } = poolKit(offersOf(numbered(2)));
    health.blocked.set("1/m", block("banned", null));
    health.blocked.set("2/m", block("breaker", 2_000));
    expect(first(choice(pool))).toMatchObject({ code: "no_credential", status: 503, retryAfterMs: 2_000 });
    health.blocked.set("2/m", block("banned", null));
    const hopeless = first(choice(pool));
    expect([hopeless.retryAfterMs, hopeless.headers]).toEqual([undefined, { "x-should-retry": "false" }]);
  });

  test("after an attempt it is no refusal: the attempt's own failure is what the client gets", () => {
    const { pool, slots } = poolKit(offersOf(numbered(2)));
    slots.short.set("2/m", { waitMs: 1 });
    const from = choice(pool);
    expect([lend(from)?.credential.name, lend(from)]).toEqual(["1", null]);
  });
});

describe("an operation that names no model", () => {
  const ask = (affinity: string | null = null, only: string | null = null) => ({ operation: "/v1/files", opId: "op", affinity, credential: only });

  test("goes by the strategy, or always to the same credential for the same text", () => {
    const { pool, health } = poolKit(offersOf(numbered(5)));
    const name = (affinity: string | null): string => lend(pool.chooseAny(ask(affinity)))?.credential.name as string;
    expect([name(null), name(null)]).toEqual(["1", "2"]);
    const owners = Array.from({ length: 40 }, (_, i) => name(`tenant-${i}`));
    expect(owners).toEqual(Array.from({ length: 40 }, (_, i) => name(`tenant-${i}`)));
    expect(new Set(owners).size).toBe(5);
    // The others stay where they are when one is kept out.
    health.blocked.set("1//v1/files", block("cooling", 1_000));
    const moved = Array.from({ length: 40 }, (_, i) => name(`tenant-${i}`));
    expect(moved.filter((each, i) => owners[i] !== "1" && each !== owners[i])).toEqual([]);
    expect(moved).not.toContain("1");
  });

  test("may be tied to one credential, or closed to some", () => {
    const { pool } = poolKit(offersOf(numbered(3)));
    expect(lend(pool.chooseAny(ask(null, "3")))?.credential.name).toBe("3");
    const except = { ...ask(), except: ({ credential: { name } }: { credential: { name: string } }) => name !== "2" };
    expect(lend(pool.chooseAny(except))?.credential.name).toBe("2");
    expect(refusalOf(() => pool.chooseAny(ask(null, "gone")))).toMatchObject({ code: "no_credential", status: 503 });
  });
});
