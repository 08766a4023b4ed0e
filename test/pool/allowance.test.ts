import { describe, expect, test } from "vitest";
import { resolveOptions } from "../../src/options.ts";
import { allowance } from "../../src/pool/allowance.ts";
import { choosingSettings } from "../../src/pool/choosing-settings.ts";
import { candidate } from "./pool-kit.ts";
import { MINUTE } from "./health-kit.ts";
import { spendKit } from "./spend-kit.ts";

function kit(options: { readonly ignoreEstimated?: () => boolean } = {}) {
  const of = spendKit(["a", "b"]);
  return { ...of, left: allowance({ facts: of.facts, spend: of.spent, clock: of.clock, ...options }) };
}

describe("what is left", () => {
  test("is unknown where nobody told, which is not zero", () => {
    const { left, see } = kit();
    expect([left.isQuiet, left.of(candidate("a")), left.shareOf(candidate("a"), 100)]).toEqual([true, null, null]);
    see(0.5);
    expect([left.isQuiet, left.of(candidate("b")), left.shareOf(candidate("b"), 100)]).toEqual([false, null, null]);
  });

  test("is the scarcest quota, less what is open and what was spent since it was seen", () => {
    const { left, see, open } = kit();
    see(0.5);
    const weekly = see(0.45, { group: "weekly", limit: 10_000 });
    expect(left.of(candidate("a"))).toEqual({ remainingRatio: 0.45, fact: weekly, confidence: 1, spentRatio: 0 });
    const attempt = open(100);
    expect(left.of(candidate("a"))).toMatchObject({ remainingRatio: 0.4, fact: { group: "tokens" }, spentRatio: 0.1 });
    expect([left.shareOf(candidate("a"), 200), left.shareOf(candidate("a"), 5_000)]).toEqual([0.2, 1]);
    attempt?.end(20);
    expect(left.of(candidate("a"))).toMatchObject({ remainingRatio: 0.448, fact: weekly, spentRatio: 0.002 });
  });

  test("is what was seen, also where the quota fills up bit by bit: who has a little again draws nobody back at once", () => {
    const { left, see, clock } = kit();
    see(0.2, { resetsAt: clock.now() + 40_000, windowMs: 60_000, refills: true });
    clock.advance(39_999);
    expect(left.of(candidate("a"))?.remainingRatio).toBe(0.2);
  });

  test("is never below zero, and no more than all is spent", () => {
    const { left, see, open } = kit();
    see(0.5);
    open(600)?.end(2_000);
    expect(left.of(candidate("a"))).toMatchObject({ remainingRatio: 0, spentRatio: 1 });
  });

  test("asks only quotas that the model counts in, by the provider's name for it", () => {
    const { left, see } = kit();
    see(0, { group: "claude", models: ["claude-*"] });
    see(0, { group: "code-review", models: ["codex-review"] });
    see(0.7, { group: "gemini", models: ["gemini-*"] });
    expect([left.of(candidate("a", "gemini-3-pro"))?.remainingRatio, left.of(candidate("a", "claude-opus"))?.remainingRatio]).toEqual([0.7, 0]);
    expect(left.of(candidate("a", "gpt-5"))).toBeNull();
    const aliased = { ...candidate("a", "claude-opus"), model: "gemini-3-flash" };
    expect(left.of(aliased)?.fact.group).toBe("gemini");
  });

  test("a change of what estimates are worth counts from the next look on: the prior product's switch did nothing", () => {
    const settings = choosingSettings(resolveOptions({}).router.choosing);
    const { see, left } = kit({ ignoreEstimated: () => settings.current.ignoreEstimated });
    see(0.1, { source: "estimate" });
    expect(left.of(candidate("a"))).toBeNull();
    settings.set({ ignoreEstimated: false });
    expect(left.of(candidate("a"))?.remainingRatio).toBe(0.1);
  });

  test("is unknown where there are only estimates, unless they are wanted", () => {
    const { see, left, facts, spent, clock } = kit();
    see(0.1, { source: "estimate" });
    expect([left.isQuiet, left.of(candidate("a"))]).toEqual([false, null]);
    see(0.6, { group: "weekly" });
    expect(left.of(candidate("a"))).toMatchObject({ remainingRatio: 0.6, fact: { group: "weekly" } });
    const all = allowance({ facts, spend: spent, clock, ignoreEstimated: () => false });
    expect(all.of(candidate("a"))).toMatchObject({ remainingRatio: 0.1, fact: { source: "estimate" } });
  });

  test("is the less sure the older the word is", () => {
    const { left, see, clock } = kit();
    see(0.5, { resetsAt: clock.now() + 100 * MINUTE });
    const [first] = [left.of(candidate("a"))?.confidence];
    clock.advance(60 * MINUTE);
    const later = left.of(candidate("a"))?.confidence ?? 1;
    expect(first).toBe(1);
    expect(later).toBeGreaterThan(0);
    expect(later).toBeLessThan(1);
  });

  test("tells reading and writing apart where it can", () => {
    const { left, see } = kit();
    see(0.5, { group: "output", unit: "output_tokens" });
    expect([left.shareOf(candidate("a"), 900), left.shareOf(candidate("a"), 900, 100)]).toEqual([0.9, 0.1]);
  });
});

// What QuotaGuard's own tests expected, in parts of a whole. Other than there, nothing that is left is ever negative, a release may come twice or late, and a
// request that finds too little is passed over, not answered with an error.
describe("QuotaGuard's numbers", () => {
  test("80% less 10 reserved, released with 5: virtual 5", () => {
    const { left, see, open } = kit();
    see(0.8);
    const attempt = open(100);
    expect(left.of(candidate("a"))?.spentRatio).toBe(0.1);
    attempt?.end(50);
    expect(left.of(candidate("a"))?.spentRatio).toBe(0.05);
    expect(left.of(candidate("a"))?.remainingRatio).toBe(0.75);
  });

  test("cancelled: virtual 0", () => {
    const { left, see, open } = kit();
    see(0.8);
    open(100)?.end(null);
    expect(left.of(candidate("a"))?.spentRatio).toBe(0);
  });

  test("expired: virtual stays as estimated until it is seen again, for nobody knows that it used nothing (there: restored at once)", () => {
    const { left, see, open, clock } = kit();
    see(0.8);
    open(100);
    clock.advance(5 * MINUTE);
    expect(left.of(candidate("a"))?.spentRatio).toBe(0.1);
    clock.advance(1);
    see(0.7);
    expect(left.of(candidate("a"))?.spentRatio).toBe(0);
  });

  test("two at once, 10 and 5: 15 in all", () => {
    const { left, see, open, spent } = kit();
    see(0.8);
    open(100);
    open(50);
    expect(left.of(candidate("a"))?.spentRatio).toBeCloseTo(0.15);
    expect(spent.of("a")).toMatchObject({ attempts: 2, openTokens: 150 });
  });

  test("50 less 60: 0 (there: -10), and 10 given back of 5 is 0", () => {
    const { left, see, open } = kit();
    see(0.5);
    const attempt = open(600);
    expect(left.of(candidate("a"))?.remainingRatio).toBe(0);
    attempt?.end(0);
    attempt?.end(null);
    expect(left.of(candidate("a"))).toMatchObject({ remainingRatio: 0.5, spentRatio: 0 });
  });

  test("a fresh word keeps what is open: 79 after 6 were used and seen is 79, not 73", () => {
    const { left, see, open, clock } = kit();
    see(0.85);
    const attempt = open(60);
    clock.advance(1);
    attempt?.end(60);
    clock.advance(1);
    open(30);
    see(0.79);
    expect(left.of(candidate("a"))?.remainingRatio).toBeCloseTo(0.76);
    attempt?.end(60);
    expect(left.of(candidate("a"))?.remainingRatio).toBeCloseTo(0.76);
  });

  test("virtual 71 of 80: 9% is left, less than an account at 30%", () => {
    const { left, see, open } = kit();
    see(0.8);
    see(0.3, { credential: "b" });
    open(710);
    expect(left.of(candidate("a"))?.remainingRatio).toBeCloseTo(0.09);
    expect(left.of(candidate("b"))?.remainingRatio).toBe(0.3);
  });

  test("every dimension counts: 50 of 100 and 100 of 1,000 leave 10%, with the second as the scarce one", () => {
    const { left, see } = kit();
    see(0.5, { group: "requests", unit: "requests", limit: 100 });
    see(0.1);
    expect(left.of(candidate("a"))).toMatchObject({ remainingRatio: 0.1, fact: { group: "tokens" } });
  });
});
