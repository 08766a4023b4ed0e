import { describe, expect, it } from "vitest";
import { vectors } from "../../src/testing/store-contract/vectors.ts";
import { memoryHarness, type Harness } from "./harness.ts";
import { compareWithOracle } from "./model.ts";
import { backed, bucketWith, kinds, mutants, verbs } from "./mutants.ts";

/*
 * Are the vectors and the oracle worth anything? Each mutant is the engine with one mistake. Both checks must notice it; a mutant that one of
 * them cannot notice says so.
 */

async function notices(check: () => Promise<void>): Promise<boolean> {
  try {
    await check();
    return false;
  } catch {
    return true;
  }
}

async function passesVectors(make: () => Harness): Promise<void> {
  for (const vector of vectors) await vector.run(make());
}

describe("the checks notice", () => {
  it("nothing in the engine itself", async () => {
    expect(await notices(() => passesVectors(memoryHarness))).toBe(false);
    expect(await notices(() => compareWithOracle(memoryHarness, { runs: 50, commands: 100, seed: 1 }))).toBe(false);
  });

  it("nothing in an engine whose parts are only passed through", async () => {
    const untouched = (): Harness => memoryHarness({ ...backed(() => ({})), ...verbs(() => ({})), ...kinds(bucketWith(() => undefined)) });
    expect(await notices(() => passesVectors(untouched))).toBe(false);
    expect(await notices(() => compareWithOracle(untouched, { runs: 50, commands: 100, seed: 1 }))).toBe(false);
  });

  it.each(mutants.map(({ bug, ...mutant }) => [bug, mutant] as const))("%s", async (_bug, { parts, blind }) => {
    const make = (): Harness => memoryHarness(parts());
    expect(await notices(() => passesVectors(make)), "by the vectors").toBe(blind !== "vectors");
    expect(await notices(() => compareWithOracle(make, { runs: 500, commands: 100, seed: 7 })), "by the oracle").toBe(blind !== "model");
  });
});
