import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Deadlines } from "../../src/pool/deadlines.ts";

describe("deadlines", () => {
  test("come out in order, whatever order they went in", () => {
    fc.assert(
      fc.property(fc.array(fc.option(fc.nat(50), { freq: 4 }), { maxLength: 60 }), (steps) => {
        const deadlines = new Deadlines();
        let inside: number[] = [];
        for (const until of steps) {
          if (until === null) {
            inside = inside.toSorted((a, b) => a - b);
            expect(deadlines.takeFirst()?.until).toBe(inside.shift());
          } else {
            deadlines.add({ key: String(until), until });
            inside.push(until);
          }
          expect(deadlines.size).toBe(inside.length);
          expect(deadlines.first?.until).toBe(inside.length === 0 ? undefined : Math.min(...inside));
        }
      }),
      { numRuns: 500 },
    );
  });

  test("keep their keys", () => {
    const deadlines = new Deadlines();
    for (const [key, until] of [
      ["b", 2],
      ["c", 3],
      ["a", 1],
    ] as const)
      deadlines.add({ key, until });
    expect([1, 2, 3, 4].map(() => deadlines.takeFirst()?.key)).toEqual(["a", "b", "c", undefined]);
  });
});
