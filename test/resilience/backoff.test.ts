import { describe, expect, test } from "vitest";
import { backoff } from "../../src/resilience/backoff.ts";
import { contextWith, kit } from "../core/context-kit.ts";

/** Waits, and tells what the clock showed when the wait was over. */
function waiting(random: number) {
  const { clock, services } = kit();
  const ctx = contextWith(services);
  let overAt: number | undefined;
  const wait = backoff(() => random)(ctx)?.then(() => (overAt = clock.monotonic()));
  return { clock, ctx, wait, overAt: () => overAt };
}

describe("the pause before a retry", () => {
  test.each([
    [0.02, 1],
    [0.5, 25],
    [0.999, 49.95],
  ])("for a random number of %d is %d ms", async (random, expected) => {
    const { clock, wait, overAt } = waiting(random);
    clock.advance(expected - 0.001);
    await Promise.resolve();
    expect(overAt()).toBeUndefined();
    clock.advance(0.001);
    await wait;
    expect(overAt()).toBeCloseTo(expected, 6);
    expect(clock.pending()).toBe(0);
  });

  test("of less than a millisecond is none", () => {
    const { clock, wait } = waiting(0.019);
    expect(wait).toBeUndefined();
    expect(clock.pending()).toBe(0);
  });

  test("is none when the client has left", () => {
    const { clock, services } = kit();
    const ctx = contextWith(services);
    ctx.leave();
    expect(backoff(() => 0.5)(ctx)).toBeUndefined();
    expect(clock.pending()).toBe(0);
  });

  test("ends when the client leaves, and no timer stays behind", async () => {
    const { clock, ctx, wait, overAt } = waiting(0.5);
    clock.advance(10);
    ctx.leave();
    expect(clock.pending()).toBe(0);
    await wait;
    expect(overAt()).toBe(10);
  });

  test("differs from one retry to the next", async () => {
    const { clock, services } = kit();
    const numbers = [0.2, 0.8];
    const pause = backoff(() => numbers.shift() ?? 0);
    const over: number[] = [];
    const waits = [1, 2].map(() => pause(contextWith(services))?.then(() => over.push(clock.monotonic())));
    for (let ms = 0; ms < 50; ms += 1) {
      clock.advance(1);
      await Promise.resolve();
    }
    await Promise.all(waits);
    expect(over).toEqual([10, 40]);
  });
});
