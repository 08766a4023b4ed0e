/**
 * Numbers that people who come from another product know by heart: scores by policy, thresholds, chains, hysteresis. Where ours differ on purpose, the test
 * says so and why.
 */
import { describe, expect, test } from "vitest";
import type { GuardOptions } from "../../../src/options.ts";
import { choosing, MINUTE_MS, usageOf, type Account } from "./choosing-kit.ts";

const policy = (name: string): { readonly router: NonNullable<GuardOptions["router"]> } => ({ router: { policy: name } });

describe("scores", () => {
  const accounts = (): Record<string, Account> => ({
    "acc-1": { left: 80, confidence: 1, priority: 5, usd: [0.01, 0.03] },
    "acc-2": { left: 50, confidence: 0.9, priority: 3, usd: [0.02, 0.06] },
  });

  test.each([
    ["balanced", 0.675],
    ["cost", 0.65],
    ["performance", 0.7],
    ["safety", 0.735],
  ])("%s: %d, and it goes before the other one", (name, score) => {
    const { judge, pick } = choosing(accounts(), policy(name));
    const { "acc-1": first, "acc-2": second } = judge();
    expect(first?.score).toBeCloseTo(score, 10);
    expect(first?.score).toBeGreaterThan(second?.score ?? 1);
    expect(pick()).toBe("acc-1");
  });

  test("their parts", () => {
    const { judge } = choosing(accounts());
    expect(judge()["acc-1"]?.parts).toEqual({ safety: 0.8, refill: 0.5, tier: 0.5, reliability: 1, cost: expect.closeTo(0.6, 10) as number });
    expect(judge()["acc-1"]?.reason).toBe("20 % of 5h used: safety 0.80, refill 0.50, tier 0.50, reliability 1.00, cost 0.60");
  });

  test("without the first one the second", () => {
    const { pick, accounts: all } = choosing(accounts());
    all["acc-1"] = { ...all["acc-1"], closed: true };
    expect(pick()).toBe("acc-2");
  });

  test("weights count in proportion, so a policy that does not add up to one has the same scores", () => {
    const weights = { safety: 80, refill: 60, tier: 30, reliability: 20, cost: 10 };
    const { judge } = choosing(accounts(), { router: { policy: "mine", policies: [{ name: "mine", weights }] } });
    expect(judge()["acc-1"]?.score).toBeCloseTo(0.675, 10);
  });

  test("a policy of one's own goes before the built-in one of its name", () => {
    const { judge } = choosing(accounts(), { router: { policies: [{ name: "balanced", weights: { reliability: 1 } }] } });
    expect(judge()["acc-2"]?.score).toBe(0.9);
  });

  test("the policy counts, and no other weights: the prior product only ever loaded balanced", () => {
    const { judge, settings } = choosing(accounts());
    settings.set({ policy: "safety" });
    expect(judge()["acc-1"]?.score).toBeCloseTo(0.735, 10);
  });
});

describe("how near the end", () => {
  const levelOf = (account: Account, request = {}) => choosing({ a: account }).judge(request).a;

  // Theirs: a score of 0.1, which beat the 0 of an account above the switch threshold. Ours: the worst level, so that nothing fuller is preferred.
  test("97 % used is critical", () => {
    const a = levelOf({ left: 3 });
    expect(a?.level).toBe("critical");
    expect(a?.reason).toContain("critical quota level, 97 % of 5h used");
  });

  // Theirs: 0, so that accounts between the thresholds served nobody unless all were critical. Ours: it goes after the others, and serves.
  test("94 % used is high, and it still serves", () => {
    const { judge, pick } = choosing({ a: { left: 6 }, b: { left: 7 } });
    expect(judge().a?.level).toBe("high");
    expect(pick()).toBe("b");
  });

  // Theirs: nobody of the first two served, and the fuller one of the last two went first.
  test("92 and 93 % used serve; 98 % used never goes before 92 %", () => {
    expect(choosing({ a: { left: 8 }, b: { left: 7 } }).pick()).toBe("a");
    expect(choosing({ a: { left: 2, priority: 10 }, b: { left: 8 } }).pick()).toBe("b");
  });

  test.each([
    [85, "ok"],
    [89.9, "ok"],
    [90, "high"],
    [94.9, "high"],
    [95, "critical"],
    [100, "critical"],
  ])("%d %% used is %s", (used, level) => expect(levelOf({ left: 100 - used })?.level).toBe(level));

  // Theirs: 0.2, better than a critical account. Ours: critical for that request.
  test.each([
    [50, "critical"],
    [55, "ok"],
    [54.9, "critical"],
  ])("of %d %% left a request that takes 50 % leaves the rest alone or not: %s", (left, level) =>
    expect(levelOf({ left, limit: 1_000 }, { usage: () => usageOf(500) })?.level).toBe(level),
  );

  test("what a request takes is said where it matters", () => {
    const reason = levelOf({ left: 50, limit: 1_000 }, { usage: () => usageOf(500) })?.reason;
    expect(reason).toContain("critical quota level, 50 % of 5h used, and the request takes 50 %");
  });

  test("a request that takes nothing, or nobody knows what, is no reason", () => {
    expect(levelOf({ left: 10.1, limit: 1_000 }, { usage: () => usageOf(0) })?.level).toBe("ok");
    expect(levelOf({ left: 10.1 }, { usage: () => usageOf(500) })?.level).toBe("ok");
  });

  // Theirs: 0 and never chosen, so that the advertised providers without a source of quotas were of no use. Ours: unknown is neither full nor empty.
  test("an account of which nothing is known, or only estimates, is neutral", () => {
    const { judge, pick } = choosing({ unknown: {}, full: { left: 49 }, empty: { left: 9 } });
    expect(judge().unknown).toMatchObject({ level: "ok", parts: { safety: 0.5, refill: 0.5, reliability: 0.5, cost: 0.5 } });
    expect(judge().unknown?.reason).toMatch(/^nothing is known of its quota/);
    expect(pick()).toBe("full");
  });
});

describe("chains", () => {
  const three = (): Record<string, Account> => ({ "acc-1": { left: 50 }, "acc-2": { left: 40 }, "acc-3": { left: 30 } });
  /** Until the first account is the one in use, and then near its end. */
  function begun(chains: Readonly<Record<string, readonly string[]>>) {
    const kit = choosing(three(), { chains });
    expect(kit.pick()).toBe("acc-1");
    Object.assign(kit.accounts, { "acc-1": { left: 2 }, "acc-2": { left: 80 }, "acc-3": { left: 60 } });
    return kit;
  }

  test("the chain of the account at its end goes before the best score", () => expect(begun({ "acc-1": ["acc-3"] }).pick()).toBe("acc-3"));

  test("without a chain the best", () => expect(begun({}).pick()).toBe("acc-2"));

  test("a chain under the model's name counts, too", () => expect(begun({ m: ["acc-3"] }).pick()).toBe("acc-3"));

  test("its order is the order", () => expect(begun({ m: ["nobody", "acc-3", "acc-2"] }).pick()).toBe("acc-3"));

  test("who is no better off, or not open, is passed over", () => {
    const { accounts, pick } = begun({ m: ["acc-3", "acc-2"] });
    accounts["acc-3"] = { left: 4 };
    expect(pick()).toBe("acc-2");
    const closed = begun({ m: ["acc-3", "acc-2"] });
    closed.accounts["acc-3"] = { left: 60, closed: true };
    expect(closed.pick()).toBe("acc-2");
  });

  test("it counts also when the account has come to its very end", () => {
    const { accounts, pick } = begun({ "acc-1": ["acc-3"] });
    accounts["acc-1"] = { left: 0, closed: true };
    expect(pick()).toBe("acc-3");
  });

  test("it does not count while the account is well: then scores do", () => {
    const { accounts, pick, clock } = begun({ "acc-1": ["acc-3"] });
    accounts["acc-1"] = { left: 8 };
    clock.advance(10 * MINUTE_MS);
    expect(pick()).toBe("acc-2");
  });
});

test("a primary at its end gives way to the next, and that one to the last", () => {
  const { accounts, pick, judge } = choosing({
    primary: { left: 90, priority: 10 },
    secondary: { left: 60 },
    tertiary: { left: 40 },
  });
  expect(pick()).toBe("primary");
  accounts.primary = { left: 3, priority: 10 };
  expect(pick()).toBe("secondary");
  expect(judge().primary?.reason).toContain("critical");
  expect(judge().secondary?.reason).toContain("in use");
  accounts.secondary = { left: 2 };
  expect(pick()).toBe("tertiary");
  accounts.tertiary = { left: 1 };
  expect(pick()).toBe("tertiary");
});

describe("hysteresis", () => {
  const PATIENT = { router: { antiFlapping: { minDwellTime: 0, cooldownAfterSwitch: 0 } } };
  const switching = (from: number, to: number, margin = 5): string => {
    const router = { antiFlapping: { ...PATIENT.router.antiFlapping, hysteresisMargin: margin } };
    const kit = choosing({ current: { left: 99 }, other: { left: 10.1 } }, { router });
    expect(kit.pick()).toBe("current");
    Object.assign(kit.accounts, { current: { left: from }, other: { left: to } });
    return kit.pick();
  };

  test.each([
    [60, 70, "current"],
    [60, 73, "other"],
    // Exactly the margin is enough.
    [60, 72.5, "other"],
    [60, 72.4, "current"],
    [50, 51, "current"],
    [50, 95, "other"],
    [60, 50, "current"],
  ])("%d %% left against %d %%: %s", (from, to, picked) => expect(switching(from, to)).toBe(picked));

  test("a margin of 15: 0.02 is not enough", () => expect(switching(88, 93, 15)).toBe("current"));

  test("equal-ish ones stay over five calls", () => {
    const { pick, accounts } = choosing({ a: { left: 50 }, b: { left: 50 } }, PATIENT);
    const picked = Array.from({ length: 5 }, (_, turn) => {
      const taken = pick();
      accounts.b = { left: turn % 2 === 0 ? 51 : 50 };
      return taken;
    });
    expect(picked).toEqual(["a", "a", "a", "a", "a"]);
  });

  test("who is at the end is left for a better one, whatever the margin", () => expect(switching(4, 20, 100)).toBe("other"));

  // Theirs came back at once, against what its own documentation said of the dwell.
  test("a primary that has recovered is gone back to after the dwell, not at once", () => {
    const { accounts, pick, clock } = choosing({ primary: { left: 90 }, other: { left: 50 } });
    expect(pick()).toBe("primary");
    accounts.primary = { left: 3 };
    expect(pick()).toBe("other");
    accounts.primary = { left: 85 };
    expect(pick()).toBe("other");
    clock.advance(5 * MINUTE_MS - 1);
    expect(pick()).toBe("other");
    clock.advance(1);
    expect(pick()).toBe("primary");
  });
});

describe("low everywhere", () => {
  test("all critical: it stays with the one in use, although another one has more", () => {
    const { accounts, pick, clock } = choosing({ a: { left: 20 }, b: { left: 40 } });
    expect(pick()).toBe("b");
    Object.assign(accounts, { a: { left: 3 }, b: { left: 2 } });
    clock.advance(60 * MINUTE_MS);
    expect(pick()).toBe("b");
    expect(pick()).toBe("b");
  });

  test("and goes on with the next when that one is empty", () => {
    const { accounts, pick } = choosing({ a: { left: 2 }, b: { left: 4 } });
    expect(pick()).toBe("b");
    accounts.b = { left: 0, closed: true };
    expect(pick()).toBe("a");
  });

  test("an account that shows quota again ends it at once", () => {
    const { accounts, pick } = choosing({ a: { left: 2 }, b: { left: 4 } });
    expect(pick()).toBe("b");
    accounts.a = { left: 100 };
    expect(pick()).toBe("a");
  });

  test("what nobody knows anything of is kept for later", () => {
    const { accounts, pick } = choosing({ a: { left: 50 }, unknown: {} });
    expect(pick()).toBe("a");
    accounts.a = { left: 3 };
    expect(pick()).toBe("a");
    accounts.a = { left: 0, closed: true };
    expect(pick()).toBe("unknown");
  });

  test("virtual spend counts: 9 % left of 80 % loses to 30 %", () => expect(choosing({ a: { left: 9 }, b: { left: 30 } }).pick()).toBe("b"));
});

describe("policies", () => {
  const two = (): Record<string, Account> => ({
    cheap: { left: 30, priority: 10, usd: [0.01, 0.03] },
    full: { left: 90, priority: 5, usd: [0.02, 0.06] },
  });

  test.each([
    ["cost", "cheap"],
    ["performance", "full"],
    ["safety", "full"],
  ])("%s takes the %s one", (name, picked) => expect(choosing(two(), policy(name)).pick()).toBe(picked));

  test("with the same priority the one with more left, with as much left the higher priority", () => {
    expect(choosing({ a: { left: 50 }, b: { left: 90 } }).pick()).toBe("b");
    expect(choosing({ a: { left: 50, priority: 1 }, b: { left: 50, priority: 9 } }).pick()).toBe("b");
  });
});

// Theirs shared traffic out as 53.6 / 39.1 / 7.3; ours keeps an account while it is well, so what stays is that more left is a higher score, and that
// the critical one still has one.
test("90, 50 and 3 % left: scores in that order, the last one not zero", () => {
  const { a, b, c } = choosing({ a: { left: 90 }, b: { left: 50 }, c: { left: 3 } }).judge();
  expect([a, b, c].map((each) => each?.level)).toEqual(["ok", "ok", "critical"]);
  expect(a?.score).toBeGreaterThan(b?.score ?? 1);
  expect(b?.score).toBeGreaterThan(c?.score ?? 1);
  expect(c?.score).toBeGreaterThan(0);
});
