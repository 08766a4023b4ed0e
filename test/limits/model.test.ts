import { describe, it } from "vitest";
import { definedHarness, memoryHarness, sqliteHarness } from "./harness.ts";
import { compareWithOracle } from "./model.ts";

describe("a store and the oracle agree on every answer and every state", () => {
  it("memory", { timeout: 120_000 }, async () => {
    await compareWithOracle(memoryHarness, { runs: 4000, commands: 100 });
  });

  it("a store of one's own", { timeout: 120_000 }, async () => {
    await compareWithOracle(definedHarness, { runs: 600, commands: 100 });
  });

  it("sqlite", { timeout: 120_000 }, async () => {
    await compareWithOracle(sqliteHarness, { runs: 600, commands: 100 });
  });
});
