import fc from "fast-check";
import { expect, test } from "vitest";
import { fromRemaining, fromRemainingFraction, fromRemainingPercent, fromUsedFraction, fromUsedPercent } from "../../src/core/quota-reading.ts";

const NOTHING = [undefined, null, "", "many", Number.NaN, Infinity, {}, [50], true, "1e2", "0,6"];

test.each<readonly [string, (value: unknown) => number | null, readonly (readonly [unknown, number])[]]>([
  [
    "a part in hundredths that is used",
    fromUsedPercent,
    [
      [40, 0.6],
      ["40", 0.6],
      ["40%", 0.6],
      [0, 1],
      [100, 0],
      [130, 0],
      [-1, 1],
      [0.5, 0.995],
    ],
  ],
  [
    "a fraction that is used",
    fromUsedFraction,
    [
      [0.25, 0.75],
      ["0.25", 0.75],
      [1.2, 0],
      [0, 1],
      [1, 0],
    ],
  ],
  // 1 is one hundredth, and not all of it.
  [
    "hundredths that are left",
    fromRemainingPercent,
    [
      [60, 0.6],
      ["60%", 0.6],
      [1, 0.01],
      [0.5, 0.005],
      [116, 1],
      [-1, 0],
    ],
  ],
  [
    "a fraction that is left",
    fromRemainingFraction,
    [
      [0.6, 0.6],
      ["0.6", 0.6],
      [0, 0],
      [1, 1],
      [1.5, 1],
      [60, 1],
    ],
  ],
])("%s", (_what, read, cases) => {
  for (const [value, expected] of cases) expect(read(value)).toBeCloseTo(expected, 12);
  // What is not said is not 0.
  for (const value of NOTHING) expect(read(value)).toBeNull();
});

test("so many left of so many; a whole of nothing tells nothing", () => {
  expect([fromRemaining(25, 100), fromRemaining("25", "100"), fromRemaining(0, 5), fromRemaining(9, 5), fromRemaining(-1, 5)]).toEqual([
    0.25, 0.25, 0, 1, 0,
  ]);
  expect([fromRemaining(0, 0), fromRemaining(5, 0), fromRemaining(5, -1), fromRemaining(5, undefined), fromRemaining(null, 5)]).toEqual([
    null,
    null,
    null,
    null,
    null,
  ]);
});

test("whatever is said, what is left is a part of the whole or unknown", () => {
  const said = fc.oneof(fc.double(), fc.string(), fc.double().map(String), fc.constant(null));
  const isPart = (left: number | null): boolean => left === null || (left >= 0 && left <= 1);
  fc.assert(
    fc.property(said, said, (value, whole) =>
      [fromUsedPercent(value), fromUsedFraction(value), fromRemainingPercent(value), fromRemainingFraction(value), fromRemaining(value, whole)].every(
        isPart,
      ),
    ),
  );
});
