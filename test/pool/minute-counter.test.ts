import fc from "fast-check";
import { expect, test } from "vitest";
import { minuteCounter } from "../../src/pool/minute-counter.ts";
import { testClock } from "../../src/testing/clock.ts";

test("counts what went out within the last minute, and forgets what is older", () => {
  const clock = testClock();
  const counter = minuteCounter(clock.monotonic);
  counter.request();
  counter.tokens(10);
  clock.advance(30_000);
  counter.request();
  counter.tokens(5);
  expect(counter.read()).toEqual({ requests: 2, tokens: 15 });
  clock.advance(30_000);
  expect(counter.read()).toEqual({ requests: 1, tokens: 5 });
  clock.advance(120_000);
  expect(counter.read()).toEqual({ requests: 0, tokens: 0 });
});

test("takes a request back while it is within the minute, and never twice counts its absence", () => {
  const clock = testClock();
  const counter = minuteCounter(clock.monotonic);
  const second = counter.request();
  clock.advance(59_000);
  counter.takeBack(second);
  expect(counter.read().requests).toBe(0);
  const old = counter.request();
  clock.advance(60_000);
  counter.request();
  counter.takeBack(old);
  expect(counter.read().requests).toBe(1);
});

test("agrees with a log of every request, whatever the gaps", () => {
  const step = fc.record({ gapMs: fc.nat({ max: 90_000 }), tokens: fc.nat({ max: 1_000 }) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const clock = testClock();
      const counter = minuteCounter(clock.monotonic);
      const log: { second: number; tokens: number }[] = [];
      for (const { gapMs, tokens } of steps) {
        clock.advance(gapMs);
        counter.request();
        counter.tokens(tokens);
        const now = Math.floor(clock.monotonic() / 1_000);
        log.push({ second: now, tokens });
        const within = log.filter(({ second }) => now - second < 60);
        expect(counter.read()).toEqual({ requests: within.length, tokens: within.reduce((sum, item) => sum + item.tokens, 0) });
      }
    }),
  );
});
