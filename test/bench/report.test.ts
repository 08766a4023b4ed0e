import { describe, expect, it } from "vitest";
import { report, type Run, type Sample } from "../../bench/report.ts";

const sample = (target: string, workload: Sample["workload"], round: number, cpuUs: number): Sample => ({
  target,
  workload,
  round,
  answered: 1_000,
  seconds: 1,
  cpuUs: cpuUs * 1_000,
  benchCpuUs: 1,
  failures: new Map(),
});

const runOf = (...samples: Sample[]): Run => ({
  targets: ["a", "a-mem"].map((id) => ({ id, title: "a gateway" })),
  skipped: new Map(),
  samples,
  setting: ["a machine"],
});

describe("the report of the gateways", () => {
  // Ratios of medians would say 2: rounds that were slow for both must not count twice.
  it("says what a translation costs, next to the same answer untranslated", () => {
    const text = report(
      runOf(
        ...[100, 200, 800].map((us, round) => sample("a", "sse", round, us)),
        ...[300, 700, 400].map((us, round) => sample("a", "sse-translated", round, us)),
        sample("a", "json", 0, 50),
        sample("a-mem", "sse", 0, 10),
        sample("a-mem", "sse-translated", 0, 25),
      ),
    );
    expect(text).toContain("\na, sse-translated against sse, round by round: 3.00 (0.50–3.50) times the CPU per request.\n");
    expect(text).toContain("\na-mem, sse-translated against sse, round by round: 2.50 (2.50–2.50) times the CPU per request.\n");
    expect(text.match(/ against sse/g)).toHaveLength(2);
  });

  it("compares a translation with nothing where only it was measured", () => {
    expect(report(runOf(sample("a", "sse-translated", 0, 25)))).not.toContain("against");
  });
});
