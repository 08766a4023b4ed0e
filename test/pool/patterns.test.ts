import fc from "fast-check";
import { expect, test } from "vitest";
import { matchesAny, patternMatcher } from "../../src/pool/patterns.ts";

/** The obvious way: by a regular expression. */
const naive = (pattern: string, name: string): boolean =>
  new RegExp(`^${pattern.replaceAll(/[.+?^${}()|[\]\\]/g, "\\$&").replaceAll("*", "[^]*")}$`).test(name);

const letters = fc.constantFrom("a", "b", ".", "-");
const name = fc.string({ unit: letters, maxLength: 10 });
const pattern = fc.string({ unit: fc.oneof(letters, fc.constant("*")), maxLength: 8 });

test("matches what the obvious way matches", () => {
  fc.assert(
    fc.property(pattern, name, (p, n) => patternMatcher(p)(n) === naive(p, n)),
    { numRuns: 5_000 },
  );
});

test("a name with anything put in place of stars matches", () => {
  const pieces = fc.array(fc.tuple(name, fc.option(name)), { maxLength: 5 });
  fc.assert(
    fc.property(pieces, (parts) => {
      const text = parts.map(([plain, filling]) => plain + (filling ?? "")).join("");
      expect(patternMatcher(parts.map(([plain, filling]) => plain + (filling === null ? "" : "*")).join(""))(text)).toBe(true);
    }),
  );
});

test.each<[string, string, boolean]>([
  ["gpt-*", "gpt-4o", true],
  ["gpt-*", "gpt-", true],
  ["gpt-*", "GPT-4o", false],
  ["gpt-4o", "gpt-4o-mini", false],
  ["*", "", true],
  ["*", "any\nthing", true],
  ["", "", true],
  ["", "a", false],
  ["a*a", "a", false],
  ["a*a", "aa", true],
  ["a*b*a", "aba", true],
  ["a*b*a", "aa", false],
  ["*mini*", "gpt-4o-mini-2024", true],
  ["gpt-4.1", "gpt-4x1", false],
  ["**", "x", true],
])("%s and %s: %s", (given, text, expected) => {
  expect(patternMatcher(given)(text)).toBe(expected);
});

test("no pattern is slow", () => {
  const hostile = `${"*a".repeat(1_000)}*b`;
  const start = process.threadCpuUsage();
  expect(patternMatcher(hostile)("a".repeat(100_000))).toBe(false);
  expect(process.threadCpuUsage(start).user).toBeLessThan(200_000);
});

test("any of several is enough, none of none is not", () => {
  expect([matchesAny(["x", "gpt-*"], "gpt-4o"), matchesAny(["x"], "gpt-4o"), matchesAny([], "gpt-4o")]).toEqual([true, false, false]);
});
