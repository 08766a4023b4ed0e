import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { retryBudget, type RetryBudget } from "../../src/resilience/retry-budget.ts";
import { testClock } from "../../src/testing/clock.ts";

function take(budget: RetryBudget, most = 1_000): number {
  let taken = 0;
  while (taken < most && budget.take()) taken += 1;
  return taken;
}

function requests(budget: RetryBudget, count: number): void {
  for (let i = 0; i < count; i += 1) budget.request();
}

describe("a quiet gateway", () => {
  test("may retry ten times in ten seconds, without any traffic", () => {
    const clock = testClock();
    const budget = retryBudget(clock, 0.1);
    expect(take(budget)).toBe(10);
    clock.advance(8_999);
    expect(take(budget)).toBe(0);
    clock.advance(1_001);
    expect(take(budget)).toBe(10);
  });

  test("may do so again after any silence", () => {
    const clock = testClock();
    const budget = retryBudget(clock, 0);
    for (const silence of [10_000, 15_500, 3_600_000, 86_400_000]) {
      expect(take(budget)).toBe(10);
      clock.advance(silence);
    }
  });
});

describe("a busy one", () => {
  test.each([
    [0.1, 100, 20],
    [0.1, 1_000, 110],
    [0, 1_000, 10],
    [1, 50, 60],
  ])("with a share of %d and %i requests may retry %i times", (share, count, expected) => {
    const budget = retryBudget(testClock(), share);
    requests(budget, count);
    expect(take(budget)).toBe(expected);
  });

  test("counts the last ten seconds, sliding", () => {
    const clock = testClock();
    const budget = retryBudget(clock, 0.1);
    requests(budget, 100);
    clock.advance(5_000);
    requests(budget, 100);
    expect(take(budget, 15)).toBe(15);
    clock.advance(5_000);
    // The first hundred have left, the second hundred and all retries are still within.
    expect(take(budget)).toBe(5);
    clock.advance(5_000);
    expect(take(budget, 30)).toBe(5);
  });
});

test("whoever is allowed a retry finds no more of them behind than the share of ten seconds' requests, plus ten", () => {
  const step = fc.record({
    wait: fc.integer({ min: 0, max: 4_000 }),
    requests: fc.integer({ min: 0, max: 30 }),
    retries: fc.integer({ min: 0, max: 30 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
      const clock = testClock();
      const budget = retryBudget(clock, 0.1);
      const seen: { at: number; requests: number; taken: number }[] = [];
      for (const { wait, requests: count, retries } of steps) {
        clock.advance(wait);
        requests(budget, count);
        const takenNow = take(budget, retries);
        seen.push({ at: clock.monotonic(), requests: count, taken: takenNow });
        if (takenNow === 0) continue;
        // Whole cells of a second: what lies 9 s back is counted for certain, what lies 10 s back certainly not.
        const within = (ms: number) => seen.filter(({ at }) => at > clock.monotonic() - ms);
        const taken = within(9_000).reduce((sum, item) => sum + item.taken, 0);
        const asked = within(10_000).reduce((sum, item) => sum + item.requests, 0);
        expect(taken).toBeLessThanOrEqual(Math.ceil(10 + 0.1 * asked));
      }
    }),
  );
});
