import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Candidate, Strategy, StrategyRequest, Tier } from "../../../src/pool/candidate.ts";
import { roundRobin } from "../../../src/pool/strategies/round-robin.ts";
import { sticky, type StickyOptions } from "../../../src/pool/strategies/sticky.ts";
import { credentialPool } from "../../../src/pool/pool.ts";
import { credential, offersOf, poolKit } from "../pool-kit.ts";
import { countsOf, nameOf, numberedTier, PLAIN, tierOf } from "./strategy-kit.ts";

const TTL = 1_000;
const of = (session: string | null, model = "m"): StrategyRequest => ({ ...PLAIN, session, model });

function begin(more: Partial<StickyOptions> = {}) {
  const time = { now: 0 };
  const strategy = sticky({ strategy: roundRobin(), ttlMs: TTL, now: () => time.now, ...more });
  const pick = (session: string | null, tier: Tier, closed = "", model = "m"): string =>
    nameOf(
      strategy.pick(
        tier,
        tier.filter((each) => !closed.includes(nameOf(each))),
        of(session, model),
        null,
      ),
    );
  return { time, strategy, pick };
}

const TIER = numberedTier(4);

describe("a session", () => {
  test("stays for a hundred requests while others take their turns", () => {
    const { pick } = begin();
    const first = pick("s", TIER);
    const mine: string[] = [];
    const others: string[] = [];
    for (let i = 0; i < 100; i += 1) {
      mine.push(pick("s", TIER));
      others.push(pick(null, TIER));
    }
    expect(new Set(mine)).toEqual(new Set([first]));
    expect(countsOf(others)).toEqual({ 1: 25, 2: 25, 3: 25, 4: 25 });
  });

  test("new ones go where the strategy sends them, and so do those of other models", () => {
    const { pick } = begin();
    expect(countsOf(Array.from({ length: 40 }, (_, i) => pick(`s${i}`, TIER)))).toEqual({ 1: 10, 2: 10, 3: 10, 4: 10 });
    expect([pick("s0", TIER), pick("s0", TIER, "", "other")]).toEqual(["1", "1"]);
    expect([pick("s1", TIER), pick("s1", TIER, "", "other")]).toEqual(["2", "2"]);
  });

  test("leaves an account that is closed, and then stays where it is now", () => {
    const { pick } = begin();
    expect([pick("s", TIER), pick("s", TIER, "1"), pick("s", TIER), pick("s", TIER)]).toEqual(["1", "2", "2", "2"]);
  });

  test("that fell to other accounts comes back to its own", () => {
    const { pick } = begin();
    const others = tierOf({ x: 1, y: 1 });
    pick(null, TIER);
    expect(pick("s", TIER)).toBe("2");
    expect([pick("s", others), pick("s", others)]).toEqual(["x", "x"]);
    expect(pick("s", TIER)).toBe("2");
    expect(pick("s", others)).toBe("x");
  });

  test("was not at home where its first try failed, and is where it was before", () => {
    const { strategy, pick } = begin();
    const tried: Candidate[] = [];
    const request: StrategyRequest = { ...of("s"), wasTried: (candidate) => tried.includes(candidate) };
    expect(pick("s", TIER)).toBe("1");
    pick("s", TIER);
    for (const name of ["1", "2", "3"]) {
      const open = TIER.filter((each) => !tried.includes(each));
      const picked = strategy.pick(TIER, open, request, null);
      expect(nameOf(picked)).toBe(name);
      tried.push(picked);
    }
    expect(pick("s", TIER)).toBe("3");
    expect(pick("s", TIER, "3")).toBe("1");
  });

  test("is forgotten when it rests for its time to live, and not while it is used", () => {
    const { pick, time } = begin();
    expect(pick("s", TIER)).toBe("1");
    for (let i = 0; i < 5; i += 1) {
      time.now += TTL - 1;
      expect(pick("s", TIER)).toBe("1");
    }
    time.now += TTL;
    expect(pick("s", TIER)).toBe("2");
  });

  test("is decided anew after twelve times to live, however busy it is", () => {
    const { pick, time } = begin();
    expect(pick("s", TIER)).toBe("1");
    while (time.now + TTL / 2 < 12 * TTL) {
      time.now += TTL / 2;
      expect(pick("s", TIER)).toBe("1");
    }
    time.now += TTL / 2;
    expect(pick("s", TIER)).toBe("2");
  });

  test("does not stay where it may not", () => {
    const full = new Set<string>();
    const { pick } = begin({ mayStay: (candidate: Candidate) => !full.has(nameOf(candidate)) });
    expect(pick("s", TIER)).toBe("1");
    full.add("1");
    expect([pick("s", TIER), pick("s", TIER)]).toEqual(["2", "2"]);
  });

  test("a look changes nothing: neither the turn nor the session", () => {
    const { strategy, pick, time } = begin();
    const look = (session: string): string => nameOf(strategy.pick(TIER, TIER, of(session), new Map()));
    expect([look("s"), look("t"), pick("t", TIER)]).toEqual(["1", "1", "1"]);
    expect(look("s")).toBe("2");
    expect(pick("s", TIER)).toBe("2");
    time.now += TTL - 1;
    expect(look("s")).toBe("2");
    time.now += 1;
    expect(pick("s", TIER)).toBe("3");
  });

  test("ten thousand are remembered; the one that rests longest makes room", () => {
    const { pick } = begin();
    pick("first", TIER);
    pick("second", TIER);
    for (let i = 0; i < 9_998; i += 1) pick(`s${i}`, TIER);
    expect(pick("first", TIER)).toBe("1");
    pick("one more", TIER);
    pick(null, TIER);
    expect(pick("second", TIER)).not.toBe("2");
    expect(pick("first", TIER)).toBe("1");
  });
});

test("is asked for only where several may serve, and not by who goes without", () => {
  const asked: string[] = [];
  const lend = (names: readonly string[], strategy: Strategy): void => {
    const offered = offersOf(names.map((name) => credential(name)));
    const { health, slots } = poolKit(offered);
    const pool = credentialPool({ offers: offered, health, slots, strategy, now: () => 0 });
    const session = (): string => (asked.push(names.join("")), "s");
    void pool.choose({ model: "m", opId: "op", tokens: () => 0, session }).next();
  };
  lend(["a"], begin().strategy);
  lend(["b", "c"], roundRobin());
  expect(asked).toEqual([]);
  lend(["d", "e"], begin().strategy);
  expect(asked).toEqual(["de"]);
});

test("what the strategy says of itself is said of this one", () => {
  const judged = [{ level: "ok" as const, score: 1, parts: {}, reason: "" }];
  const inner: Strategy = { spansPriorities: true, pick: (_tier, open) => open[0] as Candidate, judge: () => judged };
  const { strategy } = begin({ strategy: inner });
  expect([strategy.spansPriorities, strategy.judge?.(TIER, of("s"))]).toEqual([true, judged]);
  expect(begin().strategy.judge?.(TIER, of("s"))).toEqual([]);
});

test("whatever is open: somebody open is picked, and the same one again while it is open", () => {
  const turn = fc.record({ session: fc.constantFrom("a", "b", "c"), open: fc.subarray([0, 1, 2, 3], { minLength: 1 }) });
  fc.assert(
    fc.property(fc.array(turn, { maxLength: 40 }), (all) => {
      const { strategy } = begin();
      const last = new Map<string, Candidate>();
      for (const { session, open: places } of all) {
        const open = places.map((place) => TIER[place] as Candidate);
        const picked = strategy.pick(TIER, open, of(session), null);
        expect(open).toContain(picked);
        const before = last.get(session);
        if (before && open.includes(before)) expect(picked).toBe(before);
        last.set(session, picked);
      }
    }),
  );
});
