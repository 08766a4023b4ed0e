import fc from "fast-check";
import { expect, test } from "vitest";
import { addUsage, NO_USAGE, totalInputTokens, totalOutputTokens, type Usage } from "../../src/core/usage.ts";

const count = fc.integer({ min: 0, max: 1_000_000 });
const usage: fc.Arbitrary<Usage> = fc
  .record({
    inputTokens: count,
    cacheReadTokens: count,
    cacheWriteTokens: count,
    outputTokens: count,
    reasoningTokens: count,
    reportedUsd: fc.option(fc.integer({ min: 1, max: 100 })),
  })
  .map(({ reportedUsd, ...tokens }) => (reportedUsd === null ? tokens : { ...tokens, reportedUsd }));

test("the classes are disjoint: totals are their sums, and adding adds every one", () => {
  fc.assert(
    fc.property(usage, usage, (a, b) => {
      const sum = addUsage(a, b);
      expect(totalInputTokens(sum)).toBe(totalInputTokens(a) + totalInputTokens(b));
      expect(totalOutputTokens(sum)).toBe(totalOutputTokens(a) + totalOutputTokens(b));
      expect(sum).toEqual(addUsage(b, a));
      expect(addUsage(a, NO_USAGE)).toEqual(a);
      expect(sum.reportedUsd ?? 0).toBe((a.reportedUsd ?? 0) + (b.reportedUsd ?? 0));
    }),
  );
});
