import * as promClient from "prom-client";
import { beforeEach, describe, expect, test } from "vitest";
import { ConfigError } from "../../src/core/errors.ts";
import type { LedgerRow } from "../../src/core/ledger.ts";
import { NO_USAGE } from "../../src/core/usage.ts";
import { metrics, type CredentialStanding, type Metrics } from "../../src/metering/metrics.ts";

const ROW: LedgerRow = {
  id: "1",
  requestId: "r1",
  at: 0,
  key: "alice",
  scopes: { user: "alice" },
  route: "/v1/chat/completions",
  dialect: "openai",
  model: "gpt-4o",
  servedModel: "gpt-4o-2024-11-20",
  provider: "openai",
  credential: "main",
  stream: false,
  tag: null,
  held: { requests: 1, usd: 5_000_000, tokens: 900 },
  state: "settled",
  status: 200,
  code: null,
  latencyMs: 1_250,
  firstByteMs: 300,
  attempts: 1,
  tried: null,
  usage: { ...NO_USAGE, inputTokens: 100, cacheReadTokens: 20, outputTokens: 30, reasoningTokens: 5 },
  provenance: "exact",
  rawNanoUsd: 1_000_000,
  billedNanoUsd: 1_100_000,
  limit: null,
  priceVersion: null,
};

const STANDING: CredentialStanding = { ready: true, banned: false, cooling: false, limited: false, paused: false, breaker: "closed" };

let meter: Metrics;
beforeEach(() => {
  meter = metrics(promClient, { knownModels: ["gpt-4o", "gpt-4o-mini", "claude-*"] });
});

const samples = (text: string): string[] => text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
/** The value of the one sample that is written exactly so. */
async function value(sample: string, of = meter): Promise<number | undefined> {
  const line = samples(await of.expose()).find((each) => each.startsWith(`quotaguard_${sample} `));
  return line === undefined ? undefined : Number(line.slice(line.lastIndexOf(" ") + 1));
}

const FAMILIES = [
  "requests_total",
  "request_duration_seconds",
  "overhead_seconds",
  "time_to_first_byte_seconds",
  "attempts_total",
  "decisions_total",
  "debt_units_total",
  "reserved_units",
  "settled_units_total",
  "tokens_total",
  "cost_usd_total",
  "bucket_remaining",
  "credential_ready",
  "store_errors_total",
  "store_degraded",
  "waiting_settlements",
  "conservation_violations_total",
  "selection_rejected_total",
];

describe("what is exposed", () => {
  test("every family, with help and type, as Prometheus text", async () => {
    const text = await meter.expose();
    for (const family of FAMILIES) {
      expect(text).toContain(`# HELP quotaguard_${family} `);
      expect(text).toContain(`# TYPE quotaguard_${family} `);
    }
    expect(meter.contentType).toBe("text/plain; version=0.0.4; charset=utf-8");
    expect(await value("conservation_violations_total")).toBe(0);
  });

  test("a request: count, durations in seconds, tokens, USD and what was settled", async () => {
    meter.request(ROW);
    meter.request({ ...ROW, latencyMs: 90, firstByteMs: null });
    expect(
      await value('requests_total{route="/v1/chat/completions",dialect="openai",provider="openai",model="gpt-4o",stream="false",status="200"}'),
    ).toBe(2);
    expect(await value('request_duration_seconds_sum{route="/v1/chat/completions",stream="false"}')).toBeCloseTo(1.34, 10);
    expect(await value('request_duration_seconds_bucket{le="0.1",route="/v1/chat/completions",stream="false"}')).toBe(1);
    expect(await value('request_duration_seconds_bucket{le="2.5",route="/v1/chat/completions",stream="false"}')).toBe(2);
    expect(await value("time_to_first_byte_seconds_count")).toBe(1);
    expect(await value("time_to_first_byte_seconds_sum")).toBeCloseTo(0.3, 10);
    expect(await value('tokens_total{direction="input",model="gpt-4o"}')).toBe(240);
    expect(await value('tokens_total{direction="output",model="gpt-4o"}')).toBe(70);
    expect(await value('cost_usd_total{model="gpt-4o"}')).toBe(0.0022);
    expect(await value('settled_units_total{unit="requests",state="settled"}')).toBe(2);
    expect(await value('settled_units_total{unit="input_tokens",state="settled"}')).toBe(240);
    expect(await value('settled_units_total{unit="output_tokens",state="settled"}')).toBe(70);
    expect(await value('settled_units_total{unit="tokens",state="settled"}')).toBe(310);
    expect(await value('settled_units_total{unit="usd",state="settled"}')).toBe(0.0022);
  });

  test("what nobody metered is settled as it was held, a refusal not at all", async () => {
    meter.request({ ...ROW, state: "estimated", usage: null, billedNanoUsd: 5_000_000, held: { ...ROW.held, concurrent: 1 } });
    meter.request({
      ...ROW,
      state: "refused",
      status: 429,
      usage: null,
      rawNanoUsd: 0,
      billedNanoUsd: 0,
      provider: null,
      model: null,
      dialect: null,
    });
    expect(await value('settled_units_total{unit="usd",state="estimated"}')).toBe(0.005);
    expect(await value('settled_units_total{unit="tokens",state="estimated"}')).toBe(900);
    expect(await value('settled_units_total{unit="concurrent",state="estimated"}')).toBeUndefined();
    expect(await value('settled_units_total{unit="usd",state="refused"}')).toBeUndefined();
    expect(await value('requests_total{route="/v1/chat/completions",dialect="none",provider="none",model="none",stream="false",status="429"}')).toBe(
      1,
    );
  });

  test("many small costs add up to the nano-dollar", async () => {
    for (let i = 0; i < 100_000; i += 1) meter.request({ ...ROW, billedNanoUsd: 7 });
    expect(await value('cost_usd_total{model="gpt-4o"}')).toBe(0.0007);
  });

  test("attempts, decisions, debts, holds, buckets, credentials, errors", async () => {
    meter.attempt("main", "gpt-4o", 200);
    meter.attempt("main", "gpt-4o", 200);
    meter.attempt("main", "gpt-4o", null);
    meter.attempt("main", "gpt-4o", 777);
    meter.decision("user-day", "refused");
    meter.debt("user-day", "usd", 250_000_000);
    meter.debt("team-tokens", "tokens", 12);
    const money = meter.limit("user-day", "usd");
    money.reserved.add(3_000_000_000);
    money.reserved.add(-1_000_000_000);
    money.lowest = 1_500_000_000;
    meter.limit("team-tokens", "tokens").lowest = -5;
    meter.credential("main", STANDING);
    meter.credential("spare", { ready: false, banned: true, cooling: true, limited: true, paused: false, breaker: "half-open" });
    meter.overhead("reserve", 0.0002);
    meter.storeError("reserve", "local");
    meter.store(true, 12);
    meter.conservationViolation();
    meter.selectionRejected("cooling");
    meter.ban("began");
    meter.ban("began");
    meter.ban("ended");
    expect([await value("bans_total"), await value("unbans_total")]).toEqual([2, 1]);
    expect(await value('attempts_total{credential="main",model="gpt-4o",status="200"}')).toBe(2);
    expect(await value('attempts_total{credential="main",model="gpt-4o",status="none"}')).toBe(2);
    expect(await value('decisions_total{limit="user-day",outcome="refused"}')).toBe(1);
    expect(await value('debt_units_total{limit="user-day",unit="usd"}')).toBe(0.25);
    expect(await value('debt_units_total{limit="team-tokens",unit="tokens"}')).toBe(12);
    expect(await value('reserved_units{limit="user-day",unit="usd"}')).toBe(2);
    expect(await value('bucket_remaining{limit="team-tokens"}')).toBe(-5);
    expect(await value('bucket_remaining{limit="user-day"}')).toBe(1.5);
    expect(await value('credential_ready{credential="main"}')).toBe(1);
    expect(await value('credential_ready{credential="spare"}')).toBe(0);
    for (const [family, main, spare] of [
      ["credential_banned", 0, 1],
      ["credential_cooling", 0, 1],
      ["credential_limited", 0, 1],
      ["breaker_state", 0, 1],
    ] as const) {
      expect([await value(`${family}{credential="main"}`), await value(`${family}{credential="spare"}`)]).toEqual([main, spare]);
    }
    meter.credential("spare", { ...STANDING, breaker: "open" });
    expect([await value('breaker_state{credential="spare"}'), await value('credential_banned{credential="spare"}')]).toEqual([2, 0]);
    expect(await value('overhead_seconds_bucket{le="0.00025",phase="reserve"}')).toBe(1);
    expect(await value('store_errors_total{op="reserve",mode="local"}')).toBe(1);
    expect([await value("store_degraded"), await value("waiting_settlements")]).toEqual([1, 12]);
    meter.store(false, 0);
    expect([await value("store_degraded"), await value("waiting_settlements")]).toEqual([0, 0]);
    expect(await value("conservation_violations_total")).toBe(1);
    expect(await value('selection_rejected_total{reason="cooling"}')).toBe(1);
  });

  test("scraping again changes nothing, and what comes later is added", async () => {
    meter.request(ROW);
    const first = await meter.expose();
    expect(await meter.expose()).toBe(first);
    meter.request(ROW);
    expect(await value('tokens_total{direction="input",model="gpt-4o"}')).toBe(240);
  });
});

describe("what a client can make", () => {
  test("3,000 models, users, scopes and keys make no series of their own", async () => {
    meter.request(ROW);
    meter.request({ ...ROW, model: "unheard-of" });
    meter.attempt("main", "unheard-of", 404);
    const before = samples(await meter.expose()).length;
    for (let i = 0; i < 3_000; i += 1) {
      meter.request({
        ...ROW,
        id: `${i}`,
        requestId: `r${i}`,
        key: `k${i}`,
        model: `model-${i}`,
        servedModel: `served-${i}`,
        scopes: { user: `u${i}` },
        held: { usd: i },
      });
      meter.attempt("main", `model-${i}`, 404);
    }
    const after = samples(await meter.expose());
    expect(after.length).toBe(before);
    expect(after.join("\n")).not.toMatch(/model-\d|served-\d|u\d|k\d/);
    expect(await value('tokens_total{direction="input",model="other"}')).toBe(3_001 * 120);
  });

  test("a name that fits a pattern of the config is still the client's", async () => {
    meter.request({ ...ROW, model: "claude-i-made-this-up" });
    meter.request({ ...ROW, model: "claude-*" });
    expect(await value('cost_usd_total{model="other"}')).toBe(0.0022);
  });

  test("nothing at all makes more series than the cap, and no count is lost", async () => {
    const names = Array.from({ length: 3_000 }, (_, i) => `n${i}`);
    const wide = metrics(promClient, { knownModels: names });
    for (const [i, name] of names.entries()) {
      wide.request({ ...ROW, route: `/r/${name}`, provider: name, model: name, status: 100 + (i % 500), stream: i % 2 === 0 });
      wide.attempt(name, name, 200);
      wide.decision(name, "allowed");
      wide.decision(name, "refused");
      wide.debt(name, "usd", 1_000_000_000);
      wide.debt(name, "tokens", 1);
      const cells = wide.limit(name, "tokens");
      cells.reserved.add(1);
      cells.lowest = 1;
      wide.credential(name, STANDING);
      wide.overhead(name, 0.001);
      wide.storeError(name, name);
      wide.selectionRejected(name);
    }
    const lines = samples(await wide.expose());
    expect(lines.length).toBeLessThanOrEqual(2_000);
    const sum = (family: string): number =>
      lines
        .filter((line) => line.startsWith(`quotaguard_${family}{`))
        .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
    for (const family of [
      "requests_total",
      "attempts_total",
      "request_duration_seconds_count",
      "overhead_seconds_count",
      "store_errors_total",
      "reserved_units",
    ])
      expect(sum(family)).toBe(3_000);
    expect(sum("decisions_total")).toBe(6_000);
    expect(sum("tokens_total")).toBe(3_000 * 155);
    // What is beyond the cap keeps its unit: dollars are never added to tokens.
    expect(await value('debt_units_total{limit="other",unit="usd"}', wide)).toBeGreaterThan(2_000);
    expect(await value('debt_units_total{limit="other",unit="tokens"}', wide)).toBe(await value('debt_units_total{limit="other",unit="usd"}', wide));
  });

  test("a quota of one model by itself is that of its name only if the configuration knows it", async () => {
    const own = metrics(promClient, { knownModels: ["gpt-4o"] });
    const of = (group: string, remainingRatio: number, models?: readonly string[]) => ({ group, remainingRatio, ...(models ? { models } : {}) });
    const shown = async () => samples(await own.expose()).filter((line) => line.startsWith("quotaguard_quota_remaining_ratio{"));
    const name = "quotaguard_quota_remaining_ratio";
    const many = Array.from({ length: 100 }, (_, i) => of(`tokens/client-made-${i}`, 0.2 + i / 1_000, [`client-made-${i}`]));
    own.quotas("a", [of("5h", 0.5), of("weekly/opus", 0.4, ["*opus*"]), of("tokens/gpt-4o", 0.3, ["gpt-4o"]), ...many]);
    expect((await shown()).toSorted()).toEqual([
      `${name}{credential="a",group="5h"} 0.5`,
      `${name}{credential="a",group="tokens/gpt-4o"} 0.3`,
      // The scarcest of all of them.
      `${name}{credential="a",group="tokens/other"} 0.2`,
      `${name}{credential="a",group="weekly/opus"} 0.4`,
    ]);
    own.quotas("a", [of("5h", 0.1)]);
    expect(await shown()).toEqual([`${name}{credential="a",group="5h"} 0.1`]);
    own.quotas("a", []);
    expect(await shown()).toEqual([]);
  });

  test("a smaller cap holds, too", async () => {
    const narrow = metrics(promClient, { knownModels: [], maxSeries: 200 });
    for (let i = 0; i < 500; i += 1) narrow.decision(`n${i}`, "allowed");
    expect(samples(await narrow.expose()).length).toBeLessThanOrEqual(200);
    expect(await value('decisions_total{limit="other",outcome="allowed"}', narrow)).toBeGreaterThan(300);
  });

  test("quotes and line breaks in a name cannot forge a sample", async () => {
    meter.decision('x"} 1\nquotaguard_forged 1', "allowed");
    const lines = samples(await meter.expose());
    expect(lines.filter((line) => line.startsWith("quotaguard_forged"))).toEqual([]);
  });
});

describe("registries", () => {
  test("two guards have their own, unless the host gives one", async () => {
    const other = metrics(promClient, { knownModels: ["gpt-4o"] });
    other.request(ROW);
    expect(await value('cost_usd_total{model="gpt-4o"}')).toBeUndefined();
    const registry = new promClient.Registry();
    new promClient.Counter({ name: "app_things_total", help: "The host's own", registers: [registry] }).inc(3);
    const shared = metrics(promClient, { knownModels: ["gpt-4o"], registry });
    shared.request(ROW);
    const text = await registry.metrics();
    expect(text).toContain("app_things_total 3");
    expect(text).toContain('quotaguard_cost_usd_total{model="gpt-4o"} 0.0011');
    expect(await shared.expose()).toBe(text);
    expect(promClient.register.getMetricsAsArray()).toEqual([]);
  });

  test("a registry serves one guard only", () => {
    const registry = new promClient.Registry();
    metrics(promClient, { knownModels: [], registry });
    expect(() => metrics(promClient, { knownModels: [], registry })).toThrow(ConfigError);
  });
});

test("histograms read like prom-client's own, also as JSON, in OpenMetrics, merged and in a cluster", async () => {
  const registry = new promClient.Registry();
  const real = new promClient.Histogram({
    name: "quotaguard_overhead_seconds",
    help: "Time spent in the guard itself",
    labelNames: ["phase"],
    buckets: [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1],
    registers: [registry],
  });
  const ours = new promClient.Registry();
  const own = metrics(promClient, { knownModels: [], registry: ours });
  for (const seconds of [0, 0.00005, 0.00006, 0.0003, 0.01, 0.1, 0.11, 7]) {
    own.overhead("reserve", seconds);
    real.observe({ phase: "reserve" }, seconds);
  }
  const name = "quotaguard_overhead_seconds";
  expect(await ours.getSingleMetricAsString(name)).toBe(await registry.getSingleMetricAsString(name));
  const json = async (from: promClient.Registry): Promise<unknown> => (await from.getMetricsAsJSON()).find((metric) => metric.name === name);
  expect(JSON.parse(JSON.stringify(await json(ours)))).toMatchObject({ name, type: "histogram", aggregator: "sum" });
  const aggregated = promClient.AggregatorRegistry.aggregate([await ours.getMetricsAsJSON(), await ours.getMetricsAsJSON()]);
  expect(await aggregated.metrics()).toContain('quotaguard_overhead_seconds_bucket{le="+Inf",phase="reserve"} 16');
  expect(await promClient.Registry.merge([ours]).metrics()).toBe(await ours.metrics());
  ours.resetMetrics();
  expect(await ours.metrics()).toContain('quotaguard_overhead_seconds_count{phase="reserve"} 8');
});

describe("onScrape", () => {
  test("runs once for each scrape, before the gauges are read, whichever way one scrapes", async () => {
    const registry = new promClient.Registry();
    const polled = metrics(promClient, { knownModels: [], registry });
    let scrapes = 0;
    const team = polled.limit("team", "tokens");
    polled.onScrape(async () => {
      await Promise.resolve();
      scrapes += 1;
      team.reserved.add(10);
      polled.credential("main", { ...STANDING, ready: scrapes > 1 });
    });
    const first = await registry.metrics();
    expect(scrapes).toBe(1);
    expect(first).toContain('quotaguard_reserved_units{limit="team",unit="tokens"} 10');
    expect(first).toContain('quotaguard_credential_ready{credential="main"} 0');
    expect(await value('credential_ready{credential="main"}', polled)).toBe(1);
    expect(scrapes).toBe(2);
  });

  test("one that fails neither breaks the scrape nor the others", async () => {
    meter.limit("team", "tokens").lowest = 7;
    meter.onScrape(() => Promise.reject(new Error("the store is away")));
    meter.onScrape(() => {
      throw new Error("so is this");
    });
    meter.onScrape(() => meter.credential("main", STANDING));
    expect(await value('bucket_remaining{limit="team"}')).toBe(7);
    expect(await value('credential_ready{credential="main"}')).toBe(1);
  });
});
