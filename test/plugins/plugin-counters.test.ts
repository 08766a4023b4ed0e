import { describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import { metrics } from "../../src/metering/metrics.ts";
import { pluginCounters } from "../../src/plugin-counters.ts";
import * as prom from "prom-client";

const made = (maxSeries = 200) => metrics(prom, { knownModels: [], maxSeries });

describe("a plugin's counters", () => {
  test("are the guard's metrics", async () => {
    const all = made();
    const count = pluginCounters("mine", all)("polls_total", "Polls", ["provider", "status"]);
    count(["codex", "ok"]);
    count(["codex", "ok"]);
    count(["claude", "failed"]);
    const text = await all.expose();
    expect(text).toContain("# HELP quotaguard_polls_total Polls");
    expect(text).toContain('quotaguard_polls_total{provider="codex",status="ok"} 2');
    expect(text).toContain('quotaguard_polls_total{provider="claude",status="failed"} 1');
  });

  test("share the bound of all series: what is too much is other", async () => {
    const all = made(60);
    const count = pluginCounters("mine", all)("polls_total", "Polls", ["name"]);
    for (let i = 0; i < 500; i += 1) count([`n${i}`]);
    const lines = (await all.expose()).split("\n").filter((line) => line.startsWith("quotaguard_polls_total{"));
    expect(lines.length).toBeLessThan(60);
    expect(lines.at(-1) ?? "").toMatch(/name="other"\} \d{3}/);
  });

  test("without metrics count nothing, and are checked all the same", () => {
    const counter = pluginCounters("mine", null);
    counter("polls_total", "Polls", [])([]);
    expect(() => counter("polls", "Polls", [])).toThrow("the plugin mine: counter polls: its name must be lower case with _, and end in _total");
    expect(() => counter("polls_total", "Polls", [])).toThrow("there is one of this name already");
  });

  test("have names of their own, and not more than there is room for", () => {
    const all = made();
    expect(() => pluginCounters("mine", all)("requests_total", "Requests", [])).toThrow("there is one of this name already");
    pluginCounters("mine", all)("polls_total", "Polls", []);
    expect(() => pluginCounters("other", all)("polls_total", "Polls", [])).toThrow(ConfigError);
    const counter = pluginCounters("third", all);
    expect(() => counter("a_total", "A", ["x", "x"])).toThrow("each once");
    expect(() => counter("a_total", "A", ["Not-A-Label"])).toThrow("labels");
    expect(() => counter("a_total", "", [])).toThrow("says what it counts");
    expect(() => counter("b_total", "B", ["x"])(["1", "2"])).toThrow("takes 1 values");
    for (let i = 0; i < 15; i += 1) counter(`c${i}_total`, "C", []);
    expect(() => counter("d_total", "D", [])).toThrow("the plugin has 16 already");
  });
});
