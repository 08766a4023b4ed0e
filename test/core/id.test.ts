import fc from "fast-check";
import { expect, test } from "vitest";
import { idFactory } from "../../src/core/id.ts";

const sorted = (ids: readonly string[]): string[] => ids.toSorted((a, b) => (a < b ? -1 : 1));

test("ids are 24 characters that are harmless in headers, paths and logs", () => {
  expect(idFactory(() => 1_767_225_600_000)()).toMatch(/^[0-9a-hjkmnp-tv-z]{24}$/);
});

test("100,000 ids of one ms are unique and ordered", () => {
  const next = idFactory(() => 1_767_225_600_000);
  const ids = Array.from({ length: 100_000 }, next);
  expect(new Set(ids).size).toBe(ids.length);
  expect(sorted(ids)).toEqual(ids);
});

test("ids are unique and in the order they were made, however the clock jumps", () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 0, max: 50 }), { minLength: 2, maxLength: 60 }), (times) => {
      let at = 0;
      const next = idFactory(() => 1_767_225_600_000 + (times[at] as number));
      const ids = times.map((_, i) => {
        at = i;
        return next();
      });
      expect(new Set(ids).size).toBe(ids.length);
      expect(sorted(ids)).toEqual(ids);
    }),
  );
});

test("a later ms sorts after all of an earlier one", () => {
  let now = 1_767_225_600_000;
  const next = idFactory(() => now);
  const before = Array.from({ length: 1_100 }, next).at(-1) as string;
  now += 1;
  expect(next() > before).toBe(true);
});

test("two processes that count the same ms do not collide", () => {
  const factories = Array.from({ length: 500 }, () => idFactory(() => 1_767_225_600_000));
  expect(new Set(factories.map((next) => next())).size).toBe(500);
});

test("a clock that stands still for a long time never makes an id come back", () => {
  // As after an hour's step backwards: the counter alone has to keep ids apart. 2^25 of them would wrap five characters.
  const next = idFactory(() => 1_767_225_600_000);
  const first = next();
  let last = first;
  for (let i = 0; i < 2 ** 25; i += 1) last = next();
  expect(last > first).toBe(true);
});
