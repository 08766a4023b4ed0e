import { describe, expect, it } from "vitest";
import { memoryHarness, type Harness } from "./harness.ts";
import { compareWithOracle } from "./model.ts";
import { backed, bucketWith, kinds, mutants, verbs } from "./mutants.ts";
import { vectors } from "./vectors.ts";

/*
 * Are the vectors and the oracle worth anything? Each mutant is the engine with one mistake. Both checks must notice it; a mutant that one of
 * them cannot notice says so.
 */

function notices(check: () => void): boolean {
  try {
    check();
    return false;
  } catch {
    return true;
  }
}

function passesVectors(make: () => Harness): void {
  for (const vector of vectors) vector.run(make());
}

describe("the checks notice", () => {
  it("nothing in the engine itself", () => {
    expect(notices(() => passesVectors(memoryHarness))).toBe(false);
    expect(notices(() => compareWithOracle(memoryHarness, { runs: 50, commands: 100, seed: 1 }))).toBe(false);
  });

  it("nothing in an engine whose parts are only passed through", () => {
    const untouched = (): Harness => memoryHarness({ ...backed(() => ({})), ...verbs(() => ({})), ...kinds(bucketWith(() => undefined)) });
    expect(notices(() => passesVectors(untouched))).toBe(false);
    expect(notices(() => compareWithOracle(untouched, { runs: 50, commands: 100, seed: 1 }))).toBe(false);
  });

  it.each(mutants.map(({ bug, ...mutant }) => [bug, mutant] as const))("%s", (_bug, { parts, blind }) => {
    const make = (): Harness => memoryHarness(parts());
    expect(
      notices(() => passesVectors(make)),
      "by the vectors",
    ).toBe(blind !== "vectors");
    expect(
      notices(() => compareWithOracle(make, { runs: 500, commands: 100, seed: 7 })),
      "by the oracle",
    ).toBe(blind !== "model");
  });
});
