import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Candidate } from "../../../src/pool/candidate.ts";
import { candidate } from "../pool-kit.ts";
import { choosing, MINUTE_MS, usageOf, type Account } from "./choosing-kit.ts";
import { nameOf, PLAIN } from "./strategy-kit.ts";

const HOUR_MS = 60 * MINUTE_MS;

/** a is in use and has no more than b. */
function started(router = {}) {
  const kit = choosing({ a: { left: 60 }, b: { left: 50 } }, { router });
  expect(kit.pick()).toBe("a");
  return kit;
}

describe("how long it stays", () => {
  test("with a much better one at the same level: the dwell, then it goes", () => {
    const { accounts, clock, pick } = started();
    accounts.b = { left: 99 };
    expect(pick()).toBe("a");
    clock.advance(5 * MINUTE_MS - 1);
    expect(pick()).toBe("a");
    clock.advance(1);
    expect(pick()).toBe("b");
  });

  test("above the switch threshold: the dwell, and no margin", () => {
    const { accounts, clock, pick } = started();
    // With b's cost the score of a stays the higher one: only the level speaks for b.
    Object.assign(accounts, { a: { left: 9, priority: 0, usd: [0, 0] }, b: { left: 11, usd: [0.05, 0.05] } });
    expect(pick()).toBe("a");
    clock.advance(5 * MINUTE_MS);
    expect(pick()).toBe("b");
  });

  test("critical: not at all", () => {
    const { accounts, pick } = started();
    Object.assign(accounts, { a: { left: 5 }, b: { left: 9 } });
    expect(pick()).toBe("b");
  });

  test("better by less than the margin: for ever", () => {
    const { accounts, clock, pick } = started();
    accounts.b = { left: 70 };
    clock.advance(10 * HOUR_MS);
    expect(pick()).toBe("a");
  });

  test("who was left a short while ago is not gone back to at the same level, and another one is", () => {
    const router = { antiFlapping: { minDwellTime: "1m", cooldownAfterSwitch: "10m" } } as const;
    const { accounts, clock, pick } = choosing({ a: { left: 90 }, b: { left: 50 }, c: { left: 40 } }, { router });
    expect(pick()).toBe("a");
    accounts.a = { left: 4 };
    expect(pick()).toBe("b");
    accounts.a = { left: 90 };
    clock.advance(MINUTE_MS);
    expect(pick()).toBe("b");
    accounts.c = { left: 80 };
    expect(pick()).toBe("c");
    clock.advance(9 * MINUTE_MS - 1);
    accounts.c = { left: 20 };
    expect(pick()).toBe("c");
    clock.advance(1);
    expect(pick()).toBe("a");
  });

  test("where nothing is known of anybody it goes over by priority, as by any other part", () => {
    const { accounts, clock, pick } = choosing({ low: {}, high: { priority: 10, closed: true } });
    expect(pick()).toBe("low");
    accounts.high = { priority: 10 };
    expect(pick()).toBe("low");
    clock.advance(5 * MINUTE_MS);
    expect(pick()).toBe("high");
  });

  test("the wall clock may jump: only time that passes counts", () => {
    const { accounts, clock, pick } = started();
    accounts.b = { left: 99 };
    clock.set(clock.now() + 10 * HOUR_MS);
    expect(pick()).toBe("a");
  });

  test("changed settings hold from the next choice on", () => {
    const { accounts, settings, pick } = started();
    Object.assign(accounts, { a: { left: 25 }, b: { left: 40 } });
    expect(pick()).toBe("a");
    settings.set({ thresholds: { warning: 60, switch: 65, critical: 70 } });
    expect(pick()).toBe("b");
  });
});

describe("who is gone", () => {
  test("not open: the next one, and it is not gone back to until the dwell is over", () => {
    const { accounts, clock, pick } = started();
    accounts.a = { left: 60, closed: true };
    expect(pick()).toBe("b");
    accounts.a = { left: 99 };
    expect(pick()).toBe("b");
    clock.advance(5 * MINUTE_MS);
    expect(pick()).toBe("a");
  });

  test("only tried in this very request: the next one for it alone", () => {
    const { pick } = started();
    const wasTried = (one: Candidate): boolean => nameOf(one) === "a";
    expect(pick({ wasTried })).toBe("b");
    expect(pick()).toBe("a");
  });

  test("too small for this very request: another one for it alone, whether it is still open or not", () => {
    const { accounts, pick } = started();
    const large = { usage: () => usageOf(500) };
    Object.assign(accounts, { a: { left: 40, limit: 1_000 }, b: { left: 90, limit: 1_000 } });
    expect([pick(large), pick()]).toEqual(["b", "a"]);
    accounts.a = { left: 40, limit: 1_000, closed: true };
    expect(pick(large)).toBe("b");
    accounts.a = { left: 40, limit: 1_000 };
    expect(pick()).toBe("a");
  });

  test("a look changes nothing: neither at the first choice nor at a switch", () => {
    const { accounts, look, pick } = choosing({ a: { left: 60 }, b: { left: 50 } });
    expect(look()).toBe("a");
    accounts.b = { left: 70 };
    expect(pick()).toBe("b");
    accounts.b = { left: 2 };
    expect([look(), look()]).toEqual(["a", "a"]);
    accounts.b = { left: 50 };
    expect(pick()).toBe("b");
  });
});

describe("scopes of choice", () => {
  const open = [candidate("a", "m"), candidate("b", "m")];
  const renewed = [candidate("a", "m"), candidate("b", "m")];
  const other = [candidate("a", "n"), candidate("b", "n")];

  test("a model on a set of accounts; a renewed token is the same account, another model has its own", () => {
    const { strategy, accounts } = started();
    const pick = (tier: readonly Candidate[]): string => nameOf(strategy.pick(tier, tier, PLAIN, null));
    expect(pick(open)).toBe("a");
    accounts.b = { left: 75 };
    expect(pick(renewed)).toBe("a");
    expect(pick(other)).toBe("b");
    expect(pick(open)).toBe("a");
  });

  test("a part of the accounts, as when a provider is named, does not move the others", () => {
    const { strategy, accounts } = choosing({ a: { left: 60 }, b: { left: 50 }, c: { left: 40 } });
    const all = [candidate("a"), candidate("b"), candidate("c")];
    const part = all.slice(1);
    const pick = (tier: readonly Candidate[]): string => nameOf(strategy.pick(tier, tier, PLAIN, null));
    expect([pick(all), pick(part)]).toEqual(["a", "b"]);
    accounts.b = { left: 65 };
    expect([pick(all), pick(part), pick(all)]).toEqual(["a", "b", "a"]);
  });

  test("there may be as many as clients make up: the one that was used longest ago starts anew", () => {
    const { strategy, accounts } = choosing({ a: { left: 60 }, b: { left: 50 } });
    const pick = (tier: readonly Candidate[]): string => nameOf(strategy.pick(tier, tier, PLAIN, null));
    const tierOf = (model: string): readonly Candidate[] => [candidate("a", model), candidate("b", model)];
    pick(tierOf("used"));
    pick(tierOf("forgotten"));
    for (let i = 0; i < 9_999; i += 1) {
      pick(tierOf(`model-${i}`));
      if (i % 1_000 === 0) pick(tierOf("used"));
    }
    accounts.b = { left: 75 };
    expect([pick(tierOf("used")), pick(tierOf("forgotten"))]).toEqual(["a", "b"]);
  });
});

describe("its parts", () => {
  test("refill: how much of the window has passed", () => {
    const { accounts, judge, clock } = choosing({ a: { left: 50 } });
    const refillOf = (account: Account): number | undefined => {
      accounts.a = { left: 50, ...account };
      return judge().a?.parts.refill;
    };
    const windowMs = 5 * HOUR_MS;
    expect(refillOf({ windowMs, resetsAt: clock.now() + HOUR_MS })).toBeCloseTo(0.8, 10);
    expect(refillOf({ windowMs, resetsAt: clock.now() + 6 * HOUR_MS })).toBe(0);
    expect(refillOf({ windowMs, resetsAt: clock.now() - 1 })).toBe(1);
    expect(refillOf({ resetsAt: clock.now() + HOUR_MS })).toBe(0.5);
    expect(refillOf({ windowMs })).toBe(0.5);
  });

  test("tier: the priority, ten and more being the best, and none below zero", () =>
    expect(
      Object.values(choosing({ a: { priority: 3 }, b: { priority: 10 }, c: { priority: 99 }, d: { priority: -5 } }).judge()).map(
        ({ parts }) => parts.tier,
      ),
    ).toEqual([0.3, 1, 1, 0]));

  test("cost: ten cents for a thousand in and a thousand out, and more, is the dearest", () =>
    expect(
      Object.values(choosing({ free: { usd: [0, 0] }, some: { usd: [0.01, 0.04] }, dear: { usd: [1, 1] }, unpriced: {} }).judge()).map(
        ({ parts }) => parts.cost,
      ),
    ).toEqual([1, 0.5, 0, 0.5]));

  test("reliability: how sure it is", () =>
    expect(Object.values(choosing({ a: { left: 50, confidence: 0.7 }, b: {} }).judge()).map(({ parts }) => parts.reliability)).toEqual([0.7, 0.5]));

  test("while nothing is known of anybody nobody is asked, and priorities and prices decide", () => {
    const { strategy, parts, tier } = choosing({ a: { left: 1, priority: 5 }, b: { left: 99 } });
    Object.assign(parts.allowance, { isQuiet: true });
    expect(nameOf(strategy.pick(tier, tier, PLAIN, null))).toBe("a");
  });
});

const accountOf = fc.record({
  left: fc.option(fc.integer({ min: 0, max: 100 }), { nil: undefined }),
  priority: fc.integer({ min: 0, max: 10 }),
  limit: fc.option(fc.integer({ min: 100, max: 10_000 }), { nil: undefined }),
  closed: fc.boolean(),
});
const accountsOf = fc
  .array(accountOf, { minLength: 2, maxLength: 6 })
  .filter((all) => all.some(({ closed }) => !closed))
  .map((all) => Object.fromEntries(all.map((account, place) => [`c${place}`, account as Account])));
const RANKS = { ok: 0, high: 1, critical: 2 };

describe("whatever there is", () => {
  const request = { usage: () => usageOf(300) };

  test("somebody who is open is picked: there is no dead zone", () =>
    fc.assert(
      fc.property(accountsOf, (accounts) => {
        const { pick } = choosing(accounts);
        expect(accounts[pick(request)]?.closed).toBe(false);
      }),
    ));

  test("the first choice is never one of a worse level than another that is open", () =>
    fc.assert(
      fc.property(accountsOf, (accounts) => {
        const { pick, judge } = choosing(accounts);
        const judged = judge(request);
        const mine = judged[pick(request)];
        for (const [name, { level }] of Object.entries(judged)) {
          if (!accounts[name]?.closed) expect(RANKS[level]).toBeGreaterThanOrEqual(RANKS[mine?.level ?? "critical"]);
        }
      }),
    ));

  test("less left never makes an account more preferred: neither its level nor its score gets better, and no first choice turns to it", () =>
    fc.assert(
      fc.property(accountsOf, fc.nat(), fc.integer({ min: 0, max: 100 }), (accounts, place, less) => {
        const name = Object.keys(accounts)[place % Object.keys(accounts).length] as string;
        const account = accounts[name] as Account;
        fc.pre(account.left !== undefined && less < account.left);
        const [before, after] = [choosing(accounts), choosing({ ...accounts, [name]: { ...account, left: less } })];
        const [was, is] = [before.judge(request)[name], after.judge(request)[name]];
        expect(RANKS[is?.level ?? "ok"]).toBeGreaterThanOrEqual(RANKS[was?.level ?? "critical"]);
        expect(is?.score).toBeLessThanOrEqual((was?.score ?? 0) + 1e-12);
        if (before.pick(request) !== name) expect(after.pick(request)).not.toBe(name);
      }),
    ));
});
