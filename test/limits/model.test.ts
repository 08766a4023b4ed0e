import { describe, it } from "vitest";
import { memoryHarness, sqliteHarness } from "./harness.ts";
import { compareWithOracle } from "./model.ts";

describe("a store and the oracle agree on every answer and every state", () => {
  it("memory", { timeout: 120_000 }, () => {
    compareWithOracle(memoryHarness, { runs: 4000, commands: 100 });
  });

  it("sqlite", { timeout: 120_000 }, () => {
    compareWithOracle(sqliteHarness, { runs: 600, commands: 100 });
  });
});
