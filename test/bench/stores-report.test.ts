import { describe, expect, it } from "vitest";
import { quantile } from "../../bench/stores/meter.ts";
import { storesJson, storesReport, type StoreSample, type StoresRun } from "../../bench/stores/stores-report.ts";

const sample = (id: string, round: number, operations: number, more: Partial<StoreSample> = {}): StoreSample => ({
  id,
  round,
  operations,
  seconds: 1,
  clientCpuUs: 500_000,
  serverCpuUs: 200_000,
  p50Ms: 1,
  p99Ms: 4,
  failures: [],
  ...more,
});

const runOf = (...samples: StoreSample[]): StoresRun => ({ samples, skipped: new Map(), setting: ["a machine"] });

describe("the report of the stores", () => {
  // Ratios of medians would say 2: rounds that were slow for both must not count twice.
  it("compares within each round", () => {
    const run = runOf(
      sample("reserve@64", 0, 30_000),
      sample("together@64", 0, 10_000),
      sample("reserve@64", 1, 20_000),
      sample("together@64", 1, 20_000),
      sample("reserve@64", 2, 8_000),
      sample("together@64", 2, 2_000),
    );
    expect(storesReport(run)).toContain("reserve@64 / together@64: **3.00** (1.00–4.00)");
    expect((JSON.parse(storesJson(run)) as { ratios: unknown }).ratios).toEqual([
      { of: "reserve@64", with: "together@64", median: 3, rounds: [3, 1, 4] },
    ]);
  });

  it("compares only what was measured on both sides", () => {
    const run = runOf(sample("reserve@64", 0, 30_000), sample("gateway-redis-json", 0, 4_000));
    expect(storesReport(run)).not.toContain("against each other");
    expect((JSON.parse(storesJson(run)) as { ratios: unknown }).ratios).toEqual([]);
  });

  it("counts CPU per operation, and a store's reservations as two verbs", () => {
    const report = storesReport(
      runOf(sample("reserve@64", 0, 10_000), sample("memory", 0, 1_000_000, { serverCpuUs: null, p50Ms: null, p99Ms: null })),
    );
    expect(report).toMatch(/reserve@64 .*\| +10,000 \(10,000–10,000\) \|.*50\.0 \(50\.0–50\.0\) \| 20\.0 \(20\.0–20\.0\) \| +0 \|/);
    expect(report).toMatch(/memory .*\| +500,000 \(500,000–500,000\) \| +1\.00 \(1\.00–1\.00\) \| +0 \|/);
  });

  it("says what failed and what was left out", () => {
    const run = { ...runOf(sample("reserve@64", 1, 0, { failures: [["reserve: stale", 3]] })), skipped: new Map([["flexible", "no server"]]) };
    const report = storesReport(run);
    expect(report).toContain("- reserve@64, round 2: 3 × reserve: stale");
    expect(report).toContain("flexible was left out: no server");
    expect(report).toContain("**3**");
  });
});

describe("a quantile", () => {
  const hundred = Float64Array.from({ length: 100 }, (_, i) => i + 1);

  it.each([
    [0.5, 50],
    [0.99, 99],
    [1, 100],
    [0, 1],
  ])("of %d in 1 to 100 is %d", (share, value) => {
    expect(quantile(hundred, share)).toBe(value);
  });

  it("of nothing is nothing", () => {
    expect(quantile(new Float64Array(0), 0.99)).toBeNull();
  });
});
