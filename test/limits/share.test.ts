import fc from "fast-check";
import { expect, test } from "vitest";
import type { BucketRule, Rule } from "../../src/core/store.ts";
import { bucketRule } from "../../src/limits/rate.ts";
import { shareOf, sizeOf } from "../../src/limits/share.ts";

const SLIDING: Rule = { kind: "sliding", limit: 10, perMs: 60_000, cellMs: 1_000 };
const CALENDAR: Rule = { kind: "calendar", limit: 10, bounds: [0, 1, 2, 3] };
const CONCURRENCY: Rule = { kind: "concurrency", limit: 10 };

test.each<readonly [Rule, number, Rule]>([
  [SLIDING, 3, { ...SLIDING, limit: 3 }],
  [CALENDAR, 4, { ...CALENDAR, limit: 2 }],
  [CONCURRENCY, 10, { ...CONCURRENCY, limit: 1 }],
  [{ ...SLIDING, limit: 2 }, 5, { ...SLIDING, limit: 1 }],
  [{ ...SLIDING, limit: 0 }, 5, { ...SLIDING, limit: 0 }],
  [{ kind: "bucket", capacity: 100, n: 1, d: 10 }, 3, { kind: "bucket", capacity: 33, n: 1, d: 30 }],
  [{ kind: "bucket", capacity: 100, n: 6, d: 10 }, 3, { kind: "bucket", capacity: 33, n: 1, d: 5 }],
  [{ kind: "bucket", capacity: 1, n: 0, d: 1 }, 3, { kind: "bucket", capacity: 1, n: 0, d: 1 }],
])("%j among %i is %j", (rule, nodes, share) => expect(shareOf(rule, nodes)).toEqual(share));

test("alone one has it all, and a share is made once", () => {
  expect(shareOf(SLIDING, 1)).toBe(SLIDING);
  expect(shareOf(SLIDING, 3)).toBe(shareOf(SLIDING, 3));
  expect(shareOf(SLIDING, 2)).toEqual({ ...SLIDING, limit: 5 });
  expect(shareOf(SLIDING, 3)).toEqual({ ...SLIDING, limit: 3 });
});

test("together they have never more than the whole, of what all of them can have a part of; and a refill is exact where a double holds it", () => {
  const rates = fc.oneof(fc.integer({ min: 0, max: 1_000_000 }), fc.double({ min: 0, max: 1_000, noNaN: true }));
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4e15 }), rates, fc.integer({ min: 2, max: 10_000 }), (capacity, refillPerSec, nodes) => {
      const whole = bucketRule({ capacity, refillPerSec });
      const share = shareOf(whole, nodes) as BucketRule;
      if (capacity >= nodes) expect(BigInt(sizeOf(share)) * BigInt(nodes) <= BigInt(capacity)).toBe(true);
      else expect(sizeOf(share)).toBe(1);
      // n/d of the share, times the nodes, is at most n/d of the whole.
      const together = BigInt(share.n) * BigInt(nodes) * BigInt(whole.d);
      const most = BigInt(whole.n) * BigInt(share.d);
      expect(together <= most).toBe(true);
      // d · (n + 1) has to stay exact.
      expect(Number.isSafeInteger(share.d * (share.n + 1))).toBe(true);
      if (Number.isSafeInteger(whole.d * nodes * (whole.n + 1)) && whole.d * nodes * (whole.n + 1) <= 9e15) expect(together === most).toBe(true);
    }),
    { numRuns: 300 },
  );
});
